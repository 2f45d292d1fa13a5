//! What differs between two values of a record, field by field, for a person.

use std::fmt;

use serde_json::Value;

use crate::{RecordKey, escaped};

/// Longer values are cut when they are shown.
const MAX_SHOWN_CHARS: usize = 160;

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    /// `timeouts.idle_ms`, `endpoints[1]`; empty: the value itself.
    pub path: String,
    /// What it was; `None`: it was not there.
    pub before: Option<Value>,
    /// What it is to be; `None`: it goes.
    pub after: Option<Value>,
}

/// Whether two texts in JSON mean the same value: white space and the order of fields do not count.
pub fn same_value(one: &[u8], other: &[u8]) -> bool {
    let parse = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

/// A value without what must not be shown: private keys that somebody put into the store although they never belong there.
pub fn without_secrets(key: &RecordKey, mut value: Value) -> Value {
    let hidden = || Value::from("(a private key, not shown)");
    let written = match key {
        RecordKey::Certificate(_) => value.get_mut("key"),
        RecordKey::Upstream(_) => value.get_mut("tls").and_then(|tls| tls.get_mut("key")),
        _ => None,
    };
    if let Some(written) = written
        && !written.as_str().is_some_and(|text| text.starts_with("file:") || text.starts_with("env:"))
    {
        *written = hidden();
    }
    if value.to_string().contains("PRIVATE KEY") { hidden() } else { value }
}

/// Every field that differs, in the order of their paths. `before` is `None` for a new record.
pub fn difference(before: Option<&Value>, after: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    match (before, after) {
        (Some(before), after) => compare("", before, after, &mut changes),
        (None, Value::Object(fields)) => {
            changes.extend(fields.iter().map(|(name, value)| FieldChange { path: name.clone(), before: None, after: Some(value.clone()) }));
        }
        (None, after) => changes.push(FieldChange { path: String::new(), before: None, after: Some(after.clone()) }),
    }
    changes
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<FieldChange>) {
    match (before, after) {
        (one, other) if one == other => {}
        (Value::Object(one), Value::Object(other)) => {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            for (name, before) in one {
                match other.get(name) {
                    Some(after) => compare(&below(name), before, after, changes),
                    None => changes.push(FieldChange { path: below(name), before: Some(before.clone()), after: None }),
                }
            }
            for (name, after) in other.iter().filter(|(name, _)| !one.contains_key(*name)) {
                changes.push(FieldChange { path: below(name), before: None, after: Some(after.clone()) });
            }
        }
        (Value::Array(one), Value::Array(other)) => compare_lists(path, one, other, changes),
        (before, after) => {
            changes.push(FieldChange { path: path.to_owned(), before: Some(before.clone()), after: Some(after.clone()) });
        }
    }
}

/// What both begin and end with is the same; between, element by element, so that one that was put in or taken out shows as just that.
/// An element that went is named by its place before, one that came by its place now.
fn compare_lists(path: &str, one: &[Value], other: &[Value], changes: &mut Vec<FieldChange>) {
    let start = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one_rest, other_rest) = (&one[start..], &other[start..]);
    let end = one_rest.iter().rev().zip(other_rest.iter().rev()).take_while(|(one, other)| one == other).count();
    let (one, other) = (&one_rest[..one_rest.len() - end], &other_rest[..other_rest.len() - end]);
    for at in 0..one.len().max(other.len()) {
        let path = format!("{path}[{}]", start + at);
        match (one.get(at), other.get(at)) {
            (Some(before), Some(after)) => compare(&path, before, after, changes),
            (before, after) => changes.push(FieldChange { path, before: before.cloned(), after: after.cloned() }),
        }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.path.is_empty() { "" } else { " " };
        write!(out, "{}{space}", escaped(self.path.as_bytes()))?;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(out, "{} → {}", shown(before), shown(after)),
            (one, other) => write!(out, "{}", one.as_ref().or(other.as_ref()).map(shown).unwrap_or_default()),
        }
    }
}

/// A value as JSON, cut where it is long.
fn shown(value: &Value) -> String {
    let text = escaped(value.to_string().as_bytes());
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn said(before: &Value, after: &Value) -> Vec<String> {
        difference(Some(before), after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_says_what_it_was_and_is_to_be() {
        let before = json!({ "owner": "cell-7", "epoch": 4, "target": "x", "t": { "idle_ms": 1, "same": true } });
        let after = json!({ "owner": "cell-9", "epoch": 4, "state": "frozen", "t": { "idle_ms": 2, "same": true } });
        assert_eq!(said(&before, &after), ["owner \"cell-7\" → \"cell-9\"", "t.idle_ms 1 → 2", "target \"x\"", "state \"frozen\""]);
        assert_eq!(said(&json!(3), &json!(4)), ["3 → 4"]);
        let new = difference(None, &json!({ "owner": "a" }));
        assert_eq!(new, [FieldChange { path: "owner".into(), before: None, after: Some(json!("a")) }]);
    }

    #[test]
    fn one_element_taken_out_of_a_list_shows_as_just_that() {
        let before = json!({ "endpoints": [{ "address": "a:1" }, { "address": "b:1" }, { "address": "c:1" }] });
        let after = json!({ "endpoints": [{ "address": "a:1" }, { "address": "c:1" }] });
        assert_eq!(said(&before, &after), ["endpoints[1] {\"address\":\"b:1\"}"]);
        let weighted = json!({ "endpoints": [{ "address": "a:1" }, { "address": "b:1", "weight": 2 }, { "address": "c:1" }] });
        assert_eq!(said(&before, &weighted), ["endpoints[1].weight 2"]);
    }

    #[test]
    fn a_private_key_is_not_shown_and_long_values_are_cut() {
        let key = RecordKey::parse(b"certificates/c").unwrap();
        for value in [json!({ "key": "c2VjcmV0" }), json!({ "cert": "-----BEGIN PRIVATE KEY----- c2VjcmV0", "key": "env:K" })] {
            assert!(!without_secrets(&key, value).to_string().contains("c2VjcmV0"));
        }
        let upstream = RecordKey::parse(b"upstreams/u").unwrap();
        assert!(!without_secrets(&upstream, json!({ "tls": { "key": "c2VjcmV0" } })).to_string().contains("c2VjcmV0"));
        let fine = json!({ "cert": "file:/c.pem", "key": "env:K" });
        assert_eq!(without_secrets(&key, fine.clone()), fine);
        assert!(said(&json!({ "zone": "a" }), &json!({ "zone": "x".repeat(1000) }))[0].len() < 300);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<u8>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn there_is_a_difference_exactly_where_values_differ(one in value(), other in value()) {
            prop_assert_eq!(difference(Some(&one), &other).is_empty(), one == other);
            prop_assert_eq!(difference(Some(&one), &one), vec![]);
            prop_assert_eq!(same_value(one.to_string().as_bytes(), other.to_string().as_bytes()), one == other);
        }

        #[test]
        fn both_directions_name_the_same_fields(one in value(), other in value()) {
            let mut there: Vec<String> = difference(Some(&one), &other).into_iter().map(|change| change.path).collect();
            let mut back: Vec<String> = difference(Some(&other), &one).into_iter().map(|change| change.path).collect();
            there.sort();
            back.sort();
            prop_assert_eq!(there, back);
        }
    }
}
