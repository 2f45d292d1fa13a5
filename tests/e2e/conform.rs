//! `waypost conform`: a backend that keeps the protocol passes whole, one that is wrong in one thing fails in that.

mod cell;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use waypost_tests::{Backend, Etcd, Reply, Waypost, command, free_address};

pub(crate) use cell::Cell;
use cell::Wrong;

/// The report on a backend that uses the library, on a prefix of its own.
async fn report(etcd: &Etcd, name: &str, wrong: Option<Wrong>, more: &[&str]) -> (i32, Value, String) {
    let prefix = format!("/conform-{name}");
    let cell = Cell::start(&etcd.url(), &prefix, "cell-a", wrong).await;
    let to = format!("http://{}", cell.backend.address);
    let gold = etcd.url();
    let args = ["conform", "--to", &to, "--gold", &gold, "--prefix", &prefix, "--json"];
    let (status, out, said) = Waypost::run(&[&args[..], more].concat()).await;
    let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{said}"));
    (status, report, said)
}

/// The rows that ended so, each once.
fn rows(report: &Value, result: &str) -> BTreeSet<String> {
    let rows = report["rows"].as_array().unwrap().iter().filter(|row| row["result"] == result);
    rows.map(|row| row["row"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_uses_the_library_passes_whole() {
    let etcd = Etcd::start().await;
    let (status, report, said) = report(&etcd, "whole", None, &[]).await;
    assert_eq!((status, rows(&report, "failed"), rows(&report, "skipped")), (0, BTreeSet::new(), BTreeSet::new()), "{report:#}");
    assert_eq!(rows(&report, "passed").len(), 12, "{report}");
    assert!(said.contains(&format!("etcd        {}", etcd.url())) && said.contains("prefix      /conform-whole"), "{said}");
    // Nothing stays behind: the next run finds the prefix as it was.
    let left = etcd.client().await.get("/conform-whole/", Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(left.kvs().len(), 0);
}

/// The sidecar speaks the protocol for a backend that only stores what it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_before_a_plain_backend_passes_whole() {
    let values = std::sync::Mutex::new(std::collections::HashMap::new());
    let plain = Backend::start(move |seen| {
        let (slot, mut values) = ((seen.header("x-tenant").to_owned(), seen.target.clone()), values.lock().unwrap());
        if seen.method == "PUT" {
            values.insert(slot, seen.body.clone());
            return Reply::ok("stored");
        }
        Reply::Say(200, Vec::new(), values.get(&slot).cloned().unwrap_or_default())
    })
    .await;
    let [listen, admin] = [free_address(), free_address()].map(|address| address.to_string());
    let (to, behind) = (format!("http://{listen}"), plain.address.to_string());
    let binary = command(&[]).get_program().to_str().unwrap().to_owned();
    let guard = [&*binary, "guard", "--upstream", "{upstream}", "--listen", &listen, "--to", &behind, "--admin", &admin];
    let gold = ["--gold", "{gold}", "--prefix", "{prefix}"];
    let args = [&["conform", "--to", &to, "--json", "--"], &guard[..], &gold].concat();
    let (status, out, said) = Waypost::run(&args).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{said}"));
    assert_eq!((status, rows(&report, "failed"), rows(&report, "skipped")), (0, BTreeSet::new(), BTreeSet::new()), "{report:#}{said}");
}

/// Each wrong thing fails in its rows, and no other row notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_one_row_fails_in_that_row() {
    let etcd = std::sync::Arc::new(Etcd::start().await);
    let wrongs: [(Wrong, &[&str]); 12] = [
        (Wrong::ServesWithoutStamp, &["a"]),
        (Wrong::KnowsOneTable, &["b"]),
        (Wrong::HearsNoAsk, &["c"]),
        (Wrong::NeverWaits, &["d"]),
        (Wrong::ServesOlderStamps, &["e"]),
        (Wrong::SaysNoUpdate, &["e"]),
        (Wrong::WritesKeysAsText, &["g"]),
        (Wrong::ForgetsHandoff, &["g'"]),
        (Wrong::AlwaysNamesOwner, &["h"]),
        (Wrong::ReadsBodyFirst, &["head"]),
        (Wrong::WritesFirst, &["executed"]),
        (Wrong::ForgetsWhoIsUnderWay, &["handover"]),
    ];
    let free = std::sync::Arc::new(tokio::sync::Semaphore::new(3));
    let runs: Vec<_> = wrongs
        .into_iter()
        .map(|(wrong, wanted)| {
            let (etcd, free) = (std::sync::Arc::clone(&etcd), std::sync::Arc::clone(&free));
            let run = async move {
                let _one = free.acquire().await.unwrap();
                let (status, report, _) = report(&etcd, &format!("{wrong:?}").to_lowercase(), Some(wrong), &[]).await;
                (status, report)
            };
            (wrong, wanted, tokio::spawn(run))
        })
        .collect();
    for (wrong, wanted, run) in runs {
        let (status, report) = run.await.unwrap();
        let wanted: BTreeSet<String> = wanted.iter().map(|row| (*row).to_owned()).collect();
        assert_eq!((status, rows(&report, "failed")), (1, wanted), "{wrong:?}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_row_shows_what_was_said_and_what_would_be_right() {
    let etcd = Etcd::start().await;
    for (wrong, only, wanted) in [
        (Wrong::LetsRefusalsBeCached, "g", "there is no Cache-Control: no-store"),
        (Wrong::SaysConflict, "h", "it answers 409 with Route-Stale: state=moved"),
        (Wrong::SaysNoUpdate, "e", "there is no Route-Update"),
    ] {
        let prefix = format!("/conform-{only}");
        let cell = Cell::start(&etcd.url(), &prefix, "cell-a", Some(wrong)).await;
        let (to, gold) = (format!("http://{}", cell.backend.address), etcd.url());
        let args = ["conform", "--to", &to, "--gold", &gold, "--prefix", &prefix, "--only", only];
        let (status, out, _) = Waypost::run(&args).await;
        assert_eq!(status, 1, "{out}");
        for shown in [wanted, "FAIL  ", "> Route-Stamp: service=\"orders\", key=\"conform-", "< HTTP/1.1 ", "      right: ", " failed, "] {
            assert!(out.contains(shown), "{shown:?} is not in {out}");
        }
    }
}

/// A store of its own, and a backend that the command starts itself: here one that keeps nothing of the protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_etcd_is_named_to_the_command_that_it_starts() {
    let server = "import http.server, sys
assert sys.argv[1].startswith('http://127.0.0.1:') and sys.argv[2:] == ['/waypost/v1', 'cell-a', 'orders'], sys.argv
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()
    do_PUT = do_GET
http.server.HTTPServer(('127.0.0.1', PORT), Answer).serve_forever()"
        .replace("PORT", &free_address().port().to_string());
    let port = server.rsplit_once("'127.0.0.1', ").unwrap().1.split(')').next().unwrap();
    let to = format!("http://127.0.0.1:{port}");
    let args = ["conform", "--to", &to, "--json", "--", "python3", "-c", &server, "{gold}", "{prefix}", "{upstream}", "{service}"];
    let (status, out, said) = Waypost::run(&args).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{said}"));
    assert_eq!(status, 1, "{said}");
    let failed = rows(&report, "failed");
    assert!(["a", "b", "c", "d", "e", "g", "g'", "h", "head", "handover"].iter().all(|row| failed.contains(*row)), "{failed:?}");
    assert_eq!(rows(&report, "passed"), ["a", "b", "c", "f"].map(str::to_owned).into(), "what is served is right where it owns the key");
    let announced = report["rows"].as_array().unwrap().iter().find(|row| row["row"] == "handover").unwrap();
    assert!(announced["faults"][0].as_str().unwrap().contains("--without-handover leaves these rows out"), "{announced}");
    assert!(tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err(), "the backend has been ended");
}

#[tokio::test]
async fn what_can_not_be_played_is_said() {
    let etcd = Etcd::start().await;
    etcd.put("services/orders", json!({ "match": [{}] })).await;
    let gold = etcd.url();
    let nobody = format!("http://{}", free_address());
    for (args, status, wanted) in [
        (&["--to", "https://127.0.0.1:1"][..], 2, "--to: "),
        (&["--to", "http://127.0.0.1:1/x"], 2, "paths are named in --request and --read"),
        (&["--to", "http://127.0.0.1:1", "--request", "GET /x"], 2, "--request: GET is a safe method"),
        (&["--to", "http://127.0.0.1:1", "--read", "/x"], 2, "--read: \"/x\" is no method and path"),
        (&["--to", "http://127.0.0.1:1", "--only", "z"], 2, "there is no row \"z\"; there are a, b, c"),
        (&["--to", "http://127.0.0.1:1", "--other", "cell-a"], 2, "--upstream and --other are the same"),
        (&["--to", "http://127.0.0.1:1", "-H", "x"], 2, "is no header"),
        (
            &["--to", "http://127.0.0.1:1", "--gold", &gold, "--prefix", "/waypost/v1"],
            2,
            "there are records below it already, services/orders",
        ),
        (&["--to", &nobody, "--gold", &gold, "--wait", "50ms"], 1, "Connection refused"),
    ] {
        let (ended, out, said) = Waypost::run(&[&["conform"], args].concat()).await;
        assert!(ended == status && (out.clone() + &said).contains(wanted), "{args:?}: {ended} {out}{said}");
    }
    assert_eq!(etcd.count().await, 1, "what was there before is as it was");
}
