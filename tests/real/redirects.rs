//! Clients that nobody here wrote are led to the owner of their key: curl, requests, reqwest. Each request ends there, with its method and its
//! body, and is executed once.

use std::sync::{Arc, Mutex};

use reqwest::{Body, Method};
use serde_json::{Value, json};
use waypost_tests::{Answer, Backend, Etcd, Python, Ran, Reply, Seen, Waypost, program};

use crate::stage::bytes;

/// All keys belong to `a`, which refuses every request in favour of `b`.
struct Stage {
    waypost: Waypost,
    a: Backend,
    b: Backend,
    _etcd: Etcd,
}

const STORIES: [&str; 5] = ["buffered", "streamed", "followed", "curl", "reqwest"];
const KEYS: usize = 12;
const PATH: &str = "/a//b?c=%20d";

impl Stage {
    async fn start(policy: Value, is_aware: bool) -> Self {
        let table = Arc::<Mutex<String>>::default();
        let said = Arc::clone(&table);
        let refuse = move |seen: &Seen| {
            let (key, table) = (seen.header("x-tenant"), said.lock().unwrap());
            Reply::stale(format!(r#"state=moved, service="orders", key="{key}", owner="b", epoch=6, revision=999999, table="{table}""#))
        };
        let (a, b, etcd) = (Backend::start(refuse).await, Backend::named("b").await, Etcd::start().await);
        let upstream = |cell: &Backend| {
            let address = cell.address.to_string();
            json!({ "endpoints": [{ "address": address }], "public_url": format!("http://{address}"), "stale_aware": is_aware })
        };
        let mut records = vec![
            ("services/orders".to_owned(), json!({ "match": [{}], "key": { "header": "x-tenant" } })),
            ("policies/default".to_owned(), policy),
            ("upstreams/a".to_owned(), upstream(&a)),
            ("upstreams/b".to_owned(), upstream(&b)),
        ];
        for story in STORIES {
            records.extend((0..KEYS).map(|n| (format!("routes/orders/{story}-{n}"), json!({ "owner": "a", "epoch": 5 }))));
        }
        let records: Vec<(&str, Value)> = records.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        etcd.put_all(&records).await;
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        waypost.until_connected(true).await["table"].as_str().unwrap().clone_into(&mut table.lock().unwrap());
        Self { waypost, a, b, _etcd: etcd }
    }

    fn url(&self) -> String {
        format!("http://{}{PATH}", self.waypost.listen)
    }

    /// What `b` has executed for a key: once, with the path as it was sent.
    fn executed(&self, key: &str) -> Seen {
        let all: Vec<Seen> = self.b.seen().into_iter().filter(|seen| seen.header("x-tenant") == key).collect();
        assert_eq!(all.len(), 1, "{key} was executed {} times", all.len());
        assert_eq!(all[0].target, PATH);
        all[0].clone()
    }

    /// How often `a` was asked for a key.
    fn refused(&self, key: &str) -> usize {
        self.a.seen().into_iter().filter(|seen| seen.header("x-tenant") == key).count()
    }

    async fn told(&self, story: &str) {
        Python::run("redirect_clients.py", &[story, &self.waypost.listen.to_string()]).await.succeeded();
    }
}

/// Back to the proxy, which has healed; or straight to the owner.
fn leading() -> [(&'static str, Value); 2] {
    [("self", json!({ "on_stale": "redirect" })), ("owner", json!({ "on_stale": "redirect", "redirect_to": "owner" }))]
}

async fn curl(args: &[&str], stdin: &[u8]) -> Ran {
    let always =
        ["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code} %{num_redirects} %{size_upload} %header{waypost-reason}"];
    program("curl", &[&always, args].concat(), stdin).await
}

#[tokio::test]
async fn curl_follows_with_its_method_and_its_body() {
    for (to, policy) in leading() {
        let stage = Stage::start(policy, false).await;
        let (url, content) = (stage.url(), bytes(200_000));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content).unwrap();
        let path = file.path().to_str().unwrap();
        let from_file = format!("@{path}");
        let ways: [(&str, &[&str], &[u8]); 8] = [
            ("GET", &["-L"], b""),
            ("DELETE", &["-L", "-X", "DELETE"], b""),
            ("POST", &["-L", "--data", "small=1"], b"small=1"),
            ("POST", &["-L", "--data-binary", &from_file], &content),
            ("POST", &["-L", "-H", "Expect: 100-continue", "--data-binary", &from_file], &content),
            ("PUT", &["-L", "-T", path], &content),
            ("PUT", &["-L", "-H", "Expect:", "-T", path], &content),
            ("PATCH", &["-L", "-X", "PATCH", "--http1.0", "--data-binary", &from_file], &content),
        ];
        for (number, (method, args, body)) in ways.into_iter().enumerate() {
            let key = format!("curl-{number}");
            let ran = curl(&[args, &["-H", &format!("x-tenant: {key}"), &url]].concat(), b"").await.succeeded();
            assert!(ran.text().starts_with("200 1 "), "{to} {args:?}: {}", ran.text());
            let seen = stage.executed(&key);
            assert!(seen.method == method && seen.body == body, "{to} {args:?}: {} with {} bytes", seen.method, seen.body.len());
            assert_eq!(seen.header("route-stamp").is_empty(), to == "owner", "who is led to the owner itself has no stamp");
            assert_eq!(stage.refused(&key), 1);
        }
    }
}

/// What comes from a pipe can't be sent again. Told before the body was asked for, curl still has all of it.
#[tokio::test]
async fn curl_with_a_pipe_follows_while_the_body_is_still_its_own() {
    let stage = Stage::start(leading()[0].1.clone(), false).await;
    let (url, content) = (stage.url(), bytes(300_000));
    let expecting = ["-L", "--expect100-timeout", "20", "-H", "Expect: 100-continue", "-T", "-", "-H", "x-tenant: curl-0", &url];
    let ran = curl(&expecting, &content).await.succeeded();
    assert!(ran.text().starts_with("200 1 "), "{}", ran.text());
    assert!(stage.executed("curl-0").body == content);
    // Without that it has sent some: it is told where to go, and can't.
    let ran = curl(&["-L", "-H", "Expect:", "-T", "-", "-H", "x-tenant: curl-1", &url], &content).await;
    assert!(ran.status != 0 && ran.text().starts_with("307 "), "{} {}", ran.status, ran.text());
    assert!(stage.b.seen().iter().all(|seen| seen.header("x-tenant") != "curl-1" || seen.body == content), "nothing cut short is executed");
}

/// Under `follow` no client is led anywhere: with `Expect` the body is still with it when its owner is found.
#[tokio::test]
async fn under_follow_an_expecting_curl_is_not_even_led() {
    for is_aware in [false, true] {
        let stage = Stage::start(json!({}), is_aware).await;
        let (url, content) = (stage.url(), bytes(300_000));
        for number in 0..2 {
            let key = format!("x-tenant: curl-{number}");
            let expecting = ["--expect100-timeout", "20", "-H", "Expect: 100-continue", "-T", "-", "-H", &key, &url];
            let ran = curl(&expecting, &content).await.succeeded();
            assert!(ran.text().starts_with("200 0 300"), "aware: {is_aware}: sent once, in chunks: {}", ran.text());
            assert!(stage.executed(&format!("curl-{number}")).body == content);
        }
        // An owner that knows the protocol is asked before the body goes, whatever the client says.
        let ran = curl(&["-H", "Expect:", "-T", "-", "-H", "x-tenant: curl-5", &url], &content).await;
        let wanted = if is_aware { "200 0 " } else { "503 0 " };
        assert!(ran.text().starts_with(wanted), "aware: {is_aware}: {}", ran.text());
        let ran = curl(&["-H", "Expect:", "-T", "-", "-H", "x-tenant: curl-5", &url], &content).await;
        assert!(ran.text().starts_with("200 0 "), "the next try profits from what was learnt: {}", ran.text());
        assert!(stage.b.seen().iter().all(|seen| seen.body == content));
    }
}

#[tokio::test]
async fn requests_follows_with_its_method_and_its_body() {
    for (to, policy) in leading() {
        let stage = Stage::start(policy, false).await;
        stage.told("buffered").await;
        let bodies = ["POST", "PUT", "PATCH", "POST", "DELETE", "GET"];
        for (number, method) in bodies.into_iter().enumerate() {
            let seen = stage.executed(&format!("buffered-{number}"));
            assert_eq!(seen.method, method, "{to}");
        }
        assert!(stage.executed("buffered-0").body == bytes(200_000));
        assert!(stage.executed("buffered-1").body == bytes(300_000));
        assert_eq!(stage.executed("buffered-2").body, b"{\"a\": [1, 2]}");
    }
}

#[tokio::test]
async fn requests_with_a_generator_is_told_and_the_next_try_arrives() {
    let stage = Stage::start(leading()[0].1.clone(), false).await;
    stage.told("streamed").await;
    assert!(stage.executed("streamed-0").body == bytes(50_000).repeat(4));
}

#[tokio::test]
async fn requests_is_not_led_under_follow() {
    let stage = Stage::start(json!({}), false).await;
    stage.told("followed").await;
    assert!(stage.executed("followed-0").body == bytes(60_000));
    assert!(stage.executed("followed-1").body == bytes(10_000).repeat(5));
    assert!(stage.executed("followed-2").body == bytes(65_000));
    assert!(stage.executed("followed-3").body == bytes(50_000).repeat(6));
}

/// Status and text of an answer, and whether it is of the owner itself or of the proxy.
async fn sent(stage: &Stage, method: Method, key: &str, body: Option<Body>) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, stage.url()).header("x-tenant", key);
    if let Some(body) = body {
        request = request.body(body);
    }
    let answer = request.send().await.unwrap();
    let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    Answer { status: answer.status().as_u16(), headers, body: answer.bytes().await.unwrap().to_vec() }
}

/// A body in parts, of which reqwest keeps nothing.
fn streaming(content: &[u8]) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    for part in content.chunks(10_000) {
        sender.send(part.to_vec()).unwrap();
    }
    let parts =
        futures_util::stream::unfold(
            receiver,
            |mut receiver| async move { Some((Ok::<_, std::io::Error>(receiver.recv().await?), receiver)) },
        );
    Body::wrap_stream(parts)
}

#[tokio::test]
async fn reqwest_follows_with_what_it_holds_whole() {
    for (to, policy) in leading() {
        let stage = Stage::start(policy, false).await;
        let ways = [(Method::GET, None), (Method::POST, Some(bytes(200_000))), (Method::PUT, Some(bytes(100))), (Method::DELETE, None)];
        for (number, (method, body)) in ways.into_iter().enumerate() {
            let key = format!("reqwest-{number}");
            let answer = sent(&stage, method.clone(), &key, body.clone().map(Body::from)).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "b"), "{to} {method}");
            let seen = stage.executed(&key);
            assert!(seen.method == method.as_str() && seen.body == body.unwrap_or_default(), "{to} {method}: {} bytes", seen.body.len());
        }
    }
}

/// A client that can't send its body again shows the redirect to its caller, and has executed nothing anywhere.
#[tokio::test]
async fn reqwest_with_a_stream_is_told_and_the_next_try_arrives() {
    for (_, policy) in leading() {
        let stage = Stage::start(policy, false).await;
        let content = bytes(90_000);
        let answer = sent(&stage, Method::PUT, "reqwest-0", Some(streaming(&content))).await;
        assert_eq!((answer.status, answer.reason(), answer.header("cache-control")), (307, "moved", "no-store"));
        assert!(answer.header("location").ends_with(PATH), "{:?}", answer.headers);
        assert!(stage.b.seen().is_empty());
        let answer = sent(&stage, Method::PUT, "reqwest-0", Some(streaming(&content))).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
        assert!(stage.executed("reqwest-0").body == content);
    }
}

/// Under `follow` a stream is repeated by the proxy while it is kept whole, and by an owner's word before it is spent.
#[tokio::test]
async fn reqwest_with_a_stream_is_not_led_under_follow() {
    for (is_aware, length) in [(false, 50_000), (true, 50_000), (true, 3_000_000)] {
        let stage = Stage::start(json!({}), is_aware).await;
        let content = bytes(length);
        let answer = sent(&stage, Method::POST, "reqwest-0", Some(streaming(&content))).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "b"), "{is_aware} {length}: {}", answer.reason());
        assert!(stage.executed("reqwest-0").body == content);
    }
    let stage = Stage::start(json!({}), false).await;
    let answer = sent(&stage, Method::POST, "reqwest-0", Some(streaming(&bytes(3_000_000)))).await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "stale_unhealed", "1"));
    assert!(stage.b.seen().is_empty(), "nothing cut short is executed");
}
