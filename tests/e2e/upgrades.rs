//! Upgrades (RFC 9110, section 7.8): a websocket that is asked for and granted is a tunnel, everything else stays HTTP.

use waypost_tests::Peer;

use crate::stage::{OK, Requests, Stage, answering, field, keeping, reason, statuses};
use crate::tls_upstream::secured;

const ASKS: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
/// What no parser of HTTP may see any more.
const RAW: &[u8] = b"GET /no HTTP/1.1\r\n\r\n\0\xff";

/// Grants a websocket, says `first`, waits for the raw bytes, says `second`; then closes at once if told so, or when the proxy does.
async fn granting(mut peer: Peer, closes: bool) {
    peer.until("\r\n\r\n").await;
    peer.send(format!("{}X-B: 2\r\n\r\nfirst", SWITCHED.strip_suffix("\r\n").unwrap())).await;
    if peer.until(RAW).await.is_some() {
        peer.send("second").await;
    }
    if !closes {
        peer.rest().await;
    }
}

/// Asks for a websocket and uses it; the client's end, or where it broke.
async fn upgraded(stage: &Stage) -> Result<Peer, String> {
    let mut client = stage.client().await;
    client.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade, X-A\r\nX-A: 1\r\nUpgrade: websocket\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await.ok_or("no answer")?;
    let said = (statuses(&head), field(&head, "upgrade"), field(&head, "connection").to_ascii_lowercase(), field(&head, "x-b"));
    assert_eq!(said, (vec![101], "websocket", "upgrade".to_owned(), "2"), "{head}");
    client.until("first").await.ok_or("cut before the owner's first bytes")?;
    client.send(RAW).await;
    client.until("second").await.ok_or("cut before the owner's second bytes")?;
    Ok(client)
}

#[tokio::test]
async fn one_that_is_granted_carries_bytes_in_both_directions_until_an_end_closes() {
    let stage = Stage::start(|peer, number| granting(peer, number == 1)).await;
    drop(upgraded(&stage).await.unwrap());
    stage.has_left(1).await;
    let mut client = upgraded(&stage).await.unwrap();
    assert_eq!(client.rest().await, "", "the owner has closed");
    let told = stage.backend.received()[0].text().to_ascii_lowercase();
    assert!(told.contains("\r\nupgrade: websocket\r\n") && told.contains("\r\nconnection: upgrade\r\n"), "{told}");
    assert!(!told.contains("x-a"), "{told}");
}

/// Whoever switches at the moment when the other side says its first word must lose nothing of it.
#[tokio::test]
async fn no_upgrade_is_cut() {
    let stage = Stage::start(|peer, _| granting(peer, false)).await;
    for number in 0..1000 {
        if let Err(why) = upgraded(&stage).await {
            panic!("upgrade {number}: {why}");
        }
    }
}

/// The same where the first bytes of the connection are a handshake's.
#[tokio::test]
async fn no_upgrade_is_cut_that_goes_over_tls() {
    let (stage, front, _certificates) = secured(|peer, _| granting(peer, false)).await;
    for number in 0..500 {
        if let Err(why) = upgraded(&stage).await {
            panic!("upgrade {number}: {why}");
        }
    }
    assert_eq!((front.shaken().len(), front.failed()), (500, Vec::new()));
}

#[tokio::test]
async fn what_is_sent_ahead_goes_where_the_answer_says() {
    let (allow, allowed) = tokio::sync::watch::channel(false);
    let stage = Stage::start(move |mut peer: Peer, _| {
        let mut allowed = allowed.clone();
        async move {
            peer.until("\r\n\r\n").await;
            let _ = allowed.wait_for(|allowed| *allowed).await;
            peer.send(SWITCHED).await;
            if peer.until("early").await.is_some() {
                peer.send("got it").await;
            }
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send(format!("{ASKS}early")).await;
    waypost_tests::until_true("the owner has the head", async || stage.backend.count("GET /ws") == 1).await;
    assert_eq!(stage.backend.count("early"), 0, "nothing behind the request before the owner has taken the upgrade");
    allow.send_replace(true);
    assert!(client.until("got it").await.is_some());
}

#[tokio::test]
async fn one_that_is_not_granted_is_a_plain_request() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    let answers = stage.ask(format!("{ASKS}{NEXT}")).await;
    assert_eq!(statuses(&answers), [200, 200]);
    let body = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = ASKS.replace("GET", "POST").replace("\r\n\r\n", &format!("\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let answers = stage.ask(format!("{post}{NEXT}")).await;
    assert_eq!(statuses(&answers), [200, 200], "{answers:?}");
    let seen: Vec<(String, usize)> =
        requests.lock().unwrap().iter().map(|seen| (seen.head.split(' ').nth(1).unwrap().to_owned(), seen.body.len())).collect();
    let wanted = [("/ws", 0), ("/next", 0), ("/ws", body.len()), ("/next", 0)];
    assert_eq!(seen, wanted.map(|(path, length)| (path.to_owned(), length)));
}

/// Without the option in `Connection` it is one of another hop; HTTP/1.0 knows none; only websockets are tunnelled.
#[tokio::test]
async fn one_that_was_not_asked_of_this_hop_or_is_no_websocket_is_none() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    for asks in [
        ASKS.replace("Connection: Upgrade\r\n", ""),
        ASKS.replace("Connection: Upgrade", "Connection: keep-alive"),
        ASKS.replace("HTTP/1.1", "HTTP/1.0"),
        ASKS.replace("websocket", "h2c"),
        ASKS.replace("websocket", "TLS/1.0"),
    ] {
        let mut client = stage.client().await;
        client.send(&asks).await;
        assert_eq!(statuses(&client.until("ok").await.unwrap_or_default()), [200], "{asks:?}");
        let seen = requests.lock().unwrap().pop().unwrap();
        assert_eq!((seen.values("upgrade"), seen.values("connection")), (vec![], vec![]), "{asks:?}: {}", seen.head);
    }
}

#[tokio::test]
async fn an_owner_switches_only_to_what_was_asked() {
    let answers = [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ];
    let stage = Stage::start(answering(move |name| (name.parse().map_or(OK, |number: usize| answers[number]).into(), true))).await;
    for (number, said) in answers.iter().enumerate() {
        let mut client = stage.client().await;
        client.send(ASKS.replace("/ws", &format!("/{number}"))).await;
        let head = client.until("\r\n\r\n").await.unwrap_or_default();
        assert_eq!((statuses(&head), reason(&head)), (vec![502], "bad_response"), "{said:?}");
        let line = stage.logged(&format!("/{number}")).await;
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(502), Some("bad_response")), "{said:?}");
        assert_eq!(statuses(&stage.get("/sound").await), [200]);
    }
}

#[tokio::test]
async fn a_tunnel_whose_owner_takes_nothing_more_is_cut() {
    let stage = Stage::with(serde_json::json!({ "timeouts": { "idle_ms": 700 } }), |mut peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send(SWITCHED).await;
        // It reads no more.
        tokio::time::sleep(waypost_tests::LIMIT).await;
    })
    .await;
    let mut client = stage.client().await;
    client.send(ASKS).await;
    client.until("\r\n\r\n").await.unwrap();
    // Ends when the proxy closes; more than anybody between the two can hold.
    client.send_and_read(&vec![b'x'; 40_000_000]).await;
    stage.at_rest().await;
}
