//! A request that nobody has sent: written down as a client would, and taken through the checks and filters of a real one.
//!
//! It never leaves this process and changes nothing; `explain` answers what would become of it.

use pingora_http::RequestHeader;
use waypost_policy::{
    Code, Head,
    explain::{Decision, Explanation, explain},
    head::Target,
};

use super::{
    framing::check_head,
    headers::{RequestHead, announced_body_bytes, has_looped, strip_protocol_from_request},
};
use crate::state::Shared;

/// The request that is asked about.
#[derive(Debug)]
pub(crate) struct Asked {
    method: String,
    /// What stands in the request line.
    target: String,
    /// In order; among them `Host`, if there is one.
    headers: Vec<(String, String)>,
}

impl Asked {
    /// A request for a URL, as a client makes it: the target is path and query, `Host` is the URL's unless it is among the headers.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub(crate) fn new(method: String, url: &str, mut headers: Vec<(String, String)>) -> Result<Self, String> {
        let parts =
            [("method", method.as_str())].into_iter().chain(headers.iter().flat_map(|(name, value)| [("header", &**name), (name, value)]));
        for (what, text) in parts {
            if text.contains(['\r', '\n', '\0']) {
                return Err(format!("{} has a line break or NUL in it; no request can carry that", what.escape_debug()));
            }
        }
        let url = if url.starts_with('/') { url } else { url.split('#').next().unwrap_or_default() };
        let no_url = || format!("\"{}\" is no URL; http://host/path, or /path beside a Host header, would be right", url.escape_debug());
        let target = Target::parse(url.as_bytes()).filter(|_| url.bytes().all(|b| b > b' ' && b != 0x7f)).ok_or_else(no_url)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(authority) = target.authority
            && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            headers.insert(0, ("Host".to_owned(), text(authority)));
        }
        let slash = if matches!(target.path_and_query.first(), Some(b'/' | b'*')) { "" } else { "/" };
        Ok(Self { method, target: format!("{slash}{}", text(target.path_and_query)), headers })
    }

    /// What would become of it now.
    pub(crate) fn explain(&self, shared: &Shared) -> Explanation {
        let table = shared.view.load();
        let Some(table) = table.as_ref() else {
            return Explanation::answered(Code::NotReady, "no table is in force yet; /status says why", 0);
        };
        let answered = |code, why: &str| Explanation::answered(code, why, table.revision());
        let head = match check_head(&self.as_written()) {
            Ok(_) => self.parsed(),
            Err(code) => return answered(code, self.why_refused(code)),
        };
        let Some(mut head) = head else { return answered(Code::BadRequest, Self::MALFORMED) };
        strip_protocol_from_request(&mut head);
        if has_looped(RequestHead(&head).values("cdn-loop"), &shared.cdn_id) {
            return answered(Code::Loop, &format!("CDN-Loop names {}: the request has passed through this proxy", shared.cdn_id));
        }
        let mut explanation = explain(&RequestHead(&head), &shared.world(table, &mut fastrand::Rng::new()));
        let body_limit = explanation.service.as_ref().map_or(0, |service| service.policy.limits.body_bytes);
        if explanation.decision == Decision::Forward && body_limit > 0 && announced_body_bytes(&head) > body_limit {
            explanation.refuse(Code::BodyTooLarge, format!("Content-Length is above the policy's limits.body_bytes, {body_limit}"));
        }
        explanation
    }

    const MALFORMED: &str = "the request line or a header field is malformed or ambiguous";

    fn why_refused(&self, code: Code) -> &'static str {
        if code == Code::HeaderTooLarge {
            "the request's head is too large or has too many fields"
        } else if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            "there is no Host: every request needs one"
        } else {
            Self::MALFORMED
        }
    }

    /// The head as its bytes.
    fn as_written(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        head.into_bytes()
    }

    /// The head as lanes have it; `None` if it can't be had.
    fn parsed(&self) -> Option<RequestHeader> {
        let mut head = RequestHeader::build(self.method.as_str(), self.target.as_bytes(), Some(self.headers.len())).ok()?;
        for (name, value) in &self.headers {
            head.append_header(name.clone(), value.trim_ascii().as_bytes()).ok()?;
        }
        Some(head)
    }
}
