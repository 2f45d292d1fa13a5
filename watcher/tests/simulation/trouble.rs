//! What happens to the store, to its members and to the proxy, and what is written meanwhile.

use std::{collections::BTreeMap, time::Duration};

use waypost_watcher::machine::Input;

use crate::{
    network::Lag,
    store::{Change, LEASES, lease_of},
    world::{MEMBERS, What, World},
};

const ORDERS: &str = r#"{"match":[{"hosts":["a.example"]}],"key":{"header":"x"}}"#;
/// How the routes of the service `cut` may be cut.
const PARTITIONS: [&str; 5] =
    [r#""exact""#, r#""range""#, r#"{"slots":64,"hash":"crc16"}"#, r#"{"slots":64,"hash":"xxh3"}"#, r#"{"slots":1000,"hash":"xxh3"}"#];
/// Records of that service: slots, and names that are none.
const CUTS: [&str; 10] = ["0-31", "32-63", "7", "0-999", "16-47", "8-7", "a", "k5", "b", "64"];
/// Routes of a store that is guarded against mass deletes.
const MANY: u32 = 130;
const FEW: u32 = 12;

impl World {
    pub(crate) fn trouble(&mut self) {
        match self.rng.u32(0..1000) {
            0..500 => {
                let changes = self.changes();
                self.write(changes);
            }
            500..570 => {
                let back = self.rng.u64(0..4);
                self.store.compact(self.store.revision().saturating_sub(back));
            }
            570..610 => self.cut(),
            610..650 => {
                if let Some(sender) = &mut self.sender {
                    sender.stalled = true;
                }
            }
            650..700 => self.store.back_up(),
            700..750 => self.go_down(),
            750..780 => {
                let raise = self.raise();
                self.go_down();
                self.store.restore(Some(raise));
            }
            780..790 => {
                self.go_down();
                self.store.restore(None);
            }
            790..797 => self.lose_the_store(),
            797..820 => {
                let raise = self.raise();
                self.write(vec![(b"incarnation".to_vec(), Some(raise.to_string()))]);
            }
            820..850 => self.repeat(),
            850..880 => {
                let until = self.now + self.some_time(20_000);
                let revision = self.store.revision();
                self.lags[self.rng.usize(..MEMBERS)] = Some(Lag { revision, until });
            }
            880..920 => self.expire(),
            920..950 => self.restart(),
            _ => self.write_much(),
        }
    }

    /// From now on the store is up and whole, the network is quick, and a restore that was not told is told.
    pub(crate) fn become_calm(&mut self) {
        self.calm = true;
        self.up = true;
        self.calm_from = self.store.revision();
        self.lags = [None; MEMBERS];
        let raise = self.raise();
        self.write(vec![(b"incarnation".to_vec(), Some(raise.to_string()))]);
        self.fill();
        if self.sender.as_ref().is_some_and(|sender| sender.stalled) {
            self.sender = None;
        }
    }

    /// Writes what there should be.
    pub(crate) fn fill(&mut self) {
        let base = [("services/orders", ORDERS), ("upstreams/a", "{}"), ("upstreams/b", "{}"), ("upstreams/l", "{}")];
        let mut changes: Vec<Change> = base.map(|(key, value)| (key.as_bytes().to_vec(), Some(value.to_owned()))).into();
        changes.push(self.cut_service());
        changes.extend((0..if self.is_large { MANY } else { FEW }).map(|n| self.route(n)));
        self.write(changes);
    }

    pub(crate) fn write(&mut self, changes: Vec<Change>) {
        self.store.transact(changes);
        self.written();
    }

    fn written(&mut self) {
        let slow = self.chance(20);
        let by = self.some_time(if slow { 2000 } else { 2 });
        self.later(by, What::Send);
    }

    fn raise(&mut self) -> u64 {
        self.highest_incarnation += 1;
        self.highest_incarnation
    }

    /// A transaction over a few keys: owners and epochs, bad values, deletes; or a change below another prefix.
    fn changes(&mut self) -> Vec<Change> {
        let mut changes = BTreeMap::new();
        for _ in 0..self.rng.usize(0..6) {
            let (key, value) = self.change();
            changes.insert(key, value);
        }
        changes.into_iter().collect()
    }

    fn change(&mut self) -> Change {
        let (key, mut value) = match self.rng.u32(0..20) {
            0..9 => {
                let n = self.rng.u32(..if self.is_large { MANY } else { FEW });
                self.route(n)
            }
            9..14 => {
                let name = CUTS[self.rng.usize(..CUTS.len())];
                self.route_of("cut", name)
            }
            14..16 => self.cut_service(),
            16..19 => {
                let upstream = if self.rng.bool() { "l" } else { "a" };
                // A few that nobody's lease holds.
                let kind = if upstream == "a" && self.rng.bool() { "m" } else { "e" };
                let n = self.rng.u32(0..5);
                let value = format!(r#"{{"address":"127.0.0.1:{}"}}"#, 7000 + n + if kind == "m" { 10 } else { 0 });
                (format!("endpoints/{upstream}/{kind}{n}").into_bytes(), Some(value))
            }
            _ => {
                let values = ["{}", r#"{"endpoints":[{"address":"127.0.0.1:6999"}]}"#, r#"{"balance":"round_robin"}"#];
                (b"upstreams/a".to_vec(), Some(values[self.rng.usize(..values.len())].to_owned()))
            }
        };
        match self.rng.u32(0..10) {
            // What no request could do without is deleted with much else only.
            0..2 if !key.starts_with(b"upstreams/") && !key.starts_with(b"services/") => value = None,
            2 => value = Some(format!("bad {}", self.values)),
            _ => {}
        }
        (key, value)
    }

    fn route(&mut self, n: u32) -> Change {
        self.route_of("orders", &format!("t{n}"))
    }

    fn route_of(&mut self, service: &str, name: &str) -> Change {
        self.values += 1;
        let owner = if self.rng.bool() { "a" } else { "b" };
        // Mostly upwards, so that most are good.
        let epoch = match self.rng.u32(0..20) {
            _ if self.calm => format!(r#","epoch":{}"#, 1_000_000 + self.values),
            0..2 => format!(r#","epoch":{}"#, self.rng.u64(1..=self.values)),
            2..4 => String::new(),
            _ => format!(r#","epoch":{}"#, 1000 + self.values),
        };
        let state = match self.rng.u32(0..10) {
            0 => r#","state":"frozen""#,
            1 => r#","state":"moving","target":"b""#,
            _ => "",
        };
        // Spaces make every value another one.
        let value = format!(r#"{{"owner":"{owner}"{epoch}{state}}}{}"#, " ".repeat(usize::try_from(self.values % 7).unwrap()));
        (format!("routes/{service}/{name}").into_bytes(), Some(value))
    }

    /// Another partition, or a value that is bad but says whose requests it would be.
    fn cut_service(&mut self) -> Change {
        let partition = if self.rng.u32(0..8) == 0 { "7" } else { PARTITIONS[self.rng.usize(..PARTITIONS.len())] };
        let value = format!(r#"{{"match":[{{"hosts":["c.example"]}}],"key":{{"header":"x"}},"partition":{partition}}}"#);
        (b"services/cut".to_vec(), Some(value))
    }

    fn go_down(&mut self) {
        self.up = false;
        self.starts += 1;
        self.lags = [None; MEMBERS];
        self.cut();
        let by = self.some_time(4000);
        self.later(by, What::Up);
    }

    /// An empty store takes the place of the present one: with the same settings it has the same id.
    fn lose_the_store(&mut self) {
        self.go_down();
        if self.rng.bool() {
            self.clusters += 1;
        }
        let raise = self.rng.bool().then(|| self.raise());
        self.store.replace_by_empty(self.clusters, raise);
        if self.rng.bool() {
            self.fill();
        }
    }

    /// A lease ends, or one after the other all of them do: each in one revision, for all its keys.
    fn expire(&mut self) {
        let one = self.rng.u32(..LEASES);
        let is_all = self.rng.bool();
        for lease in (0..LEASES).filter(|lease| is_all || *lease == one) {
            self.store.delete_all(|key| lease_of(key) == Some(lease));
        }
        self.written();
    }

    /// Much in one revision: deletes of some, most or all routes, or of everything; or all that there should be.
    fn write_much(&mut self) {
        let start = match self.rng.u32(0..6) {
            0 => "",
            1 => "routes/",
            2 => "routes/orders/",
            3 => "routes/orders/t1",
            _ => return self.fill(),
        };
        let but = self.rng.u8(b'0'..=b'9');
        let is_all = self.rng.bool();
        self.store.delete_all(|key| key.starts_with(start.as_bytes()) && (is_all || key.last() != Some(&but)));
        self.written();
    }

    /// The proxy ends, in order or killed, and another begins with what is on disk.
    fn restart(&mut self) {
        match self.rng.u32(0..10) {
            0..4 => self.save(),
            4..6 => self.shell.lose_snapshots(self.rng.usize(..3)),
            6 => self.shell.lose_snapshots(usize::MAX),
            _ => {}
        }
        self.begin_process();
        self.feed(Input::Start);
        // A process takes a moment to begin, in which nothing is heard.
        self.now = self.now + Duration::from_millis(self.rng.u64(0..300));
    }
}
