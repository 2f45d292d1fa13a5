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
/// So many separate changes are written each by itself; of more, all slots between them.
const MAX_TOUCHED: usize = 64;
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
    /// The records that cover something, by [`indexed`].
    by_width: Sorted<()>,
    pages: Arc<Vec<Arc<Page>>>,
    /// The slots whose records have changed since the pages were written: from, to.
    touched: Vec<(u32, u32)>,
    /// Records that took slots over from others at no newer epoch.
    grown: BTreeSet<Box<[u8]>>,
}

impl Slots {
    pub(super) fn new(count: u32, hash: SlotHash) -> Self {
        let empty: Arc<Page> = Arc::new([const { None }; PAGE]);
        let pages = (0..(count as usize).div_ceil(PAGE)).map(|_| Arc::clone(&empty)).collect();
        let (records, by_width) = (Sorted::default(), Sorted::default());
        Self { count, hash, records, by_width, pages: Arc::new(pages), touched: Vec::new(), grown: BTreeSet::new() }
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
        let before = self.records.insert(record, route);
        if let Some(slots) = self.touch(record)
            && before.is_none()
        {
            self.by_width.insert(&indexed(record, slots), ());
        }
        before
    }

    pub(super) fn remove(&mut self, record: &[u8]) -> Option<Route> {
        let gone = self.records.remove(record)?;
        if let Some(slots) = self.touch(record) {
            self.by_width.remove(&indexed(record, slots));
        }
        Some(gone)
    }

    pub(super) fn is_unsettled(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Writes the slots that changed records touch.
    pub(super) fn settle(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut touched = touched.into_iter().peekable();
        while let Some((from, mut to)) = touched.next() {
            while let Some((_, last)) = touched.next_if(|(first, _)| *first <= to + 1) {
                to = to.max(last);
            }
            self.write(from, to);
        }
    }

    fn write(&mut self, from: u32, to: u32) {
        let mut covering: Vec<_> = self.over(from, to).collect();
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
    }

    /// The records that cover any of these slots. Those of about one width are looked for together: none begins more than that before `from`.
    fn over(&self, from: u32, to: u32) -> impl Iterator<Item = Covering> {
        let widths = (0..=u32::BITS).map_while(move |width| (1u64 << width <= u64::from(self.count)).then_some(width));
        widths.flat_map(move |width| {
            let widest = u32::try_from((2u64 << width) - 1).unwrap_or(u32::MAX);
            let start = indexed_from(width, from.saturating_sub(widest));
            let records = self.by_width.from(&start).map_while(move |(key, ())| key.split_at_checked(start.len()));
            let records = records.take_while(move |(head, _)| *head <= &indexed_from(width, to)[..]);
            records.filter_map(move |(_, record)| self.covering(record)).filter(move |covering| covering.last >= from)
        })
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
        self.records.iter().filter_map(|(record, _)| self.covering(record))
    }

    fn covering(&self, record: &[u8]) -> Option<Covering> {
        let (first, last) = parse(record, self.count)?;
        Some(Covering { record: record.into(), route: *self.records.get(record)?, first, last })
    }

    /// Notes that the slots of a record are to be written, if it covers any: these.
    fn touch(&mut self, record: &[u8]) -> Option<(u32, u32)> {
        let slots = parse(record, self.count)?;
        self.grown.remove(record);
        if self.touched.len() >= MAX_TOUCHED {
            let all = self.touched.drain(..).chain([slots]);
            let all = all.reduce(|(from, to), (first, last)| (from.min(first), to.max(last)));
            self.touched.extend(all);
        } else if self.touched.last() != Some(&slots) {
            self.touched.push(slots);
        }
        Some(slots)
    }
}

/// The key of a record among those that cover slots: the width's order of magnitude, then where it begins.
fn indexed(record: &[u8], (first, last): (u32, u32)) -> Vec<u8> {
    [&indexed_from((last - first + 1).ilog2(), first)[..], record].concat()
}

fn indexed_from(width: u32, first: u32) -> [u8; 5] {
    let [a, b, c, d] = first.to_be_bytes();
    // A logarithm of a u32.
    [width as u8, a, b, c, d]
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
