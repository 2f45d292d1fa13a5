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
