//! What the general transport asks of pingora's session: what has been read of the request's body, what has been said, and why it broke off.

use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use waypost_policy::{Body, Code, Failure};

use super::{DRAINED_BYTES, REPLAY_BYTES, Request};
use crate::{
    tls,
    transport::{
        deadline::{Deadline, Phase},
        grpc, headers,
    },
};

/// Whether an answer has begun; an interim one is none.
pub(super) fn has_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS)
}

/// Whether the client speaks HTTP/2.
pub(super) fn is_http2(session: &Session) -> bool {
    session.req_header().version == http::Version::HTTP_2
}

/// Whether it is a call of gRPC.
pub(super) fn is_call(session: &Session) -> bool {
    is_http2(session) && grpc::is_call(&session.req_header().headers)
}

/// Whether nothing of a body has been read that would not fit in what is kept for a repeat.
pub(super) fn is_too_large_to_replay(session: &mut Session) -> bool {
    let announced = headers::announced_body_bytes(session.req_header());
    session.body_bytes_read() == 0 && (is_streamed(session) || announced > REPLAY_BYTES as u64)
}

/// Whether nobody knows how long the body is.
fn is_streamed(session: &mut Session) -> bool {
    let is_framed_by_stream = is_http2(session) && headers::content_length(&session.req_header().headers).is_none();
    session.req_header().headers.contains_key(http::header::TRANSFER_ENCODING) || (is_framed_by_stream && !session.is_body_done())
}

/// Whether a refusal is read to its end soon, and its connection then of use: the request has been sent whole, and the answer is short or may be.
pub(super) fn is_soon_read(session: &mut Session, head: &ResponseHeader) -> bool {
    let is_framed = headers::has_no_body(head, &session.req_header().method)
        || head.headers.contains_key(http::header::TRANSFER_ENCODING)
        || headers::content_length(&head.headers).is_some_and(|length| length <= DRAINED_BYTES as u64);
    is_framed && session.is_body_done() && !session.as_downstream().is_upgrade_req()
}

/// Whether the client's next request may follow this one's answer: what is left of its body is short and on its way.
pub(super) fn can_be_followed(session: &mut Session, deadline: &Deadline) -> bool {
    let is_sound = deadline.fired().is_none() && !deadline.is_broken() && !session.as_downstream().is_upgrade_req();
    let is_short = headers::announced_body_bytes(session.req_header()) <= REPLAY_BYTES as u64;
    is_sound && (session.is_body_done() || (is_short && !is_streamed(session) && !headers::expects_continue(session.req_header())))
}

/// May the body be sent again? pingora keeps up to 64 KiB of it.
pub(super) fn body_of(session: &mut Session) -> Body {
    if session.is_body_empty() {
        Body::None
    } else if session.as_ref().retry_buffer_truncated() {
        Body::Spent
    } else if session.body_bytes_read() == 0 {
        Body::Withheld
    } else {
        Body::Buffered
    }
}

/// Why a request broke off: what the owner failed in, or the code where it is not the owner's fault; neither if the client has gone.
pub(super) fn blame(session: &mut Session, ctx: &Request, error: &Error, reused: bool) -> (Option<Failure>, Option<Code>) {
    match (ctx.deadline.fired(), error.esource()) {
        (Some(Phase::Client), _) => (None, Some(Code::ClientTimeout)),
        (Some(Phase::Lost), _) if ctx.deadline.is_raw() => (None, Some(Code::Misdirected)),
        (Some(Phase::Lost), _) => (Some(Failure::Reset { reused: false }), None),
        (Some(Phase::Total), _) if !session.is_body_done() => (None, Some(Code::ClientTimeout)),
        (Some(Phase::Total), _) => (None, Some(Code::UpstreamTimeout)),
        (Some(Phase::FirstByte | Phase::Idle), _) => (Some(Failure::FirstByteTimeout), None),
        (None, _) if ctx.deadline.is_broken() => (None, Some(Code::BadRequest)),
        (None, ErrorSource::Downstream) => (None, None),
        (None, _) => {
            let failure = match error.etype() {
                _ if tls::is_refusal(error) => Failure::Tls,
                ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::FirstByteTimeout,
                ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error => {
                    Failure::Reset { reused: reused && !is_reset_of_stream(error) }
                }
                _ => Failure::BadResponse,
            };
            (Some(failure), None)
        }
    }
}

/// Whether an owner of HTTP/2 has ended this one stream: its connection has not died idle.
fn is_reset_of_stream(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset)
}
