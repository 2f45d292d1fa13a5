//! What is played: the rows of STALE-ROUTES.md's table of answers, each as what the store has of a key, what is asked, and what is right.
//!
//! Pure. Every case has a key of its own, so that no case can disturb another.

use waypost_policy::wire::{StaleState, Stamp};

/// The epoch that the routes of all cases have, where they have one.
pub(super) const EPOCH: u64 = 5;
/// How long a proxy lets an owner wait, and how long where waiting is what is looked at.
const WAIT_MS: u64 = 50;
const LONG_WAIT_MS: u64 = 300;

/// What the store has of a case's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The backend owns it.
    Mine,
    /// The same by a record without an `epoch`: it is the record's mod_revision.
    MineByRevision,
    /// It belongs to another upstream.
    Others,
    /// It is the backend's, and nobody may serve it.
    Frozen,
    /// It is the other's, and moving to the backend.
    MovingHere,
    /// It is the backend's, and moving to the other.
    MovingAway,
    /// There is no route; the service's default owner is the backend.
    Nothing,
}

/// What the stamp says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamped {
    /// There is none.
    No,
    Equal,
    Older,
    Newer,
    /// Of another incarnation of the store, whose epochs have no order with these: above where the backend owns the key, else below.
    AnotherTable,
    /// The same epoch, and `ask` names the backend.
    Ask,
}

/// How the request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sends {
    /// The safe one; it has no body.
    Read,
    /// The unsafe one, with its small body.
    Write,
    /// The unsafe one, of which only the head is sent.
    WriteHead,
    /// The same, and it expects to be told to go on.
    WriteExpecting,
}

/// Whom a refusal is to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Nobody: the proxy is to ask the store.
    Nobody,
    /// The backend itself, at the record's epoch.
    Me,
    /// The other upstream, at the record's epoch.
    Other,
    /// The other upstream or nobody.
    Either,
}

/// What is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is served.
    Served,
    /// It is served, and the proxy's view is corrected.
    ServedWithUpdate,
    /// It is served, or the target of the move is to be asked.
    ServedOrAsk,
    /// It is refused, and nothing is executed.
    Refused(StaleState, Names),
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// The table's row.
    pub(super) row: &'static str,
    /// What happens, and what is right.
    pub(super) says: &'static str,
    pub(super) known: Known,
    pub(super) stamped: Stamped,
    pub(super) sends: Sends,
    pub(super) wanted: Wanted,
    /// Whether the key is no ASCII, so that it travels as a byte sequence.
    pub(super) is_odd: bool,
}

const fn case(row: &'static str, says: &'static str, known: Known, stamped: Stamped, sends: Sends, wanted: Wanted) -> Case {
    Case { row, says, known, stamped, sends, wanted, is_odd: false }
}

const MOVED_ON: Wanted = Wanted::Refused(StaleState::Moved, Names::Other);
const MOVED: Wanted = Wanted::Refused(StaleState::Moved, Names::Nobody);
const BEHIND: Wanted = Wanted::Refused(StaleState::Behind, Names::Nobody);
const HANDOFF: Wanted = Wanted::Refused(StaleState::Handoff, Names::Nobody);

/// All whose world does not change while they are played, in the order of the table.
pub(super) const CASES: [Case; 25] = [
    case("a", "no stamp, a key that it owns: served", Known::Mine, Stamped::No, Sends::Write, Wanted::Served),
    case(
        "a",
        "no stamp, a key of another owner: moved",
        Known::Others,
        Stamped::No,
        Sends::Write,
        Wanted::Refused(StaleState::Moved, Names::Either),
    ),
    case("b", "another table, a key that it owns: served", Known::Mine, Stamped::AnotherTable, Sends::Write, Wanted::Served),
    case("b", "another table, a key of another owner: moved, without an owner", Known::Others, Stamped::AnotherTable, Sends::Write, MOVED),
    case("c", "asked, and the key is moving to it: served", Known::MovingHere, Stamped::Ask, Sends::Write, Wanted::Served),
    case("c", "asked, and the key is not moving to it: behind", Known::Others, Stamped::Ask, Sends::Write, BEHIND),
    case("d", "a newer epoch that never comes, a key that it owns: behind", Known::Mine, Stamped::Newer, Sends::Write, BEHIND),
    case("d", "a newer epoch that never comes, a key of another owner: behind", Known::Others, Stamped::Newer, Sends::Read, BEHIND),
    case(
        "e",
        "an older epoch, a safe method: served, with Route-Update",
        Known::Mine,
        Stamped::Older,
        Sends::Read,
        Wanted::ServedWithUpdate,
    ),
    case(
        "e",
        "an older epoch, an unsafe method: moved to itself",
        Known::Mine,
        Stamped::Older,
        Sends::Write,
        Wanted::Refused(StaleState::Moved, Names::Me),
    ),
    case("f", "the same epoch: served", Known::Mine, Stamped::Equal, Sends::Write, Wanted::Served),
    case("f", "a route without an epoch has its revision: served", Known::MineByRevision, Stamped::Equal, Sends::Write, Wanted::Served),
    case("f", "no route, and it is the default owner: served", Known::Nothing, Stamped::Equal, Sends::Write, Wanted::Served),
    case("f", "the key is moving away: served, or ask", Known::MovingAway, Stamped::Equal, Sends::Write, Wanted::ServedOrAsk),
    case("g", "a key whose newer owner it knows, an unsafe method: moved there", Known::Others, Stamped::Older, Sends::Write, MOVED_ON),
    case("g", "a key whose newer owner it knows, a safe method: moved there", Known::Others, Stamped::Older, Sends::Read, MOVED_ON),
    Case {
        is_odd: true,
        ..case(
            "g",
            "the same of a key that is no ASCII: moved there, a byte sequence",
            Known::Others,
            Stamped::Older,
            Sends::Read,
            MOVED_ON,
        )
    },
    case("g'", "a frozen key, an unsafe method: handoff", Known::Frozen, Stamped::Equal, Sends::Write, HANDOFF),
    case("g'", "a frozen key, a safe method: handoff", Known::Frozen, Stamped::Equal, Sends::Read, HANDOFF),
    case("g'", "a frozen key, an older epoch: handoff", Known::Frozen, Stamped::Older, Sends::Write, HANDOFF),
    case("h", "a key of another owner, nothing newer known: moved, without an owner", Known::Others, Stamped::Equal, Sends::Write, MOVED),
    case("h", "the same with a safe method: moved, without an owner", Known::Others, Stamped::Equal, Sends::Read, MOVED),
    case("head", "decided on the head alone, the body never comes: moved", Known::Others, Stamped::Older, Sends::WriteHead, MOVED_ON),
    case("head", "refused before 100 Continue: moved", Known::Others, Stamped::Older, Sends::WriteExpecting, MOVED_ON),
    case("head", "the same of a frozen key: handoff", Known::Frozen, Stamped::Equal, Sends::WriteExpecting, HANDOFF),
];

/// Rows that are no case of [`CASES`]; they come behind those.
pub(super) const EXECUTED: &str = "executed";
pub(super) const HANDOVER: &str = "handover";

/// Every row that can be chosen.
pub(super) fn rows() -> Vec<&'static str> {
    let mut rows: Vec<&str> = CASES.iter().map(|case| case.row).chain([EXECUTED, HANDOVER]).collect();
    rows.dedup();
    rows
}

/// Who is who in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cast {
    pub(super) service: String,
    /// The upstream under test.
    pub(super) me: String,
    /// The other one.
    pub(super) other: String,
    /// The incarnation of the store.
    pub(super) table: String,
}

/// What is true of a key while a case is played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) key: Vec<u8>,
    /// The record's epoch; 0 where there is none.
    pub(super) epoch: u64,
    /// The revision of the record, at least.
    pub(super) revision: u64,
}

impl Case {
    /// The route's record, if there is one.
    pub(super) fn route(&self, cast: &Cast) -> Option<serde_json::Value> {
        let Cast { me, other, .. } = cast;
        let epoch = EPOCH;
        Some(match self.known {
            Known::Nothing => return None,
            Known::Mine => serde_json::json!({ "owner": me, "epoch": epoch }),
            Known::MineByRevision => serde_json::json!({ "owner": me }),
            Known::Others => serde_json::json!({ "owner": other, "epoch": epoch }),
            Known::Frozen => serde_json::json!({ "owner": me, "epoch": epoch, "state": "frozen" }),
            Known::MovingHere => serde_json::json!({ "owner": other, "epoch": epoch, "state": "moving", "target": me }),
            Known::MovingAway => serde_json::json!({ "owner": me, "epoch": epoch, "state": "moving", "target": other }),
        })
    }

    /// What is true of its key, once all routes are in the store at this revision.
    pub(super) fn facts(&self, key: Vec<u8>, revision: u64) -> Facts {
        let epoch = match self.known {
            Known::Nothing => 0,
            Known::MineByRevision => revision,
            _ => EPOCH,
        };
        Facts { key, epoch, revision }
    }

    /// The stamp of its request.
    pub(super) fn stamp(&self, cast: &Cast, facts: &Facts) -> Option<Stamp> {
        let stamp = stamp(cast, facts);
        let epoch = facts.epoch;
        Some(match self.stamped {
            Stamped::No => return None,
            Stamped::Equal => stamp,
            Stamped::Older => Stamp { epoch: epoch.saturating_sub(1), ..stamp },
            Stamped::Newer => Stamp { epoch: epoch + 1, wait_ms: LONG_WAIT_MS, ..stamp },
            Stamped::AnotherTable => {
                let epoch = if self.known == Known::Mine { epoch + 37 } else { epoch.saturating_sub(1) };
                Stamp { table: another(&cast.table).into(), epoch, ..stamp }
            }
            Stamped::Ask => Stamp { ask: Some(cast.me.clone()), hop: 1, ..stamp },
        })
    }

    /// Whether a write of it must not be executed.
    pub(super) fn must_not_execute(&self) -> bool {
        self.sends == Sends::Write && matches!(self.wanted, Wanted::Refused(..))
    }
}

/// What a proxy says that knows all of it.
pub(super) fn stamp(cast: &Cast, facts: &Facts) -> Stamp {
    Stamp {
        service: cast.service.as_str().into(),
        key: Some(facts.key.as_slice().into()),
        epoch: facts.epoch,
        revision: facts.revision,
        table: cast.table.as_str().into(),
        hop: 0,
        wait_ms: WAIT_MS,
        ask: None,
    }
}

/// The same store in another incarnation.
fn another(table: &str) -> String {
    match table.rsplit_once('-') {
        Some((cluster, incarnation)) => format!("{cluster}-{}", incarnation.parse::<u64>().map_or(1, |number| number + 1)),
        None => format!("{table}-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_conf::{RecordKey, decode_strict};

    fn cast() -> Cast {
        Cast { service: "orders".to_owned(), me: "cell-a".to_owned(), other: "cell-b".to_owned(), table: "c0ffee-0".to_owned() }
    }

    #[test]
    fn every_row_of_the_table_is_played_and_every_record_is_sound() {
        assert_eq!(rows(), ["a", "b", "c", "d", "e", "f", "g", "g'", "h", "head", "executed", "handover"]);
        for case in CASES {
            let Some(route) = case.route(&cast()) else { continue };
            let key = RecordKey::parse(b"routes/orders/k").unwrap();
            decode_strict(&key, route.to_string().as_bytes()).unwrap();
        }
    }

    /// The library's judgement is the table's: what is wanted here is what it says.
    #[test]
    fn what_is_wanted_is_what_an_owner_in_rust_says() {
        use waypost_policy::owner::{Asked, Judgement, judge};
        for case in CASES {
            let route = case.route(&cast()).map(|route| route.to_string());
            let table = table_with(route.as_deref());
            let facts = case.facts(b"k".to_vec(), 20);
            let stamp = case.stamp(&cast(), &facts);
            let is_safe = case.sends == Sends::Read;
            let judged = judge(&table, "cell-a", &Asked { service: "orders", key: b"k", stamp: stamp.as_ref(), is_safe, may_wait: false });
            let fits = match (case.wanted, &judged) {
                (Wanted::Served | Wanted::ServedOrAsk, Judgement::Serve(serving)) => serving.update.is_none(),
                (Wanted::ServedWithUpdate, Judgement::Serve(serving)) => serving.update.is_some(),
                (Wanted::Refused(state, names), Judgement::Refuse(stale)) => {
                    stale.state == state
                        && match names {
                            Names::Nobody => stale.owner.is_none(),
                            Names::Me => stale.owner.as_deref() == Some("cell-a"),
                            Names::Other => stale.owner.as_deref() == Some("cell-b"),
                            Names::Either => true,
                        }
                }
                _ => false,
            };
            assert!(fits, "{}: {}: {judged:?}", case.row, case.says);
        }
    }

    fn table_with(route: Option<&str>) -> std::sync::Arc<waypost_policy::Table> {
        use waypost_policy::{
            Source, TableId,
            table::{Builder, Meta, Publication},
        };
        let mut records = vec![
            ("services/orders", r#"{"match":[{}],"key":{"header":"x-tenant"},"default_owner":"cell-a"}"#),
            ("upstreams/cell-a", "{}"),
            ("upstreams/cell-b", "{}"),
        ];
        records.extend(route.map(|route| ("routes/orders/k", route)));
        let mut builder = Builder::default();
        for (key, value) in records {
            let key = RecordKey::parse(key.as_bytes()).unwrap();
            let meta = Meta { create_revision: 20, mod_revision: 20, digest: 0, leased: false };
            builder.put(&key, waypost_conf::decode(&key, value.as_bytes()).unwrap().record, meta);
        }
        builder.publish(Publication { revision: 20, id: TableId::etcd(0xc0ffee, 0), source: Source::Watch, digest: 0 })
    }

    #[test]
    fn another_incarnation_is_another_table() {
        assert_eq!((another("c0ffee-0"), another("x")), ("c0ffee-1".to_owned(), "x-1".to_owned()));
    }
}
