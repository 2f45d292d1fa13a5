//! Kept-alive connections to owners: used again only where that is safe, and never with bytes that belong to somebody else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use waypost_tests::{Client, Peer, until_true};

use crate::stage::{OK, Requests, Stage, answering, body, field, keeping, reason, statuses};

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

/// What a head says of the body that a GET would have got is no body.
#[tokio::test]
async fn a_connection_is_used_again_behind_answers_without_a_body() {
    let stage = Stage::start(answering(|name| {
        let head = match name {
            "head" => "HTTP/1.1 200 OK\r\nContent-Length: 5",
            "chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            "none" => "HTTP/1.1 204 No Content\r\nX: y",
            "unmodified" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5",
            _ => return (OK.into(), true),
        };
        (format!("{head}\r\n\r\n").into_bytes(), true)
    }))
    .await;
    for (method, path, status, length) in
        [("HEAD", "/head", 200, "5"), ("HEAD", "/chunked", 200, ""), ("GET", "/none", 204, ""), ("GET", "/unmodified", 304, "5")]
    {
        let mut client = stage.client().await;
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        let head = client.until("\r\n\r\n").await.unwrap_or_default();
        assert_eq!((statuses(&head), field(&head, "content-length")), (vec![status], length), "{method} {path}: {head}");
        client.send(request("GET", "/next")).await;
        assert_eq!(body(&client.rest().await), "ok", "the client's connection goes on as well");
    }
    assert_eq!(stage.backend.received().len(), 1);
}

#[tokio::test]
async fn one_that_its_owner_will_not_keep_is_not_used_again() {
    for head in ["HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"] {
        let stage = Stage::start(answering(move |_| (format!("{head}\r\nContent-Length: 2\r\n\r\nok").into_bytes(), true))).await;
        for number in 1..=3 {
            assert_eq!(body(&stage.ask(request("POST", "/")).await), "ok", "{head}");
            stage.has_left(number).await;
        }
        assert_eq!(stage.backend.received().len(), 3, "{head}");
    }
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

#[tokio::test]
async fn one_that_its_owner_reset_while_idle_costs_nobody_an_answer() {
    for method in ["GET", "POST"] {
        let (close, closes) = tokio::sync::watch::channel(false);
        let stage = Stage::start(move |mut peer: Peer, number| {
            let mut closes = closes.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.send(OK).await;
                    if number == 0 {
                        let _ = closes.wait_for(|closes| *closes).await;
                        return peer.reset();
                    }
                }
            }
        })
        .await;
        assert_eq!(body(&stage.get("/first").await), "ok");
        close.send_replace(true);
        // When the script has ended, its receiver is the last but the one that every connection gets a copy of.
        until_true("it is reset", async || close.receiver_count() == 1).await;
        let answer = stage.ask(request(method, "/next")).await;
        assert_eq!((statuses(&answer), body(&answer), stage.backend.count("/next")), (vec![200], "ok", 1), "{method}: {answer:?}");
    }
}

/// The first connection dies at the moment its second request has arrived; all others work.
async fn dying() -> Stage {
    Stage::start(dies_on_its_second).await
}

async fn dies_on_its_second(mut peer: Peer, number: usize) {
    while let Some(request) = peer.request().await {
        if number == 0 && request.head.contains(" /second ") {
            return;
        }
        peer.send(OK).await;
    }
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
    for method in ["PUT", "DELETE"] {
        let stage = dying().await;
        assert_eq!(statuses(&stage.get("/first").await), [200]);
        let answer = stage.ask(request(method, "/second")).await;
        assert_eq!((statuses(&answer), stage.backend.count("\r\n\r\nx")), (vec![200], 2), "{method}: the body is sent whole both times");
    }
}

/// What is sent again must be the whole of it.
#[tokio::test]
async fn one_that_dies_as_it_is_used_is_a_502_for_a_body_that_is_not_kept_whole() {
    let stage = dying().await;
    assert_eq!(statuses(&stage.get("/first").await), [200]);
    let large = "x".repeat(300_000);
    let answer =
        stage.ask(format!("PUT /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{large}", large.len())).await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"), "{answer:?}");
    assert_eq!((stage.backend.count("PUT /second"), stage.backend.received().len()), (1, 1));
}

#[tokio::test]
async fn without_a_budget_nothing_is_sent_again() {
    let policy = json!({ "retries": { "budget_percent": 0, "min_per_second": 0 } });
    let stage = Stage::with(policy, dies_on_its_second).await;
    assert_eq!(statuses(&stage.get("/first").await), [200]);
    let answer = stage.get("/second").await;
    assert_eq!((statuses(&answer), reason(&answer), stage.backend.count("GET /second")), (vec![502], "upstream_reset", 1), "{answer:?}");
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
        if peer.request().await.is_some_and(|request| request.head.contains(" /reset ")) {
            peer.reset();
        }
    })
    .await;
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/reset"), ("POST", "/reset")] {
        let answer = stage.ask(request(method, path)).await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"), "{method} {path}");
    }
    assert_eq!(stage.backend.received().len(), 4);
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
async fn among_many_that_die_a_get_is_still_answered_and_a_post_sent_once() {
    const MANY: usize = 5;
    let (release, released) = tokio::sync::watch::channel(false);
    let stage = Stage::start(move |mut peer: Peer, number| {
        let mut released = released.clone();
        async move {
            while peer.request().await.is_some() {
                if number < MANY && *released.borrow() {
                    return;
                }
                let _ = released.wait_for(|released| *released).await;
                peer.send(OK).await;
            }
        }
    })
    .await;
    let mut clients = Vec::new();
    for number in 1..=MANY {
        let mut client = stage.client().await;
        client.send(request("POST", "/first")).await;
        until_true("it has a connection of its own", async || stage.backend.count(" /first ") == number).await;
        clients.push(client);
    }
    release.send_replace(true);
    for client in &mut clients {
        assert_eq!(body(&client.rest().await), "ok");
    }
    let answer = stage.ask(request("POST", "/next")).await;
    assert_eq!((reason(&answer), stage.backend.count("POST /next")), ("upstream_reset", 1), "{answer:?}");
    let answer = stage.get("/next").await;
    assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"), "{answer:?}");
    assert!(stage.backend.count("GET /next") <= MANY, "one for each connection that died, and one that lived");
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

/// An answer that nobody asked for, behind one that somebody did.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
/// In so many requests each behaviour of [`answers_with_faults`] comes once.
const BEHAVIOURS: usize = 11;
/// Those among them that leave a client without its answer.
const BROKEN: [usize; 3] = [1, 2, 6];

/// Answers with the request's own path, soundly or with one of many faults, as the number at its end says. What it says too much comes
/// with the answer: later it could be the answer to a request that the proxy has just sent, and nobody could tell.
async fn answers_with_faults(mut peer: Peer, _: usize) {
    while let Some(request) = peer.request().await {
        let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let number = path.rsplit('/').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        let sound = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{path}\r\n0\r\n\r\n", path.len());
        let (said, closes) = match number % BEHAVIOURS {
            0 => (format!("{sound}{POISON}"), true),
            1 => (sound[..sound.len() - 2].to_owned(), true),
            2 => (String::new(), true),
            3 => (sound, true),
            4 => (format!("HTTP/1.1 204 No Content\r\n\r\n{POISON}"), false),
            5 => (format!("{chunked}{POISON}"), false),
            6 => ("garbage\r\n\r\n".to_owned(), true),
            7 => (chunked, false),
            8 => (format!("{sound}{POISON}"), false),
            _ => (sound, false),
        };
        if !peer.send(said).await || closes {
            return;
        }
    }
}

/// One client's requests, by GET and POST in turn; what was wrong with their answers, and how many were whole.
async fn asks_many(to: std::net::SocketAddr, client: usize, requests: usize) -> (Vec<String>, usize) {
    let (mut faults, mut whole) = (Vec::new(), 0);
    let mut connection = Client::connect(to).await;
    for number in 0..requests {
        let path = format!("/{client}/{number}");
        let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "body") };
        let behaviour = number % BEHAVIOURS;
        let answer = connection.try_request(method, &path, &[], body.as_bytes()).await;
        if answer.as_ref().map_or(true, |answer| answer.header("connection") == "close") {
            connection = Client::connect(to).await;
        }
        match answer {
            Ok(answer) if answer.status == 200 && answer.text() == path => whole += 1,
            Ok(answer) if answer.status == 204 && behaviour == 4 => whole += 1,
            // A sound answer can be missed only by what may not be sent again, on a connection that was just dying.
            Ok(answer)
                if answer.status == 502 && (BROKEN.contains(&behaviour) || (method, answer.reason()) == ("POST", "upstream_reset")) => {}
            Ok(answer) => faults.push(format!("{method} {path}: {} {}", answer.status, answer.text())),
            // Cut: only what the owner cut may be.
            Err(_) if behaviour == 1 => {}
            Err(why) => faults.push(format!("{method} {path}: {why}")),
        }
    }
    (faults, whole)
}

#[tokio::test]
async fn among_all_kinds_of_broken_answers_each_client_gets_only_its_own() {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 10 * BEHAVIOURS;
    let policy = json!({ "retries": { "budget_percent": 100, "min_per_second": 1000 } });
    let stage = Stage::with(policy, answers_with_faults).await;
    let to = stage.waypost.listen;
    let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(asks_many(to, client, REQUESTS))).collect();
    let (mut faults, mut whole) = (Vec::new(), 0);
    for client in clients {
        let (of_client, whole_of_client) = client.await.unwrap();
        faults.extend(of_client);
        whole += whole_of_client;
    }
    assert!(faults.is_empty(), "{} faults: {}", faults.len(), faults[..faults.len().min(10)].join("\n"));
    assert!(whole > CLIENTS * REQUESTS / 2, "only {whole} answers were whole");
    for (client, number) in (0..CLIENTS).flat_map(|client| (0..REQUESTS).map(move |number| (client, number))).filter(|(_, n)| n % 2 == 1) {
        assert!(stage.backend.count(&format!("POST /{client}/{number} ")) <= 1, "no POST arrives twice");
    }
    stage.at_rest().await;
}
