//! Which requests of an HTTP/2 client are taken: those that HTTP/1.1 could carry without a doubt.
//!
//! A request may go on to an owner that speaks HTTP/1.1, where pseudo-headers become a request line and a field, and where the end of a body is
//! what its head says. So its head is written as HTTP/1.1 has it and must pass that very check ([`super::super::framing`]): what differs between
//! the two is where requests are smuggled. The `h2` crate has refused malformed frames and fields that are of a connection.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, header, request::Parts};
use pingora_http::RequestHeader;
use waypost_policy::{Code, framing::Framing};

use super::super::framing::check_head;

/// The head of a request, with one `Host` and one `Cookie`; `ends`: nothing comes behind it.
///
/// # Errors
/// The code to answer with.
pub(super) fn admit(mut parts: Parts, ends: bool) -> Result<RequestHeader, Code> {
    name_host(&mut parts)?;
    join_cookies(&mut parts.headers)?;
    let target = parts.uri.path_and_query().ok_or(Code::BadRequest)?.clone();
    match check_head(&as_written(&parts, target.as_str()))?.framing {
        // Its owner would wait for a body that does not come, and take the next request for it.
        Framing::Length(1..) if ends => return Err(Code::BadRequest),
        Framing::Length(_) => {}
        Framing::Chunked => return Err(Code::BadRequest),
    }
    parts.uri = target.into();
    Ok(parts.into())
}

/// `:authority` becomes `Host`; both may come if they say the same (RFC 9113, section 8.3.1).
fn name_host(parts: &mut Parts) -> Result<(), Code> {
    let Some(authority) = parts.uri.authority() else { return Ok(()) };
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| Code::BadRequest)?;
    if parts.headers.get_all(header::HOST).iter().any(|host| *host != authority) {
        return Err(Code::BadRequest);
    }
    parts.headers.insert(header::HOST, authority);
    Ok(())
}

/// A client may send each of its cookies in a field of its own; elsewhere there is one field (RFC 9113, section 8.2.3).
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

fn as_written(parts: &Parts, target: &str) -> Vec<u8> {
    let mut line = String::new();
    // A string can be written to.
    let _ = write!(line, "{} {target} HTTP/1.1\r\n", parts.method);
    let mut written = line.into_bytes();
    for (name, value) in &parts.headers {
        written.extend_from_slice(name.as_str().as_bytes());
        written.extend_from_slice(b": ");
        written.extend_from_slice(value.as_bytes());
        written.extend_from_slice(b"\r\n");
    }
    written.extend_from_slice(b"\r\n");
    written
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
        admit(request.body(()).unwrap().into_parts().0, ends)
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
