//! Which header fields cross the proxy, in both directions.

use waypost_tests::Reply;

use crate::scene::Scene;

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
