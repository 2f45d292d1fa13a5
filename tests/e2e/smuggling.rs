//! Request smuggling: requests that two readers would read differently, in front of a backend that keeps to the letter and of one that takes
//! the other side of every doubt.
//!
//! What holds for each: all readings of what reached the backend find the same requests; those are requests that the client has sent by
//! the strictest reading, each once; and whoever asks next, over any connection, gets the answer to what it asked.

mod cases;
mod http2;
mod readings;

use std::collections::BTreeMap;

use waypost_tests::Peer;

use crate::stage::{Stage, body, reason, short_timeouts, statuses};
use readings::{READINGS, Read, Reading, strict_request, strictly};

/// How a backend reads.
#[derive(Clone, Copy)]
enum Backend {
    Strict,
    Loose(Reading),
}

impl Backend {
    /// The first request of these bytes, and its length.
    fn next(self, bytes: &[u8]) -> Option<(Read, usize)> {
        match self {
            Self::Strict => strict_request(bytes),
            Self::Loose(reading) => reading.next(bytes),
        }
    }
}

/// A backend that answers each request that it finds with the target that it has found, and never closes by itself.
fn echoing(backend: Backend) -> impl Fn(Peer, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static {
    move |mut peer, _| {
        Box::pin(async move {
            let mut left = Vec::new();
            while let Some(more) = peer.some().await {
                left.extend(more);
                while let Some((request, length)) = backend.next(&left) {
                    left.drain(..length);
                    let target = request.target;
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())).await;
                }
            }
        })
    }
}

/// The number in `/case-17`.
fn number(target: &str) -> Option<usize> {
    target.rsplit_once('-')?.1.parse().ok()
}

async fn hold(backend: Backend, cases: &[Vec<u8>]) {
    let stage = Stage::with(short_timeouts(), echoing(backend)).await;
    let mut wrong = Vec::new();
    let mut refused = 0;
    for (number, case) in cases.iter().enumerate() {
        let sent = [&case[..], format!("GET /next-{number} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()].concat();
        let meant: Vec<String> = strictly(&sent).into_iter().map(|request| request.target).collect();
        let mut client = stage.client().await;
        client.send(&sent).await;
        client.finish_sending().await;
        let answers = client.rest().await;
        let own = answers.split("HTTP/1.1 200 OK\r\n").skip(1).map(|answer| answer.split("\r\n\r\n").nth(1).unwrap_or_default());
        // A refusal may follow the last answer.
        let own: Vec<&str> = own.map(|text| text.split("HTTP/1.1").next().unwrap_or_default()).collect();
        let refusals = statuses(&answers).into_iter().filter(|status| *status != 200).count();
        refused += refusals;
        let are_meant = own.len() <= meant.len() && own.iter().zip(&meant).all(|(own, meant)| own == meant);
        let is_whole = own.len() == meant.len() || refusals > 0;
        let other = stage.ask(format!("GET /other-{number} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        if !are_meant || !is_whole || refusals > 1 || body(&other) != format!("/other-{number}") {
            let sent = String::from_utf8_lossy(&sent).into_owned();
            wrong.push(format!("{sent:?}\n  meant {meant:?}, was answered {answers:?} ({}), then {other:?}", reason(&answers)));
        }
    }
    wrong.extend(seen_wrongly(&stage, cases));
    assert!(wrong.is_empty(), "{} of {} cases do not hold:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(refused * 10 > cases.len() * 7, "only {refused} of {} were refused", cases.len());
}

/// What reached the backend and should not have, or could be read in two ways.
fn seen_wrongly(stage: &Stage, cases: &[Vec<u8>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<usize, Vec<Read>> = BTreeMap::new();
    for received in stage.backend.received() {
        let by_the_letter = strictly(&received.bytes);
        for reading in READINGS {
            let found = reading.all(&received.bytes);
            if found != by_the_letter {
                wrong.push(format!("{:?} is {by_the_letter:?}, or by {reading:?} {found:?}", received.text()));
            }
        }
        for request in by_the_letter {
            seen.entry(number(&request.target).unwrap_or(usize::MAX)).or_default().push(request);
        }
    }
    for (number, case) in cases.iter().enumerate() {
        let sent = [&case[..], format!("GET /next-{number} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()].concat();
        let mut meant = strictly(&sent);
        for request in seen.remove(&number).unwrap_or_default() {
            let is_other = request.target == format!("/other-{number}");
            match meant.iter().position(|meant| *meant == request) {
                Some(at) => _ = meant.remove(at),
                None if is_other => {}
                None => wrong.push(format!("{:?} reached the backend as {request:?}", String::from_utf8_lossy(&sent))),
            }
        }
    }
    wrong.extend(seen.into_values().map(|strange| format!("nobody sent {strange:?}")));
    wrong
}

#[tokio::test]
async fn nothing_that_can_be_read_in_two_ways_reaches_a_strict_backend() {
    hold(Backend::Strict, &cases::all()).await;
}

#[tokio::test]
async fn nothing_that_can_be_read_in_two_ways_reaches_a_loose_backend() {
    hold(Backend::Loose(READINGS[0]), &cases::all()).await;
}

/// The table is worth something only if its cases part readers.
#[test]
fn the_cases_are_read_in_different_ways() {
    let cases = cases::all();
    let parted = cases.iter().filter(|case| READINGS.iter().any(|reading| reading.all(case) != strictly(case))).count();
    assert!(parted * 10 > cases.len() * 8, "{parted} of {} part two readers", cases.len());
    for reading in READINGS {
        let hidden = cases.iter().filter(|case| reading.all(case).iter().any(|read| read.target.starts_with("/smuggled"))).count();
        assert!(hidden > 20, "by {reading:?} only {hidden} hide a request");
    }
}
