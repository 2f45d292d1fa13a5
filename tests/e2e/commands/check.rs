//! `waypost check`: every fault with its file and line, what was meant, and exit statuses.

use serde_json::{Value, json};
use tempfile::tempdir;
use waypost_tests::{Etcd, Waypost};

use super::fed;
use crate::scene::service;

#[tokio::test]
async fn check_names_file_line_key_field_and_what_was_meant() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("routes.yaml");
    let name = path.to_str().unwrap();
    std::fs::write(&path, "# comment\nupstreams/cell-0: {}\nservices/orders:\n  match: [{}]\n  default_owner: cell-0\nroutes/orders/t1:\n  ownr: cell-0\nroutes/orders/t2: { owner: cell-0, epoch: -1 }\n").unwrap();
    let (status, out, _) = Waypost::run(&["check", name]).await;
    assert_eq!(status, 1);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("{name}:7: routes/orders/t1: field \"ownr\" is unknown; did you mean \"owner\"?"));
    assert!(lines[1].starts_with(&format!("{name}:8: routes/orders/t2: field \"epoch\" ")), "{out}");
    assert!(lines[1].contains("from 1 to 999999999999999"), "{out}");
    std::fs::write(&path, "services/orders: { match: [{}], default_owner: cell-0 }\nupstreams/cell-0: {}\n").unwrap();
    assert_eq!(Waypost::run(&["check", name]).await.0, 0);
    let toml = folder.path().join("waypost.toml");
    std::fs::write(&toml, "[gold]\nendpoints = [\"http://127.0.0.1:1\"]\nprefx = \"/x\"\n[admin]\naddress = 1\n").unwrap();
    let (status, out, _) = Waypost::run(&["check", toml.to_str().unwrap()]).await;
    assert_eq!((status, out.lines().count()), (1, 2), "{out}");
    assert!(out.contains(":3: ") && out.contains("did you mean \"prefix\"?") && out.contains(":5: setting \"admin.address\""), "{out}");
}

#[tokio::test]
async fn a_directory_is_read_as_the_file_source_reads_it_and_names_may_go_from_file_to_file() {
    let folder = tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", "services/orders:\n  match: [{}]\n  default_owner: cell-0\n  policy: patent\n");
    write("b.json", "{\n  \"upstreams/cell-0\": {},\n  \"policies/patient\": {\n    \"limits\": { \"in_flight\": 5 } }\n}\n");
    write(".hidden.yaml", "nonsense");
    write("notes.txt", "nonsense");
    let name = folder.path().to_str().unwrap();
    let (status, out, said) = Waypost::run(&["check", name]).await;
    assert_eq!(status, 0, "warnings are no faults: {out}");
    let wanted = format!(
        "{name}/a.yaml:4: services/orders: warning: policy \"patent\" has no record policies/patent in these files; did you mean \"patient\"?\n\
         {name}/b.json:4: policies/patient: warning: field \"limits.in_flight\" is not acted on by this version\n"
    );
    assert_eq!(out, wanted);
    assert!(said.contains("3 records in 2 files: no fault, 2 warnings"), "{said}");
    write("c.yaml", "\nupstreams/cell-0: {}\n");
    let (status, out, _) = Waypost::run(&["check", name, "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    let errors: Vec<&Value> = report["diagnostics"].as_array().unwrap().iter().filter(|said| said["severity"] == "error").collect();
    assert_eq!((status, errors.len(), &report["errors"]), (1, 1, &json!(1)));
    assert_eq!((&errors[0]["file"], &errors[0]["line"]), (&json!(format!("{name}/c.yaml")), &json!(2)));
    assert!(
        errors[0]["message"].as_str().unwrap().contains("the first is at") && errors[0]["message"].as_str().unwrap().contains("b.json:2")
    );
    let gold = format!("file:{name}");
    let (status, _, said) = Waypost::run(&["run", "--gold", &gold, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).await;
    let wanted = format!("{name}/c.yaml:2: upstreams/cell-0: stands here a second time; the first is at {name}/b.json:2");
    assert!(status == 2 && said.contains(&wanted), "a proxy says the same: {said}");
}

#[tokio::test]
async fn what_can_t_be_read_is_exit_2_and_the_rest_is_checked_all_the_same() {
    let folder = tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "upstreams/a: { endpoint: [] }\n").unwrap();
    let (status, out, said) = Waypost::run(&["check", "/nonexistent.yaml", bad.to_str().unwrap()]).await;
    assert_eq!(status, 2);
    assert!(said.contains("/nonexistent.yaml: can't be read: there is no such file"), "{said}");
    assert!(out.contains("did you mean \"endpoints\"?"), "{out}");
    let empty = tempdir().unwrap();
    let (status, _, said) = Waypost::run(&["check", empty.path().to_str().unwrap()]).await;
    assert!(status == 2 && said.contains("holds no record files (*.yaml"), "{said}");
    std::fs::write(&bad, b"upstreams/a: {}\nupstreams/b: { public_url: \"\xff\" }\n").unwrap();
    let (status, out, _) = Waypost::run(&["check", bad.to_str().unwrap()]).await;
    assert_eq!((status, out), (1, format!("{}:2: is not UTF-8 text\n", bad.display())));
}

#[tokio::test]
async fn standard_input_is_a_dash() {
    let (status, out, _) = fed(&["check", "-"], "upstreams/a: {}\nroutes/s/k: { owner: a, epoch: 0 }\n").await;
    assert_eq!(status, 1);
    assert!(out.lines().any(|line| line.starts_with("-:2: routes/s/k: field \"epoch\"")), "{out}");
    let (status, _, said) = fed(&["check", "-", "-"], "").await;
    assert!(status == 2 && said.contains("only once"), "{said}");
}

#[tokio::test]
async fn the_store_is_checked_for_values_key_names_clashes_and_dangling_names() {
    let etcd = Etcd::start().await;
    etcd.put("services/old", service(json!({ "default_owner": "cell-0" }))).await;
    etcd.put("services/new", service(json!({ "default_owner": "cel-0" }))).await;
    etcd.put("upstreams/cell-0", json!({})).await;
    etcd.put("routes/old/bad", json!({ "ownr": "cell-0" })).await;
    etcd.put("routs/old/t1", json!({ "owner": "cell-0" })).await;
    etcd.put("upstreams/a b", json!({})).await;
    let url = etcd.url();
    let (status, out, said) = Waypost::run(&["check", "--gold", &url]).await;
    assert_eq!(status, 1);
    for wanted in [
        "/waypost/v1/routes/old/bad: field \"ownr\" is unknown; did you mean \"owner\"?",
        "/waypost/v1/routs/old/t1: \"routs\" is no kind of record; did you mean \"routes\"?",
        "/waypost/v1/upstreams/a b: \"a b\" is no name;",
        "/waypost/v1/services/new: warning: default_owner \"cel-0\" has no record upstreams/cel-0 in the store; did you mean \"cell-0\"?",
        "/waypost/v1/services/new: warning: host \"*\" with path prefix \"/\" is service \"old\"'s too, whose record is older; these requests go there",
    ] {
        assert!(out.lines().any(|line| line.starts_with(wanted)), "{wanted}\n{out}");
    }
    assert_eq!(out.lines().count(), 5, "{out}");
    assert!(said.contains(&format!("6 records in the store at {url}: 3 faults, 2 warnings")), "{said}");
}
