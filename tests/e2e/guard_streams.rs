//! Upgraded connections through a guard: they are no requests in flight, and end when their key does.

use std::time::Duration;

use serde_json::json;
use waypost_tests::{Etcd, Guard, Peer, RawBackend, Waypost, until, until_true};

use crate::scene::{route, service};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A whole text frame, and the beginning of one.
const WHOLE: &[u8] = b"\x81\x05hello";
const HALF: &[u8] = b"\x81\x05he";

struct Stage {
    etcd: Etcd,
    guard: Guard,
    backend: RawBackend,
}

impl Stage {
    /// The backend grants each websocket and says this.
    async fn saying(said: &'static [u8]) -> Self {
        let etcd = Etcd::start().await;
        let backend = RawBackend::start(move |mut peer: Peer, _| async move {
            peer.until("\r\n\r\n").await;
            peer.send(SWITCHED).await;
            peer.send(said).await;
            peer.rest().await;
        })
        .await;
        let guard = Guard::new(&etcd.url(), "a", "a-1", backend.address, &[]);
        let records = [
            ("services/orders", service(json!({}))),
            ("upstreams/a", guard.record()),
            ("upstreams/b", json!({})),
            ("routes/orders/t1", route("a", 5)),
            ("routes/orders/t2", route("a", 5)),
        ];
        etcd.put_all(&records).await;
        let mut stage = Self { etcd, guard, backend };
        stage.guard.spawn();
        stage.guard.ready().await;
        stage
    }

    /// A websocket for a key, through whoever listens there, with what the backend has said.
    async fn opened(to: std::net::SocketAddr, key: &str, said: &[u8]) -> Peer {
        let mut peer = Peer::connect(to).await;
        peer.send(format!("GET /ws HTTP/1.1\r\nHost: h\r\nx-tenant: {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")).await;
        let head = peer.until("\r\n\r\n").await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer.exactly(said.len()).await.as_deref(), Some(said));
        peer
    }

    /// Waits until so many of the backend's connections have been closed.
    async fn has_left(&self, connections: usize) {
        until("the backend's connection is closed", async || {
            let ended = self.backend.ended();
            if ended == connections { Ok(()) } else { Err(ended.to_string()) }
        })
        .await;
    }

    async fn serving(&self) -> u64 {
        self.guard.status().await["guard"]["serving"].as_u64().unwrap()
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_key_is_frozen_and_no_other_does() {
    let stage = Stage::saying(WHOLE).await;
    let waypost = Waypost::start(&stage.etcd.url(), &[]).await;
    let mut direct = Stage::opened(stage.guard.listen, "t1", WHOLE).await;
    let mut through_a_proxy = Stage::opened(waypost.listen, "t1", WHOLE).await;
    let mut other = Stage::opened(stage.guard.listen, "t2", WHOLE).await;
    assert_eq!(stage.serving().await, 3);
    stage.etcd.put("routes/orders/t1", json!({ "owner": "a", "epoch": 5, "state": "frozen" })).await;
    for peer in [&mut direct, &mut through_a_proxy] {
        assert_eq!(peer.exactly(4).await.as_deref(), Some(&b"\x88\x02\x03\xf4"[..]), "a close frame, 1012");
        assert!(peer.exactly(1).await.is_none(), "and the connection is closed");
    }
    stage.has_left(2).await;
    until_true("the permits are given up", async || stage.serving().await == 1).await;
    until_true("the key is let go", async || stage.etcd.get_beside("owners/a/a-1").await.unwrap()["busy"] == json!([])).await;
    other.send(b"still here").await;
    until_true("the other one goes on", async || stage.backend.count("still here") == 1).await;
    let logged = || stage.guard.access_log().into_iter().filter(|line| line["key"] == "t1").collect::<Vec<_>>();
    until_true("both are logged", async || logged().len() == 2).await;
    assert!(logged().iter().all(|line| line["status"] == 101 && line["reason"] == "misdirected"), "{:?}", logged());
}

#[tokio::test]
async fn a_websocket_in_the_middle_of_a_frame_is_cut() {
    let stage = Stage::saying(HALF).await;
    let mut peer = Stage::opened(stage.guard.listen, "t1", HALF).await;
    stage.etcd.put("routes/orders/t1", route("b", 6)).await;
    assert!(peer.exactly(1).await.is_none());
    stage.has_left(1).await;
}

/// However much is on its way, and whoever does not read it.
#[tokio::test]
async fn a_websocket_whose_ends_do_not_read_is_cut() {
    let etcd = Etcd::start().await;
    let backend = RawBackend::start(|mut peer: Peer, number| async move {
        peer.until("\r\n\r\n").await;
        peer.send(SWITCHED).await;
        peer.send(b"\x82\x7f\0\0\0\0\0\x10\0\0").await;
        let megabyte = vec![0; 1 << 20];
        while number == 0 && peer.send(&megabyte).await {}
        std::future::pending::<()>().await;
    })
    .await;
    let guard = Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
    let serving = async || guard.status().await["guard"]["serving"].as_u64().unwrap();
    for (key, floods) in [("t1", "both"), ("t2", "the client")] {
        etcd.put_all(&[
            ("services/orders", service(json!({}))),
            ("upstreams/a", guard.record()),
            (&format!("routes/orders/{key}"), route("a", 5)),
        ])
        .await;
        until_true("the route is known", async || {
            waypost_tests::Client::fetch(guard.admin, &format!("/routes/orders/{key}")).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        // From here on neither the client reads nor the backend.
        let mut peer = Stage::opened(guard.listen, key, b"\x82").await;
        let flood = vec![0; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(300), peer.send(&flood)).await == Ok(true) {}
        assert_eq!(serving().await, 1, "{floods}");
        etcd.put(&format!("routes/orders/{key}"), json!({ "owner": "a", "epoch": 5, "state": "frozen" })).await;
        until_true("the stream is over", async || serving().await == 0).await;
    }
}
