//! The routes of one service whose routing keys are hashed into slots: which record covers which slot.
//!
//! Of records that overlap the narrowest wins, then the one with the higher mod_revision (INTERFACE.md). The map from slots to records is
//! cut into pages of which a publish copies only those that its records touch. A record whose key is no range of slots covers
//! nothing and is warned of.

use std::{collections::BTreeSet, sync::Arc};

use crc::{CRC_16_XMODEM, Crc};
use waypost_conf::{SlotHash, escaped};

use super::{super::Route, Doubt, GROWN, sorted::Sorted};

/// Redis Cluster's hash (its specification names it CRC16-CCITT, XMODEM).
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
/// Slots a page.
const PAGE: usize = 256;
/// How many overlaps and gaps are named one by one.
const MAX_NAMED: usize = 8;

type Page = [Option<Arc<Covering>>; PAGE];

/// A record as the slots see it.
#[derive(Clone, Debug)]
pub(super) struct Covering {
    /// The record's key below `routes/<service>/`.
    pub(super) record: Box<[u8]>,
    pub(super) route: Route,
    first: u32,
    last: u32,
}

/// The slots of one service.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    count: u32,
    hash: SlotHash,
    records: Sorted<Route>,
    pages: Arc<Vec<Arc<Page>>>,
    /// The slots whose records have changed since the pages were written.
    touched: Option<(u32, u32)>,
    /// Something is to be said that was not said before.
    has_news: bool,
    /// Records that took slots over from others at no newer epoch.
    grown: BTreeSet<Box<[u8]>>,
}

impl Slots {
    pub(super) fn new(count: u32, hash: SlotHash) -> Self {
        let empty: Arc<Page> = Arc::new([const { None }; PAGE]);
        let pages = (0..(count as usize).div_ceil(PAGE)).map(|_| Arc::clone(&empty)).collect();
        Self { count, hash, records: Sorted::default(), pages: Arc::new(pages), touched: None, has_news: true, grown: BTreeSet::new() }
    }

    /// Whether it is cut this way.
    pub(super) fn is(&self, count: u32, hash: SlotHash) -> bool {
        (self.count, self.hash) == (count, hash)
    }

    pub(super) fn records(&self) -> &Sorted<Route> {
        &self.records
    }

    /// The record that covers a routing key; as of the last [`Self::settle`].
    pub(super) fn find(&self, key: &[u8]) -> Option<&Covering> {
        let slot = slot_of(key, self.count, self.hash) as usize;
        self.pages.get(slot / PAGE)?[slot % PAGE].as_deref()
    }

    pub(super) fn insert(&mut self, record: &[u8], route: Route) -> Option<Route> {
        self.touch(record);
        self.records.insert(record, route)
    }

    pub(super) fn remove(&mut self, record: &[u8]) -> Option<Route> {
        self.touch(record);
        self.records.remove(record)
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.touched.is_some() || self.has_news
    }

    /// Writes the pages that changed records touch; true if any were.
    pub(super) fn settle(&mut self) -> bool {
        let has_news = std::mem::take(&mut self.has_news);
        let Some((from, to)) = self.touched.take() else { return has_news };
        let mut covering: Vec<_> = self.coverings().filter(|covering| covering.first <= to && covering.last >= from).collect();
        covering.sort_by_key(rank);
        let mut slots: Vec<Option<Arc<Covering>>> = vec![None; (to - from + 1) as usize];
        for covering in covering {
            let (first, last) = (covering.first.max(from) - from, covering.last.min(to) - from);
            slots[first as usize..=last as usize].fill(Some(Arc::new(covering)));
        }
        let pages = Arc::make_mut(&mut self.pages);
        for (slot, covering) in (from as usize..).zip(slots) {
            let here = &mut Arc::make_mut(&mut pages[slot / PAGE])[slot % PAGE];
            if let (Some(before), Some(now)) = (here.as_deref(), covering.as_deref())
                && before.record != now.record
                && now.route.epoch <= before.route.epoch
                && !self.grown.contains(&now.record)
            {
                self.grown.insert(now.record.clone());
            }
            *here = covering;
        }
        true
    }

    /// What is doubtful: records that are no range of slots, records that overlap, slots that nobody covers. `is_gap_served`: a default
    /// owner takes what nobody covers. Each is the record's key, or none, and a sentence.
    pub(super) fn doubts(&self, is_gap_served: bool) -> Vec<Doubt> {
        let count = self.count;
        let odd = self.records.iter().filter(|(record, _)| parse(record, count).is_none());
        let odd = odd.map(|(record, _)| {
            let wanted = format!("covers nothing: a slot below {count} (7) or a range of them (0-{}) would be right", count - 1);
            (Some(record.into()), wanted)
        });
        let mut sorted: Vec<_> = self.coverings().collect();
        sorted.sort_by_key(|covering| (covering.first, covering.last));
        let mut overlaps = Vec::new();
        let mut gaps = Vec::new();
        let mut widest: Option<&Covering> = None;
        for covering in &sorted {
            let covered_to = widest.map(|widest| widest.last);
            if let Some(over) = widest.filter(|over| over.last >= covering.first) {
                let (winner, loser) = if rank(over) > rank(covering) { (over, covering) } else { (covering, over) };
                let text = format!("overlaps {}, which wins where both cover a slot", escaped(&winner.record));
                overlaps.push((Some(loser.record.clone()), text));
            } else if covered_to.map_or(covering.first > 0, |to| to + 1 < covering.first) {
                gaps.push((covered_to.map_or(0, |to| to + 1), covering.first - 1));
            }
            if covered_to.is_none_or(|to| covering.last > to) {
                widest = Some(covering);
            }
        }
        let covered_to = widest.map(|widest| widest.last);
        if covered_to.is_none_or(|to| to + 1 < count) {
            gaps.push((covered_to.map_or(0, |to| to + 1), count - 1));
        }
        let gaps = (!gaps.is_empty()).then(|| {
            let named: Vec<String> = gaps.iter().take(MAX_NAMED).map(|(from, to)| format!("{from}-{to}")).collect();
            let more = gaps.len().saturating_sub(MAX_NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let fate = if is_gap_served { "they go to the default owner" } else { "their requests are answered 404 no_route" };
            (None, format!("no route covers the slots {}{more}; {fate}", named.join(", ")))
        });
        let grown = self.grown.iter().map(|record| (Some(record.clone()), GROWN.to_owned()));
        odd.take(MAX_NAMED).chain(grown.take(MAX_NAMED)).chain(overlaps.into_iter().take(MAX_NAMED)).chain(gaps).collect()
    }

    fn coverings(&self) -> impl Iterator<Item = Covering> {
        self.records.iter().filter_map(|(record, route)| {
            let (first, last) = parse(record, self.count)?;
            Some(Covering { record: record.into(), route: *route, first, last })
        })
    }

    fn touch(&mut self, record: &[u8]) {
        let Some((first, last)) = parse(record, self.count) else {
            // It covers nothing, but what is said of the records changes.
            self.has_news = true;
            return;
        };
        self.grown.remove(record);
        let (from, to) = self.touched.unwrap_or((first, last));
        self.touched = Some((from.min(first), to.max(last)));
    }
}

/// What is painted later wins: the narrower, then the newer.
fn rank(covering: &Covering) -> (std::cmp::Reverse<u32>, u64) {
    (std::cmp::Reverse(covering.last - covering.first), covering.route.meta.mod_revision)
}

/// `7` or `0-5460`, both ends included; `None` for anything else, also beyond the last slot.
fn parse(record: &[u8], count: u32) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(record).ok()?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last && last < count).then_some((first, last))
}

/// The slot of a routing key, below `count`.
fn slot_of(key: &[u8], count: u32, hash: SlotHash) -> u32 {
    match hash {
        SlotHash::Crc16 => u32::from(CRC16.checksum(hash_tag(key))) % count.max(1),
        // The remainder is below `count`, which is a u32.
        SlotHash::Xxh3 => (xxhash_rust::xxh3::xxh3_64(key) % u64::from(count.max(1))) as u32,
    }
}

/// What Redis Cluster hashes of a key: what stands between the first `{` and the next `}`, unless nothing does.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else { return key };
    let inside = &key[open + 1..];
    match inside.iter().position(|b| *b == b'}') {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

#[cfg(test)]
mod tests;
