//! Messages as they stand in bytes, read by the letter: what an owner got of a request and a client of an answer, as far as it came.

use std::collections::BTreeMap;

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where its framing says.
    Whole,
    /// With its connection, as nothing says otherwise.
    Closed,
    /// It goes on, or was cut short.
    Cut,
    /// Its framing is broken.
    Broken,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Request line or status line.
    pub(super) first: String,
    /// By lower-case name, the values of each in order.
    pub(super) fields: BTreeMap<String, Vec<String>>,
    /// Without its chunks' framing.
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// What follows a head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Answer,
    /// To HEAD.
    Bodiless,
}

/// Each byte as a letter, so that nothing is lost.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

impl Message {
    /// The first message of these bytes, and how many it has so far; `None` until its head has come.
    pub(super) fn read(bytes: &[u8], kind: Kind) -> Option<(Self, usize)> {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head_text = text(&bytes[..head]);
        let mut lines = head_text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let mut fields = BTreeMap::<String, Vec<String>>::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line, "(no value)"));
            fields.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
        }
        let mut message = Self { first, fields, body: Vec::new(), end: End::Whole };
        let rest = &bytes[head + 4..];
        let taken = message.take_body(rest, kind);
        Some((message, head + 4 + taken))
    }

    /// The first value of a field.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        Some(self.fields.get(name)?.first()?)
    }

    /// An answer's status.
    pub(super) fn status(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether another answer follows it.
    pub(super) fn is_interim(&self) -> bool {
        self.status().starts_with('1') && self.status() != "101"
    }

    fn take_body(&mut self, rest: &[u8], kind: Kind) -> usize {
        let is_answer = kind != Kind::Request;
        if kind == Kind::Bodiless || (is_answer && (self.is_interim() || ["204", "304"].contains(&self.status()))) {
            return 0;
        }
        if self.value("transfer-encoding").is_some() {
            return self.take_chunks(rest);
        }
        let length = match self.value("content-length") {
            Some(length) => length.parse().ok(),
            None if is_answer => None,
            None => Some(0),
        };
        let taken = rest.len().min(length.unwrap_or(usize::MAX));
        self.body = rest[..taken].to_vec();
        self.end = match length {
            Some(length) if length == taken => End::Whole,
            Some(_) => End::Cut,
            None => End::Closed,
        };
        taken
    }

    fn take_chunks(&mut self, rest: &[u8]) -> usize {
        let mut at = 0;
        self.end = End::Cut;
        while let Some(line) = rest[at..].windows(2).position(|window| window == b"\r\n") {
            let digits = text(&rest[at..at + line]);
            let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let Some(size) = usize::from_str_radix(&digits, 16).ok().filter(|_| is_plain) else {
                self.end = End::Broken;
                return rest.len();
            };
            at += line + 2;
            let data = &rest[at..rest.len().min(at.saturating_add(size))];
            self.body.extend_from_slice(data);
            at += data.len();
            let behind = &rest[at..rest.len().min(at + 2)];
            if data.len() < size || behind.len() < 2 {
                break;
            }
            if behind != b"\r\n" {
                self.end = End::Broken;
                return rest.len();
            }
            at += 2;
            if size == 0 {
                self.end = End::Whole;
                return at;
            }
        }
        rest.len()
    }
}

/// All answers to requests of these methods, in order, and what is behind them.
pub(super) fn answers(bytes: &[u8], methods: &[String]) -> (Vec<Message>, Vec<u8>) {
    let (mut found, mut at, mut methods) = (Vec::new(), 0, methods.iter());
    let mut method = methods.next();
    while let Some((message, taken)) =
        Message::read(&bytes[at..], if method.is_some_and(|is| is == "HEAD") { Kind::Bodiless } else { Kind::Answer })
    {
        at += taken;
        if !message.is_interim() {
            method = methods.next();
        }
        let is_last = message.end != End::Whole;
        found.push(message);
        if is_last {
            break;
        }
    }
    (found, bytes[at..].to_vec())
}
