//! Which record covers a routing key, by the plainest reading of the contract: every record of the service is looked at.

use std::cmp::Reverse;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Kept, Model};

/// The record that covers a routing key of a service, if one does.
pub(crate) fn covering<'a>(model: &'a Model, service: &str, key: &[u8]) -> Option<(&'a [u8], &'a Kept)> {
    let start = format!("routes/{service}/").into_bytes();
    let records = model.keys.range(start.clone()..).take_while(|(record, _)| record.starts_with(&start));
    let records = records.map(|(record, kept)| (&record[start.len()..], kept));
    let partition = model.good(&format!("services/{service}")).map_or(&Value::Null, |value| &value["partition"]);
    match partition {
        Value::String(range) if range == "range" => records.filter(|(record, _)| *record <= key).last(),
        Value::Object(slots) => {
            let count = slots["slots"].as_u64().unwrap();
            let slot = if slots["hash"] == "crc16" { u64::from(crc16(tag(key))) % count } else { xxh3_64(key) % count };
            records.filter_map(|found| Some((rank(found, slot, count)?, found))).min_by_key(|(rank, _)| *rank).map(|(_, found)| found)
        }
        _ => model.keys.get_key_value(&[&start, key].concat()).map(|(record, kept)| (&record[start.len()..], kept)),
    }
}

/// Of what covers a slot the least one counts: the narrowest, then the newest, then the later key.
type Rank<'a> = (u64, Reverse<(u64, &'a [u8])>);

/// How wide a record is that covers the slot, then how new. Of two from one transaction the same one must win everywhere: the later key.
fn rank<'a>((record, kept): (&'a [u8], &Kept), slot: u64, count: u64) -> Option<Rank<'a>> {
    let (first, last) = slots_of(record, count)?;
    let mod_revision = kept.good.as_ref().map(|good| good.version).or(kept.bad)?.mod_revision;
    (first..=last).contains(&slot).then_some((last - first, Reverse((mod_revision, record))))
}

/// `7` or `0-31`.
fn slots_of(record: &[u8], count: u64) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(record).ok()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < count).then_some((first, last))
}

/// What stands between the first `{` and the next `}`, if something does.
fn tag(key: &[u8]) -> &[u8] {
    let inside = key.iter().position(|byte| *byte == b'{').map(|open| &key[open + 1..]);
    let inside = inside.and_then(|inside| Some(&inside[..inside.iter().position(|byte| *byte == b'}')?]));
    inside.filter(|inside| !inside.is_empty()).unwrap_or(key)
}

/// CRC-16 with the polynomial 0x1021, bit by bit.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let start = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(start, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    })
}

#[test]
fn the_model_hashes_as_redis_cluster_does() {
    assert_eq!(crc16(b"123456789"), 0x31c3);
    assert_eq!(tag(b"foo{bar}{zap}"), b"bar");
    assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}");
    assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
}
