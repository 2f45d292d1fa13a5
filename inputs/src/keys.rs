//! Routing keys: a template and a target give the key that a plain reading of both gives, decoded once, in bounds, or a refusal.

use percent_encoding::percent_decode;
use serde_json::json;
use waypost_conf::{KeySource, PathTemplate, Record, RecordKey, TemplateSegment, decode};
use waypost_policy::{
    Code, Head,
    head::{Target, normal_host},
    routing_key::{MAX_KEY_BYTES, extract},
};

const KINDS: [&str; 5] = ["path", "host", "query", "header", "cookie"];

/// Lines: where the key stands and its template, the target, the host, a field's value.
///
/// # Panics
/// If the key is another one than a plain reading finds.
pub fn template(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |b| *b == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (template, target, host, value) = (next(), next(), next(), next());
    let _ = normal_host(host);
    let Some(parts) = Target::parse(target) else { return };
    let decoded = percent_decode(parts.path).collect::<Vec<u8>>();
    let has_dots = decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b".."));
    assert_eq!(parts.has_dot_segment(), has_dots, "a path with dots is seen in every spelling");

    let Some((source, template)) = source(template) else { return };
    let request = Request { target, host, value };
    let found = extract(&source, &request, &parts);
    match &found {
        Ok(key) => assert!((1..=MAX_KEY_BYTES).contains(&key.len())),
        Err(code) => assert!(matches!(code, Code::NoKey | Code::BadRequest | Code::HeaderTooLarge)),
    }
    match source {
        KeySource::Path(template) => assert_eq!(found, in_path(&template, parts.path)),
        KeySource::Header(_) => assert_eq!(found, bounded(Some(value.trim_ascii().to_vec()))),
        KeySource::Query(_) => {
            let pairs = parts.query.unwrap_or_default().split(|b| *b == b'&');
            let mut values = pairs.filter_map(|pair| pair.strip_prefix(template.as_bytes())?.strip_prefix(b"="));
            if let (Ok(key), Some(value)) = (&found, values.next()) {
                assert_eq!(*key, percent_decode(value).collect::<Vec<u8>>());
            }
        }
        KeySource::Host(_) | KeySource::Cookie(_) => {}
    }
}

/// A source of keys as a record has it, and its template as written.
fn source(line: &[u8]) -> Option<(KeySource, &str)> {
    let (kind, template) = line.split_first()?;
    let template = std::str::from_utf8(template).ok()?;
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let value = json!({ "match": [{}], "key": { kind: template } }).to_string();
    let decoded = decode(&RecordKey::parse(b"services/s").ok()?, value.as_bytes()).ok()?;
    let Record::Service(service) = decoded.record else { return None };
    Some((service.key?, template))
}

fn in_path(template: &PathTemplate, path: &[u8]) -> Result<Vec<u8>, Code> {
    let mut given = path.strip_prefix(b"/").ok_or(Code::NoKey)?.split(|b| *b == b'/');
    let mut key: Option<&[u8]> = None;
    let mut has_rest = false;
    for segment in &template.segments {
        if *segment == TemplateSegment::Rest {
            has_rest = true;
            break;
        }
        let here = given.next().ok_or(Code::NoKey)?;
        match segment {
            TemplateSegment::Literal(literal) if literal.as_bytes() != here => return Err(Code::NoKey),
            TemplateSegment::Key => key = Some(here),
            _ => {}
        }
    }
    if !has_rest && given.next().is_some() {
        return Err(Code::NoKey);
    }
    bounded(key.map(once_decoded).transpose()?)
}

fn once_decoded(given: &[u8]) -> Result<Vec<u8>, Code> {
    let is_escape = |rest: &[u8]| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
    let is_whole = given.split(|b| *b == b'%').skip(1).all(is_escape);
    if is_whole { Ok(percent_decode(given).collect()) } else { Err(Code::BadRequest) }
}

fn bounded(key: Option<Vec<u8>>) -> Result<Vec<u8>, Code> {
    match key {
        Some(key) if key.len() > MAX_KEY_BYTES => Err(Code::HeaderTooLarge),
        Some(key) if !key.is_empty() => Ok(key),
        _ => Err(Code::NoKey),
    }
}

struct Request<'a> {
    target: &'a [u8],
    host: &'a [u8],
    value: &'a [u8],
}

impl Head for Request<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn target(&self) -> &[u8] {
        self.target
    }

    fn authority(&self) -> Option<&[u8]> {
        Some(self.host)
    }

    fn values<'a>(&'a self, _: &'a str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(self.value)
    }
}
