//! Ways of reading HTTP/1.1 that servers are known to have: one that keeps to RFC 9112, and loose ones that each take the other side where
//! a message says two things.

/// Names with their values, in order.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// One request as a reading finds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Read {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    CrLf,
    /// Also without CR.
    Lf,
    /// Also either of them alone.
    Any,
}

/// Which of several lengths counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    First,
    Last,
}

/// A loose reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    line_end: LineEnd,
    length: Of,
    /// A length beats a coding.
    length_wins: bool,
    /// Any coding that has `chunked` somewhere in it is chunked; else only the word itself.
    finds_chunked: bool,
    /// White space, control characters and quotes around names and values, and `_` for `-`, do not count.
    trims: bool,
    /// A line that begins with white space is a field of its own; else it belongs to the one before.
    unfolds: bool,
}

const LOOSE: Reading =
    Reading { line_end: LineEnd::Lf, length: Of::First, length_wins: true, finds_chunked: true, trims: true, unfolds: true };

/// All of them have to find the same in what a backend gets.
pub(crate) const READINGS: [Reading; 8] = [
    LOOSE,
    Reading { length_wins: false, ..LOOSE },
    Reading { length: Of::Last, unfolds: false, ..LOOSE },
    Reading { line_end: LineEnd::Any, length_wins: false, unfolds: false, ..LOOSE },
    Reading { line_end: LineEnd::Any, length: Of::Last, ..LOOSE },
    Reading { line_end: LineEnd::CrLf, finds_chunked: false, ..LOOSE },
    Reading { line_end: LineEnd::CrLf, length_wins: false, trims: false, finds_chunked: false, ..LOOSE },
    Reading { length: Of::Last, finds_chunked: false, trims: false, ..LOOSE },
];

impl Reading {
    /// All whole requests.
    pub(crate) fn all(self, mut bytes: &[u8]) -> Vec<Read> {
        let mut found = Vec::new();
        while let Some((read, length)) = self.next(bytes) {
            found.push(read);
            bytes = &bytes[length..];
        }
        found
    }

    /// The first request and its length, once it is there.
    pub(crate) fn next(self, bytes: &[u8]) -> Option<(Read, usize)> {
        let (line, mut at) = self.line(bytes)?;
        let words: Vec<String> = line.split(u8::is_ascii_whitespace).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let (method, target) = (words.first()?.clone(), words.get(1).cloned().unwrap_or_default());
        let mut fields = Fields::new();
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            if line.is_empty() {
                break;
            }
            if line[0].is_ascii_whitespace() && !self.unfolds {
                if let Some((_, value)) = fields.last_mut() {
                    value.extend_from_slice(line);
                }
                continue;
            }
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            fields.push((self.plain(&line[..colon]), line[colon..].get(1..).unwrap_or_default().to_vec()));
        }
        let values = |name: &str| -> Vec<Vec<u8>> {
            fields.iter().filter(|(given, _)| given == name.as_bytes()).map(|(_, value)| self.plain(value)).collect()
        };
        let is_chunked = |value: &Vec<u8>| {
            if self.finds_chunked { String::from_utf8_lossy(value).contains("chunked") } else { value.trim_ascii() == b"chunked" }
        };
        let is_chunked = values("transfer-encoding").iter().any(is_chunked);
        let lengths: Vec<usize> = values("content-length").iter().flat_map(|value| self.lengths(value)).collect();
        let length = if self.length == Of::First { lengths.first() } else { lengths.last() };
        let (body, framed) = match length {
            Some(length) if self.length_wins || !is_chunked => (bytes.get(at..at.checked_add(*length)?)?.to_vec(), *length),
            _ if is_chunked => self.chunks(&bytes[at..])?,
            _ => (Vec::new(), 0),
        };
        Some((Read { method, target, body }, at + framed))
    }

    /// A line without its end, and its length with it.
    fn line(self, bytes: &[u8]) -> Option<(&[u8], usize)> {
        let at = match self.line_end {
            LineEnd::CrLf => bytes.windows(2).position(|two| two == b"\r\n")?,
            LineEnd::Lf => bytes.iter().position(|b| *b == b'\n')?,
            LineEnd::Any => bytes.iter().position(|b| matches!(b, b'\r' | b'\n'))?,
        };
        let end = if bytes[at..].starts_with(b"\r\n") { 2 } else { 1 };
        let line = &bytes[..at];
        Some((if self.line_end == LineEnd::Lf { line.strip_suffix(b"\r").unwrap_or(line) } else { line }, at + end))
    }

    /// Lower case, and without what does not count.
    fn plain(self, text: &[u8]) -> Vec<u8> {
        let lower = text.to_ascii_lowercase();
        if !self.trims {
            return lower.trim_ascii().to_vec();
        }
        let counts = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'');
        let begin = lower.iter().position(counts).unwrap_or(lower.len());
        let end = lower.iter().rposition(counts).map_or(begin, |at| at + 1);
        lower[begin..end].iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect()
    }

    /// The lengths of a list, each by its digits alone.
    fn lengths(self, value: &[u8]) -> Vec<usize> {
        let digits = |item: &[u8]| -> Option<usize> {
            let from = item.iter().position(u8::is_ascii_digit)?;
            let digits: Vec<u8> = item[from..].iter().copied().take_while(u8::is_ascii_digit).collect();
            String::from_utf8_lossy(&digits).parse().ok()
        };
        value.split(|b| *b == b',').filter_map(digits).collect()
    }

    /// The data, and the length of all chunks and of what ends them.
    fn chunks(self, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            let line = self.plain(line);
            let digits = line.strip_prefix(b"0x").or(line.strip_prefix(b"+")).unwrap_or(&line);
            let digits: Vec<u8> = digits.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
            let size = usize::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(0);
            if size == 0 {
                break;
            }
            data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
            at += size;
            // Whatever stands there in place of a line's end.
            at += self.line(bytes.get(at..)?).filter(|(line, _)| line.is_empty()).map_or(2, |(_, length)| length);
            bytes.get(at..)?;
        }
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            if line.is_empty() {
                return Some((data, at));
            }
        }
    }
}

/// All requests up to the first fault, by RFC 9112 to the letter, with one more demand: a length beside a coding is a fault. Behind HTTP/1.0
/// nothing follows.
pub(crate) fn strictly(mut bytes: &[u8]) -> Vec<Read> {
    let mut found = Vec::new();
    loop {
        while let Some(behind) = bytes.strip_prefix(b"\r\n") {
            bytes = behind;
        }
        let Some((read, length)) = strict_request(bytes) else { return found };
        found.push(read);
        let is_last = bytes[..length].windows(10).find(|ten| ten.starts_with(b"HTTP/1.")).is_some_and(|ten| ten == b"HTTP/1.0\r\n");
        bytes = if is_last { b"" } else { &bytes[length..] };
    }
}

fn strict_line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let at = bytes.windows(2).position(|two| two == b"\r\n")?;
    let line = &bytes[..at];
    let is_clean = line.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f));
    is_clean.then_some((line, at + 2))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Name and value of a field line.
fn strict_field(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = line.iter().position(|b| *b == b':')?;
    is_token(&line[..colon]).then(|| (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii().to_vec()))
}

/// Field lines up to the empty one, and the length of all.
fn strict_fields(bytes: &[u8]) -> Option<(Fields, usize)> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let (line, length) = strict_line(&bytes[at..])?;
        at += length;
        if line.is_empty() {
            return Some((fields, at));
        }
        fields.push(strict_field(line)?);
    }
}

/// The first request and its length, if it is one.
pub(crate) fn strict_request(bytes: &[u8]) -> Option<(Read, usize)> {
    let (line, begin) = strict_line(bytes)?;
    let [method, target, version] = *line.split(|b| *b == b' ').collect::<Vec<_>>() else { return None };
    let is_first = version == b"HTTP/1.1";
    if !is_token(method) || target.is_empty() || target.contains(&b'\t') || !(is_first || version == b"HTTP/1.0") {
        return None;
    }
    let (fields, length) = strict_fields(&bytes[begin..])?;
    let mut at = begin + length;
    let values = |name: &str| fields.iter().filter(|(given, _)| given == name.as_bytes()).map(|(_, value)| &**value).collect::<Vec<_>>();
    if values("host").len() > 1 || (is_first && values("host").is_empty()) {
        return None;
    }
    let body = match (&*values("content-length"), &*values("transfer-encoding")) {
        ([], []) => Vec::new(),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length: usize = String::from_utf8_lossy(length).parse().ok()?;
            let body = bytes.get(at..at.checked_add(length)?)?;
            at += length;
            body.to_vec()
        }
        ([], [coding]) if is_first && coding.eq_ignore_ascii_case(b"chunked") => {
            let (body, length) = strict_chunks(&bytes[at..])?;
            at += length;
            body
        }
        _ => return None,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((Read { method: text(method), target: text(target), body }, at))
}

fn strict_chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let (line, length) = strict_line(&bytes[at..])?;
        at += length;
        let size = line.split(|b| *b == b';').next()?;
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(size), 16).ok()?;
        if size == 0 {
            let (_, length) = strict_fields(&bytes[at..])?;
            return Some((data, at + length));
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
}
