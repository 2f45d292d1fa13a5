//! Kept-alive connections to owners: used again only where that is safe, and never with bytes that belong to somebody else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use waypost_tests::{Peer, until_true};

use crate::stage::{OK, Requests, Stage, body, keeping, reason, statuses};

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let stage = Stage::start(keeping(Requests::default())).await;
    for _ in 0..5 {
        assert_eq!(statuses(&stage.get("/").await), [200]);
    }
    assert_eq!(stage.backend.received().len(), 1);
}

#[tokio::test]
async fn one_that_its_owner_closed_while_idle_costs_nobody_an_answer() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closed);
    let stage = Stage::start(move |mut peer: Peer, _| {
        let counted = Arc::clone(&counted);
        async move {
            peer.request().await;
            peer.send(OK).await;
            peer.finish_sending().await;
            // The proxy closes its side when it has seen this one closed.
            peer.rest().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    for (number, method) in ["GET", "POST", "GET", "POST", "DELETE"].into_iter().enumerate() {
        let answer = stage.ask(request(method, "/")).await;
        assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"), "{method}");
        until_true("the proxy has seen the close", async || closed.load(Ordering::Relaxed) == number + 1).await;
    }
    assert_eq!(stage.backend.count(" / HTTP/1.1"), 5, "each request was seen once");
}

/// The first connection dies at the moment its second request has arrived; all others work.
async fn dying() -> Stage {
    Stage::start(|mut peer: Peer, number| async move {
        while peer.request().await.is_some() {
            if number == 0 && peer.received().text().contains("/second") {
                return;
            }
            peer.send(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn one_that_dies_as_it_is_used_is_replaced_for_what_may_run_twice() {
    for method in ["GET", "HEAD"] {
        let stage = dying().await;
        assert_eq!(statuses(&stage.get("/first").await), [200]);
        let answer = stage.ask(format!("{method} /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [200], "{method}");
        assert_eq!((stage.backend.count(" /second "), stage.backend.received().len()), (2, 2), "once more, on a new connection");
    }
}

#[tokio::test]
async fn one_that_dies_as_it_is_used_is_a_502_for_what_may_not() {
    for method in ["POST", "PATCH"] {
        let stage = dying().await;
        assert_eq!(statuses(&stage.get("/first").await), [200]);
        let answer = stage.ask(request(method, "/second")).await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"), "{method}");
        assert_eq!(stage.backend.count(" /second "), 1, "{method} was seen at most once");
        assert_eq!(statuses(&stage.get("/third").await), [200]);
    }
}

#[tokio::test]
async fn a_new_connection_that_dies_is_a_502_at_once() {
    let stage = Stage::start(|mut peer: Peer, _| async move {
        peer.request().await;
    })
    .await;
    for method in ["GET", "POST"] {
        let answer = stage.ask(request(method, "/")).await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"), "{method}");
    }
    assert_eq!(stage.backend.received().len(), 2);
}

/// One retry, not one for each dead connection.
#[tokio::test]
async fn a_retry_that_dies_as_well_ends_it() {
    let stage = Stage::start(|mut peer: Peer, number| async move {
        peer.request().await;
        if number == 0 {
            peer.send(OK).await;
            peer.request().await;
        }
    })
    .await;
    assert_eq!(statuses(&stage.get("/first").await), [200]);
    let answer = stage.get("/second").await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"));
    assert_eq!(stage.backend.count("GET /second"), 2);
}

#[tokio::test]
async fn what_an_owner_says_unasked_is_nobodys_answer() {
    let (say, asked) = tokio::sync::watch::channel(false);
    let said = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&said);
    let stage = Stage::start(move |mut peer: Peer, number| {
        let (mut asked, counted) = (asked.clone(), Arc::clone(&counted));
        async move {
            peer.request().await;
            peer.send(OK).await;
            if number == 0 {
                let _ = asked.wait_for(|asked| *asked).await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            while peer.request().await.is_some() {
                peer.send(OK).await;
            }
        }
    })
    .await;
    assert_eq!(body(&stage.get("/").await), "ok");
    say.send_replace(true);
    until_true("it is said", async || said.load(Ordering::Relaxed) == 1).await;
    for _ in 0..3 {
        let answer = stage.get("/").await;
        assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"));
    }
}
