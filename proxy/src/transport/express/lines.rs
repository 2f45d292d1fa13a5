//! Lines of a head that go on as they came, copied as many at once as stand together.
//!
//! What always holds: what is written is each name, a colon and a space, its value and an end of line, however it was written before.

use std::ops::Range;

/// Copies fields of one head.
pub(super) struct Lines<'a> {
    head: &'a [u8],
    /// Of the head: what is to be copied next.
    run: Range<usize>,
}

impl<'a> Lines<'a> {
    /// Of this head.
    pub(super) fn of(head: &'a [u8]) -> Self {
        Self { head, run: 0..0 }
    }

    /// The next field.
    pub(super) fn put(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self.line(name, value) {
            Some(line) if line.start == self.run.end => self.run.end = line.end,
            Some(line) => {
                self.end(out);
                self.run = line;
            }
            None => {
                self.end(out);
                for part in [name, b": ", value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
    }

    /// All have been given.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.get(std::mem::take(&mut self.run)).unwrap_or_default());
    }

    /// Where the field stands in the head just as it is to be written.
    fn line(&self, name: &[u8], value: &[u8]) -> Option<Range<usize>> {
        let start = (name.as_ptr() as usize).checked_sub(self.head.as_ptr() as usize)?;
        let colon = start + name.len();
        let line = start..colon + 2 + value.len() + 2;
        let is_written_so = std::ptr::eq(self.head.get(colon + 2..line.end - 2)?, value)
            && self.head[colon..].starts_with(b": ")
            && self.head.get(line.end - 2..line.end)? == b"\r\n";
        is_written_so.then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_written_is_written_in_one_form() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\nC:d\r\nE:  f\r\nG: \r\nH: i\t\r\nJ: k\r\nL: m\r\n\r\n";
        let fields: Vec<(&[u8], &[u8])> = head[16..]
            .split(|b| *b == b'\n')
            .filter_map(|line| {
                let colon = line.iter().position(|b| *b == b':')?;
                Some((&line[..colon], line[colon + 1..].trim_ascii()))
            })
            .collect();
        assert_eq!(fields.len(), 7);
        // Each left out in turn, and none.
        for left_out in 0..=fields.len() {
            let (mut lines, mut out, mut wanted) = (Lines::of(head), Vec::new(), Vec::new());
            for (_, (name, value)) in fields.iter().enumerate().filter(|(number, _)| *number != left_out) {
                lines.put(name, value, &mut out);
                wanted.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
            }
            lines.put(b"N", b"other memory", &mut out);
            wanted.extend_from_slice(b"N: other memory\r\n");
            lines.end(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted), "without {left_out}");
        }
    }
}
