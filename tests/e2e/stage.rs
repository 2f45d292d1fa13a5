//! The stage of the tests of HTTP itself: a record file, one service without a key, one raw backend `a`, a proxy.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use waypost_tests::{Peer, RawBackend, RawRequest, Waypost, until, until_true};

/// The stage.
pub(crate) struct Stage {
    pub(crate) waypost: Waypost,
    pub(crate) backend: RawBackend,
    folder: tempfile::TempDir,
}

/// Time-outs that a test can wait for: long enough for a busy machine, each another so that the one that fired shows.
pub(crate) fn short_timeouts() -> Value {
    json!({ "timeouts": { "header_ms": 700, "connect_ms": 600, "first_byte_ms": 900, "idle_ms": 1500 } })
}

/// The backend's plain answer.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl Stage {
    /// With the policy of INTERFACE.md.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(script: impl Fn(Peer, usize) -> F + Send + 'static) -> Self {
        Self::with(json!({}), script).await
    }

    /// With another default policy.
    pub(crate) async fn with<F: Future<Output = ()> + Send + 'static>(
        policy: Value,
        script: impl Fn(Peer, usize) -> F + Send + 'static,
    ) -> Self {
        let backend = RawBackend::start(script).await;
        let upstream = backend.upstream();
        Self::on(backend, &upstream, policy, "").await
    }

    /// With any upstream's record, and more lines of the bootstrap file: of its listener's section, then of others.
    pub(crate) async fn on(backend: RawBackend, upstream: &Value, policy: Value, bootstrap_lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (records, bootstrap) = (folder.path().join("records.json"), folder.path().join("waypost.toml"));
        let all = json!({
            "services/web": { "match": [{}], "default_owner": "a" },
            "upstreams/a": upstream,
            "policies/default": policy,
        });
        std::fs::write(&records, all.to_string()).unwrap();
        // `--listen` of the harness overrules the address and keeps the rest of the section.
        std::fs::write(&bootstrap, format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{bootstrap_lines}\n")).unwrap();
        let gold = format!("file:{}", records.display());
        let waypost = Waypost::start(&gold, &["--config", bootstrap.to_str().unwrap()]).await;
        Self { waypost, backend, folder }
    }

    /// Its bootstrap file.
    pub(crate) fn bootstrap(&self) -> std::path::PathBuf {
        self.folder.path().join("waypost.toml")
    }

    /// A raw client.
    pub(crate) async fn client(&self) -> Peer {
        Peer::connect(self.waypost.listen).await
    }

    /// Sends exact bytes over a connection of its own and reads until the proxy closes; the requests should ask for that.
    pub(crate) async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.rest().await
    }

    /// The line of the access log for a path that was asked for once; "" for what has no path.
    pub(crate) async fn logged(&self, path: &str) -> Value {
        until(&format!("{path:?} is logged"), async || {
            let lines = self.waypost.access_log();
            lines.iter().find(|line| line["path"] == path).cloned().ok_or_else(|| format!("{} other lines", lines.len()))
        })
        .await
    }

    /// Waits until no request is under way.
    pub(crate) async fn at_rest(&self) {
        until_true("no request is under way", async || self.waypost.metric("waypost_in_flight").await.abs() < 0.5).await;
    }

    /// Waits until the proxy has closed so many connections to the backend.
    pub(crate) async fn has_left(&self, connections: usize) {
        until_true(&format!("{connections} connections to the owner are closed"), async || self.backend.ended() >= connections).await;
    }

    /// A GET of `/path` that asks for the connection to be closed, read to its end.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await
    }
}

/// All whole requests that a backend has read.
pub(crate) type Requests = Arc<Mutex<Vec<RawRequest>>>;

/// A script that reads whole requests, keeps them and gives each the plain answer.
pub(crate) fn keeping(requests: Requests) -> impl Fn(Peer, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static {
    move |mut peer, _| {
        let requests = Arc::clone(&requests);
        Box::pin(async move {
            while let Some(request) = peer.request().await {
                requests.lock().unwrap().push(request);
                peer.send(OK).await;
            }
        })
    }
}

/// A script that reads whole requests and answers `GET /name…` with the bytes that `answers` has under the name; closes behind an
/// answer that is not to be kept alive.
pub(crate) fn answering(
    answers: impl Fn(&str) -> (Vec<u8>, bool) + Send + Sync + 'static,
) -> impl Fn(Peer, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static {
    let answers = Arc::new(answers);
    move |mut peer, _| {
        let answers = Arc::clone(&answers);
        Box::pin(async move {
            while let Some(request) = peer.request().await {
                let target = request.head.split(' ').nth(1).unwrap_or_default();
                let (bytes, kept) = answers(target.trim_start_matches('/'));
                if !peer.send(bytes).await || !kept {
                    return;
                }
            }
        })
    }
}

/// The status codes of all answers in these bytes, in order; bodies must not look like status lines.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    let found = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    found.collect()
}

/// Head and rest of the first final answer in these bytes: interim ones are passed over, a 101 is final.
fn first_final(text: &str) -> (&str, &str) {
    let mut rest = text;
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        if !head.starts_with("HTTP/1.1 10") || head.starts_with("HTTP/1.1 101") {
            return (head, behind);
        }
        rest = behind;
    }
    (rest, "")
}

/// The first value of a field in the first final answer of these bytes; empty if absent.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let mut fields = first_final(text).0.split("\r\n").filter_map(|line| line.split_once(": "));
    fields.find(|(given, _)| given.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

/// The code of the proxy's own answer.
pub(crate) fn reason(text: &str) -> &str {
    field(text, "waypost-reason")
}

/// What follows the first final head.
pub(crate) fn body(text: &str) -> &str {
    first_final(text).1
}

/// The body behind the first final head without its chunks' sizes, and whether it came to the end that the head says.
pub(crate) fn whole_body(text: &str) -> (String, bool) {
    let sent = body(text);
    if field(text, "transfer-encoding").is_empty() {
        let length = field(text, "content-length").parse().ok();
        return (sent.to_owned(), length.is_none_or(|length: usize| length == sent.len()));
    }
    let (mut rest, mut whole) = (sent, String::new());
    while let Some((size, behind)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|error| panic!("{size:?} in {sent:?}: {error}"));
        if size == 0 {
            return (whole, behind == "\r\n");
        }
        let here = size.min(behind.len());
        whole += &behind[..here];
        rest = behind[here..].trim_start_matches("\r\n");
    }
    (whole, false)
}
