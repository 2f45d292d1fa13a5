//! What the builder makes of endpoint records, leases and names, and what it carries over.

use super::*;
use crate::table::testing::{builder, put};

fn publish(builder: &mut Builder, revision: u64) -> Arc<Table> {
    builder.publish(Publication { revision, id: TableId::file(), source: Source::Watch, digest: 0 })
}

fn announce(builder: &mut Builder, id: &str, address: &str, leased: bool) {
    let key = RecordKey::parse(format!("endpoints/u/{id}").as_bytes()).unwrap();
    let record = conf::decode(&key, format!(r#"{{"address":"{address}"}}"#).as_bytes()).unwrap().record;
    builder.put(&key, record, Meta { leased, ..Meta::default() });
}

fn withdraw(builder: &mut Builder, id: &str) {
    builder.remove(&RecordKey::parse(format!("endpoints/u/{id}").as_bytes()).unwrap());
}

/// Addresses of the upstream `u`, an orphan's with a `!`.
fn addresses(builder: &mut Builder) -> Option<Vec<String>> {
    let table = publish(builder, 1);
    let upstream = table.upstream_named("u")?;
    Some(upstream.endpoints.iter().map(|e| format!("{}{}", e.address, if e.orphaned { "!" } else { "" })).collect())
}

#[test]
fn endpoint_records_need_an_upstream_and_add_to_its_own() {
    let mut builder = builder(&[]);
    announce(&mut builder, "one", "127.0.0.1:2", true);
    assert_eq!(addresses(&mut builder), None);
    assert_eq!(publish(&mut builder, 1).warnings().len(), 1, "an endpoint without an upstream is doubtful");
    put(&mut builder, "upstreams/u", r#"{"endpoints":[{"address":"127.0.0.1:1"}]}"#, 2);
    assert_eq!(addresses(&mut builder), Some(vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]));
    assert!(publish(&mut builder, 1).warnings().is_empty());
}

#[test]
fn the_last_leased_endpoint_stays_until_another_comes_or_the_record_changes() {
    let mut builder = builder(&[("upstreams/u", "{}")]);
    announce(&mut builder, "one", "127.0.0.1:1", true);
    announce(&mut builder, "two", "127.0.0.1:2", true);
    withdraw(&mut builder, "one");
    assert_eq!(addresses(&mut builder), Some(vec!["127.0.0.1:2".to_owned()]));
    withdraw(&mut builder, "two");
    assert_eq!(addresses(&mut builder), Some(vec!["127.0.0.1:2!".to_owned()]));
    announce(&mut builder, "three", "127.0.0.1:3", true);
    assert_eq!(addresses(&mut builder), Some(vec!["127.0.0.1:3".to_owned()]));
    withdraw(&mut builder, "three");
    put(&mut builder, "upstreams/u", "{}", 3);
    assert_eq!(addresses(&mut builder), Some(Vec::new()));
    announce(&mut builder, "four", "127.0.0.1:4", false);
    withdraw(&mut builder, "four");
    assert_eq!(addresses(&mut builder), Some(Vec::new()), "one without a lease was deleted by somebody");
}

#[test]
fn a_publish_never_resets_what_is_known_of_an_endpoint() {
    let mut builder = builder(&[("upstreams/u", r#"{"endpoints":[{"address":"127.0.0.1:1"}]}"#)]);
    let before = publish(&mut builder, 1);
    let state = Arc::clone(&before.upstream_named("u").unwrap().endpoints[0].state);
    put(&mut builder, "upstreams/u", r#"{"endpoints":[{"address":"127.0.0.1:2"},{"address":"127.0.0.1:1","weight":3}]}"#, 2);
    let after = publish(&mut builder, 2);
    assert!(Arc::ptr_eq(&state, &after.upstream_named("u").unwrap().endpoints[1].state));
    assert_eq!(before.upstream_named("u").unwrap().endpoints.len(), 1, "what was published does not change");
}

#[test]
fn doubtful_names_are_warnings_and_the_default_policy_stands_in() {
    let mut builder =
        builder(&[("services/a", r#"{"match":[{}],"default_owner":"nobody","policy":"none"}"#), ("policies/default", r#"{"max_hops":1}"#)]);
    put(&mut builder, "services/b", r#"{"match":[{}],"default_owner":"nobody"}"#, 2);
    let table = publish(&mut builder, 2);
    assert_eq!((table.services()[0].policy.max_hops, &*table.services()[0].policy_name), (1, "default"));
    let said: Vec<&str> = table.warnings().iter().map(|warning| &*warning.message).collect();
    for wanted in ["\"nobody\" has no record", "policy \"none\"", "these requests go there"] {
        assert!(said.iter().any(|said| said.contains(wanted)), "{wanted}: {said:?}");
    }
}

#[test]
fn what_secures_upstreams_is_kept_while_only_other_things_change() {
    let mut builder = builder(&[("upstreams/u", r#"{"tls":{"sni":"a"}}"#), ("upstreams/v", "{}")]);
    let first = publish(&mut builder, 1);
    let names = |table: &Table| table.secured().iter().map(|(name, tls)| (name.to_string(), tls.value.sni.clone())).collect::<Vec<_>>();
    let sni = |name: &str, sni: &str| (name.to_owned(), Some(sni.to_owned()));
    assert_eq!(names(&first), [sni("u", "a")]);
    announce(&mut builder, "one", "127.0.0.1:2", true);
    put(&mut builder, "upstreams/v", r#"{"balance":"round_robin"}"#, 2);
    let second = publish(&mut builder, 2);
    assert!(Arc::ptr_eq(first.secured(), second.secured()));
    put(&mut builder, "upstreams/v", r#"{"tls":{"sni":"b"}}"#, 3);
    assert_eq!(names(&publish(&mut builder, 3)), [sni("u", "a"), sni("v", "b")]);
    put(&mut builder, "upstreams/u", "{}", 4);
    assert_eq!(names(&publish(&mut builder, 4)), [sni("v", "b")]);
    builder.remove(&RecordKey::parse(b"upstreams/v").unwrap());
    assert_eq!(names(&publish(&mut builder, 5)), []);
}
