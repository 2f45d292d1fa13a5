//! The framing table of chunked bodies: what was sent as a body, and what of it the backend read.
//!
//! Extensions are taken off, sizes written anew; trailers and whatever else can't be carried are refused. A refused body is never
//! seen whole by a backend, and what stands behind it is never taken for a request.

use waypost_tests::{Peer, RawRequest};

use crate::{
    framing::SMUGGLED,
    stage::{Requests, Stage, keeping, reason, short_timeouts, statuses},
};

async fn stage() -> (Stage, Requests) {
    let requests = Requests::default();
    (Stage::with(short_timeouts(), keeping(requests.clone())).await, requests)
}

fn chunked(body: &str) -> Vec<u8> {
    // Latin-1, so that a case can have any byte.
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".bytes();
    head.chain(body.chars().map(|character| u8::try_from(u32::from(character)).unwrap())).collect()
}

#[tokio::test]
async fn chunks_of_every_form_that_is_one_arrive_as_their_data() {
    let (stage, requests) = stage().await;
    let long_extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(4000));
    let smuggling = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let cases = [
        ("0\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        ("03\r\nabc\r\n0\r\n\r\n", "abc"),
        ("0000000000003\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3\r\nabc\r\n00000\r\n\r\n", "abc"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("3;a\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;a=b;c=d\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3\r\nabc\r\n0;x=y\r\n\r\n", "abc"),
        ("3\r\n\r\n0\r\n0\r\n\r\n", "\r\n0"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("3;\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;0\r\nabc\r\n0\r\n\r\n", "abc"),
        (&long_extension, "abc"),
        (&smuggling, SMUGGLED),
    ];
    for ((body, data), is_bytewise) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        let before = requests.lock().unwrap().len();
        let mut client = stage.client().await;
        send(&mut client, &chunked(body), is_bytewise).await;
        let answer = client.until("ok").await.unwrap_or_default();
        assert_eq!(statuses(&answer), [200], "{body:?}");
        let new = requests.lock().unwrap()[before..].to_vec();
        let seen: Vec<(String, &[u8])> = new.iter().map(|request| (request.own_head(), &*request.body)).collect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n".to_owned();
        assert_eq!(seen, [(head, data.as_bytes())], "{body:?}");
        // Nothing is left over on the connection.
        client.send("GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        assert_eq!(statuses(&client.rest().await), [200], "{body:?}");
        assert!(last(&requests).head.starts_with("GET /next "));
    }
}

async fn send(client: &mut Peer, bytes: &[u8], is_bytewise: bool) {
    // Whoever is refused on the way need not take the rest.
    let _ = if is_bytewise { client.send_bytewise(bytes).await } else { client.send(bytes).await };
}

fn last(requests: &Requests) -> RawRequest {
    requests.lock().unwrap().last().cloned().unwrap_or_default()
}

#[tokio::test]
async fn broken_chunks_are_refused_and_never_seen_whole() {
    let long_extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(5000));
    let bodies = [
        "\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3_0\r\nabc\r\n0\r\n\r\n",
        "0_3\r\nabc\r\n0\r\n\r\n",
        "3\r\r\nabc\r\n0\r\n\r\n",
        "4\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\rX",
        "3\r\nabc\r\n0\r\nGET /in HTTP/1.1\r\nHost: h\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "3\0\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3;a\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;a\0\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\nX",
        "3\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        &long_extension,
    ];
    hold_refused(&bodies).await;
}

/// A size near the end of what a machine's word holds is broken framing too, and answered as such.
#[tokio::test]
async fn a_chunk_that_can_not_be_is_refused() {
    hold_refused(&[
        "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffe\r\nabc\r\n0\r\n\r\n",
        "8000000000000000\r\nabc\r\n0\r\n\r\n",
        "8000000000000001\r\nabc\r\n0\r\n\r\n",
    ])
    .await;
}

async fn hold_refused(bodies: &[&str]) {
    let (stage, requests) = stage().await;
    for (body, is_bytewise) in bodies.iter().flat_map(|body| [(body, false), (body, true)]) {
        let mut client = stage.client().await;
        send(&mut client, &[&chunked(body)[..], SMUGGLED.as_bytes()].concat(), is_bytewise).await;
        let answer = client.rest().await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![400], "bad_request"), "{body:?}: {answer:?}");
    }
    assert!(requests.lock().unwrap().is_empty(), "{:?}", requests.lock().unwrap());
    assert!(stage.backend.received().iter().all(|received| !received.text().ends_with("\r\n0\r\n\r\n")));
}

#[tokio::test]
async fn bodies_of_any_method_are_framed_alike() {
    let (stage, requests) = stage().await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "PURGE"] {
        for framed in [
            format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ] {
            let mut client = stage.client().await;
            client
                .send(format!("{method} / HTTP/1.1\r\nHost: h\r\n{framed}GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
                .await;
            let answers = client.rest().await;
            assert_eq!(statuses(&answers), [200, 200], "{method}: {answers:?}");
        }
    }
    let seen = requests.lock().unwrap().clone();
    for pair in seen.chunks(2) {
        assert_eq!(pair[0].body, SMUGGLED.as_bytes(), "{:?}", pair[0].head);
        assert!(pair[1].head.starts_with("GET /next "), "{:?}", pair[1].head);
    }
}
