//! Clients that lie: about the protocol, about where a request has been, and behind the end of a body.

use std::sync::{Arc, Mutex};

use waypost_tests::{Peer, RawRequest};

use super::stage::{Stage, assert_no_leak};
use crate::stage::{field, statuses};

/// Everything that `a` was asked.
fn seen(stage: &Stage) -> Arc<Mutex<Vec<RawRequest>>> {
    let seen = Arc::<Mutex<Vec<RawRequest>>>::default();
    let keeping = Arc::clone(&seen);
    stage.reply(move |request| {
        keeping.lock().unwrap().push(request.clone());
        None
    });
    seen
}

async fn ask(stage: &Stage, fields: &[u8]) -> String {
    let mut client = Peer::connect(stage.waypost.listen).await;
    let head = b"POST /x HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\n";
    let end = b"Connection: close\r\nContent-Length: 1\r\n\r\nx";
    client.send_and_read(&[&head[..], fields, end].concat()).await.0
}

/// The one stamp that a backend sees is the proxy's.
#[tokio::test]
async fn no_spelling_of_the_protocol_s_fields_reaches_a_backend() {
    let stage = Stage::start().await;
    let seen = seen(&stage);
    let forged = "service=\"orders\", key=\"t1\", epoch=999, revision=1, table=\"x-0\", hop=9, wait-ms=0, ask=\"a\"";
    let names = [
        "Route-Stamp",
        "route-stamp",
        "ROUTE-STAMP",
        "rOuTe-StAmP",
        "Route_Stamp",
        "ROUTE_STALE",
        "Route-Stale",
        "Route-Update",
        "Route-X",
        "route-",
    ];
    for name in names {
        for fields in [
            format!("{name}: {forged}\r\n"),
            format!("{name}: {forged}\r\n").repeat(3),
            format!("{name}:{forged}\r\nRoute-Stamp: second\r\n"),
            format!("{name}:\r\n"),
            format!("Connection: {name}\r\n"),
            format!("Connection: keep-alive, {name}, x-other\r\n{name}: {forged}\r\n"),
        ] {
            let got = ask(&stage, fields.as_bytes()).await;
            assert!(matches!(statuses(&got)[..], [200] | [400]), "{fields:?}: {got}");
            assert_no_leak(&got);
        }
    }
    let odd: [&[u8]; 4] =
        [b"Route-Stamp: \xff\xfe\r\n", b"Route-Stamp : x\r\n", b"Route-Stamp: a\r\n folded\r\n", b"Route\xe2\x80\x90Stamp: epoch=999\r\n"];
    for fields in odd {
        let got = ask(&stage, fields).await;
        assert!(matches!(statuses(&got)[..], [200] | [400]), "{got}");
    }
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() >= names.len() * 3, "{} arrived", seen.len());
    for request in &seen {
        assert_eq!(request.head.to_ascii_lowercase().replace('_', "-").matches("\nroute-").count(), 1, "{}", request.head);
        let stamp = request.values("route-stamp")[0];
        assert!(stamp.contains("key=\"t1\", epoch=5, ") && stamp.contains("hop=0, wait-ms=50") && !stamp.contains("ask="), "{stamp}");
    }
    stage.is_sound("clients").await;
}

/// What only looks like it is somebody else's, and passes.
#[tokio::test]
async fn other_names_pass() {
    let stage = Stage::start().await;
    let seen = seen(&stage);
    let got = ask(&stage, b"Route: 1\r\nRoutes-X: 2\r\nX-Route-Stamp: 3\r\nEn-Route-To: 4\r\n").await;
    assert_eq!(statuses(&got), [200]);
    let request = seen.lock().unwrap()[0].clone();
    for (name, value) in [("route", "1"), ("routes-x", "2"), ("x-route-stamp", "3"), ("en-route-to", "4")] {
        assert_eq!(request.values(name), [value]);
    }
}

#[tokio::test]
async fn trailers_bring_nothing_to_a_backend() {
    let stage = Stage::start().await;
    let seen = seen(&stage);
    for (announced, trailer) in [
        ("Trailer: Route-Stamp\r\n", "Route-Stamp: epoch=999\r\n"),
        ("", "Route-Stamp: epoch=999\r\n"),
        ("Trailer: x-tenant\r\n", "x-tenant: t2\r\n"),
        ("", "CDN-Loop: waypost-edge-1\r\n"),
        ("Trailer: Content-Length\r\n", "Content-Length: 9\r\n"),
    ] {
        let mut client = Peer::connect(stage.waypost.listen).await;
        let head =
            format!("POST /x HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\n{announced}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let (got, _) = client.send_and_read(format!("{head}1\r\nx\r\n0\r\n{trailer}\r\n").as_bytes()).await;
        assert_eq!((statuses(&got), field(&got, "waypost-reason")), (vec![400], "bad_request"), "{trailer:?}: {got}");
    }
    assert!(seen.lock().unwrap().iter().all(|request| !request.head.contains("999")));
    stage.is_sound("trailers").await;
}

/// Who says that a request was here before only harms that request.
#[tokio::test]
async fn a_loop_is_told_by_its_own_name_alone() {
    let stage = Stage::start().await;
    let seen = seen(&stage);
    for (given, is_loop) in [
        ("waypost-edge-1", true),
        ("other, waypost-edge-1;hop=2, another", true),
        ("other\r\nCDN-Loop: waypost-edge-1", true),
        ("other;by=\"x\" , waypost-edge-1 ; a=1", true),
        ("waypost-edge-2, waypost-edge-11, waypost-edge", false),
        ("waypost_edge_1", false),
        ("a;x=waypost-edge-1", false),
        ("a;x=\"waypost-edge-1\"", false),
        ("\"waypost-edge-1\"", false),
        ("", false),
        (",,;=,", false),
    ] {
        let got = ask(&stage, format!("CDN-Loop: {given}\r\n").as_bytes()).await;
        let wanted = if is_loop { (vec![508], "loop") } else { (vec![200], "") };
        assert_eq!((statuses(&got), field(&got, "waypost-reason")), wanted, "{given:?}");
    }
    let many = (0..500).map(|n| format!("cdn-{n};v=1")).collect::<Vec<_>>().join(", ");
    let got = ask(&stage, format!("CDN-Loop: {many}\r\n").as_bytes()).await;
    assert_eq!(statuses(&got), [200]);
    for request in seen.lock().unwrap().iter() {
        assert!(request.values("cdn-loop").last().unwrap().ends_with("waypost-edge-1"), "{}", request.head);
    }
}
