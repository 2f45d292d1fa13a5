//! Records and bootstrap files as people write them, rightly and wrongly.

use proptest::prelude::*;

use crate::{
    Address, Diagnostic, Document, Names, Record, RecordKey, Severity, UpstreamTls, dangling, decode, decode_strict, parse_bootstrap,
};

/// A document of one file.
fn document(text: &str) -> Document {
    let mut document = Document::default();
    document.add("f.yaml", text);
    document
}

/// Its faults as lines.
fn lines(said: &[Diagnostic]) -> Vec<String> {
    said.iter().map(ToString::to_string).collect()
}

/// What dangles within a document.
fn dangling_in(document: &Document) -> Vec<Diagnostic> {
    dangling(&document.entries, &document.entries.iter().map(|entry| &entry.key).collect::<Names>(), "in these files")
}

fn key(suffix: &str) -> RecordKey {
    RecordKey::parse(suffix.as_bytes()).unwrap()
}

/// What is said of a bad value.
fn fault(suffix: &str, value: &str) -> String {
    match decode_strict(&key(suffix), value.as_bytes()) {
        Ok(decoded) => panic!("{suffix} {value} was taken: {decoded:?}"),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn the_examples_have_no_fault() {
    for (name, text) in
        [("orders.yaml", include_str!("../examples/orders.yaml")), ("buckets.yaml", include_str!("../examples/buckets.yaml"))]
    {
        let mut document = Document::default();
        document.add(name, text);
        assert_eq!(lines(&document.faults), Vec::<String>::new());
        assert_eq!(dangling_in(&document), [], "{name}");
        assert!(document.entries.iter().all(|entry| entry.inactive.is_empty()), "{name}");
    }
    let bootstrap = parse_bootstrap("waypost.toml", include_str!("../examples/waypost.toml")).unwrap();
    assert_eq!(bootstrap.inactive, []);
}

#[test]
fn faults_name_the_field_and_what_would_be_right() {
    for (suffix, value, wanted) in [
        ("routes/s/k", r#"{"ownr":"a"}"#, &["field \"ownr\" is unknown; did you mean \"owner\"?"][..]),
        ("routes/s/k", r#"{"owner":"a","epoch":-1}"#, &["field \"epoch\"", "from 1 to 999999999999999"]),
        ("routes/s/k", r#"{"owner":"a","epoch":1.5}"#, &["epoch", "a whole number from 1"]),
        ("routes/s/k", r#"{"owner":"a","epoch":0}"#, &["epoch", "from 1"]),
        ("routes/s/k", r#"{"owner":"a b"}"#, &["owner", "is no name"]),
        ("routes/s/k", r#"{"owner":"a","owner":"b"}"#, &["the field \"owner\" stands twice"]),
        ("routes/s/k", r#"{"owner":"a","state":"moving"}"#, &["needs a \"target\""]),
        ("routes/s/k", r#"{"owner":"a","state":"gone"}"#, &["state", "serving"]),
        ("routes/s/k", "not json", &["is not JSON"]),
        ("routes/s/k", r#"{"owner":"a"} x"#, &["is not JSON"]),
        ("services/s", r#"{"match":[]}"#, &["\"match\" is empty"]),
        ("services/s", r#"{"match":[{}]}"#, &["default_owner"]),
        ("services/s", r#"{"match":[{"hosts":["a:80"]}],"default_owner":"a"}"#, &["match[0].hosts[0]", "port"]),
        ("services/s", r#"{"match":[{}],"key":{"header":"route-x"}}"#, &["stale-route protocol"]),
        ("services/s", r#"{"match":[{}],"key":{"path":"/a"}}"#, &["no segment is {key}"]),
        ("services/s", r#"{"match":[{}],"key":{"header":"a","query":"b"}}"#, &["key"]),
        ("services/s", r#"{"match":[{}],"default_owner":"a","partition":"slots"}"#, &["partition", "\"slots\": 16384"]),
        ("upstreams/u", r#"{"endpoints":[{"address":"10.0.0.7"}]}"#, &["endpoints[0].address", "the port is missing"]),
        ("upstreams/u", r#"{"endpoints":[{"address":"::1:80"}]}"#, &["[ ]"]),
        ("upstreams/u", r#"{"tls":{"sni":""}}"#, &["tls.sni", "turn the check"]),
        ("upstreams/u", r#"{"tls":{"sni":"a b"}}"#, &["tls.sni", "is no name to check"]),
        ("upstreams/u", r#"{"tls":{"sni":"a.1"}}"#, &["tls.sni", "ends like an IP address"]),
        ("upstreams/u", r#"{"tls":{"sni":"a_b.c.d"}}"#, &["tls.sni", "has a _"]),
        ("upstreams/u", r#"{"tls":{"ca":"/ca.pem"}}"#, &["tls.ca", "file:PATH"]),
        ("upstreams/u", r#"{"tls":{"cert":"file:/c"}}"#, &["tls", "needs a \"key\""]),
        ("upstreams/u", r#"{"tls":{"key":"env:K"}}"#, &["tls", "needs a \"cert\""]),
        ("upstreams/u", r#"{"tls":{"verify":false}}"#, &["field \"tls.verify\" is unknown"]),
        ("upstreams/u", r#"{"balance":"random"}"#, &["balance", "p2c"]),
        ("policies/p", r#"{"timeouts":{"header":1}}"#, &["field \"timeouts.header\" is unknown; did you mean \"header_ms\"?"]),
        ("policies/p", r#"{"retries":{"budget_percent":200}}"#, &["retries.budget_percent", "from 0 to 100"]),
        ("incarnation", "-1", &["whole number"]),
    ] {
        let said = fault(suffix, value);
        for wanted in wanted {
            assert!(said.contains(wanted), "{suffix} {value}: {said}");
        }
    }
}

#[test]
fn a_private_key_is_never_repeated() {
    for value in [
        r#"{"hosts":["a"],"cert":"file:/c","key":"-----BEGIN PRIVATE KEY----- c2VjcmV0"}"#,
        r#"{"hosts":["a"],"cert":"-----BEGIN PRIVATE KEY----- c2VjcmV0","key":"env:K"}"#,
        r#"{"tls":{"cert":"file:c","key":"-----BEGIN PRIVATE KEY----- c2VjcmV0"}}"#,
        r#"{"tls":{"ca":"-----BEGIN PRIVATE KEY----- c2VjcmV0"}}"#,
    ] {
        let said = fault(if value.contains("tls") { "upstreams/u" } else { "certificates/c" }, value);
        assert!(!said.contains("c2VjcmV0"), "{said}");
    }
}

#[test]
fn the_name_that_a_certificate_must_carry_is_the_sni_or_the_host() {
    let tls = |sni: Option<&str>| UpstreamTls { sni: sni.map(str::to_owned), ..UpstreamTls::default() };
    for (sni, address, wanted) in [
        (None, "cell-7.internal:8080", Ok("cell-7.internal")),
        (None, "10.0.0.7:8080", Ok("10.0.0.7")),
        (None, "[::1]:80", Ok("::1")),
        (None, "my_cell:80", Ok("my_cell")),
        (Some("cell-7"), "10.0.0.7:80", Ok("cell-7")),
        (Some("::1"), "a:80", Ok("::1")),
        (None, "my_cell.cells.internal:80", Err(())),
        (None, "10.0.7:80", Err(())),
    ] {
        assert_eq!(tls(sni).name_for(&Address::try_from(address).unwrap()).map_err(|_| ()), wanted, "{address}");
    }
}

#[test]
fn what_is_not_acted_on_is_said() {
    for (suffix, value, field) in
        [("upstreams/u", r#"{"health":{"path":"/"}}"#, "health"), ("policies/p", r#"{"limits":{"in_flight":3}}"#, "limits.in_flight")]
    {
        let decoded = decode(&key(suffix), value.as_bytes()).unwrap();
        assert_eq!(decoded.inactive.first(), Some(&field), "{value}");
    }
}

#[test]
fn all_faults_of_a_file_are_found_each_on_its_line() {
    let text =
        "routes/s/a: { owner: u }\n\nroutes/s/b:\n  owner: u\n  epoch: x\nrotes/s/c: {}\nupstreams/u:\n  endpoints:\n    - address: one\n";
    let said = lines(&document(text).faults);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("f.yaml:5: routes/s/b: field \"epoch\""), "{said:?}");
    assert!(said[1].starts_with("f.yaml:6: rotes/s/c: ") && said[1].contains("did you mean \"routes\"?"), "{said:?}");
    assert!(said[2].starts_with("f.yaml:9: upstreams/u: field \"endpoints[0].address\""), "{said:?}");
}

#[test]
fn json_files_doubles_aliases_and_depth() {
    let document_of_json = document("{\n\t\"upstreams/u\": {\"endpoints\": []},\n\t\"incarnation\": 3\n}");
    assert_eq!(document_of_json.entries.len(), 2);
    assert_eq!(document_of_json.entries[1].record, Record::Incarnation(3));
    let one = |text: &str| document(text).faults[0].to_string();
    assert!(
        one("upstreams/u: {}\nupstreams/u: {}\n")
            .starts_with("f.yaml:2: \"upstreams/u\" stands here a second time; the first is on line 1")
    );
    assert!(one("a: &x [1]\nb: *x\n").contains("aliases"));
    assert!(one(&format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000))).contains("f.yaml:1"));
    assert!(one("- a\n").contains("a mapping from keys to records"));
    assert!(one("a: [1\n").starts_with("f.yaml:"));
    assert_eq!(document("# nothing\n").entries.len(), 0);
}

#[test]
fn no_name_in_a_file_can_write_a_second_line_or_to_a_terminal() {
    let text =
        "\"routes/s/a\\nb\": { owner: \"x\\e[31m\\ny\" }\n\"rou\\ntes/a\": {}\nupstreams/u: { \"bal\\nance\": 1, public_url: \"\\n\" }\n";
    let said = lines(&document(text).faults);
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.iter().all(|said| !said.contains(char::is_control)), "{said:?}");
}

#[test]
fn several_files_are_one_set_in_which_a_key_stands_once() {
    let mut both = document("upstreams/u: {}\n");
    both.add("g.yaml", "\nupstreams/u: {}\nupstreams/v: {}\n");
    assert_eq!(lines(&both.faults), ["g.yaml:2: upstreams/u: stands here a second time; the first is at f.yaml:1"]);
    assert_eq!(both.entries.len(), 2);
}

#[test]
fn dangling_names_are_warnings_on_the_line_of_the_name_with_what_was_meant() {
    let text = "services/s:\n  match: [{}]\n  default_owner: nobody\n  policy: patent\n  key: { header: a }\npolicies/patient: {}\nupstreams/cell-1: {}\n";
    let mut both = document(text);
    both.add("g.yaml", "routes/other/k:\n  state: moving\n  owner: cel-1\n  target: x\nendpoints/v/1: { address: 'a:1' }\nservices/t: { match: [{}], default_owner: cell-1, policy: default }\n");
    assert_eq!(both.faults, []);
    let said = dangling_in(&both);
    assert!(said.iter().all(|said| said.severity == Severity::Warning));
    assert_eq!(
        lines(&said),
        [
            "f.yaml:3: services/s: warning: default_owner \"nobody\" has no record upstreams/nobody in these files",
            "f.yaml:4: services/s: warning: policy \"patent\" has no record policies/patent in these files; did you mean \"patient\"?",
            "g.yaml:1: routes/other/k: warning: service \"other\" has no record services/other in these files",
            "g.yaml:3: routes/other/k: warning: owner \"cel-1\" has no record upstreams/cel-1 in these files; did you mean \"cell-1\"?",
            "g.yaml:4: routes/other/k: warning: target \"x\" has no record upstreams/x in these files",
            "g.yaml:5: endpoints/v/1: warning: upstream \"v\" has no record upstreams/v in these files",
        ]
    );
}

#[test]
fn a_name_that_thousands_of_records_lack_is_not_said_thousands_of_times() {
    let text: String = (0..1000).map(|n| format!("routes/s/k{n}: {{ owner: u }}\n")).collect();
    let said = lines(&dangling_in(&document(&(text + "services/s: { match: [{}], default_owner: u }\n"))));
    assert_eq!(said.len(), 5);
    assert_eq!(said[4], "f.yaml:5: routes/s/k4: warning: owner \"u\" has no record upstreams/u in these files (996 more records name it)");
}

#[test]
fn what_is_not_acted_on_is_said_on_its_line() {
    let text = "policies/p:\n  max_hops: 2\n  limits:\n    in_flight: 3\n";
    let said: Vec<Diagnostic> = document(text).entries[0].inactive_warnings().collect();
    assert_eq!(lines(&said), ["f.yaml:4: policies/p: warning: field \"limits.in_flight\" is not acted on by this version"]);
}

#[test]
fn a_setting_that_has_no_effect_beside_the_others_is_said_on_its_line() {
    let said = |text: &str| lines(&parse_bootstrap("f", text).unwrap().inactive);
    let plain = "[[listener]]\naddress = \"127.0.0.1:1\"\nclient_ca = \"file:a\"\n";
    assert_eq!(said(plain), ["f:3: warning: setting \"listener[0].client_ca\" has no effect here"]);
    let secure = "[[listener]]\naddress = \"127.0.0.1:1\"\ntls = true\nh2c = false\n";
    assert_eq!(said(secure), ["f:4: warning: setting \"listener[0].h2c\" has no effect here"]);
    assert_eq!(said(&format!("{plain}tls = true\nclient_cert = \"required\"\n")), Vec::<String>::new());
}

#[test]
fn a_bootstrap_file_s_faults_name_the_line() {
    for (text, wanted) in [
        ("\n[gold]\nendpoints = []\n", "f.toml:2: setting \"gold\": gold.endpoints is empty"),
        (
            "[gold]\nendpoints = [\"127.0.0.1:2379\"]\n",
            "f.toml:1: setting \"gold\": gold.endpoints: \"127.0.0.1:2379\" is no URL of an etcd",
        ),
        ("[gold]\nfile = \"a\"\nendpoints = [\"b\"]\n", "both endpoints and file"),
        ("[gold]\nfile = \"a\"\nprefix = \"/x/\"\n", "ends with /"),
        ("\n\n[listner]\n", "f.toml:3: setting \"listner\" is unknown; did you mean \"listener\"?"),
        ("[admin]\naddress = \"localhost\"\n", "f.toml:2: setting \"admin.address\": \"localhost\" is no address to listen on: the port"),
        ("[admin]\naddress = \"localhost:80\"\n", "not a name"),
        ("[log]\nformat = \"xml\"\n", "f.toml:2: setting \"log.format\" is \"xml\"; \"json\" or \"text\" would be right"),
        ("[log]\nformat = \"txt\"\n", "is \"txt\"; \"json\" or \"text\" would be right; did you mean \"text\"?"),
        ("[[listener]]\ntls = true\n", "f.toml:1: setting \"listener[0]\": the field \"address\" is missing"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"\ntrusted = [\"10.0.0.0\"]\n", "\"10.0.0.0\" is no network"),
        ("x = \n", "f.toml:1: is not TOML: "),
    ] {
        let said = parse_bootstrap("f.toml", text).unwrap_err()[0].to_string();
        assert!(said.contains(wanted), "{said}");
    }
    let all =
        lines(&parse_bootstrap("f.toml", "[log]\nacess = \"off\"\n[gold]\nfile = \"a\"\nprefx = 1\n[admin]\naddress = 1\n").unwrap_err());
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].starts_with("f.toml:2: ") && all[1].starts_with("f.toml:5: ") && all[2].starts_with("f.toml:7: "), "{all:?}");
    let defaults = parse_bootstrap("", "").unwrap();
    assert_eq!((defaults.listeners[0].address.port(), defaults.admin.address.to_string().as_str()), (8080, "127.0.0.1:9901"));
}

proptest! {
    #[test]
    fn decoding_never_panics(kind in 0usize..7, value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let suffix = ["services/s", "routes/s/k", "upstreams/u", "endpoints/u/1", "policies/p", "certificates/c", "incarnation"][kind];
        let _ = decode_strict(&key(suffix), &value);
    }

    #[test]
    fn reading_files_never_panics(text in "[ -~\n\t]{0,200}") {
        let _ = document(&text);
        let _ = parse_bootstrap("f.toml", &text);
    }

    #[test]
    fn what_is_written_is_read_back(owner in "[a-z]{1,8}", epoch in proptest::option::of(1u64..=999_999_999_999_999), hops in 0u32..=16, ms in 0u64..100_000) {
        for (suffix, value) in [
            ("routes/s/k", serde_json::json!({ "owner": owner, "epoch": epoch })),
            ("routes/s/k", serde_json::json!({ "owner": owner, "state": "moving", "target": "b" })),
            ("services/s", serde_json::json!({ "match": [{ "hosts": ["*.x.y", "z"], "path_prefix": "/a" }], "key": { "path": "/{key}/*rest" }, "default_owner": owner })),
            ("upstreams/u", serde_json::json!({ "endpoints": [{ "address": format!("{owner}:1"), "weight": hops + 1 }], "balance": "round_robin" })),
            ("policies/p", serde_json::json!({ "max_hops": hops, "timeouts": { "idle_ms": ms }, "on_stale": "redirect" })),
        ] {
            let record = decode(&key(suffix), value.to_string().as_bytes()).unwrap().record;
            let written = record.to_json().to_string();
            prop_assert_eq!(&decode_strict(&key(suffix), written.as_bytes()).unwrap().record, &record, "{}", written);
        }
    }
}
