//! The table against what is parsed: neither has a field, a default, a range or a word that the other lacks.

use serde::{
    Deserialize, Deserializer,
    de::{Visitor, value::Error},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    Admin, Bootstrap, Certificate, Drain, Endpoint, Gold, Health, KeySource, Limits, Listener, Log, Match, Policy, ProcessLimits,
    RecordKey, Retries, Route, Service, Snapshot, Timeouts, Upgrade, Upstream, UpstreamTls, decode_strict, parse_bootstrap,
};

/// The names that serde knows of a type's fields or variants.
fn names<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    struct Probe<'a>(&'a mut Vec<&'static str>);
    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], _: V) -> Result<V::Value, Error> {
            self.0.extend(fields);
            Err(serde::de::Error::custom("probed"))
        }

        fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], _: V) -> Result<V::Value, Error> {
            self.0.extend(variants);
            Err(serde::de::Error::custom("probed"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("neither a struct nor an enum"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
            tuple_struct map identifier ignored_any
        }
    }
    let mut found = Vec::new();
    let _ = T::deserialize(Probe(&mut found));
    assert!(!found.is_empty(), "{} has no fields", std::any::type_name::<T>());
    found
}

/// What stands below each table of each kind, as serde has it.
fn types(kind: &Kind) -> Vec<(&'static str, Vec<&'static str>)> {
    match kind.name.split('/').next().unwrap() {
        "services" => vec![
            ("", names::<Service>()),
            ("match[]", names::<Match>()),
            ("key", names::<KeySource>()),
            ("partition", names::<crate::service::SlotsWire>()),
        ],
        "routes" => vec![("", names::<Route>())],
        "upstreams" => vec![
            ("", names::<Upstream>()),
            ("endpoints[]", names::<Endpoint>()),
            ("tls", names::<UpstreamTls>()),
            ("health", names::<Health>()),
        ],
        "endpoints" => vec![("", names::<Endpoint>())],
        "policies" => {
            vec![("", names::<Policy>()), ("timeouts", names::<Timeouts>()), ("retries", names::<Retries>()), ("limits", names::<Limits>())]
        }
        "certificates" => vec![("", names::<Certificate>())],
        "incarnation" => vec![],
        _ => vec![
            ("", names::<Bootstrap>()),
            ("gold", names::<Gold>()),
            ("listener[]", names::<Listener>()),
            ("admin", names::<Admin>()),
            ("snapshot", names::<Snapshot>()),
            ("log", names::<Log>()),
            ("limits", names::<ProcessLimits>()),
            ("drain", names::<Drain>()),
            ("upgrade", names::<Upgrade>()),
        ],
    }
}

fn kinds() -> impl Iterator<Item = &'static Kind> {
    RECORDS.iter().chain([&BOOTSTRAP])
}

#[test]
fn the_table_has_exactly_the_fields_that_are_parsed() {
    for kind in kinds() {
        let types = types(kind);
        for (parent, mut parsed) in types.clone() {
            let mut listed: Vec<&str> =
                kind.fields.iter().filter(|field| field.parent() == parent).map(|field| bare(field.name())).collect();
            listed.sort_unstable();
            parsed.sort_unstable();
            assert_eq!(listed, parsed, "{}: the fields below \"{parent}\" are listed in conf/src/fields/", kind.name);
        }
        for field in kind.fields.iter().filter(|field| matches!(field.holds, Holds::Table | Holds::Tables)) {
            let known = types.iter().any(|(parent, _)| *parent == field.path);
            assert!(known, "{}: add the type of {} to `types` in conf/src/fields/tests.rs", kind.name, field.path);
        }
    }
}

/// What a value with one field more is read as, or the faults that name this field.
fn read(kind: &Kind, field: &Field, value: &Value) -> Result<String, String> {
    let whole = with(kind, field, Some(value));
    let (read, faults) = parse(kind, &whole);
    let steps = bare(field.path).replace("[]", "[0]");
    let about: Vec<&String> =
        faults.iter().filter(|fault| ["field", "setting"].iter().any(|what| fault.contains(&format!("{what} \"{steps}")))).collect();
    if about.is_empty() { Ok(read) } else { Err(format!("{} {whole}: {about:?}", kind.name)) }
}

/// The least value of a kind in which the field can stand, with it or without.
fn with(kind: &Kind, field: &Field, value: Option<&Value>) -> Value {
    let mut whole: Value = serde_json::from_str(kind.least).unwrap();
    let fill = match field.path {
        "target" => json!({ "state": "moving" }),
        "move" => json!({ "state": "frozen" }),
        "tls.cert" => json!({ "tls": { "key": "env:K" } }),
        "tls.key" => json!({ "tls": { "cert": "file:c" } }),
        "partition.slots" => json!({ "partition": { "hash": "crc16" } }),
        "partition.hash" => json!({ "partition": { "slots": 4 } }),
        "gold.file" | "gold.endpoints" | "gold" => json!({}),
        path if path.starts_with("gold.") => json!({ "gold": { "file": "a" } }),
        path if path.starts_with("listener[].") => json!({ "listener": [{ "address": "127.0.0.1:1" }] }),
        path if path.starts_with("endpoints[].") => json!({ "endpoints": [{ "address": "a:1" }] }),
        _ => json!({}),
    };
    whole.as_object_mut().unwrap().extend(fill.as_object().unwrap().clone());
    let mut at = &mut whole;
    let (steps, last) = field.path.rsplit_once('.').map_or((vec![], field.path), |(steps, last)| (steps.split('.').collect(), last));
    for step in steps {
        let object = at.as_object_mut().unwrap();
        at = match step.strip_suffix("[]") {
            Some(list) => &mut object.entry(list).or_insert(json!([{}]))[0],
            None => object.entry(step).or_insert(json!({})),
        };
    }
    if let Some(value) = value {
        at[bare(last)] = value.clone();
    }
    whole
}

fn parse(kind: &Kind, whole: &Value) -> (String, Vec<String>) {
    if std::ptr::eq(kind, &BOOTSTRAP) || kind.name == BOOTSTRAP.name {
        let text = toml::to_string(whole).unwrap();
        return match parse_bootstrap("f", &text) {
            Ok(mut bootstrap) => {
                bootstrap.inactive.clear();
                (format!("{bootstrap:?}"), Vec::new())
            }
            Err(faults) => (String::new(), faults.iter().map(ToString::to_string).collect()),
        };
    }
    let key = kind.name.replace(['<', '>'], "");
    match decode_strict(&RecordKey::parse(key.as_bytes()).unwrap(), whole.to_string().as_bytes()) {
        Ok(decoded) => (format!("{:?}", decoded.record), Vec::new()),
        Err(faults) => (String::new(), faults.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn the_table_s_defaults_ranges_words_and_examples_are_those_that_are_parsed() {
    for kind in kinds() {
        for field in kind.fields {
            let path = field.path;
            if let Absent::Same(default) = field.absent {
                let default: Value = serde_json::from_str(default).unwrap();
                let left_out = parse(kind, &with(kind, field, None)).0;
                assert!(!left_out.is_empty(), "{} {path}", kind.name);
                assert_eq!(read(kind, field, &default).unwrap(), left_out, "{}: the default of {path}", kind.name);
            }
            match field.holds {
                Holds::Flag => {
                    for flag in [true, false] {
                        read(kind, field, &json!(flag)).unwrap();
                    }
                    read(kind, field, &json!("yes")).unwrap_err();
                }
                Holds::Whole { least, most, .. } => {
                    for inside in [least, most] {
                        read(kind, field, &json!(inside)).unwrap();
                    }
                    read(kind, field, &json!(most + 1)).unwrap_err();
                    if least > 0 {
                        read(kind, field, &json!(least - 1)).unwrap_err();
                    }
                }
                Holds::Word(words) => {
                    for word in words {
                        read(kind, field, &json!(word)).unwrap();
                    }
                    let refused = read(kind, field, &json!("other")).unwrap_err();
                    // serde says all words that it would take.
                    let said = refused.split_once(" is \\\"other\\\"; ").unwrap().1.split(" would be right").next().unwrap();
                    let taken: Vec<&str> = said.split("\\\"").skip(1).step_by(2).collect();
                    assert_eq!(taken, *words, "{}: the words of {path}", kind.name);
                }
                Holds::Form { examples, .. } => {
                    for example in examples {
                        read(kind, field, &serde_json::from_str(example).unwrap()).unwrap();
                    }
                    read(kind, field, &json!([{}])).unwrap_err();
                }
                Holds::Table | Holds::Tables => {}
            }
        }
    }
}

#[test]
fn every_setting_stands_in_the_example_file() {
    let example = include_str!("../../examples/waypost.toml");
    for field in BOOTSTRAP.fields {
        assert!(example.contains(bare(field.name())), "{} is not in conf/examples/waypost.toml", field.path);
    }
}

#[test]
fn what_was_meant_is_looked_for_beside_it_and_then_elsewhere() {
    let policy = &RECORDS[4];
    assert_eq!(policy.meant("timeouts.header").as_deref(), Some("header_ms"));
    assert_eq!(policy.meant("idle_ms").as_deref(), Some("timeouts.idle_ms"));
    assert_eq!(policy.meant("wholly_different"), None);
    assert_eq!(RECORDS[0].meant("match[0].host").as_deref(), Some("hosts"));
    let value = json!({ "match": [{}, { "host": [] }], "kye": { "x": 1 }, "partition": { "slot": 1 }, "key": { "header": "a" } });
    let mut unknown = RECORDS[0].unknown(&value);
    unknown.sort();
    assert_eq!(unknown, ["kye", "match[1].host", "partition.slot"]);
    assert_eq!(BOOTSTRAP.meant("listener[0].adress").as_deref(), Some("address"));
}
