//! Explanations held against the exchange: whatever the table, the hints and the request, they say what is then done.

use std::{collections::BTreeSet, time::Duration};

use proptest::{collection::vec, prelude::*};
use waypost_conf::RecordKey;

use super::*;
use crate::{
    Exchange, Hint, Hints, Input, Moment, Next, Reply, TableId,
    table::{Meta, Publication, RequestKey, testing},
};

struct Request {
    target: String,
    host: Option<&'static str>,
    headers: Vec<(&'static str, &'static [u8])>,
}

impl Head for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn target(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn authority(&self) -> Option<&[u8]> {
        self.host.map(str::as_bytes)
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(given, _)| *given == name).map(|(_, value)| *value)
    }
}

/// No answer is ever read here.
enum Nothing {}

impl Reply for Nothing {
    fn status(&self) -> u16 {
        match *self {}
    }

    fn values<'a>(&'a self, _: &'a str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

/// Owners of every kind; the last has no record.
const UPSTREAMS: [(&str, &str); 5] = [
    ("one", r#"{"endpoints":[{"address":"127.0.0.1:1"}]}"#),
    ("two", r#"{"endpoints":[{"address":"127.0.0.1:2"},{"address":"127.0.0.1:3"}]}"#),
    ("turns", r#"{"endpoints":[{"address":"127.0.0.1:4"},{"address":"unresolved:5"},{"address":"127.0.0.1:6"}],"balance":"round_robin"}"#),
    ("empty", "{}"),
    ("nameless", r#"{"endpoints":[{"address":"unresolved:7"}]}"#),
];
const OWNERS: [&str; 6] = ["one", "two", "turns", "empty", "nameless", "nobody"];
const HOSTS: [&str; 6] =
    ["", r#""hosts":["a.b.c"],"#, r#""hosts":["*.b.c"],"#, r#""hosts":["*.c"],"#, r#""hosts":["k1.b.c","*.c"],"#, r#""hosts":["c"],"#];
const PREFIXES: [&str; 4] = ["/", "/a", "/a/b", "/x"];
const KEYS: [&str; 6] = [
    "",
    r#","key":{"header":"x-tenant"}"#,
    r#","key":{"query":"t"}"#,
    r#","key":{"cookie":"t"}"#,
    r#","key":{"path":"/a/{key}/*rest"}"#,
    r#","key":{"host":"{key}.b.c"}"#,
];

#[derive(Clone, Debug)]
struct ServicePlan {
    host: usize,
    prefix: usize,
    key: usize,
    default_owner: Option<usize>,
    dot_segments: bool,
    quarantined: bool,
}

#[derive(Clone, Debug)]
struct RoutePlan {
    service: usize,
    key: usize,
    owner: usize,
    epoch: u64,
    /// 0 serving, 1 moving, 2 frozen, 3 quarantined.
    state: usize,
}

#[derive(Clone, Debug)]
struct HintPlan {
    service: usize,
    key: usize,
    owner: usize,
    epoch: u64,
    reached: bool,
}

#[derive(Clone, Debug)]
struct Plan {
    services: Vec<ServicePlan>,
    routes: Vec<RoutePlan>,
    hints: Vec<HintPlan>,
    /// Which of the endpoints have just refused, as bits.
    refusing: u8,
}

fn plans() -> impl Strategy<Value = Plan> {
    // Weighted, so that most requests meet a service and a route, and the rest go wrong in every way.
    let host = prop_oneof![2 => Just(0), 1 => 0..HOSTS.len()];
    let prefix = prop_oneof![2 => Just(0), 1 => 0..PREFIXES.len()];
    let key = prop_oneof![2 => Just(1), 1 => 0..KEYS.len()];
    let service = (host, prefix, key, proptest::option::of(0..OWNERS.len()), any::<bool>(), 0..8);
    let service = service.prop_map(|(host, prefix, key, default_owner, dot_segments, quarantined)| ServicePlan {
        host,
        prefix,
        // Without a key everything goes to the default owner, so there must be one.
        key: if default_owner.is_none() { key.max(1) } else { key },
        default_owner,
        dot_segments,
        quarantined: quarantined == 0,
    });
    let route = (0usize..3, 0usize..2, 0..OWNERS.len(), 1u64..9, 0usize..6);
    let route =
        route.prop_map(|(service, key, owner, epoch, state)| RoutePlan { service, key, owner, epoch, state: state.saturating_sub(2) });
    let hint = (0usize..3, 0usize..2, 0..OWNERS.len(), 1u64..16, any::<bool>());
    let hint = hint.prop_map(|(service, key, owner, epoch, reached)| HintPlan { service, key, owner, epoch, reached });
    (vec(service, 1..5), vec(route, 0..8), vec(hint, 0..5), any::<u8>()).prop_map(|(services, routes, hints, refusing)| Plan {
        services,
        routes,
        hints,
        refusing,
    })
}

fn requests() -> impl Strategy<Value = Request> {
    const GIVEN: [&str; 6] = ["k0", "k1", "k9", "", "%zz", "k%30"];
    let host = prop_oneof![
        6 => Just(Some("a.b.c")),
        3 => Just(Some("k1.b.c:80")),
        1 => proptest::sample::select(vec![None, Some("c"), Some("elsewhere"), Some("K0.B.C.")]),
    ];
    let odd = vec!["/a/b", "/ab", "/a/../x", "/x/%2e", "*", "nonsense", "http://a.b.c/a/k0", ""];
    let path =
        prop_oneof![3 => Just("/"), 2 => Just("/a/k0"), 2 => Just("/a/k1/rest"), 1 => Just("/a"), 1 => proptest::sample::select(odd)];
    let odd: Vec<Option<&[u8]>> = vec![None, Some(b" k1 "), Some(b"\xff"), Some(&[b'k'; 1100])];
    let first = prop_oneof![4 => Just(Some(&b"k0"[..])), 3 => Just(Some(&b"k1"[..])), 1 => proptest::sample::select(odd)];
    let second = prop_oneof![9 => Just(None), 1 => Just(Some(&b"k0"[..]))];
    let cookie = proptest::sample::select(vec![None, Some(&b"a=b; t=k0"[..]), Some(&b"t=k1"[..])]);
    (host, path, proptest::option::of(0..GIVEN.len()), first, second, cookie).prop_map(|(host, path, query, first, second, cookie)| {
        let query = query.map(|at| format!("?t={}", GIVEN[at])).unwrap_or_default();
        let tenants = first.into_iter().chain(second).map(|value| ("x-tenant", value));
        let headers = tenants.chain(cookie.map(|value| ("cookie", value))).collect();
        Request { target: format!("{path}{query}"), host, headers }
    })
}

impl std::fmt::Debug for Request {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?} {:?} {:?}", self.host, self.target, self.headers)
    }
}

const REVISION: u64 = 10;

/// The table and the hints of a plan.
fn built(plan: &Plan) -> (Arc<Table>, Hints) {
    let mut builder = testing::builder(&[]);
    for (name, record) in UPSTREAMS {
        testing::put(&mut builder, &format!("upstreams/{name}"), record, 1);
    }
    for (number, service) in plan.services.iter().enumerate() {
        let entry = format!(r#"[{{{}"path_prefix":"{}"}}]"#, HOSTS[service.host], PREFIXES[service.prefix]);
        let owner = service.default_owner.map(|owner| format!(r#","default_owner":"{}""#, OWNERS[owner])).unwrap_or_default();
        let record = format!(r#"{{"match":{entry}{}{owner},"dot_segments":{}}}"#, KEYS[service.key], service.dot_segments);
        let key = format!("services/s{number}");
        testing::put(&mut builder, &key, &record, 1);
        if service.quarantined {
            let record = waypost_conf::decode(&RecordKey::parse(key.as_bytes()).unwrap(), record.as_bytes()).unwrap().record;
            let waypost_conf::Record::Service(record) = record else { panic!() };
            builder.quarantine(&RecordKey::parse(key.as_bytes()).unwrap(), Meta::default(), record.matches);
        }
    }
    for route in &plan.routes {
        let key = format!("routes/s{}/k{}", route.service, route.key);
        let state = ["", r#","state":"moving","target":"one""#, r#","state":"frozen""#, ""][route.state];
        if route.state == 3 {
            builder.quarantine(&RecordKey::parse(key.as_bytes()).unwrap(), Meta::default(), Vec::new());
        } else {
            let record = format!(r#"{{"owner":"{}","epoch":{}{state}}}"#, OWNERS[route.owner], route.epoch);
            testing::put(&mut builder, &key, &record, 1);
        }
    }
    let hints = Hints::default();
    for hint in &plan.hints {
        let service = builder.service_id(&format!("s{}", hint.service).as_str().try_into().unwrap());
        let owner = builder.upstream_id(&OWNERS[hint.owner].try_into().unwrap());
        let key = RequestKey { service, key: format!("k{}", hint.key).into_bytes().into() };
        let revision = if hint.reached { REVISION } else { REVISION + 1 };
        let reporter = "127.0.0.1:9".try_into().unwrap();
        hints.take(&key, Hint { owner, epoch: hint.epoch, revision, reporter, taken_at: Moment::default(), over: 1 });
    }
    let table = builder.publish(Publication { revision: REVISION, id: TableId::etcd(1, 0), source: Source::Watch, digest: 0 });
    for (bit, endpoint) in table.upstreams().flat_map(|upstream| &upstream.endpoints).enumerate() {
        if plan.refusing >> bit & 1 == 1 {
            endpoint.state.refuse(Moment::default());
        }
    }
    (table, hints)
}

/// What explaining may not move.
fn untouched(table: &Table, hints: &Hints) -> (usize, u64, Vec<usize>, u32) {
    let turns = table.upstreams().map(|upstream| upstream.turn.load(std::sync::atomic::Ordering::Relaxed)).collect();
    let in_flight = table.upstreams().flat_map(|upstream| &upstream.endpoints).map(|endpoint| endpoint.state.in_flight()).sum();
    (hints.len(), hints.refuted(), turns, in_flight)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4 * ProptestConfig::default().cases))]

    #[test]
    fn an_explanation_says_what_is_then_done(plan in plans(), request in requests(), seed in any::<u64>()) {
        let (table, hints) = built(&plan);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World { table: &table, hints: &hints, now: Moment::default(), gold_age: Duration::ZERO, is_other_history: false, rng: &mut rng };
        let before = untouched(&table, &hints);
        let explained = explain(&request, &world);
        prop_assert_eq!(before, untouched(&table, &hints), "explaining has changed something");
        let usable: BTreeSet<_> = explained.endpoints.iter().filter(|endpoint| endpoint.usable).map(|endpoint| endpoint.address.clone()).collect();

        let mut used = BTreeSet::new();
        for _ in 0..64 {
            let mut exchange = Exchange::default();
            let next = exchange.step(&request, Input::<Nothing>::Start, &mut world);
            let trace = exchange.trace();
            prop_assert_eq!(trace.service.as_ref().map(|service| &service.name), explained.service.as_ref().map(|service| &service.name));
            prop_assert_eq!(&trace.key, &explained.key);
            match (next, explained.decision) {
                (Next::Forward(lease, stamp), Decision::Forward) => {
                    let route = explained.route.as_ref().unwrap();
                    prop_assert_eq!((Some(&lease.upstream().name), stamp.epoch), (route.owner.as_ref(), route.epoch));
                    prop_assert_eq!(Some(&lease.upstream().name), explained.upstream.as_ref().map(|upstream| &upstream.name));
                    prop_assert_eq!(stamp.revision, explained.revision);
                    let dispatched = trace.dispatches.iter().next().unwrap();
                    prop_assert_eq!((dispatched.source, dispatched.epoch), (route.source, route.epoch));
                    used.insert(lease.endpoint().address.clone());
                }
                (Next::Park(key), Decision::Park) => prop_assert_eq!(Some(&key.key), explained.key.as_ref()),
                (Next::Answer(code), Decision::Answer(said)) => {
                    prop_assert_eq!(code, said);
                    prop_assert!(usable.is_empty() && explained.why.is_some());
                    break;
                }
                (next, said) => prop_assert!(false, "said {said:?}, did {next:?}"),
            }
        }
        // 64 draws out of at most three: one that is never drawn may not be.
        prop_assert_eq!(used, usable);
    }

    #[test]
    fn every_other_service_is_told_why(plan in plans(), request in requests()) {
        let (table, hints) = built(&plan);
        let world = World { table: &table, hints: &hints, now: Moment::default(), gold_age: Duration::ZERO, is_other_history: false, rng: &mut fastrand::Rng::with_seed(1) };
        let explained = explain(&request, &world);
        if Target::parse(request.target()).is_none() {
            prop_assert!(explained.not_chosen.is_empty());
            return Ok(());
        }
        let mut named: Vec<&str> = explained.not_chosen.iter().map(|other| &*other.service).collect();
        named.extend(explained.service.as_ref().map(|service| &*service.name));
        named.sort_unstable();
        let mut all: Vec<&str> = table.services().iter().map(|service| &*service.name).collect();
        all.sort_unstable();
        prop_assert_eq!(named, all);
        for other in &explained.not_chosen {
            let decided_by_the_winner = other.why.starts_with("age: ") || other.why.contains("gives way");
            prop_assert!(["host: ", "path: ", "age: "].iter().any(|by| other.why.starts_with(by)), "{}", other.why);
            prop_assert!(explained.service.is_some() || !decided_by_the_winner, "nothing won, but: {}", other.why);
        }
    }
}

/// The words, once each.
#[test]
fn the_words_name_what_decided() {
    let table = testing::table(
        &[
            ("services/orders", r#"{"match":[{"hosts":["orders.example.com"],"path_prefix":"/v1"}],"key":{"header":"x-tenant"}}"#),
            ("services/shop", r#"{"match":[{"hosts":["*.example.com"]}],"default_owner":"a"}"#),
            ("services/short", r#"{"match":[{"hosts":["orders.example.com"]}],"default_owner":"a"}"#),
            ("services/young", r#"{"match":[{"hosts":["orders.example.com"],"path_prefix":"/v1"}],"default_owner":"a"}"#),
            ("services/billing", r#"{"match":[{"hosts":["billing.example.com"]}],"default_owner":"a"}"#),
            ("services/deep", r#"{"match":[{"path_prefix":"/deep"}],"default_owner":"a"}"#),
            ("upstreams/a", r#"{"endpoints":[{"address":"127.0.0.1:1"},{"address":"nowhere:2"}]}"#),
            ("routes/orders/t1", r#"{"owner":"a","epoch":5}"#),
            ("routes/orders/t2", r#"{"owner":"gone","epoch":5}"#),
        ],
        7,
    );
    let hints = Hints::default();
    let explained = |tenant: &'static [u8]| {
        let world = World {
            table: &table,
            hints: &hints,
            now: Moment::default(),
            gold_age: Duration::ZERO,
            is_other_history: false,
            rng: &mut fastrand::Rng::with_seed(1),
        };
        explain(&Request { target: "/v1/x?y".to_owned(), host: Some("orders.example.com"), headers: vec![("x-tenant", tenant)] }, &world)
    };
    let known = explained(b"t1");
    assert_eq!(known.matched, Some(("orders.example.com".to_owned(), "/v1".to_owned())));
    assert_eq!(known.endpoints[1].why.as_deref(), Some("its name has not been resolved yet"));
    let others: Vec<_> = known.not_chosen.iter().map(|other| (&*other.service, &*other.why)).collect();
    assert_eq!(
        others,
        [
            ("young", "age: claims the same as orders, whose record is older"),
            ("short", "path: / gives way to the longer /v1 of orders"),
            ("shop", "host: *.example.com gives way to orders.example.com of orders"),
            ("deep", "path: wants /deep"),
            ("billing", "host: wants billing.example.com"),
        ]
    );
    assert_eq!(explained(b"t2").why.as_deref(), Some("the owner \"gone\" has no record; put upstreams/gone"));
    assert_eq!(explained(b"t3").why.as_deref(), Some("there is no routes/orders/t3, and services/orders has no default_owner"));
    let key = RequestKey { service: table.service_named("orders").unwrap().id, key: b"t1"[..].into() };
    let owner = table.upstream_named("a").unwrap().id;
    let reporter = "127.0.0.1:9".try_into().unwrap();
    hints.take(&key, Hint { owner, epoch: 6, revision: 8, reporter, taken_at: Moment::default(), over: 1 });
    let route = explained(b"t1").route.unwrap();
    assert_eq!((route.source, route.epoch, route.over), (Source::Hint, 6, Some((Some("a".try_into().unwrap()), 5))));
    assert!(route.why.unwrap().contains("127.0.0.1:9"));
}
