//! What the core needs of a request's and a response's head, whatever the transport keeps it in.
//!
//! Generic, never `dyn`: pingora's header map and raw bytes implement it alike, and nothing is copied. The request
//! target is read here once, so that matching, key extraction and redirects cannot disagree about where the path ends.

/// A request's head.
pub trait Head {
    /// The method, as sent: `GET`.
    fn method(&self) -> &[u8];
    /// The request target, byte for byte: `/a?b`, `http://host/a`, `*`.
    fn target(&self) -> &[u8];
    /// The `Host` header, or `:authority`; `None` where there is none.
    fn authority(&self) -> Option<&[u8]>;
    /// All values of a header, in order; duplicates matter. `name` is lower case.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;
}

/// A response's head.
pub trait Reply {
    /// The status code.
    fn status(&self) -> u16;
    /// All values of a header, in order. `name` is lower case.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;
}

/// A request target taken apart (RFC 9112, section 3.2); every part is a slice of what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The authority of an absolute-form target; it then overrules `Host`.
    pub authority: Option<&'a [u8]>,
    /// The path, byte for byte; `/` where an absolute form has none, `*` for `OPTIONS *`.
    pub path: &'a [u8],
    /// What follows the first `?`.
    pub query: Option<&'a [u8]>,
    /// Path and query as one slice, as they are sent on and put into a redirect.
    pub path_and_query: &'a [u8],
}

impl<'a> Target<'a> {
    /// Reads an origin-form, absolute-form or asterisk-form target; `None` for anything else (an authority-form, an
    /// empty one, another scheme, a fragment).
    pub fn parse(target: &'a [u8]) -> Option<Self> {
        if target.contains(&b'#') {
            return None;
        }
        if target == b"*" {
            return Some(Self { authority: None, path: target, query: None, path_and_query: target });
        }
        let (authority, rest) = if target.first() == Some(&b'/') { (None, target) } else { absolute(target)? };
        let (path, query) = match rest.iter().position(|b| *b == b'?') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if path.is_empty() {
            return Some(Self { authority, path: b"/", query, path_and_query: rest });
        }
        Some(Self { authority, path, query, path_and_query: rest })
    }

    /// Whether a path segment is `.` or `..`, also percent-encoded: such a path may mean another place to the backend
    /// than it does to the match.
    pub fn has_dot_segment(&self) -> bool {
        self.path.split(|b| matches!(b, b'/' | b'\\')).any(is_dot_segment)
    }
}

fn absolute(target: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let scheme_end = target.windows(3).position(|w| w == b"://")?;
    let scheme = &target[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = &target[scheme_end + 3..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.is_empty() || authority.contains(&b'@') {
        return None;
    }
    Some((Some(authority), &rest[end..]))
}

/// `.`, `..` and their percent-encoded spellings; `%2f` and `%5c` inside count as separators for this question.
fn is_dot_segment(segment: &[u8]) -> bool {
    if segment.first().is_none_or(|b| !matches!(b, b'.' | b'%')) && !segment.contains(&b'%') {
        return false;
    }
    let mut dots = 0usize;
    let mut other = false;
    let mut found = false;
    let mut at = 0;
    while at < segment.len() {
        let (byte, width) = match segment[at..] {
            [b'%', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high * 16 + low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (byte, 1),
            [] => break,
        };
        match byte {
            b'.' => dots += 1,
            b'/' | b'\\' => {
                found |= !other && (dots == 1 || dots == 2);
                dots = 0;
                other = false;
            }
            _ => other = true,
        }
        at += width;
    }
    found || (!other && (dots == 1 || dots == 2))
}

/// The value of a hexadecimal digit.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A host as matching sees it: without port and trailing dot, lower-cased only if it has to be.
pub fn normal_host(authority: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    let host = if authority.first() == Some(&b'[') {
        let end = authority.iter().position(|b| *b == b']')?;
        &authority[..=end]
    } else {
        let end = authority.iter().position(|b| *b == b':').unwrap_or(authority.len());
        &authority[..end]
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    let host = std::str::from_utf8(host).ok()?;
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_taken_apart_without_changing_a_byte() {
        let target = Target::parse(b"/a//b%2F?x=1?y").unwrap();
        assert_eq!(target.path, b"/a//b%2F");
        assert_eq!(target.query, Some(&b"x=1?y"[..]));
        let target = Target::parse(b"http://h:80?q").unwrap();
        assert_eq!((target.authority, target.path, target.path_and_query), (Some(&b"h:80"[..]), &b"/"[..], &b"?q"[..]));
        for bad in [&b""[..], b"host:80", b"ftp://h/", b"/a#b", b"http:///x", b"http://u@h/"] {
            assert_eq!(Target::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in ["/a/../b", "/.", "/..", "/a/%2e%2E/b", "/%2e", "/a/.%2e", "/x%2f..%2fy", "/a\\..\\b", "/a%5c..", "/..%2fx"] {
            assert!(Target::parse(path.as_bytes()).unwrap().has_dot_segment(), "{path}");
        }
        for path in ["/a/...", "/.a", "/a.", "/a..b/c", "/%2ea", "/", "//", "/a%2fb", "/a%", "/%zz"] {
            assert!(!Target::parse(path.as_bytes()).unwrap().has_dot_segment(), "{path}");
        }
    }

    #[test]
    fn a_host_loses_port_dot_and_case() {
        for (given, wanted) in [("Orders.Example.com:80", "orders.example.com"), ("a.b.", "a.b"), ("[::1]:8080", "[::1]"), ("a", "a")] {
            assert_eq!(normal_host(given.as_bytes()).as_deref(), Some(wanted));
        }
        assert_eq!(normal_host(b"[::1"), None);
    }
}
