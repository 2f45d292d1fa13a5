//! Which header fields cross the proxy, in both directions.

use fastrand::Rng;
use waypost_tests::{Reply, Seen};

use crate::{
    scene::{Scene, route},
    store::seed,
};

#[tokio::test]
async fn nothing_of_the_protocol_crosses_in_either_direction() {
    let said = vec![("Route-Update".to_owned(), "key=\"t1\"".to_owned()), ("route-secret".to_owned(), "1".to_owned())];
    let scene = Scene::with(move |_| Reply::Say(200, said.clone(), b"a".to_vec()), |_| Reply::ok("b")).await;
    let mut client = scene.waypost.client().await;
    let forged = [("x-tenant", "t1"), ("Route-Stamp", "epoch=9"), ("ROUTE-ANYTHING", "x"), ("route-stale", "y")];
    let answer = client.get("/", &forged).await;
    assert!(answer.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("route-")), "{:?}", answer.headers);
    let seen = scene.a.last();
    let of_protocol: Vec<_> = seen.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("route-")).collect();
    assert_eq!(of_protocol.len(), 1, "{of_protocol:?}");
    assert_eq!(seen.stamped("epoch"), "5");
}

/// What belongs to the protocol, however it is spelt: some backends can't tell `_` from `-`.
fn is_of_protocol(name: &str) -> bool {
    name.to_ascii_lowercase().replace('_', "-").starts_with("route-")
}

/// A few fields, some of which look like the protocol's.
fn some_fields(rng: &mut Rng) -> Vec<(String, String)> {
    let names =
        ["Route-Stamp", "ROUTE-STALE", "route_stamp", "Route_Update", "rOuTe-x", "Route-", "route-_", "X-Route-Stamp", "Router", "x-y"];
    let values = ["epoch=9", r#"state=moved, owner="b", epoch=99"#, "x", "", r#"key="t1""#];
    let some = |_| (names[rng.usize(..names.len())].to_owned(), values[rng.usize(..values.len())].to_owned());
    (0..5).map(some).collect()
}

/// A body as it is sent: with its length, or in chunks cut anywhere.
fn framed(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    if rng.bool() {
        return [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
    }
    let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut left = body;
    while !left.is_empty() {
        let (chunk, rest) = left.split_at(rng.usize(1..=left.len().min(20_000)));
        bytes.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        left = rest;
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Whoever sends what, and whether the first owner serves or refuses: the owner that serves sees the body whole and one stamp, the proxy's,
/// and the client sees nothing of the protocol. A property: `WAYPOST_SEED` says which requests.
#[tokio::test]
async fn whatever_is_sent_nothing_of_the_protocol_crosses_and_no_body_is_cut() {
    const ROUNDS: usize = 80;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let said = some_fields(&mut rng);
    let serves = move |seen: &Seen| Reply::Say(200, said.clone(), seen.body.len().to_string().into_bytes());
    let refuses = |seen: &Seen| {
        let (key, epoch, table) = (seen.stamped("key"), seen.stamped("epoch"), seen.stamped("table"));
        Reply::stale(format!(r#"state=moved, key="{key}", owner="b", epoch={epoch}9, revision=999999, table="{table}""#))
    };
    let first = {
        let serves = serves.clone();
        move |seen: &Seen| if seen.target == "/refuse" { refuses(seen) } else { serves(seen) }
    };
    let scene = Scene::with(first, serves).await;
    for round in 0..ROUNDS {
        scene.etcd.put(&format!("routes/orders/k{round}"), route("a", 5)).await;
    }
    scene.put("routes/orders/last", route("a", 5)).await;
    let mut client = scene.waypost.client().await;
    for round in 0..ROUNDS {
        let (method, is_refused) = (["POST", "PUT", "GET"][rng.usize(..3)], rng.bool());
        let body: Vec<u8> = match (method, rng.u32(0..4)) {
            ("GET", _) | (_, 0) => Vec::new(),
            // What a proxy keeps for a repeat, to its last byte.
            (_, 1) => std::iter::repeat_with(|| rng.u8(..)).take(64 << 10).collect(),
            _ => {
                let length = rng.usize(1..=64 << 10);
                std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
            }
        };
        let target = if is_refused { "/refuse" } else { "/serve" };
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: orders.example.com\r\nx-tenant: k{round}\r\n");
        head.extend(some_fields(&mut rng).into_iter().map(|(name, value)| format!("{name}: {value}\r\n")));
        let rest = if method == "GET" { b"\r\n".to_vec() } else { framed(&mut rng, &body) };
        client.send(&[head.as_bytes(), &rest].concat()).await.unwrap();
        let answer = client.answer(false).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, body.len().to_string()), "WAYPOST_SEED={seed}, request {round}");
        let crossed: Vec<_> = answer.headers.iter().filter(|(name, _)| is_of_protocol(name)).collect();
        assert!(crossed.is_empty(), "WAYPOST_SEED={seed}, request {round}: {crossed:?}");
        let mut seen = vec![if is_refused { scene.b.last() } else { scene.a.last() }];
        assert!(seen[0].body == body, "WAYPOST_SEED={seed}, request {round}: {} bytes of {}", seen[0].body.len(), body.len());
        seen.extend(is_refused.then(|| scene.a.last()));
        for seen in seen {
            assert_eq!((seen.header("x-tenant"), seen.stamped("key")), (&*format!("k{round}"), format!("k{round}")));
            let stamps: Vec<_> = seen.headers.iter().filter(|(name, _)| is_of_protocol(name)).collect();
            assert!(stamps.len() == 1 && stamps[0].0 == "Route-Stamp", "WAYPOST_SEED={seed}, request {round}: {stamps:?}");
            assert!(["5", "59"].contains(&&*seen.stamped("epoch")), "WAYPOST_SEED={seed}, request {round}: {stamps:?}");
        }
    }
}

#[tokio::test]
async fn hop_by_hop_fields_and_those_that_connection_names_stay_behind() {
    let said = vec![
        ("Connection".to_owned(), "x-inner".to_owned()),
        ("X-Inner".to_owned(), "1".to_owned()),
        ("Keep-Alive".to_owned(), "5".to_owned()),
    ];
    let scene = Scene::with(move |_| Reply::Say(200, said.clone(), b"a".to_vec()), |_| Reply::ok("b")).await;
    let mut client = scene.waypost.client().await;
    let sent = [
        ("x-tenant", "t1"),
        ("Connection", "x-hop, keep-alive"),
        ("X-Hop", "1"),
        ("Keep-Alive", "5"),
        ("TE", "trailers"),
        ("X-Stays", "1"),
    ];
    let answer = client.get("/", &sent).await;
    assert_eq!((answer.header("x-inner"), answer.header("keep-alive")), ("", ""));
    let seen = scene.a.last();
    for name in ["x-hop", "keep-alive", "te"] {
        assert!(seen.values(name).is_empty(), "{name}: {:?}", seen.headers);
    }
    assert_eq!(seen.header("x-stays"), "1");
}

#[tokio::test]
async fn a_backend_is_told_who_asked_and_a_client_can_t_forge_it() {
    let scene = Scene::start().await;
    let mut client = scene.waypost.client().await;
    let forged = [
        ("x-tenant", "t1"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-Host", "evil"),
        ("X-Request-Id", "mine"),
    ];
    let answer = client.get("/", &forged).await;
    let seen = scene.a.last();
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.values("x-forwarded-host"), ["orders.example.com"]);
    assert_eq!(seen.values("host"), ["orders.example.com"]);
    assert_eq!(seen.values("via"), ["1.1 waypost"]);
    assert_eq!(seen.values("cdn-loop"), ["waypost-edge-1"]);
    assert_eq!(seen.values("x-request-id"), [answer.header("x-request-id")]);
    assert_ne!(answer.header("x-request-id"), "mine");
    assert_eq!(answer.header("via"), "1.1 waypost");
}

#[tokio::test]
async fn a_request_that_has_passed_here_before_is_a_loop() {
    let scene = Scene::start().await;
    let mut client = scene.waypost.client().await;
    let answer = client.get("/", &[("x-tenant", "t1"), ("CDN-Loop", "other; v=1, waypost-edge-1")]).await;
    assert_eq!((answer.status, answer.reason()), (508, "loop"));
    let answer = client.get("/", &[("x-tenant", "t1"), ("CDN-Loop", "waypost-edge-10")]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(scene.a.last().header("cdn-loop"), "waypost-edge-10, waypost-edge-1");
}
