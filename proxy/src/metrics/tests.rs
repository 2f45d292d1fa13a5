//! What a request counts in, and what is there before the first.

use std::net::{IpAddr, Ipv4Addr};

use waypost_policy::exchange::Trace;

use super::*;

fn rendered(metrics: &Metrics) -> String {
    let mut text = String::new();
    encode(&mut text, &metrics.registry).unwrap();
    text
}

#[test]
fn what_has_fixed_labels_is_there_from_the_start() {
    let text = rendered(&Metrics::new(&Counter::default()));
    for line in [
        "waypost_resyncs_total{reason=\"compacted\"} 0",
        "waypost_resyncs_total{reason=\"incarnation\"} 0",
        "waypost_stale_total{state=\"moved\"} 0",
        "waypost_stale_outcome_total{outcome=\"unhealed\"} 0",
        "waypost_retries_total 0",
        "waypost_retry_budget_exhausted_total 0",
        "waypost_access_log_lines_dropped_total 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_series_is_the_same_however_it_was_found() {
    let metrics = Metrics::new(&Counter::default());
    let trace = Trace::default();
    let line = Line::without_request(Code::BadRequest, "1", IpAddr::V4(Ipv4Addr::LOCALHOST), &trace);
    for _ in 0..3 {
        metrics.finished(&line);
    }
    metrics.finished(&Line { status: 0, reason: None, ..line });
    let text = rendered(&metrics);
    for line in [
        "waypost_requests_total{service=\"\",upstream=\"\",status=\"400\",reason=\"bad_request\"} 3",
        "waypost_requests_total{service=\"\",upstream=\"\",status=\"0\",reason=\"\"} 1",
        "waypost_request_duration_seconds_count{service=\"\"} 4",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
}

/// How long one takes, for who changes it: `cargo test -p waypost --release -- --ignored --nocapture counting`.
#[test]
#[ignore = "a measurement"]
fn counting_a_request_is_cheap() {
    let metrics = Metrics::new(&Counter::default());
    let trace = Trace::default();
    let line = Line::without_request(Code::BadRequest, "1", IpAddr::V4(Ipv4Addr::LOCALHOST), &trace);
    let began = std::time::Instant::now();
    for _ in 0..1_000_000 {
        metrics.finished(&line);
    }
    eprintln!("{:?} a request", began.elapsed() / 1_000_000);
}
