//! What a course is made of: upstreams, keys and how they change, and whether anything breaks.

use std::time::Duration;

use fastrand::Rng;

/// The hosts of the two services: `orders` is exact, `ranges` is cut into ranges.
pub(crate) const HOSTS: [&str; 2] = ["orders.example", "ranges.example"];

/// How a key changes its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By handovers alone: exclusion is promised.
    HandedOver,
    /// By plain puts, deletes and freezes: only healing is promised.
    Put,
    /// Item by item: its owner may say that one has gone already.
    Moving,
    /// It is owned by one that says what is not so.
    False,
    /// It stays where it is; there are many of these, and their owner goes.
    Crowd,
}

/// A routing key. No two have the same name, not even of two services.
pub(crate) struct Key {
    pub(crate) service: &'static str,
    pub(crate) name: String,
    /// The record that covers it.
    pub(crate) record: String,
    pub(crate) kind: Kind,
}

/// An owner.
pub(crate) struct Upstream {
    pub(crate) name: &'static str,
    pub(crate) instances: usize,
    pub(crate) is_aware: bool,
    pub(crate) is_false: bool,
}

pub(crate) struct Plan {
    /// Whether anything breaks.
    pub(crate) is_faulty: bool,
    /// Whether owners stop without the store, so that a lease's end is a word; nothing is paused then, but the store may be away for long.
    pub(crate) stops: bool,
    /// Whether many keys become stale at once.
    pub(crate) has_storm: bool,
    pub(crate) redirects: bool,
    pub(crate) total_ms: u64,
    pub(crate) park_ms: u64,
    pub(crate) max_hops: u32,
    /// Places for requests that wait.
    pub(crate) room: usize,
    pub(crate) keys: Vec<Key>,
    pub(crate) upstreams: Vec<Upstream>,
    /// How much later than others each proxy hears of changes.
    pub(crate) lags: Vec<Duration>,
    /// Between two requests, on average.
    pub(crate) gap: Duration,
    pub(crate) length: Duration,
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let (is_faulty, has_storm, has_false) = (rng.u32(0..3) > 0, rng.u32(0..25) == 0, rng.u32(0..4) == 0);
        let stops = is_faulty && rng.u32(0..8) == 0;
        let are_aware = rng.bool();
        let true_one =
            |rng: &mut Rng, name| Upstream { name, instances: rng.usize(1..=2), is_aware: are_aware || rng.bool(), is_false: false };
        let mut upstreams: Vec<Upstream> = ["a", "b"].map(|name| true_one(rng, name)).into();
        if rng.bool() {
            upstreams.push(true_one(rng, "c"));
        }
        let key = |name: &str, kind| Key { service: "orders", name: name.to_owned(), record: format!("routes/orders/{name}"), kind };
        let mut keys: Vec<Key> = ["h0", "h1", "h2"].map(|name| key(name, Kind::HandedOver)).into();
        keys.extend(["p0", "p1"].map(|name| key(name, Kind::Put)));
        keys.push(key("m0", Kind::Moving));
        for (name, record) in [("r1", "r"), ("r2", "r"), ("s1", "s")] {
            let record = format!("routes/ranges/{record}");
            keys.push(Key { service: "ranges", name: name.to_owned(), record, kind: Kind::HandedOver });
        }
        if has_false {
            upstreams.extend(["f", "g"].map(|name| Upstream { name, instances: 1, is_aware: false, is_false: true }));
            keys.extend(["f0", "g0"].map(|name| key(name, Kind::False)));
        }
        if has_storm {
            keys.extend((0..90).map(|n| key(&format!("x{n}"), Kind::Crowd)));
        }
        let slow = |rng: &mut Rng| if rng.u32(0..3) == 0 { Duration::from_millis(rng.u64(20..=500)) } else { Duration::ZERO };
        let proxies = rng.usize(2..=3);
        Self {
            is_faulty,
            stops,
            has_storm,
            redirects: rng.u32(0..8) == 0,
            total_ms: if rng.bool() { 5000 } else { 0 },
            park_ms: 1000,
            max_hops: 3,
            room: if rng.u32(0..10) == 0 { 3 } else { 200 },
            keys,
            upstreams,
            lags: (0..proxies).map(|_| slow(rng)).collect(),
            gap: Duration::from_micros(rng.u64(4000..=40_000)) * if stops { 4 } else { 1 },
            length: Duration::from_millis(rng.u64(4000..=9000)) * if stops { 4 } else { 1 },
        }
    }

    pub(crate) fn address(&self, upstream: &str, number: usize) -> String {
        let position = self.upstreams.iter().position(|it| it.name == upstream).unwrap();
        format!("10.0.{position}.{number}:80")
    }

    pub(crate) fn key_named(&self, name: &[u8]) -> usize {
        self.keys.iter().position(|key| key.name.as_bytes() == name).unwrap()
    }

    /// Whether a body of any size may be sent to all owners without being lost on a refusal.
    pub(crate) fn are_aware(&self) -> bool {
        self.upstreams.iter().all(|upstream| upstream.is_aware)
    }

    /// Whether all proxies hear of changes soon enough: an owner can't tell a route that has gone from one that it has not heard of yet, and
    /// waits for it.
    pub(crate) fn are_close(&self) -> bool {
        self.lags.iter().all(|lag| *lag < Duration::from_millis(100))
    }

    /// The upstreams that do as they should.
    pub(crate) fn true_upstreams(&self) -> Vec<&'static str> {
        self.upstreams.iter().filter(|upstream| !upstream.is_false).map(|upstream| upstream.name).collect()
    }

    /// Whether requests for a key always come to a good end while nothing breaks.
    pub(crate) fn is_promised(&self, key: usize) -> bool {
        !matches!(self.keys[key].kind, Kind::False | Kind::Crowd)
    }

    /// The records of a course's beginning.
    pub(crate) fn records(&self, rng: &mut Rng) -> Vec<(String, String)> {
        let on_stale = if self.redirects { r#""on_stale":"redirect","# } else { "" };
        let Self { total_ms, park_ms, max_hops, .. } = self;
        let timeouts = format!(r#"{{"connect_ms":300,"first_byte_ms":2500,"total_ms":{total_ms}}}"#);
        let mut records = vec![
            ("policies/default".to_owned(), format!(r#"{{{on_stale}"max_hops":{max_hops},"park_ms":{park_ms},"timeouts":{timeouts}}}"#)),
            (
                "services/orders".to_owned(),
                format!(r#"{{"match":[{{"hosts":["{}"]}}],"key":{{"header":"x-tenant"}},"default_owner":"a"}}"#, HOSTS[0]),
            ),
            (
                "services/ranges".to_owned(),
                format!(r#"{{"match":[{{"hosts":["{}"]}}],"key":{{"header":"x-tenant"}},"partition":"range"}}"#, HOSTS[1]),
            ),
        ];
        for Upstream { name, instances, is_aware, .. } in &self.upstreams {
            let endpoints: Vec<String> = (0..*instances).map(|n| format!(r#"{{"address":"{}"}}"#, self.address(name, n))).collect();
            let value = format!(r#"{{"endpoints":[{}],"stale_aware":{is_aware}}}"#, endpoints.join(","));
            records.push((format!("upstreams/{name}"), value));
        }
        let owners = self.true_upstreams();
        for key in &self.keys {
            let owner = match key.kind {
                Kind::False => &key.name[..1],
                Kind::Crowd => "a",
                _ => owners[rng.usize(..owners.len())],
            };
            // Some have epochs of their own, the others their revisions.
            let epoch = if rng.bool() { format!(r#","epoch":{}"#, rng.u64(1..50)) } else { String::new() };
            if !records.iter().any(|(record, _)| *record == key.record) {
                records.push((key.record.clone(), format!(r#"{{"owner":"{owner}"{epoch}}}"#)));
            }
        }
        records
    }
}
