//! `waypost bench` as a person meets it: through a proxy, into files, and what it says when it can't.

use tempfile::tempdir;
use waypost_tests::{Waypost, free_address};

use crate::scene::Scene;

/// As short as it may be.
const SHORT: [&str; 4] = ["--duration", "300ms", "--warm-up", "0s"];

#[tokio::test]
async fn bench_counts_what_it_sends() {
    let scene = Scene::start().await;
    let url = format!("http://{}/", scene.waypost.listen);
    let args = [&["bench", &url, "-H", "x-tenant={key}", "--keys", "t1..2", "-c", "4", "--json"], &SHORT[..]].concat();
    let (status, out, said) = Waypost::run(&args).await;
    assert_eq!(status, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let requests = report["requests"].as_u64().unwrap();
    assert!(requests > 0 && report["by_status"]["200"] == requests, "{report}");
    let open = ["bench", &url, "-H", "x-tenant=t1", "--rate", "100", "--duration", "1s", "--warm-up", "0s", "-c", "4"];
    assert_eq!(Waypost::run(&open).await.0, 0);
}

/// Over HTTP/2 with prior knowledge, a table for who runs it, and everything for whoever looks at it later.
#[tokio::test]
async fn bench_writes_what_it_measured_into_files() {
    let (scene, folder) = (Scene::start().await, tempdir().unwrap());
    let url = format!("http://{}/", scene.waypost.listen);
    let (json, svg) = (folder.path().join("report.json"), folder.path().join("latency.svg"));
    let (to_json, svg) = (format!("--json={}", json.display()), svg.to_str().unwrap());
    let load = ["bench", &url, "-H", "x-tenant=t1", "--http2", "--streams", "4", "-c", "2", "-X", "POST", "--body", "1000", "--progress"];
    let (status, out, said) = Waypost::run(&[&load, &SHORT[..], &[&to_json, "--svg", svg, "--linear"]].concat()).await;
    assert_eq!(status, 0, "{said}");
    assert!(out.contains("requests ") && out.contains("p99.99"), "{out}");
    assert!(said.lines().any(|line| line.contains("1 s") && line.contains("0 failed")), "{said}");
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["plan"]["protocol"]["http2"]["streams"], 4, "{report}");
    assert!(report["by_status"]["200"] == report["requests"] && report["bytes_out"].as_u64() > Some(1000), "{report}");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg "));
}

#[tokio::test]
async fn bench_says_what_it_can_t_do_before_it_begins() {
    let nobody = format!("http://{}/", free_address());
    for (args, status, wanted) in [
        (&[][..], 1, "is anything listening there?"),
        (&["--svg", "/nonexistent/x.svg"], 1, "/nonexistent/x.svg can't be written"),
        (&["--stale", "0.1"], 2, "--stale-keys"),
        (&["--stale", "2", "--stale-keys", "old-0..9"], 2, "a number from 0 to 1 would be right"),
        (&["--keys", "tenant"], 2, "tenant-0..1000 would be right"),
        (&["--zipf", "-1"], 2, "0.99 would be right"),
        (&["--rate", "0"], 2, "a number above 0 would be right"),
        (&["-c", "0"], 2, "1 to 65536 would be right"),
        (&["--streams", "2"], 2, "--http2"),
        (&["--http2", "--streams", "2", "--new-connections"], 2, "1 would be right"),
        (&["-H", "x-tenant"], 2, "x-tenant={key} would be right"),
        (&["-H", "content-length=5"], 2, "the load says it by itself"),
        (&["-X", "GE T"], 2, "GET would be a method"),
        (&["--insecure", "--cacert", "ca.pem"], 2, "cannot be used with"),
    ] {
        let (ended, out, said) = Waypost::run(&[&["bench", &nobody, "--duration", "10m"], args].concat()).await;
        assert_eq!((ended, out.as_str()), (status, ""), "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    let nobody = format!("https://{}/", free_address());
    let (status, _, said) = Waypost::run(&["bench", &nobody, "--cacert", "/nonexistent/ca.pem"]).await;
    assert!(status == 2 && said.contains("/nonexistent/ca.pem can't be used"), "{said}");
}
