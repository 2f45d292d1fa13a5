//! A snapshot's bytes: written as a stream, so that it is never whole in memory, and read with every length and number checked.
//!
//! Layout, integers little-endian, byte strings behind their length (u32): magic, version (u32), table id (cluster id and incarnation),
//! revision, the last changes behind the revision of the list that they begin with and their count, digest; then entries, each behind a
//! tag (u8), in any order but that a name comes before its first use; at the end the XXH3-128 of everything before it. A route is some
//! forty bytes beside its key: names have numbers, by their order.

use std::{
    collections::HashMap,
    io::{self, Write},
    thread,
};

use waypost_conf::{Endpoint, Name, Record, RecordKey, Route, RouteState, decode};
use waypost_policy::{
    Source, TableId,
    table::{Batch, Meta},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Content, SnapshotFault};
use crate::{
    anchor::{LastChange, LastChanges},
    applier::{Applier, Bad, is_held},
};

pub(super) const MAGIC: &[u8; 8] = b"WAYPOST\n";
pub(super) const VERSION: u32 = 3;

/// Routes are put in batches of so many.
const BATCH: usize = 20_000;

/// What an entry is.
mod tag {
    /// Nothing: the entries end.
    pub(super) const END: u8 = 0;
    /// A name, to be referred to by its number.
    pub(super) const NAME: u8 = 1;
    /// A good route.
    pub(super) const ROUTE: u8 = 2;
    /// Any other good record, as JSON.
    pub(super) const RECORD: u8 = 3;
    /// A bad value; a good one of the same key comes before.
    pub(super) const BAD: u8 = 4;
    /// The last leased endpoint of an upstream that would have none.
    pub(super) const ORPHAN: u8 = 5;
    /// A key that cut the key space into ranges for listing. No longer written: the table has them.
    pub(super) const FENCE: u8 = 6;
    /// The key of a held route that is in doubt; the route comes before.
    pub(super) const DOUBT: u8 = 7;
}

/// States of a route, as they are written.
const SERVING: u8 = 0;
const MOVING: u8 = 1;
const FROZEN: u8 = 2;
/// With a target, which the table does not keep. No longer written.
const FROZEN_FOR: u8 = 3;

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    /// Holds the records.
    pub applier: Applier,
}

/// Writes everything.
pub(super) fn write(content: &Content, out: impl Write) -> io::Result<()> {
    let mut out = Writer { out, hash: Xxh3::new(), names: HashMap::new() };
    out.bytes(MAGIC)?;
    out.bytes(&VERSION.to_le_bytes())?;
    out.field(content.id.as_str().as_bytes())?;
    out.bytes(&content.revision.to_le_bytes())?;
    out.bytes(&content.last_changes.begin_at().to_le_bytes())?;
    let count = u32::try_from(content.last_changes.iter().count()).map_err(io::Error::other)?;
    out.bytes(&count.to_le_bytes())?;
    for LastChange { key, mod_revision, digest } in content.last_changes.iter() {
        out.field(key)?;
        out.bytes(&mod_revision.to_le_bytes())?;
        out.bytes(&[u8::from(digest.is_some())])?;
        out.bytes(&digest.unwrap_or(0).to_le_bytes())?;
    }
    out.bytes(&content.digest.to_le_bytes())?;
    for (key, record, meta) in content.records.iter() {
        out.record(&key, &record, meta)?;
    }
    for (key, bad) in &content.bad {
        out.bytes(&[tag::BAD])?;
        out.field(key)?;
        out.meta(bad.meta)?;
        out.field(bad.reason.as_bytes())?;
        out.field(&serde_json::to_vec(&bad.matches)?)?;
    }
    for key in &content.doubted {
        out.bytes(&[tag::DOUBT])?;
        out.field(key)?;
    }
    for (upstream, endpoint) in content.records.orphans() {
        out.bytes(&[tag::ORPHAN])?;
        out.field(upstream.as_bytes())?;
        out.field(&serde_json::to_vec(endpoint)?)?;
    }
    out.bytes(&[tag::END])?;
    let checksum = out.hash.digest128();
    out.out.write_all(&checksum.to_le_bytes())
}

struct Writer<W> {
    out: W,
    hash: Xxh3,
    names: HashMap<Name, u32>,
}

impl<W: Write> Writer<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    fn field(&mut self, field: &[u8]) -> io::Result<()> {
        let length = u32::try_from(field.len()).map_err(|_| io::Error::other("a field is larger than a snapshot can hold"))?;
        self.bytes(&length.to_le_bytes())?;
        self.bytes(field)
    }

    fn meta(&mut self, meta: Meta) -> io::Result<()> {
        self.bytes(&meta.create_revision.to_le_bytes())?;
        self.bytes(&meta.mod_revision.to_le_bytes())?;
        self.bytes(&meta.digest.to_le_bytes())?;
        self.bytes(&[u8::from(meta.leased)])
    }

    fn record(&mut self, key: &RecordKey, record: &Record, meta: Meta) -> io::Result<()> {
        if let (RecordKey::Route { service, key }, Record::Route(route)) = (key, record) {
            return self.route(service, key, route, meta);
        }
        self.bytes(&[tag::RECORD])?;
        self.field(&key.suffix())?;
        self.meta(meta)?;
        self.field(&serde_json::to_vec(&record.to_json())?)
    }

    fn route(&mut self, service: &Name, key: &[u8], route: &Route, meta: Meta) -> io::Result<()> {
        let (state, target) = match &route.state {
            RouteState::Serving => (SERVING, None),
            RouteState::Moving { target } => (MOVING, Some(target)),
            RouteState::Frozen { .. } => (FROZEN, None),
        };
        let (service, owner) = (self.name(service)?, self.name(&route.owner)?);
        let target = target.map(|target| self.name(target)).transpose()?;
        self.bytes(&[tag::ROUTE])?;
        self.bytes(&service.to_le_bytes())?;
        self.field(key)?;
        self.meta(meta)?;
        self.bytes(&owner.to_le_bytes())?;
        // No record has epoch 0: it stands for none.
        self.bytes(&route.epoch.unwrap_or(0).to_le_bytes())?;
        self.bytes(&[state])?;
        target.map_or(Ok(()), |target| self.bytes(&target.to_le_bytes()))
    }

    /// The number of a name, which is written now if it is new.
    fn name(&mut self, name: &Name) -> io::Result<u32> {
        if let Some(number) = self.names.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.names.len()).map_err(|_| io::Error::other("there are more names than a snapshot can hold"))?;
        self.names.insert(name.clone(), number);
        self.bytes(&[tag::NAME])?;
        self.field(name.as_bytes())?;
        Ok(number)
    }
}

/// Reads a snapshot.
///
/// # Errors
/// If it is not a whole snapshot of a version that can be read.
pub fn decode_snapshot(bytes: &[u8], allow_empty: bool) -> Result<Loaded, SnapshotFault> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotFault::Foreign)?;
    let version = rest.first_chunk().map(|four| u32::from_le_bytes(*four)).ok_or(SnapshotFault::Foreign)?;
    if version != VERSION {
        return Err(SnapshotFault::Version(version));
    }
    let (content, checksum) = bytes.split_last_chunk::<16>().ok_or(SnapshotFault::Damaged("it is cut short"))?;
    // Beside the reading, which takes any bytes; and first to be asked, since it says most.
    let (is_whole, read) = thread::scope(|scope| {
        let beside = scope.spawn(|| xxh3_128(content) == u128::from_le_bytes(*checksum));
        let read = read(content, allow_empty);
        (beside.join().unwrap_or(false), read)
    });
    if !is_whole {
        return Err(SnapshotFault::Damaged("its checksum does not match"));
    }
    read
}

/// Reads everything but the checksum.
fn read(content: &[u8], allow_empty: bool) -> Result<Loaded, SnapshotFault> {
    let mut from = Reader { rest: content.get(MAGIC.len() + 4..).unwrap_or_default(), names: Vec::new() };
    let id = TableId::from(&*String::from_utf8_lossy(from.field()?));
    let mut applier = Applier::new(id.clone(), Source::Watch, allow_empty);
    let revision = from.u64()?;
    let mut last_changes = LastChanges::listed_at(from.u64()?);
    for _ in 0..from.u32()? {
        let (key, mod_revision) = (from.field()?.to_vec(), from.u64()?);
        let (is_put, digest) = (from.flag()?, from.u128()?);
        last_changes.add(LastChange { key, mod_revision, digest: is_put.then_some(digest) });
    }
    let digest = from.u128()?;
    let mut orphans = Vec::new();
    let mut routes = Routes::default();
    loop {
        let tag = from.u8()?;
        // The others are about routes that came before.
        if !matches!(tag, tag::ROUTE | tag::NAME) {
            routes.put(&mut applier);
        }
        match tag {
            tag::END => break,
            tag::NAME => {
                let name = Name::try_from(from.field()?).map_err(|_| SnapshotFault::Damaged("a name is none"))?;
                from.names.push(name);
            }
            tag::ROUTE => {
                let (service, key, route, meta) = from.route()?;
                if is_held(meta) || !routes.push(&service, key, &route, meta) {
                    applier.restore(&RecordKey::Route { service, key: key.to_vec() }, Record::Route(route), meta);
                }
            }
            tag::RECORD => {
                let key = RecordKey::parse(from.field()?).map_err(|_| SnapshotFault::Damaged("a key is none"))?;
                let meta = from.meta()?;
                let decoded = decode(&key, from.field()?).map_err(|_| SnapshotFault::Damaged("a record can't be decoded"))?;
                applier.restore(&key, decoded.record, meta);
            }
            tag::BAD => {
                let key = from.field()?.to_vec();
                let meta = from.meta()?;
                let reason = String::from_utf8_lossy(from.field()?).into_owned();
                let matches =
                    serde_json::from_slice(from.field()?).map_err(|_| SnapshotFault::Damaged("a match entry can't be decoded"))?;
                applier.restore_bad(key, Bad { meta, reason, matches });
            }
            tag::ORPHAN => {
                let upstream = Name::try_from(from.field()?).map_err(|_| SnapshotFault::Damaged("a name is none"))?;
                let endpoint: Endpoint =
                    serde_json::from_slice(from.field()?).map_err(|_| SnapshotFault::Damaged("an endpoint can't be decoded"))?;
                orphans.push((upstream, endpoint));
            }
            tag::DOUBT => applier.restore_doubt(from.field()?.to_vec()),
            tag::FENCE => drop(from.field()?),
            _ => return Err(SnapshotFault::Damaged("it holds something unknown")),
        }
    }
    if !from.rest.is_empty() {
        return Err(SnapshotFault::Damaged("something follows its end"));
    }
    if applier.digest() != digest {
        return Err(SnapshotFault::Damaged("its digest does not match its records"));
    }
    // Behind all records: one of the upstream's would end it.
    orphans.into_iter().for_each(|(upstream, endpoint)| applier.restore_orphan(upstream, endpoint));
    applier.restore_cursor(revision, id, last_changes);
    Ok(Loaded { applier })
}

/// Good routes that were read and are not put yet.
#[derive(Default)]
struct Routes {
    batches: Vec<Batch>,
}

impl Routes {
    /// False if it can't be put with the others.
    fn push(&mut self, service: &Name, key: &[u8], route: &Route, meta: Meta) -> bool {
        if self.batches.last().is_none_or(|batch| batch.len() >= BATCH) {
            let mut batch = Batch::default();
            batch.reserve(BATCH);
            self.batches.push(batch);
        }
        self.batches.last_mut().is_some_and(|batch| batch.push(service, key, route, meta))
    }

    fn put(&mut self, applier: &mut Applier) {
        if !self.batches.is_empty() {
            applier.put_batches(std::mem::take(&mut self.batches).iter());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    names: Vec<Name>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], SnapshotFault> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(SnapshotFault::Damaged("it ends in the middle"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], SnapshotFault> {
        self.take(N)?.try_into().map_err(|_| SnapshotFault::Damaged("it ends in the middle"))
    }

    fn u8(&mut self) -> Result<u8, SnapshotFault> {
        Ok(u8::from_le_bytes(self.chunk()?))
    }

    fn u32(&mut self) -> Result<u32, SnapshotFault> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    fn u64(&mut self) -> Result<u64, SnapshotFault> {
        Ok(u64::from_le_bytes(self.chunk()?))
    }

    fn u128(&mut self) -> Result<u128, SnapshotFault> {
        Ok(u128::from_le_bytes(self.chunk()?))
    }

    fn flag(&mut self) -> Result<bool, SnapshotFault> {
        Ok(self.u8()? != 0)
    }

    fn field(&mut self) -> Result<&'a [u8], SnapshotFault> {
        let length = self.u32()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn meta(&mut self) -> Result<Meta, SnapshotFault> {
        let (create_revision, mod_revision, digest) = (self.u64()?, self.u64()?, self.u128()?);
        Ok(Meta { create_revision, mod_revision, digest, leased: self.flag()? })
    }

    fn name(&mut self) -> Result<Name, SnapshotFault> {
        let number = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.names.get(number).cloned().ok_or(SnapshotFault::Damaged("a name is missing"))
    }

    fn route(&mut self) -> Result<(Name, &'a [u8], Route, Meta), SnapshotFault> {
        let service = self.name()?;
        let key = self.field()?;
        let meta = self.meta()?;
        let owner = self.name()?;
        let epoch = Some(self.u64()?).filter(|epoch| *epoch > 0);
        let state = match self.u8()? {
            SERVING => RouteState::Serving,
            MOVING => RouteState::Moving { target: self.name()? },
            FROZEN => RouteState::Frozen { move_id: None, target: None },
            FROZEN_FOR => RouteState::Frozen { move_id: None, target: Some(self.name()?) },
            _ => return Err(SnapshotFault::Damaged("a route's state is none")),
        };
        Ok((service, key, Route { owner, epoch, state }, meta))
    }
}
