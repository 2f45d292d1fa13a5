//! Which requests of an HTTP/2 client are taken: those that HTTP/1.1 could carry without a doubt.
//!
//! A request may go on to an owner that speaks HTTP/1.1, where pseudo-headers become a request line and a field, and where the end of a body is
//! what its head says. So its head is written as HTTP/1.1 has it and must pass that very check ([`super::super::framing`]): what differs between
//! the two is where requests are smuggled. The `h2` crate has refused malformed frames and fields that are of a connection.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header, request::Parts, uri::Authority};
use pingora_http::RequestHeader;
use waypost_policy::{
    Code,
    framing::{Framing, Plain},
};

use super::super::{framing::check_plain_head, grpc};

/// Most heads are shorter.
const LIKELY_BYTES: usize = 512;

/// The head of a request as HTTP/1.1 has it: one `Host`, which comes first, and one `Cookie`.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) head: BytesMut,
    /// How the body goes on to an owner of HTTP/1.1.
    pub(super) framing: Framing,
    /// Its places, if it is plain.
    pub(super) plain: Option<Plain>,
    /// It is a call of gRPC, which is answered otherwise than other requests.
    pub(super) is_call: bool,
}

/// Writes and checks it; `ends`: nothing comes behind it.
///
/// # Errors
/// The code to answer with.
pub(super) fn admit(parts: &Parts, ends: bool) -> Result<Written, Code> {
    let (head, is_call) = write(parts)?;
    let (checked, plain) = check_plain_head(&head)?;
    let framing = match checked.framing {
        // Its owner would wait for a body that does not come, and take the next request for it.
        Framing::Length(1..) if ends => return Err(Code::BadRequest),
        Framing::Length(0) if !ends && !parts.headers.contains_key(header::CONTENT_LENGTH) => Framing::Chunked,
        framing @ Framing::Length(_) => framing,
        Framing::Chunked => return Err(Code::BadRequest),
    };
    Ok(Written { head, framing, plain, is_call })
}

/// What was admitted, as a lane has it that wants a map.
///
/// # Errors
/// The code to answer with.
pub(super) fn into_head(mut parts: Parts) -> Result<RequestHeader, Code> {
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Code::BadRequest)?;
        parts.headers.insert(header::HOST, host);
    }
    join_cookies(&mut parts.headers)?;
    for value in parts.headers.values_mut() {
        // As whoever reads it written down has it; it should not have any (RFC 9113, section 8.2.1).
        if let trimmed = value.as_bytes().trim_ascii()
            && trimmed.len() < value.len()
        {
            *value = HeaderValue::from_bytes(trimmed).map_err(|_| Code::BadRequest)?;
        }
    }
    parts.uri = parts.uri.path_and_query().ok_or(Code::BadRequest)?.clone().into();
    Ok(parts.into())
}

fn write(parts: &Parts) -> Result<(BytesMut, bool), Code> {
    let target = parts.uri.path_and_query().ok_or(Code::BadRequest)?.as_str();
    let authority = parts.uri.authority().map(Authority::as_str);
    let mut out = BytesMut::with_capacity(LIKELY_BYTES);
    let mut put = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    put(&[parts.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    // `:authority` becomes `Host`; both may come if they say the same (RFC 9113, section 8.3.1).
    if let Some(authority) = authority {
        put(&[b"host: ", authority.as_bytes(), b"\r\n"]);
    }
    let (mut crumbs, mut has_kind) = (0, false);
    for (name, value) in &parts.headers {
        if *name == header::HOST
            && let Some(authority) = authority
        {
            if value != authority {
                return Err(Code::BadRequest);
            }
        } else if *name == header::COOKIE {
            crumbs += 1;
        } else {
            has_kind |= *name == header::CONTENT_TYPE;
            put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    if crumbs > 0 {
        // A client may send each of them in a field of its own; elsewhere there is one field (RFC 9113, section 8.2.3).
        let mut before: &[u8] = b"cookie: ";
        for crumb in parts.headers.get_all(header::COOKIE) {
            put(&[before, crumb.as_bytes()]);
            before = b"; ";
        }
        put(&[b"\r\n"]);
    }
    put(&[b"\r\n"]);
    Ok((out, has_kind && grpc::is_call(&parts.headers)))
}

/// One field for all cookies.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Code> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| Code::BadRequest)?;
    headers.insert(header::COOKIE, joined);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn admitted(uri: &str, fields: &[(&str, &str)], ends: bool) -> Result<RequestHeader, Code> {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        admit(&parts, ends)?;
        into_head(parts)
    }

    #[test]
    fn what_http1_could_carry_is_admitted_with_one_host_and_one_cookie() {
        let head = admitted("http://a.x:81/p?q", &[("cookie", "a=1"), ("cookie", "b=2"), ("content-length", "3")], false).unwrap();
        assert_eq!(head.raw_path(), b"/p?q");
        assert_eq!(head.headers["host"], "a.x:81");
        assert_eq!(head.headers["cookie"], "a=1; b=2");
        assert_eq!(head.headers.get_all("cookie").iter().count(), 1);
        assert!(admitted("http://a.x/", &[("host", "a.x"), ("content-length", "0")], true).is_ok());
    }

    #[test]
    fn what_http1_could_not_carry_is_refused() {
        for (uri, fields, ends) in [
            ("http://a.x/", &[("host", "b.x")][..], true),
            ("http://a.x/", &[("content-length", "5")], true),
            ("http://a.x/", &[("content-length", "5"), ("content-length", "5")], false),
            ("http://a.x/", &[("content-length", "+5")], false),
            ("http://a.x/", &[("transfer-encoding", "gzip")], false),
            ("http://a.x/", &[("content_length", "5")], false),
            ("http://u@a.x/", &[], true),
            ("/no-authority", &[], true),
        ] {
            assert_eq!(admitted(uri, fields, ends).err(), Some(Code::BadRequest), "{uri} {fields:?}");
        }
    }
}
