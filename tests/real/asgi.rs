//! In front of a Python ASGI application on uvicorn: what it sees of a request, and that nothing is held back in either direction.

use serde_json::{Value, json};
use waypost_tests::{Answer, Client, Python, until};

use crate::stage::Front;

async fn app() -> (Python, Front) {
    let python = Python::serve("asgi_app.py").await;
    let front = Front::of(python.address).await;
    (python, front)
}

/// Waits until the application has noted something, asked directly.
async fn noted(python: &Python, id: &str, what: &str, holds: impl Fn(&[Value]) -> bool) {
    until(what, async || {
        let notes = Client::fetch(python.address, &format!("/notes?id={id}")).await?;
        let notes: Vec<Value> = serde_json::from_slice(&notes.body).unwrap();
        if holds(&notes) { Ok(()) } else { Err(format!("{notes:?}")) }
    })
    .await;
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

#[tokio::test]
async fn path_and_query_reach_the_application_as_sent() {
    let (_python, front) = app().await;
    let mut pair = front.pair().await;
    let targets = [
        "/",
        "/a%2Fb/%2e%2e/c",
        "/a//b/",
        "/x/../y",
        "/%C3%BC/%FF%00",
        "/a;b=c,d/(e)!*'$@:+~",
        "/p?",
        "/p?a=b&a=%20+c&&d==%3D",
        "/?q=/../?",
    ];
    for target in targets {
        let seen = parsed(&pair.proxied.get(target, &[]).await);
        let direct = parsed(&pair.direct.get(target, &[]).await);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        assert_eq!((&seen["raw_path"], &seen["query_string"]), (&json!(path), &json!(query)));
        assert_eq!((&seen["raw_path"], &seen["query_string"]), (&direct["raw_path"], &direct["query_string"]));
    }
}

#[tokio::test]
async fn the_application_is_told_who_asked_and_by_which_route() {
    let (_python, front) = app().await;
    let mut pair = front.pair().await;
    let sent = [("Host", "Shop.example.com:8080"), ("X-Own", "a, b"), ("X-Own", "c"), ("Cookie", "a=b; c=d"), ("X-Bytes", "caf\u{e9}")];
    let seen = parsed(&pair.proxied.get("/", &sent).await);
    let direct = parsed(&pair.direct.get("/", &sent).await);
    let fields =
        |seen: &Value| seen["headers"].as_array().unwrap().iter().map(|pair| (pair[0].clone(), pair[1].clone())).collect::<Vec<_>>();
    let value = |name: &str| fields(&seen).into_iter().filter(|(given, _)| given == name).map(|(_, value)| value).collect::<Vec<_>>();
    for field in fields(&direct) {
        assert!(fields(&seen).contains(&field), "{field:?} in {seen}");
    }
    assert_eq!((value("x-own"), value("host")), (vec![json!("a, b"), json!("c")], vec![json!("Shop.example.com:8080")]));
    assert_eq!((value("x-forwarded-for"), value("x-forwarded-proto")), (vec![json!("127.0.0.1")], vec![json!("http")]));
    assert_eq!((value("via"), value("cdn-loop").len(), value("x-request-id").len()), (vec![json!("1.1 waypost")], 1, 1));
    let stamp = value("route-stamp")[0].as_str().unwrap().to_owned();
    assert!(stamp.contains("service=\"all\"") && stamp.contains("epoch=0"), "{stamp}");
    assert_eq!(seen["http_version"], "1.1");
}

#[tokio::test]
async fn a_streamed_answer_arrives_whole() {
    let (_python, front) = app().await;
    let mut pair = front.pair().await;
    for _ in 0..3 {
        let answer = pair.same("GET", "/stream", &[]).await;
        assert!(answer.text().starts_with("0\n") && answer.text().ends_with("499\nend\n"));
        assert_eq!(answer.header("transfer-encoding"), "chunked");
    }
}

#[tokio::test]
async fn each_event_arrives_while_the_answer_is_still_open() {
    let (python, front) = app().await;
    let mut client = front.waypost.client().await;
    client.send(b"GET /events?id=sse HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().header("content-type"), "text/event-stream");
    let mut got = String::new();
    for number in 0..3 {
        // The application sends nothing more until it is told to.
        while !got.contains(&format!("data: {number}\n\n")) {
            got += &String::from_utf8_lossy(&client.some().await.unwrap());
        }
        assert!(!got.contains(&format!("data: {}", number + 1)) && !got.ends_with("0\r\n\r\n"), "{got}");
        Client::fetch(python.address, "/open?id=sse").await.unwrap();
    }
    while !got.ends_with("0\r\n\r\n") {
        got += &String::from_utf8_lossy(&client.some().await.unwrap());
    }
    assert_eq!(client.get("/", &[]).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn each_part_of_an_upload_arrives_before_the_next_is_sent() {
    let (python, front) = app().await;
    let mut client = front.waypost.client().await;
    for (id, chunked) in [("length", false), ("chunked", true)] {
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 30000" };
        client.send(format!("POST /upload?id={id} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
        for part in 1..=3 {
            let sent = vec![b'x'; 10_000];
            let framed = if chunked { [b"2710\r\n", &sent[..], b"\r\n"].concat() } else { sent };
            client.send(&framed).await.unwrap();
            noted(&python, id, "the application has the part", |notes| notes.iter().any(|total| *total == json!(part * 10_000))).await;
        }
        if chunked {
            client.send(b"0\r\n\r\n").await.unwrap();
        }
        assert_eq!(parsed(&client.answer(false).await.unwrap())["total"], 30_000);
    }
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_body() {
    let (python, front) = app().await;
    for to in [python.address, front.waypost.listen] {
        for framing in ["Content-Length: 10000000", "Transfer-Encoding: chunked"] {
            let mut client = Client::connect(to).await;
            client.send(format!("POST /early HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
            let answer = client.answer(false).await.unwrap_or_else(|why| panic!("{to}: {framing}: {why}"));
            assert_eq!((answer.status, answer.text().as_str()), (403, "not you"), "{framing}");
        }
    }
    // One that goes on sending gets the same answer, not a reset before it could be read.
    let mut client = front.waypost.client().await;
    client.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n").await.unwrap();
    let _ = client.send(&vec![b'x'; 3_000_000]).await;
    assert_eq!(client.answer(false).await.unwrap().status, 403);
}

#[tokio::test]
async fn the_application_learns_that_the_client_has_gone() {
    let (python, front) = app().await;
    for path in ["/wait/silent", "/wait/begun"] {
        let id = &path[6..];
        let mut client = front.waypost.client().await;
        client.send(format!("GET {path}?id={id} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await.unwrap();
        noted(&python, id, "the request has arrived", |notes| notes == [json!("waits")]).await;
        drop(client);
        noted(&python, id, "the application is told", |notes| notes.last() == Some(&json!("http.disconnect"))).await;
    }
    let mut client = front.waypost.client().await;
    client.send(b"POST /upload?id=half HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhalf").await.unwrap();
    noted(&python, "half", "half of the body has arrived", |notes| notes.contains(&json!(4))).await;
    drop(client);
    noted(&python, "half", "the application is told", |notes| notes.last() == Some(&json!("disconnect"))).await;
}

#[tokio::test]
async fn web_sockets_echo_through_the_proxy() {
    let (python, front) = app().await;
    for to in [python.address, front.waypost.listen] {
        Python::run("websocket_client.py", &[&to.to_string()]).await.succeeded();
    }
}
