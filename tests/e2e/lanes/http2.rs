//! The cases as a client of HTTP/2 sends them: each request that it can say at all is a stream, one after the other over one connection.

use std::{collections::BTreeMap, net::SocketAddr};

use http::Request;
use waypost_tests::{
    Http2Client,
    http2::{read_answer_so_far, send},
};

use super::{
    case::{Case, Then, Way},
    message::{End, Kind, Message},
};

/// Fields that HTTP/2 does not have (RFC 9113, section 8.2.2), and the one that becomes `:authority`.
const LEFT_OUT: [&str; 7] = ["host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];

/// What stands for an answer that was cut short.
pub(super) const CUT: &str = "cut short";

/// Whether a client of HTTP/2 can play it.
pub(super) fn can_be_said(case: &Case) -> bool {
    case.then == Then::Reads && matches!(case.way, Way::AtOnce | Way::InTurn) && case.requests.iter().all(|request| said(request).is_some())
}

/// A request and its body; `None` for none at all.
fn said(request: &[u8]) -> Option<(Request<()>, Option<Vec<u8>>)> {
    let (message, taken) = Message::read(request, Kind::Request)?;
    let hosts = message.fields.get("host").map_or(0, Vec::len);
    if taken != request.len() || message.end != End::Whole || hosts != 1 {
        return None;
    }
    let mut words = message.first.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || version != "HTTP/1.1" || !target.starts_with('/') || method == "CONNECT" {
        return None;
    }
    let mut request = Request::builder().method(method).uri(format!("http://{}{target}", message.value("host")?));
    for (name, values) in message.fields.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())) {
        for value in values {
            let bytes: Vec<u8> = value.chars().map(|letter| letter as u8).collect();
            request = request.header(name, http::HeaderValue::from_bytes(&bytes).ok()?);
        }
    }
    let has_none = message.body.is_empty() && message.value("transfer-encoding").is_none();
    Some((request.body(()).ok()?, (!has_none).then_some(message.body)))
}

/// Plays these requests; all answers, as far as they came.
pub(super) async fn play(to: SocketAddr, requests: &[Vec<u8>]) -> Vec<Message> {
    let client = Http2Client::connect(to).await;
    let mut answers = Vec::new();
    for (request, body) in requests.iter().filter_map(|request| said(request)) {
        let mut call = client.open_request(request, body.is_none()).await.unwrap();
        if let Some(body) = body {
            // Who is answered early is told by the answer.
            let _ = send(&mut call.body, &body, true).await;
        }
        answers.push(answered(read_answer_so_far(call.answer).await));
    }
    answers
}

/// What was read of an answer. How much of one that is cut short has reached its client, its head or nothing, is nobody's promise: a reset overtakes what waits before it.
fn answered(answer: Result<(http::response::Parts, Vec<u8>, bool), String>) -> Message {
    let Ok((head, body, true)) = answer else {
        return Message { first: CUT.to_owned(), fields: BTreeMap::new(), body: Vec::new(), end: End::Cut };
    };
    let mut fields = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &head.headers {
        fields.entry(name.as_str().to_owned()).or_default().push(super::text(value.as_bytes()));
    }
    Message { first: format!("HTTP/2 {}", head.status.as_u16()), fields, body, end: End::Whole }
}
