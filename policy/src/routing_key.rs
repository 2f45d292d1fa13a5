//! Taking the routing key out of a request, by the five kinds of INTERFACE.md.
//!
//! A key is 1 to 1,024 bytes. Path and query keys are percent-decoded once (`+` stays), host keys are lower-cased, header keys
//! lose surrounding white space, cookies stay as they are. Given twice with different values is ambiguous and refused.

use std::borrow::Cow;

use waypost_conf::{HostTemplate, KeySource, PathTemplate, TemplateSegment};

use crate::{
    Code, Head,
    head::{Target, hex, normal_host},
};

/// The longest routing key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The request's routing key, or the code to answer with.
///
/// # Errors
/// `NoKey` if it is absent or empty, `BadRequest` if it is given twice with different values or badly escaped,
/// `HeaderTooLarge` if it is longer than [`MAX_KEY_BYTES`].
pub fn extract<H: Head>(source: &KeySource, head: &H, target: &Target<'_>) -> Result<Vec<u8>, Code> {
    let key = match source {
        KeySource::Header(name) => single(head.values(name.as_str()).map(|value| Ok(Cow::Borrowed(value.trim_ascii()))))?,
        KeySource::Query(name) => single(query_values(target.query.unwrap_or_default(), name.as_str().as_bytes()))?,
        KeySource::Cookie(name) => {
            let pairs =
                head.values("cookie").flat_map(|line| line.split(|b| *b == b';')).filter_map(|pair| split_once(pair.trim_ascii(), b'='));
            single(pairs.filter(|(given, _)| *given == name.as_str().as_bytes()).map(|(_, value)| Ok(Cow::Borrowed(value))))?
        }
        KeySource::Path(template) => path_key(template, target.path)?,
        KeySource::Host(template) => host_key(template, target.authority.or(head.authority())),
    };
    match key {
        None => Err(Code::NoKey),
        Some(key) if key.is_empty() => Err(Code::NoKey),
        Some(key) if key.len() > MAX_KEY_BYTES => Err(Code::HeaderTooLarge),
        Some(key) => Ok(key),
    }
}

/// The one value that all occurrences agree on.
fn single<'a>(values: impl Iterator<Item = Result<Cow<'a, [u8]>, Code>>) -> Result<Option<Vec<u8>>, Code> {
    let mut found: Option<Cow<'a, [u8]>> = None;
    for value in values {
        let value = value?;
        match &found {
            Some(first) if *first != value => return Err(Code::BadRequest),
            Some(_) => {}
            None => found = Some(value),
        }
    }
    Ok(found.map(Cow::into_owned))
}

fn query_values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = Result<Cow<'a, [u8]>, Code>> {
    query.split(|b| *b == b'&').filter_map(move |pair| {
        let (given, value) = split_once(pair, b'=').unwrap_or((pair, b""));
        // A name with a bad escape is some other parameter's fault, not this key's.
        let is_it = decode(given).is_ok_and(|given| given.as_ref() == name);
        is_it.then(|| decode(value))
    })
}

fn path_key(template: &PathTemplate, path: &[u8]) -> Result<Option<Vec<u8>>, Code> {
    let Some(path) = path.strip_prefix(b"/") else { return Ok(None) };
    let mut given = path.split(|b| *b == b'/');
    let mut key = None;
    for segment in &template.segments {
        if matches!(segment, TemplateSegment::Rest) {
            return key.map(decode).transpose().map(|key| key.map(Cow::into_owned));
        }
        let Some(value) = given.next() else { return Ok(None) };
        match segment {
            TemplateSegment::Literal(literal) if literal.as_bytes() != value => return Ok(None),
            TemplateSegment::Key => key = Some(value),
            _ => {}
        }
    }
    if given.next().is_some() {
        return Ok(None);
    }
    key.map(decode).transpose().map(|key| key.map(Cow::into_owned))
}

fn host_key(template: &HostTemplate, authority: Option<&[u8]>) -> Option<Vec<u8>> {
    let host = normal_host(authority?)?;
    let key = host.strip_prefix(template.before.as_str())?.strip_suffix(template.after.as_str())?;
    Some(key.as_bytes().to_vec())
}

/// Percent-decodes once; `+` stays.
fn decode(given: &[u8]) -> Result<Cow<'_, [u8]>, Code> {
    if !given.contains(&b'%') {
        return Ok(Cow::Borrowed(given));
    }
    let mut decoded = Vec::with_capacity(given.len());
    let mut bytes = given.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|&digit| hex(digit)).ok_or(Code::BadRequest);
        decoded.push(digit()? << 4 | digit()?);
    }
    Ok(Cow::Owned(decoded))
}

fn split_once(pair: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = pair.iter().position(|b| *b == at)?;
    Some((&pair[..position], &pair[position + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waypost_conf::{Name, Record, RecordKey, decode};

    use super::*;

    struct Request<'a> {
        target: &'a [u8],
        host: &'a str,
        headers: &'a [(&'a str, &'a [u8])],
    }

    impl Head for Request<'_> {
        fn method(&self) -> &[u8] {
            b"GET"
        }

        fn target(&self) -> &[u8] {
            self.target
        }

        fn authority(&self) -> Option<&[u8]> {
            Some(self.host.as_bytes())
        }

        fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
            self.headers.iter().filter(move |(given, _)| *given == name).map(|(_, value)| *value)
        }
    }

    fn source(written: &str) -> KeySource {
        let key = RecordKey::Service(Name::try_from("s").unwrap());
        let Record::Service(service) = decode(&key, format!(r#"{{"match":[{{}}],"key":{written}}}"#).as_bytes()).unwrap().record else {
            panic!()
        };
        service.key.unwrap()
    }

    fn key(written: &str, target: &[u8], headers: &[(&str, &[u8])]) -> Result<String, Code> {
        let request = Request { target, host: "T1.Orders.example.com:80", headers };
        let key = extract(&source(written), &request, &Target::parse(target).unwrap());
        key.map(|key| String::from_utf8_lossy(&key).into_owned())
    }

    #[test]
    fn each_kind_of_key_is_found_and_normalised_in_its_own_way() {
        let ok = |key: &str| Ok(key.to_owned());
        let header = r#"{"header":"X-Tenant"}"#;
        assert_eq!(key(header, b"/", &[("x-tenant", b" t1\t")]), ok("t1"));
        assert_eq!(key(header, b"/", &[("x-tenant", b"t1"), ("x-tenant", b"t1 ")]), ok("t1"));
        assert_eq!(key(header, b"/", &[("x-tenant", b"t1"), ("x-tenant", b"t2")]), Err(Code::BadRequest));
        assert_eq!(key(header, b"/", &[]), Err(Code::NoKey));
        assert_eq!(key(header, b"/", &[("x-tenant", b"  ")]), Err(Code::NoKey));
        assert_eq!(key(header, b"/", &[("x-tenant", &[b'a'; 1024])]).map(|key| key.len()), Ok(1024));
        assert_eq!(key(header, b"/", &[("x-tenant", &[b'a'; 1025])]), Err(Code::HeaderTooLarge));
        let query = r#"{"query":"t"}"#;
        assert_eq!(key(query, b"/?a=b&t=x%2Fy+z&c", &[]), ok("x/y+z"));
        assert_eq!(key(query, b"/?%74=1", &[]), ok("1"));
        assert_eq!(key(query, b"/?t=%zz", &[]), Err(Code::BadRequest));
        assert_eq!(key(query, b"/?t=1&t=%31", &[]), ok("1"));
        assert_eq!(key(query, b"/?t=1&t=2", &[]), Err(Code::BadRequest));
        assert_eq!(key(query, b"/?t", &[]), Err(Code::NoKey));
        assert_eq!(key(query, b"/?tt=1&%zz=2", &[]), Err(Code::NoKey));
        let cookie = r#"{"cookie":"t"}"#;
        assert_eq!(key(cookie, b"/", &[("cookie", b"a=b; t=x%2Fy; c=d")]), ok("x%2Fy"));
        assert_eq!(key(cookie, b"/", &[("cookie", b"t=1"), ("cookie", b"t=2")]), Err(Code::BadRequest));
        let path = r#"{"path":"/buckets/{key}/*rest"}"#;
        for (target, wanted) in [("/buckets/b%201", "b 1"), ("/buckets/b/", "b"), ("/buckets/b/x/y?q", "b")] {
            assert_eq!(key(path, target.as_bytes(), &[]), ok(wanted), "{target}");
        }
        for target in ["/buckets/", "/buckets", "/other/b", "/"] {
            assert_eq!(key(path, target.as_bytes(), &[]), Err(Code::NoKey), "{target}");
        }
        assert_eq!(key(r#"{"path":"/{key}"}"#, b"/a/b", &[]), Err(Code::NoKey));
        assert_eq!(key(r#"{"path":"/{any}/{key}"}"#, b"/a/b", &[]), ok("b"));
        assert_eq!(key(r#"{"host":"{key}.orders.example.com"}"#, b"/", &[]), ok("t1"));
        assert_eq!(key(r#"{"host":"{key}.orders.example.com"}"#, b"http://T2.orders.example.com/", &[]), ok("t2"));
        assert_eq!(key(r#"{"host":"{key}.billing.example.com"}"#, b"/", &[]), Err(Code::NoKey));
    }

    fn escape(key: &[u8]) -> String {
        key.iter().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn any_key_survives_escaping_in_path_and_query(bytes in proptest::collection::vec(any::<u8>(), 1..1024)) {
            let request = Request { target: b"", host: "h", headers: &[] };
            for (written, target) in [(r#"{"path":"/b/{key}"}"#, format!("/b/{}", escape(&bytes))), (r#"{"query":"t"}"#, format!("/?x&t={}", escape(&bytes)))] {
                let target = Target::parse(target.as_bytes()).unwrap();
                prop_assert_eq!(extract(&source(written), &request, &target), Ok(bytes.clone()));
            }
        }

        #[test]
        fn no_request_makes_it_panic_and_every_key_is_in_bounds(
            target in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'/'), Just(b'?'), Just(b'&'), Just(b'='), Just(b't'), any::<u8>()], 0..60),
            value in proptest::collection::vec(any::<u8>(), 0..1100),
        ) {
            let headers: [(&str, &[u8]); 2] = [("x-tenant", &value), ("cookie", &value)];
            let request = Request { target: &target, host: "%zz", headers: &headers };
            let Some(target) = Target::parse(&target) else { return Ok(()) };
            for written in [r#"{"header":"x-tenant"}"#, r#"{"query":"t"}"#, r#"{"cookie":"t"}"#, r#"{"path":"/{key}/*rest"}"#, r#"{"host":"{key}"}"#] {
                if let Ok(key) = extract(&source(written), &request, &target) {
                    prop_assert!((1..=MAX_KEY_BYTES).contains(&key.len()));
                }
            }
        }
    }
}
