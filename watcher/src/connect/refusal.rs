//! What etcd's refusals and broken connections say to a person: what is wrong, and what would be right.

use etcd_client::Error;

use super::{Credentials, EtcdPlace};

/// What was asked of etcd: what a refusal would have to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Reading or watching.
    Read,
    /// Writing.
    Write,
}

/// How a sentence about a member goes on that no connection could be made to.
pub(crate) const OUT_OF_REACH: &str = "can't be reached";

impl EtcdPlace {
    /// What an error of the first contact says, in few words that follow the name of a member: what is wrong and what would be right.
    pub(crate) fn say(&self, error: &Error, endpoint: &str) -> String {
        match error {
            Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
                say_message(status.message(), &status.code(), Wanted::Read, Some(self))
            }
            Error::GRpcStatus(_) | Error::TransportError(_) | Error::IoError(_) => {
                let shows_ours = self.credentials.cert.is_some();
                say_broken(&format!("{error:?}"), endpoint.starts_with("https://"), shows_ours)
            }
            other => other.to_string(),
        }
    }

    /// The same over a connection that has worked before.
    pub(crate) fn say_later(&self, error: &Error, wanted: Wanted) -> String {
        match error {
            Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
                say_message(status.message(), &status.code(), wanted, Some(self))
            }
            other => say_later(other, wanted),
        }
    }

    /// The same of a refusal that comes as text inside an answer.
    pub(crate) fn say_refusal(&self, reason: &str) -> String {
        // Members pass on what their parts say to one another.
        let message = reason.rsplit_once("desc = ").map_or(reason, |(_, message)| message);
        say_message(message, &"a refusal without a reason", Wanted::Read, Some(self))
    }

    /// Who etcd takes us for.
    fn who(&self) -> String {
        let Credentials { user, cert, .. } = &self.credentials;
        match (user, cert) {
            (Some(user), _) => format!("user \"{user}\""),
            (None, Some(_)) => "the user whom the certificate of --gold-cert names".to_owned(),
            (None, None) => "anybody without a user".to_owned(),
        }
    }
}

/// What an error over a connection that has worked before says, where nobody knows the place.
pub(crate) fn say_later(error: &Error, wanted: Wanted) -> String {
    match error {
        Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
            say_message(status.message(), &status.code(), wanted, None)
        }
        Error::GRpcStatus(_) | Error::TransportError(_) | Error::IoError(_) => {
            "has ended the connection, or can't be reached any more".to_owned()
        }
        other => other.to_string(),
    }
}

/// What etcd itself answers.
fn say_message(message: &str, code: &impl std::fmt::Display, wanted: Wanted, place: Option<&EtcdPlace>) -> String {
    let message = message.trim_start_matches("etcdserver: ");
    let (doing, right) = if wanted == Wanted::Read { ("read", "READ") } else { ("write", "READWRITE") };
    let who = place.map_or_else(|| "this user".to_owned(), EtcdPlace::who);
    let keys = place.map_or_else(|| "below the prefix".to_owned(), |place| format!("that start with {}/", place.prefix));
    match message {
        "permission denied" => format!("does not let {who} {doing}; grant one of its roles {right} on all keys {keys}"),
        "user name is empty" => "wants a user; name one with --gold-user and --gold-password-file".to_owned(),
        "authentication failed, invalid user ID or password" => {
            format!("does not know {who}, or not by this password; check --gold-user and --gold-password-file")
        }
        "authentication is not enabled" => "has no users; leave --gold-user out".to_owned(),
        "request is too large" => "takes no request of this size; raise its --max-request-bytes".to_owned(),
        "too many operations in txn request" => "takes no transaction of this many operations; raise its --max-txn-ops to 128".to_owned(),
        "mvcc: database space exceeded" => {
            "has used up its space and takes no writes; compact and defragment it, then disarm its alarm".to_owned()
        }
        "rpc not supported for learner" => "only learns from the others, and answers nothing yet; name the voting members".to_owned(),
        // Some say more of why.
        late if late == "no leader" || late == "leader changed" || late.starts_with("request timed out") => {
            format!("has no leader now ({message}); is a majority of its members up?")
        }
        "" => format!("answers: {code}"),
        other => format!("says: {other}"),
    }
}

/// Why there is no connection, from what all the layers below say of it. `shows_ours`: a certificate of ours was shown.
fn say_broken(layers: &str, is_tls: bool, shows_ours: bool) -> String {
    let says = |words: &[&str]| words.iter().any(|word| layers.contains(word));
    if says(&["UnknownIssuer", "BadSignature"]) {
        return "shows a certificate that those of --gold-ca have not signed; name the file of those that have".to_owned();
    }
    if says(&["NotValidForName"]) {
        return "shows a certificate for another host; name the member as its certificate does".to_owned();
    }
    if says(&["InvalidCertificate(Expired"]) {
        return "shows a certificate that has expired; give the member a new one".to_owned();
    }
    if says(&["InvalidCertificate(NotValidYet"]) {
        return "shows a certificate that is not good yet; look at both machines' clocks".to_owned();
    }
    if let Some((_, fault)) = layers.split_once("InvalidCertificate(") {
        return format!("shows a certificate that can't be accepted: {}", fault.split(')').next().unwrap_or_default());
    }
    if says(&["ConnectionRefused"]) {
        return format!("{OUT_OF_REACH}: the connection was refused (is etcd running there?)");
    }
    if says(&["dns error", "lookup address"]) {
        return format!("{OUT_OF_REACH}: there is no host of this name");
    }
    // Whether an end shows as a reset, a broken pipe or an early end is a matter of timing; whether it came while connecting, which
    // includes the handshake, or afterwards is not.
    let was_ended = says(&["UnexpectedEof", "ConnectionReset", "BrokenPipe", "ConnectionAborted", "NotConnected"]);
    let while_connecting = says(&["ConnectError"]);
    if is_tls && while_connecting && (was_ended || says(&["InvalidContentType", "corrupt message", "InvalidMessage"])) {
        return "does not speak TLS; http:// would be right".to_owned();
    }
    if is_tls && (says(&["AlertReceived", "hyper::Error"]) || was_ended) {
        return if shows_ours {
            "ends the connection; if it does not accept the certificate of --gold-cert, name one that its CA has signed and that has not expired"
        } else {
            "ends the connection; if it wants a certificate of ours, name one that its CA has signed: --gold-cert and --gold-key"
        }
        .to_owned();
    }
    if says(&["hyper::Error"]) || was_ended {
        return "ends the connection without an answer; if it wants TLS, https:// would be right, else it may not be etcd".to_owned();
    }
    format!("{OUT_OF_REACH}: no connection came about")
}

/// Whether there is no right to do what was asked.
pub(crate) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("permission denied"))
}

/// Whether what was asked may have been done although there was an error: the answer was lost, not the request refused.
pub(crate) fn may_have_been_done(error: &Error) -> bool {
    match error {
        // Cancelled, unknown, deadline exceeded, aborted, internal, unavailable, data loss.
        Error::GRpcStatus(status) => matches!(status.code() as i32, 1 | 2 | 4 | 10 | 13 | 14 | 15),
        Error::TransportError(_) | Error::IoError(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whose_what_and_which_keys() {
        let place = EtcdPlace {
            endpoints: Vec::new(),
            prefix: "/waypost/v1".to_owned(),
            credentials: Credentials { user: Some("edge".to_owned()), ..Credentials::default() },
        };
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        for (reason, wanted) in [
            (denied, "does not let user \"edge\" read; grant one of its roles READ on all keys that start with /waypost/v1/"),
            ("etcdserver: permission denied", "user \"edge\""),
            ("etcdserver: request timed out, possibly due to previous leader failure", "is a majority of its members up?"),
            ("etcdserver: rpc not supported for learner", "voting members"),
            ("etcdserver: something new", "says: something new"),
            ("", "a refusal without a reason"),
        ] {
            let said = place.say_refusal(reason);
            assert!(said.contains(wanted), "{reason}: {said}");
        }
    }

    #[test]
    fn a_connection_that_does_not_come_about_says_what_would_be_right() {
        for (layers, is_tls, wanted) in [
            ("ConnectError(Os { kind: ConnectionRefused })", false, "is etcd running there?)"),
            ("ConnectError(\"dns error\")", false, "no host of this name"),
            ("ConnectError(Custom { kind: UnexpectedEof, error: \"tls handshake eof\" })", true, "http:// would be right"),
            ("ConnectError(Os { code: 104, kind: ConnectionReset })", true, "http:// would be right"),
            ("hyper::Error(Io, Custom { kind: BrokenPipe })", false, "https:// would be right"),
            ("hyper::Error(Http2, Error { kind: GoAway(b\"\", FRAME_SIZE_ERROR) })", false, "may not be etcd"),
            ("hyper::Error(Canceled, \"connection closed\")", true, "--gold-cert and --gold-key"),
            ("hyper::Error(Io, Os { code: 104, kind: ConnectionReset })", true, "--gold-cert and --gold-key"),
            ("InvalidCertificate(UnknownIssuer)", true, "--gold-ca"),
            ("InvalidCertificate(Expired)", true, "has expired"),
            ("InvalidCertificate(ExpiredContext { time: UnixTime(3), not_after: UnixTime(2) })", true, "has expired"),
            ("InvalidCertificate(NotValidYetContext { time: UnixTime(3), not_before: UnixTime(4) })", true, "clocks"),
            ("InvalidCertificate(BadEncoding)", true, "can't be accepted: BadEncoding"),
            ("anything else", true, "can't be reached"),
        ] {
            let said = say_broken(layers, is_tls, false);
            assert!(said.contains(wanted), "{layers}: {said}");
        }
        assert!(say_broken("hyper::Error(Io)", true, true).contains("does not accept the certificate of --gold-cert"));
    }
}
