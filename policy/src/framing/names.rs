//! Field names that mean something to a proxy, told apart once for each field of a head.
//!
//! What is asked of a name afterwards is a comparison of one byte instead of a dozen of texts. What always holds: a name that backends may take for
//! another one (`_` for `-`, as CGI and WSGI have it) is never [`Known::Other`] where that other one is not.

use crate::wire::is_protocol_header;

/// What a field is, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the names")]
pub enum Known {
    /// It is carried like any other.
    #[default]
    Other,
    CdnLoop,
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthenticationInfo,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    WaypostReason,
    /// However it is spelt.
    XClientCertSubject,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `X-Forwarded-` and something else.
    XForwardedOther,
    XRequestId,
    /// The stale-route protocol's, however it is spelt.
    Protocol,
    /// A word on the client with `_` for `-`.
    MisspeltWord,
    /// `Content_Length` and the like: another field, but not to every backend.
    MisspeltFraming,
}

impl Known {
    /// Tells it.
    pub fn of(name: &[u8]) -> Self {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.first().map_or(0, u8::to_ascii_lowercase) {
            b'c' if is(b"content-length") => Self::ContentLength,
            b'c' if is(b"connection") => Self::Connection,
            b'c' if is(b"cdn-loop") => Self::CdnLoop,
            b'c' if is_spelt(name, b"content-length") => Self::MisspeltFraming,
            b'd' if is(b"date") => Self::Date,
            b'e' if is(b"expect") => Self::Expect,
            b'f' if is(b"forwarded") => Self::Forwarded,
            b'h' if is(b"host") => Self::Host,
            b'h' if is(b"http2-settings") => Self::Http2Settings,
            b'k' if is(b"keep-alive") => Self::KeepAlive,
            b'p' if is(b"proxy-connection") => Self::ProxyConnection,
            b'p' if is(b"proxy-authenticate") => Self::ProxyAuthenticate,
            b'p' if is(b"proxy-authorization") => Self::ProxyAuthorization,
            b'p' if is(b"proxy-authentication-info") => Self::ProxyAuthenticationInfo,
            b'r' if is_protocol_header(name) => Self::Protocol,
            b't' if is(b"te") => Self::Te,
            b't' if is(b"trailer") => Self::Trailer,
            b't' if is(b"transfer-encoding") => Self::TransferEncoding,
            b't' if is_spelt(name, b"transfer-encoding") => Self::MisspeltFraming,
            b'u' if is(b"upgrade") => Self::Upgrade,
            b'w' if is(b"waypost-reason") => Self::WaypostReason,
            b'x' if name.len() >= REQUEST_ID.len() => of_client(name),
            _ => Self::Other,
        }
    }

    /// Whether a request's field is its connection's alone (RFC 9110, section 7.6.1), or is written anew with the body.
    pub fn is_of_requests_hop(self) -> bool {
        use Known::*;
        matches!(self, Connection | KeepAlive | ProxyConnection | ProxyAuthenticate | ProxyAuthorization | Te | Trailer | TransferEncoding)
    }

    /// Whether a request's field says who the client is and how it came, by somebody who may not say that: anybody, or where the client is trusted whoever
    /// writes it in another way than the proxy reads it.
    pub fn is_of_client(self, is_trusted: bool) -> bool {
        use Known::*;
        let is_word = matches!(self, Forwarded | XForwardedFor | XForwardedHost | XForwardedProto | XForwardedOther | XRequestId);
        self == MisspeltWord || (is_word && !is_trusted)
    }

    /// Whether an answer's field is its connection's alone.
    pub fn is_of_answers_hop(self) -> bool {
        use Known::*;
        matches!(self, Connection | KeepAlive | ProxyConnection | ProxyAuthenticate | ProxyAuthenticationInfo | Te | Trailer | Upgrade)
    }
}

const FORWARDED: &[u8] = b"x-forwarded-";
const REQUEST_ID: &[u8] = b"x-request-id";

/// Those that say who the client is and how it came; of any other name, [`Known::Other`].
fn of_client(name: &[u8]) -> Known {
    let known = match name {
        _ if is_spelt(&name[..FORWARDED.len()], FORWARDED) => match &name[FORWARDED.len()..] {
            rest if rest.eq_ignore_ascii_case(b"for") => Known::XForwardedFor,
            rest if rest.eq_ignore_ascii_case(b"host") => Known::XForwardedHost,
            rest if rest.eq_ignore_ascii_case(b"proto") => Known::XForwardedProto,
            _ => Known::XForwardedOther,
        },
        _ if is_spelt(name, REQUEST_ID) => Known::XRequestId,
        _ if is_spelt(name, b"x-client-cert-subject") => return Known::XClientCertSubject,
        _ => return Known::Other,
    };
    if name.contains(&b'_') { Known::MisspeltWord } else { known }
}

/// Whether a name is this one with `_` or `-`, in whatever case.
fn is_spelt(name: &[u8], wanted: &[u8]) -> bool {
    let spelt = name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    name.len() == wanted.len() && spelt.eq(wanted.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_in_any_case_and_spelling() {
        use Known::*;
        for (name, known) in [
            ("Host", Host),
            ("hosts", Other),
            ("", Other),
            ("Content-Length", ContentLength),
            ("Content_length", MisspeltFraming),
            ("TRANSFER_ENCODING", MisspeltFraming),
            ("Transfer-Encoding", TransferEncoding),
            ("content-type", Other),
            ("Route-Stamp", Protocol),
            ("route_x", Protocol),
            ("Route-", Protocol),
            ("Route", Other),
            ("X-Forwarded-For", XForwardedFor),
            ("X-Forwarded_For", MisspeltWord),
            ("X-Forwarded-", XForwardedOther),
            ("X-Forwarded-Prefix", XForwardedOther),
            ("X-Forwarded", Other),
            ("x-request-id", XRequestId),
            ("x_request_id", MisspeltWord),
            ("x-request-ids", Other),
            ("X_Client-Cert_Subject", XClientCertSubject),
            ("x-tenant", Other),
            ("x-tenant-of-all", Other),
            ("Waypost-Reason", WaypostReason),
            ("date", Date),
        ] {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
        }
    }
}
