//! Requests as templates: all that does not depend on the key is made once, before the load, for HTTP/1.1 as bytes and for HTTP/2 as fields.
//!
//! A request costs a copy of its head and the digits of its key; bodies are shared, never copied, but for small ones that go in one write with
//! their head.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};

use crate::{
    keys::{Draw, Keys},
    plan::{Plan, PlanFault, Protocol},
};

/// What a key's place is named.
const KEY: &str = "{key}";
/// A body up to this goes in one write with its head.
const SMALL_BODY: usize = 16 * 1024;
/// The size of a chunk.
const CHUNK: usize = 16 * 1024;

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The number of its key.
    pub(crate) key: u64,
    /// Whether it is of the second range.
    pub(crate) is_stale: bool,
}

/// All requests of a plan.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Of the keys, and of those that are stale.
    classes: Vec<Class>,
    stale_share: f64,
    head: Template,
    /// What follows the head in a write of its own.
    body: Bytes,
    fields: Fields,
    is_head: bool,
}

/// Keys of one kind.
#[derive(Debug)]
struct Class {
    prefix: String,
    draw: Draw,
}

/// A request of HTTP/2.
#[derive(Debug)]
struct Fields {
    method: Method,
    scheme: Scheme,
    /// Only of use where HTTP/2 is spoken.
    authority: Option<Value<Authority>>,
    path: Value<PathAndQuery>,
    headers: Vec<(HeaderName, Value<HeaderValue>)>,
    body: Bytes,
}

/// What is the same in all requests, or depends on the key.
#[derive(Debug)]
enum Value<T> {
    Same(T),
    OfKey(Template),
}

/// Text with places for the key.
#[derive(Clone, Debug, Default)]
struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(Vec<u8>),
    Key,
}

impl Requests {
    /// Makes the templates of a plan.
    ///
    /// # Errors
    /// If something of it can't stand in a request.
    pub(crate) fn new(plan: &Plan) -> Result<Self, PlanFault> {
        let mut classes = vec![Class::new(&plan.keys, plan)?];
        if let Some(stale) = &plan.stale {
            classes.push(Class::new(&stale.keys, plan)?);
        }
        let fields = Fields::new(plan, &classes[0])?;
        let mut head = Template::default();
        let target = &plan.target;
        head.text(format!("{} ", plan.method));
        head.template(&target.path);
        head.text(" HTTP/1.1\r\n");
        if !plan.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.text(format!("Host: {}\r\n", target.host));
        }
        for (name, value) in &plan.headers {
            head.text(format!("{name}: "));
            head.template(value);
            head.text("\r\n");
        }
        if plan.new_connections {
            head.text("Connection: close\r\n");
        }
        let mut body = vec![b'x'; plan.body.bytes];
        if plan.body.chunked {
            head.text("Transfer-Encoding: chunked\r\n");
            body = chunked(&body);
        } else if plan.body.bytes > 0 {
            head.text(format!("Content-Length: {}\r\n", plan.body.bytes));
        }
        head.text("\r\n");
        if body.len() <= SMALL_BODY {
            head.text(std::mem::take(&mut body));
        }
        let stale_share = plan.stale.as_ref().map_or(0.0, |stale| stale.share);
        Ok(Self { classes, stale_share, head, body: body.into(), fields, is_head: plan.method == "HEAD" })
    }

    /// Draws the next request.
    pub(crate) fn next(&self, rng: &mut fastrand::Rng) -> Asked {
        let is_stale = self.stale_share > 0.0 && rng.f64() < self.stale_share;
        Asked { key: self.class(is_stale).draw.next(rng), is_stale }
    }

    /// Whether answers have no body whatever they say of it.
    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// A request for HTTP/1.1: its head, with a small body, into the buffer; and the rest of its bytes.
    pub(crate) fn write(&self, asked: Asked, to: &mut Vec<u8>) -> &[u8] {
        to.clear();
        self.head.render(&self.class(asked.is_stale).prefix, asked.key, to);
        &self.body
    }

    /// A request for HTTP/2, and its body.
    pub(crate) fn request(&self, asked: Asked) -> Option<(Request<()>, Bytes)> {
        let Fields { method, scheme, authority, path, headers, body } = &self.fields;
        let prefix = &self.class(asked.is_stale).prefix;
        let mut uri = Parts::default();
        uri.scheme = Some(scheme.clone());
        uri.authority = match authority.as_ref()? {
            Value::Same(authority) => Some(authority.clone()),
            Value::OfKey(template) => Some(Authority::from_maybe_shared(template.bytes(prefix, asked.key)).ok()?),
        };
        uri.path_and_query = Some(match path {
            Value::Same(path) => path.clone(),
            Value::OfKey(template) => PathAndQuery::from_maybe_shared(template.bytes(prefix, asked.key)).ok()?,
        });
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        request.method_mut().clone_from(method);
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        for (name, value) in headers {
            let value = match value {
                Value::Same(value) => value.clone(),
                Value::OfKey(template) => HeaderValue::from_maybe_shared(template.bytes(prefix, asked.key)).ok()?,
            };
            request.headers_mut().append(name, value);
        }
        Some((request, body.clone()))
    }

    fn class(&self, is_stale: bool) -> &Class {
        &self.classes[usize::from(is_stale)]
    }
}

impl Class {
    fn new(keys: &Keys, plan: &Plan) -> Result<Self, PlanFault> {
        if keys.prefix.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(PlanFault::Request(keys.prefix.clone(), "a key is of letters, digits and signs"));
        }
        Ok(Self { prefix: keys.prefix.clone(), draw: Draw::new(keys.range.clone(), plan.spread)? })
    }
}

impl Fields {
    /// Whatever is spoken, this judges what can stand in a request.
    fn new(plan: &Plan, keys: &Class) -> Result<Self, PlanFault> {
        let wrong = |text: &str, why| PlanFault::Request(text.to_owned(), why);
        let method = Method::from_bytes(plan.method.as_bytes()).map_err(|_| wrong(&plan.method, "GET would be a method"))?;
        let mut authority = plan.target.host.clone();
        let mut headers = Vec::with_capacity(plan.headers.len() + 1);
        for (name, value) in &plan.headers {
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name, "x-tenant would be a name"))?;
            let template = Template::of(value);
            let example = HeaderValue::from_maybe_shared(template.bytes(&keys.prefix, 0));
            let example = example.map_err(|_| wrong(value, "a value is of visible characters"))?;
            if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&field) {
                return Err(wrong(name, "the load says it by itself"));
            }
            if field == HOST {
                authority.clone_from(value);
                continue;
            }
            if matches!(plan.protocol, Protocol::Http2 { .. }) && [UPGRADE, TE].contains(&field) {
                return Err(wrong(name, "it is none of HTTP/2's"));
            }
            headers.push((field, if template.is_of_key() { Value::OfKey(template) } else { Value::Same(example) }));
        }
        if plan.body.bytes > 0 && !plan.body.chunked {
            headers.push((CONTENT_LENGTH, Value::Same(plan.body.bytes.into())));
        }
        let path = Template::of(&plan.target.path);
        let example = PathAndQuery::from_maybe_shared(path.bytes(&keys.prefix, 0));
        let example = example.map_err(|_| wrong(&plan.target.path, "/a?b would be a path"))?;
        let is_http2 = matches!(plan.protocol, Protocol::Http2 { .. });
        let host = Template::of(&authority);
        let authority = match Authority::from_maybe_shared(host.bytes(&keys.prefix, 0)) {
            Ok(_) if host.is_of_key() => Some(Value::OfKey(host)),
            Ok(authority) => Some(Value::Same(authority)),
            Err(_) if is_http2 => return Err(wrong(&authority, "host:port would be a host")),
            Err(_) => None,
        };
        Ok(Self {
            method,
            scheme: if plan.target.tls { Scheme::HTTPS } else { Scheme::HTTP },
            authority,
            path: if path.is_of_key() { Value::OfKey(path) } else { Value::Same(example) },
            headers,
            body: vec![b'x'; if is_http2 { plan.body.bytes } else { 0 }].into(),
        })
    }
}

impl Template {
    fn of(text: &str) -> Self {
        let mut template = Self::default();
        template.template(text);
        template
    }

    fn text(&mut self, more: impl Into<Vec<u8>>) {
        match self.0.last_mut() {
            Some(Part::Text(text)) => text.extend(more.into()),
            _ => self.0.push(Part::Text(more.into())),
        }
    }

    fn template(&mut self, text: &str) {
        for (place, text) in text.split(KEY).enumerate() {
            if place > 0 {
                self.0.push(Part::Key);
            }
            self.text(text);
        }
    }

    fn is_of_key(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Key))
    }

    fn render(&self, prefix: &str, number: u64, to: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => to.extend_from_slice(text),
                Part::Key => {
                    to.extend_from_slice(prefix.as_bytes());
                    write_digits(number, to);
                }
            }
        }
    }

    fn bytes(&self, prefix: &str, number: u64) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        self.render(prefix, number, &mut bytes);
        bytes.into()
    }
}

/// The digits of a number, without the machinery of `format!`.
fn write_digits(mut number: u64, to: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[from..]);
}

/// A body as chunks.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(CHUNK) {
        framed.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Body, Target};

    fn plan() -> Plan {
        let headers = vec![("x-tenant".to_owned(), "{key}".to_owned()), ("x-same".to_owned(), "a".to_owned())];
        Plan { headers, ..Plan::to(Target::parse("http://127.0.0.1:81/a/{key}?k={key}").unwrap()) }
    }

    fn written(plan: &Plan, key: u64) -> (String, usize) {
        let (requests, mut head) = (Requests::new(plan).unwrap(), Vec::new());
        let rest = requests.write(Asked { key, is_stale: false }, &mut head).len();
        (String::from_utf8(head).unwrap(), rest)
    }

    #[test]
    fn a_request_names_its_key() {
        let wanted = "GET /a/tenant-1234567890?k=tenant-1234567890 HTTP/1.1\r\nHost: 127.0.0.1:81\r\nx-tenant: tenant-1234567890\r\nx-same: a\r\n\r\n";
        assert_eq!(written(&plan(), 1_234_567_890), (wanted.to_owned(), 0));
        let plan = Plan { protocol: Protocol::Http2 { streams: 1 }, ..plan() };
        let (request, _) = Requests::new(&plan).unwrap().request(Asked { key: 0, is_stale: false }).unwrap();
        assert_eq!(request.uri(), "http://127.0.0.1:81/a/tenant-0?k=tenant-0");
        let headers = vec![("Host".to_owned(), "{key}.example.com".to_owned())];
        let by_host = Plan { headers, ..plan.clone() };
        let (by_host, _) = Requests::new(&by_host).unwrap().request(Asked { key: 5, is_stale: false }).unwrap();
        assert_eq!((by_host.uri().host(), by_host.headers().len()), (Some("tenant-5.example.com"), 0));
        assert_eq!((&request.headers()["x-tenant"], &request.headers()["x-same"]), (&"tenant-0".parse().unwrap(), &"a".parse().unwrap()));
    }

    #[test]
    fn bodies_are_framed() {
        let with = |bytes, chunked| written(&Plan { body: Body { bytes, chunked }, ..plan() }, 1);
        let (head, rest) = with(3, false);
        assert!(head.ends_with("Content-Length: 3\r\n\r\nxxx") && rest == 0, "{head}");
        let (head, rest) = with(3, true);
        assert!(head.ends_with("Transfer-Encoding: chunked\r\n\r\n3\r\nxxx\r\n0\r\n\r\n") && rest == 0, "{head}");
        let (head, rest) = with(1_000_000, false);
        assert!(head.ends_with("Content-Length: 1000000\r\n\r\n") && rest == 1_000_000, "{head}");
        assert!(with(0, true).0.ends_with("chunked\r\n\r\n0\r\n\r\n"));
        assert!(written(&Plan { new_connections: true, ..plan() }, 1).0.contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn a_share_of_the_requests_is_stale() {
        let keys = Keys { prefix: "old-".to_owned(), range: 5..6 };
        let plan = Plan { stale: Some(crate::Stale { share: 0.25, keys }), ..plan() };
        let (requests, mut rng) = (Requests::new(&plan).unwrap(), fastrand::Rng::with_seed(3));
        let asked: Vec<_> = (0..10_000).map(|_| requests.next(&mut rng)).collect();
        let stale: Vec<_> = asked.iter().filter(|asked| asked.is_stale).collect();
        assert!((2300..2700).contains(&stale.len()), "{}", stale.len());
        let mut head = Vec::new();
        requests.write(*stale[0], &mut head);
        assert!(String::from_utf8(head).unwrap().contains("x-tenant: old-5\r\n"));
    }
}
