//! The generator against real servers: what it sends, what it counts, and what it says when it can't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod servers;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use servers::{Server, Ways, certificate};
use tokio::sync::Semaphore;
use waypost_bench::{
    Body, Hooks, Keys, Pace, Plan, PlanFault, Protocol, Report, Scale, Second, Spread, Stale, Target, Trust, run, run_with, svg,
};

/// Long enough that some requests are answered on a busy machine.
const SHORT: Duration = Duration::from_millis(300);
/// What ends before has not waited for the load's end.
const LONG: Duration = Duration::from_secs(600);
const HTTP2: Protocol = Protocol::Http2 { streams: 1 };

/// A short load of one server.
fn plan(url: &str) -> Plan {
    let keys = Keys { prefix: "tenant-".to_owned(), range: 0..100 };
    let headers = vec![("x-tenant".to_owned(), "{key}".to_owned())];
    let short = Plan { duration: SHORT, warm_up: Duration::ZERO, connections: 4, keys, headers, ..Plan::to(Target::parse(url).unwrap()) };
    Plan { seed: 7, ..short }
}

/// Runs it; everything must have been answered 200.
fn all_answered(plan: &Plan) -> Report {
    let report = run(plan).unwrap();
    assert!(report.requests > 0 && report.by_status[&200] == report.requests && report.failed() == 0, "{report}");
    report
}

#[test]
fn requests_are_counted_over_either_protocol() {
    for (protocol, is_http2) in [(Protocol::Http1, false), (Protocol::Http2 { streams: 3 }, true)] {
        let server = Server::start(Ways { is_http2, ..Ways::default() });
        let report = all_answered(&Plan { protocol, threads: 2, ..plan(&server.url()) });
        // What was under way when the load ended may have been seen, too.
        let (seen, lanes) = (server.counts.requests.load(Ordering::Relaxed), if is_http2 { 12 } else { 4 });
        assert!((report.requests..=report.requests + lanes).contains(&seen), "{seen}: {report}");
        assert!(report.bytes_in > report.requests * 5 && report.bytes_out > report.requests, "{report}");
        // One more, with which the load makes sure that there is a server.
        assert_eq!(server.counts.connections.load(Ordering::Relaxed), 5, "{report}");
        assert!(report.unfinished <= lanes, "{report}");
    }
}

#[test]
fn streams_of_a_connection_are_at_once() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(Ways { is_http2: true, gate: Some(Arc::clone(&gate)), ..Ways::default() });
    let (url, counts) = (server.url(), Arc::clone(&server.counts));
    let load = std::thread::spawn(move || run(&Plan { protocol: Protocol::Http2 { streams: 8 }, connections: 2, ..plan(&url) }));
    let until = Instant::now() + LONG;
    while counts.most_at_once.load(Ordering::Relaxed) < 16 && !load.is_finished() && Instant::now() < until {
        std::thread::yield_now();
    }
    gate.add_permits(1_000_000);
    load.join().unwrap().unwrap();
    assert_eq!(counts.most_at_once.load(Ordering::Relaxed), 16);
}

#[test]
fn a_connection_that_is_ended_in_good_order_is_no_failure() {
    let server = Server::start(Ways { is_http2: true, requests_a_connection: Some(10), ..Ways::default() });
    let report = all_answered(&Plan { protocol: Protocol::Http2 { streams: 4 }, connections: 1, ..plan(&server.url()) });
    assert!(report.connections_made > 1, "{report}");
}

#[test]
fn tls_is_judged_by_the_authority_that_is_named() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (protocol, name) in [(Protocol::Http1, "http/1.1"), (HTTP2, "h2")] {
        let (ca, acceptor) = certificate(folder.path(), &[name]);
        let server = Server::start(Ways { tls: Some(acceptor), is_http2: protocol == HTTP2, ..Ways::default() });
        let url = format!("https://localhost:{}/", server.address.port());
        let trusting = |trust| Plan { protocol, trust, ..plan(&url) };
        all_answered(&trusting(Trust::Ca(ca)));
        all_answered(&trusting(Trust::Anyone));
        let (stranger, _) = certificate(other.path(), &[name]);
        let error = run(&trusting(Trust::Ca(stranger))).unwrap_err();
        assert!(error.contains("TLS with") && error.contains("certificate"), "{error}");
    }
    let (ca, acceptor) = certificate(folder.path(), &[]);
    let server = Server::start(Ways { tls: Some(acceptor), ..Ways::default() });
    let url = format!("https://localhost:{}/", server.address.port());
    let error = run(&Plan { protocol: HTTP2, trust: Trust::Ca(ca), ..plan(&url) }).unwrap_err();
    assert!(error.contains("does not offer HTTP/2"), "{error}");
    let nothing = Plan { trust: Trust::Ca("/nonexistent/ca.pem".into()), ..plan(&url) }.check();
    assert!(matches!(&nothing, Err(PlanFault::Authorities(file, _)) if file == "/nonexistent/ca.pem"), "{nothing:?}");
}

#[test]
fn bodies_arrive_whole_in_either_framing() {
    for (protocol, is_http2) in [(Protocol::Http1, false), (HTTP2, true)] {
        for (bytes, chunked) in [(1000, false), (1000, true), (1_000_000, false), (1_000_000, true)] {
            let server = Server::start(Ways { is_http2, ..Ways::default() });
            let body = Body { bytes, chunked };
            let report = all_answered(&Plan { protocol, body, method: "POST".to_owned(), ..plan(&server.url()) });
            let counts = &server.counts;
            // The load's end cuts bodies off. In this order: a request is counted before its body.
            let whole = counts.body_bytes.load(Ordering::Relaxed) / bytes as u64;
            let seen = counts.requests.load(Ordering::Relaxed);
            assert!(whole >= report.requests && whole <= seen, "{bytes} {chunked}: {whole} of {seen}, {report}");
            assert_eq!(counts.unsized_bodies.load(Ordering::Relaxed) > 0, chunked, "{bytes}");
            assert!(report.bytes_out >= report.requests * bytes as u64, "{report}");
        }
    }
}

/// A server may answer before it has read all of a body, and read no more of it.
#[test]
fn an_answer_before_the_body_s_end_is_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut head = [0; 1000];
                if stream.read(&mut head).unwrap_or(0) > 0 {
                    let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
                    // Until the client goes.
                    while stream.set_read_timeout(Some(Duration::from_millis(5))).is_ok()
                        && stream.peek(&mut head).is_ok_and(|read| read > 0)
                    {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    let body = Body { bytes: 50_000_000, chunked: false };
    let report = run(&Plan { body, connections: 1, method: "POST".to_owned(), ..plan(&url) }).unwrap();
    assert!(report.by_status.contains_key(&413) && report.failures.unanswered() == 0, "{report}");
    assert!(report.connections_made >= report.requests, "{report}");
}

#[test]
fn each_request_has_a_connection_of_its_own_if_asked() {
    for (protocol, is_http2) in [(Protocol::Http1, false), (HTTP2, true)] {
        let server = Server::start(Ways { is_http2, ..Ways::default() });
        let report = all_answered(&Plan { protocol, new_connections: true, ..plan(&server.url()) });
        // In this order: a connection is counted before its request.
        let requests = server.counts.requests.load(Ordering::Relaxed);
        let connections = server.counts.connections.load(Ordering::Relaxed);
        assert!(connections >= requests && report.connections_made >= report.requests, "{connections} for {requests}: {report}");
    }
}

/// Also of a server that would take another on the same.
#[test]
fn a_connection_of_its_own_has_no_second_request_whatever_the_server_says() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut head, mut served) = ([0; 1000], 0);
                while stream.read(&mut head).is_ok_and(|read| read > 0) {
                    served += 1;
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Owner: {served}\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let hooks = Hooks { check: Some(Arc::new(|seen| seen.owner == Some(1))), ..Hooks::default() };
    let report = run_with(&Plan { new_connections: true, ..plan(&url) }, hooks).unwrap();
    assert!(report.requests > 4 && report.failed() == 0, "{report}");
}

#[test]
fn stale_keys_are_asked_for_and_counted_apart() {
    let server = Server::start(Ways { stale_status: Some(503), ..Ways::default() });
    let stale = Stale { share: 0.3, keys: Keys { prefix: "stale-".to_owned(), range: 0..5 } };
    let report = run(&Plan { stale: Some(stale), spread: Spread::Zipf(0.99), ..plan(&server.url()) }).unwrap();
    let (fresh, stale) = (report.fresh.as_ref().unwrap(), report.stale.as_ref().unwrap());
    assert_eq!((fresh.requests + stale.requests, fresh.failed, stale.failed), (report.requests, 0, stale.requests), "{report}");
    assert_eq!((report.by_status[&503], report.failed(), stale.latency.count), (stale.requests, stale.requests, stale.requests));
    // Five standard deviations, of however many there were.
    let (stale_requests, requests) = (stale.requests as f64, report.requests as f64);
    assert!((stale_requests - requests * 0.3).abs() <= 5.0 * (requests * 0.21).sqrt() + 1.0, "{stale_requests} of {requests}");
    let seen = server.counts.stale.load(Ordering::Relaxed);
    assert!((stale.requests..=stale.requests + 4).contains(&seen), "{seen}: {report}");
}

/// A quarter of the requests is due while the server stalls once: by the open loop they took as long as it stalled, although only those that were
/// under way did, which is all that a closed loop sees.
#[test]
fn the_open_loop_charges_a_stall_for_all_that_waited_behind_it() {
    let stalls = || Server::start(Ways { stall: Some((100, Duration::from_millis(500))), ..Ways::default() });
    let two = Duration::from_secs(2);
    let server = stalls();
    let open = run(&Plan { pace: Pace::Open { requests_per_second: 200.0 }, duration: two, ..plan(&server.url()) }).unwrap();
    let service = open.service.as_ref().unwrap();
    assert!(open.latency.p90_us > 200_000 && open.latency.p99_us > 400_000, "{open}");
    assert!(service.max_us > 400_000 && service.p90_us < open.latency.p90_us / 2, "{open}");
    assert!(open.requests + open.unsent + open.unfinished >= 399, "{open}");
    let server = stalls();
    let closed = run(&Plan { duration: two, ..plan(&server.url()) }).unwrap();
    assert!(closed.service.is_none() && closed.latency.max_us > 400_000 && closed.latency.p90_us < 200_000, "{closed}");
}

/// What was due and not sent is said, not forgotten.
#[test]
fn a_server_that_is_too_slow_for_the_rate_leaves_requests_unsent() {
    let server = Server::start(Ways { gate: Some(Arc::new(Semaphore::new(10))), ..Ways::default() });
    let report = run(&Plan { pace: Pace::Open { requests_per_second: 200.0 }, ..plan(&server.url()) }).unwrap();
    assert_eq!((report.requests, report.unfinished, report.unsent), (10, 4, 46), "{report}");
    assert!(report.to_string().contains("46 could not be sent"), "{report}");
}

#[test]
fn seconds_are_told_one_by_one_and_sum_up() {
    let server = Server::start(Ways::default());
    let mut told = Vec::new();
    let mut progress = |second: &Second| told.push(*second);
    let hooks = Hooks { progress: Some(&mut progress), ..Hooks::default() };
    let three = Plan { duration: Duration::from_secs(3), threads: 2, warm_up: SHORT, ..plan(&server.url()) };
    let report = run_with(&three, hooks).unwrap();
    assert_eq!(told, report.series);
    assert_eq!(told.iter().map(|second| second.second).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(told.iter().map(|second| second.requests).sum::<u64>(), report.requests, "{report}");
    assert_eq!(told.iter().map(|second| second.bytes_in).sum::<u64>(), report.bytes_in, "{report}");
}

#[test]
fn a_check_sees_each_key_and_calls_answers_wrong() {
    let server = Server::start(Ways::default());
    let hooks = Hooks { check: Some(Arc::new(|seen| seen.status == 200 && seen.key < 50 && seen.ended > seen.sent)), ..Hooks::default() };
    let report = run_with(&plan(&server.url()), hooks).unwrap();
    assert!(report.failures.wrong_answers > 0 && report.failed() < report.requests, "{report}");
}

#[test]
fn json_has_everything() {
    let server = Server::start(Ways::default());
    let watched = Plan { watch_pids: vec![std::process::id()], ..plan(&server.url()) };
    let report = all_answered(&watched);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&json["plan"]["target"]["path"], &json["plan"]["duration_ms"]), (&"/".into(), &300.into()));
    assert_eq!((&json["requests"], &json["by_status"]["200"]), (&report.requests.into(), &report.requests.into()));
    for field in ["min_us", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us", "count"] {
        assert!(json["latency"][field].is_number(), "{field}: {json}");
    }
    for field in ["bytes_in", "bytes_out", "connections_made", "cpu_seconds", "generator_cpu_seconds", "requests_per_second", "seconds"] {
        assert!(json[field].is_number(), "{field}: {json}");
    }
    for field in ["not_connected", "tls", "broken", "reset", "protocol", "timed_out", "wrong_answers"] {
        assert_eq!(json["failures"][field], 0, "{json}");
    }
    assert_eq!(json["series"][0]["requests"], report.requests);
    let percentiles = json["latency"]["percentiles"].as_array().unwrap();
    let rises = |field: &str| percentiles.windows(2).all(|two| two[0][field].as_f64() <= two[1][field].as_f64());
    assert!(rises("percentile") && rises("us") && rises("count"), "{json}");
    let last = percentiles.last().unwrap();
    assert_eq!((&last["percentile"], &last["us"], &last["count"]), (&100.0.into(), &json["latency"]["max_us"], &json["requests"]));
}

#[test]
fn a_picture_is_well_formed_and_has_a_curve_for_each_report() {
    let server = Server::start(Ways::default());
    let report = all_answered(&plan(&server.url()));
    let empty = run(&Plan { pace: Pace::Open { requests_per_second: 0.001 }, ..plan(&server.url()) }).unwrap();
    for scale in [Scale::Log, Scale::Linear] {
        for reports in [&[][..], &[("a <&\"> b", &report), ("other", &report), ("none", &empty)]] {
            let picture = svg(reports, scale);
            let document = roxmltree::Document::parse(&picture).unwrap_or_else(|error| panic!("{error}: {picture}"));
            let elements =
                |name: &'static str| document.descendants().filter(move |node| node.has_tag_name(("http://www.w3.org/2000/svg", name)));
            assert_eq!(elements("polyline").count(), reports.len());
            let colours: BTreeSet<_> = elements("polyline").map(|line| line.attribute("stroke")).collect();
            assert_eq!(colours.len(), reports.len());
            for name in reports.iter().map(|(name, _)| *name) {
                assert!(elements("text").any(|text| text.text() == Some(name)), "{name}: {picture}");
            }
            let points = elements("polyline").filter_map(|line| line.attribute("points")).flat_map(str::split_whitespace);
            let numbers = points.flat_map(|point| point.split(',')).map(|number| number.parse::<f64>().unwrap());
            assert!(numbers.into_iter().all(|number| (0.0..=1000.0).contains(&number)), "{picture}");
        }
    }
}

/// Somebody who has mistyped an address does not wait for the load's end to learn of it.
#[test]
fn what_answers_nothing_is_said_at_once() {
    let begun = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let long = |plan: Plan| Plan { duration: LONG, ..plan };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = (&stream).write_all(b"SSH-2.0-x\r\n");
        }
    });
    let error = run(&long(plan(&url))).unwrap_err();
    assert!(error.contains("no request was answered: "), "{error}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run(&long(plan(&format!("http://{free}/")))).unwrap_err();
    assert!(error.contains(&free.to_string()) && error.contains("is anything listening there?"), "{error}");
    let server = Server::start(Ways::default());
    let error = run(&long(Plan { watch_pids: vec![4_000_000], ..plan(&server.url()) })).unwrap_err();
    assert!(error.contains("no process 4000000"), "{error}");
    let error = run(&long(Plan { protocol: HTTP2, ..plan(&server.url()) })).unwrap_err();
    assert!(error.contains("no request was answered: "), "{error}");
    assert!(begun.elapsed() < LONG / 2);
}
