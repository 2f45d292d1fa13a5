//! The exchange by script and by property: the same `step` that transports carry out.

mod passage;
mod waits;

use std::collections::HashMap;

use proptest::prelude::*;
use waypost_conf::RecordKey;

use super::*;
use crate::{
    hints::Ending,
    table::{Builder, Entry, Publication, Read, TableId, testing},
    wire::{Stale, StaleState},
};

const ID: &str = "c0ffee-0";

/// A request that carries its key in a header.
struct Get(&'static str, &'static str);

impl Head for Get {
    fn method(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn target(&self) -> &[u8] {
        self.1.as_bytes()
    }

    fn authority(&self) -> Option<&[u8]> {
        Some(b"orders.example.com")
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (name == "x-tenant").then_some(&b"t1"[..]).into_iter()
    }
}

struct Answered(u16, Option<String>);

impl Reply for Answered {
    fn status(&self) -> u16 {
        self.0
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let header = if self.0 == 421 { "route-stale" } else { "route-update" };
        self.1.as_deref().filter(|_| name == header).map(str::as_bytes).into_iter()
    }
}

fn answered(began: Moment) -> Found {
    Found::Answered { began }
}

/// Everything that is shared, with a builder to move the table on.
struct Scene {
    builder: Builder,
    table: Arc<Table>,
    hints: Hints,
    now: Moment,
    gold_age: Duration,
    rng: fastrand::Rng,
}

impl Scene {
    fn new(extra: &[(&str, &str)]) -> Self {
        let mut records = vec![
            ("services/orders", r#"{"match":[{"hosts":["orders.example.com"]}],"key":{"header":"x-tenant"}}"#),
            ("upstreams/a", r#"{"endpoints":[{"address":"127.0.0.1:1"}],"public_url":"https://a.example.com"}"#),
            ("upstreams/b", r#"{"endpoints":[{"address":"127.0.0.1:2"}]}"#),
            ("upstreams/c", r#"{"endpoints":[{"address":"127.0.0.1:3"}]}"#),
            ("routes/orders/t1", r#"{"owner":"a","epoch":5}"#),
        ];
        records.extend_from_slice(extra);
        let mut builder = testing::builder(&records);
        let table = publish(&mut builder, 10);
        Self { builder, table, hints: Hints::default(), now: Moment::default(), gold_age: Duration::ZERO, rng: fastrand::Rng::with_seed(1) }
    }

    fn step(&mut self, exchange: &mut Exchange, input: Input<'_, Answered>) -> Next {
        self.step_for(&Get("GET", "/x?y=1"), exchange, input)
    }

    fn step_for(&mut self, head: &Get, exchange: &mut Exchange, input: Input<'_, Answered>) -> Next {
        let mut world = World {
            table: &self.table,
            hints: &self.hints,
            now: self.now,
            gold_age: self.gold_age,
            is_other_history: false,
            rng: &mut self.rng,
        };
        exchange.step(head, input, &mut world)
    }

    fn put(&mut self, key: &str, value: &str, revision: u64) {
        testing::put(&mut self.builder, key, value, revision);
        self.table = publish(&mut self.builder, revision);
    }

    fn started(&mut self) -> (Exchange, Next) {
        let mut exchange = Exchange::default();
        let next = self.step(&mut exchange, Input::Start);
        (exchange, next)
    }

    fn key(&self) -> RequestKey {
        RequestKey { service: self.table.service_named("orders").unwrap().id, key: b"t1"[..].into() }
    }
}

fn publish(builder: &mut Builder, revision: u64) -> Arc<Table> {
    builder.publish(Publication { revision, id: TableId::from(ID), source: Source::Watch, digest: 0 })
}

fn stale(owner: &str, epoch: u64) -> Stale {
    Stale {
        state: StaleState::Moved,
        service: Some("orders".to_owned()),
        key: Some(b"t1".to_vec()),
        owner: Some(owner.to_owned()),
        epoch: Some(epoch),
        revision: Some(20),
        table: Some(ID.to_owned()),
    }
}

fn moved(stale: &Stale) -> Answered {
    Answered(421, Some(stale.to_value()))
}

/// Owner, epoch and hop of a forward.
fn sent(next: &Next) -> (String, u64, u32) {
    match next {
        Next::Forward(lease, stamp) => (lease.upstream().name.to_string(), stamp.epoch, stamp.hop),
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn a_request_goes_to_its_owner_with_a_stamp() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, next) = scene.started();
    assert_eq!(sent(&next), ("a".to_owned(), 5, 0));
    assert!(matches!(scene.step(&mut exchange, Input::Reply(&Answered(200, None), Body::None)), Next::Relay));
    assert!(matches!(scene.step(&mut exchange, Input::Reply(&Answered(421, None), Body::None)), Next::Relay), "a 421 of the application");
}

#[test]
fn a_newer_owner_is_followed_and_remembered() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::Buffered));
    assert_eq!(sent(&next), ("b".to_owned(), 6, 1));
    assert_eq!(exchange.trace().outcome, Some(StaleOutcome::Followed));
    assert_eq!(sent(&scene.started().1), ("b".to_owned(), 6, 0), "the hint serves the next request");
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 20);
    assert_eq!(sent(&scene.started().1), ("b".to_owned(), 6, 0));
    assert!(scene.hints.is_empty(), "the table has reached the hint's revision");
}

#[test]
fn what_may_not_be_followed_leads_to_a_check_and_dials_nothing() {
    let cases = [
        stale("b", 5),
        stale("b", 4),
        stale("b", 0),
        stale("nobody", 6),
        stale("127.0.0.1:2", 6),
        Stale { table: Some("c0ffee-1".to_owned()), ..stale("b", 6) },
        Stale { table: None, ..stale("b", 6) },
        Stale { key: Some(b"t2".to_vec()), ..stale("b", 6) },
        Stale { key: None, ..stale("b", 6) },
        Stale { service: Some("billing".to_owned()), ..stale("b", 6) },
        Stale { owner: None, ..stale("b", 6) },
        Stale { epoch: None, ..stale("b", 6) },
    ];
    for case in cases {
        let mut scene = Scene::new(&[]);
        let (mut exchange, _next) = scene.started();
        let next = scene.step(&mut exchange, Input::Reply(&moved(&case), Body::None));
        assert!(matches!(next, Next::Check(_)), "{case:?}: {next:?}");
        assert!(scene.hints.is_empty(), "{case:?}");
        let next = scene.step(&mut exchange, Input::Found(answered(scene.now)));
        assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "the store still names the owner that refused: {next:?}");
    }
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&Answered(421, Some("state=moved, =".to_owned())), Body::None));
    assert!(matches!(next, Next::Check(_)), "what is not understood is not believed: {next:?}");
}

#[test]
fn what_a_check_found_is_adopted_whatever_its_epoch() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&Stale { owner: None, ..stale("b", 6) }), Body::None));
    let Next::Check(key) = next else { panic!("{next:?}") };
    let route = waypost_conf::Route { owner: "c".try_into().unwrap(), epoch: Some(2), state: waypost_conf::RouteState::Serving };
    let route = scene.builder.route_from(&route, crate::table::Meta::default());
    scene.builder.read_ahead(key, Read { revision: 30, route: Some(route) });
    scene.table = publish(&mut scene.builder, 10);
    assert_eq!(sent(&scene.step(&mut exchange, Input::Found(answered(scene.now)))), ("c".to_owned(), 2, 1));
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":7}"#, 31);
    assert_eq!(sent(&scene.started().1), ("b".to_owned(), 7, 0), "the watch has gone past the read");
}

#[test]
fn a_check_that_can_t_be_made_is_a_503() {
    for found in [Found::Unavailable, Found::Capped] {
        let mut scene = Scene::new(&[]);
        let (mut exchange, _next) = scene.started();
        let _ = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 1)), Body::None));
        assert!(matches!(scene.step(&mut exchange, Input::Found(found)), Next::Answer(Code::StaleUnhealed)));
    }
}

#[test]
fn a_table_that_has_caught_up_is_followed_without_a_check() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    scene.put("routes/orders/t1", r#"{"owner":"c","epoch":8}"#, 12);
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    assert_eq!(sent(&next), ("c".to_owned(), 8, 1), "the older hint is not taken");
    assert!(scene.hints.is_empty());
}

#[test]
fn a_spent_body_is_not_sent_again() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::Spent));
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)));
    assert_eq!(scene.hints.len(), 1, "the next request profits all the same");
}

#[test]
fn unknown_states_are_not_guessed_at() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&Stale { state: StaleState::Unknown, ..stale("b", 6) }), Body::None));
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)));
}

#[test]
fn a_redirecting_policy_takes_the_hint_and_answers_307() {
    let redirecting = ("policies/default", r#"{"on_stale":"redirect"}"#);
    let to_owner = ("policies/default", r#"{"on_stale":"redirect","redirect_to":"owner"}"#);
    for (policy, owner, target, wanted) in [
        (redirecting, "b", "/x?y=1", "/x?y=1"),
        (redirecting, "b", "//evil.example.com/x", "/.//evil.example.com/x"),
        (redirecting, "b", "http://orders.example.com?y", "/?y"),
        (to_owner, "a", "/x?y=1", "https://a.example.com/x?y=1"),
        (to_owner, "b", "/x", "/x"),
    ] {
        let mut scene = Scene::new(&[policy, ("routes/orders/t1", r#"{"owner":"c","epoch":5}"#)]);
        let head = Get("POST", target);
        let mut exchange = Exchange::default();
        let _ = scene.step_for(&head, &mut exchange, Input::Start);
        let next = scene.step_for(&head, &mut exchange, Input::Reply(&moved(&stale(owner, 6)), Body::Spent));
        let Next::Redirect(location) = next else { panic!("{next:?}") };
        assert_eq!(String::from_utf8(location).unwrap(), wanted);
        assert_eq!(scene.hints.len(), 1);
    }
}

#[test]
fn a_refused_connection_is_tried_at_another_endpoint_and_then_answered() {
    let two = ("upstreams/a", r#"{"endpoints":[{"address":"127.0.0.1:1"},{"address":"127.0.0.1:9"}]}"#);
    let mut scene = Scene::new(&[two]);
    let (mut exchange, next) = scene.started();
    let Next::Forward(first, _) = next else { panic!("{next:?}") };
    let next = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::Withheld));
    let Next::Forward(second, stamp) = next else { panic!("{next:?}") };
    assert_ne!(first.endpoint().address, second.endpoint().address);
    assert_eq!((stamp.hop, exchange.trace().retries), (0, 1), "another endpoint of the same owner is no hop");
    let next = scene.step(&mut exchange, Input::Failed(Failure::ConnectTimeout, Sent::Nothing, Body::Withheld));
    assert!(matches!(next, Next::Check(_)), "perhaps it is the owner no more");
    assert!(matches!(scene.step(&mut exchange, Input::Found(answered(scene.now))), Next::Answer(Code::ConnectTimeout)));
}

#[test]
fn a_connection_that_could_not_be_made_secure_is_one_that_was_refused_unless_something_was_sent() {
    let two = ("upstreams/a", r#"{"endpoints":[{"address":"127.0.0.1:1"},{"address":"127.0.0.1:9"}]}"#);
    for (sent, repeats) in [(Sent::Nothing, true), (Sent::Something, false)] {
        let mut scene = Scene::new(&[two]);
        let (mut exchange, next) = scene.started();
        let Next::Forward(first, _) = next else { panic!("{next:?}") };
        let mut next = scene.step(&mut exchange, Input::Failed(Failure::Tls, sent, Body::Withheld));
        if let Next::Forward(second, _) = &next {
            assert_ne!(first.endpoint().address, second.endpoint().address);
            assert!(first.endpoint().state.is_refusing(scene.now), "others pass it over");
            next = scene.step(&mut exchange, Input::Failed(Failure::Tls, sent, Body::Withheld));
        }
        assert_eq!(exchange.trace().retries, u32::from(repeats));
        assert!(matches!(next, Next::Check(_)), "perhaps it is the owner no more: {next:?}");
        scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 11);
        let next = scene.step(&mut exchange, Input::Found(answered(scene.now)));
        assert_eq!(matches!(next, Next::Forward(..)), repeats, "{next:?}");
        assert!(repeats || matches!(next, Next::Answer(Code::UpstreamTls)), "{next:?}");
    }
}

#[test]
fn connections_that_break_one_after_the_other_are_not_repeated_for_ever() {
    for sent in [Sent::Nothing, Sent::Something] {
        let mut scene = Scene::new(&[]);
        let (mut exchange, _first) = scene.started();
        for broken in 1.. {
            let next = scene.step(&mut exchange, Input::Failed(Failure::Reset { reused: true }, sent, Body::None));
            if let Next::Answer(code) = next {
                assert_eq!((broken, code), (3, Code::UpstreamReset), "{sent:?}");
                break;
            }
            assert!(matches!(next, Next::Forward(..)), "{next:?}");
        }
    }
}

#[test]
fn another_owner_after_a_refused_connection_is_a_hop() {
    let mut scene = Scene::new(&[("policies/default", r#"{"max_hops":1}"#)]);
    let (mut exchange, _first) = scene.started();
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 11);
    let next = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::Withheld));
    assert_eq!((sent(&next), exchange.trace().retries), (("b".to_owned(), 6, 1), 0));
    scene.put("routes/orders/t1", r#"{"owner":"c","epoch":7}"#, 12);
    let next = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::Withheld));
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "{next:?}");
}

#[test]
fn only_what_may_run_twice_is_sent_again_after_a_reset() {
    let reset = |reused| Failure::Reset { reused };
    for (method, failure, sent, again) in [
        ("GET", reset(true), Sent::Something, true),
        ("POST", reset(true), Sent::Something, false),
        ("POST", reset(true), Sent::Nothing, true),
        ("GET", reset(false), Sent::Something, false),
        ("GET", Failure::FirstByteTimeout, Sent::Something, false),
        ("GET", Failure::BadResponse, Sent::Something, false),
    ] {
        let mut scene = Scene::new(&[]);
        let head = Get(method, "/");
        let mut exchange = Exchange::default();
        let _ = scene.step_for(&head, &mut exchange, Input::Start);
        let next = scene.step_for(&head, &mut exchange, Input::Failed(failure, sent, Body::Buffered));
        assert_eq!(matches!(next, Next::Forward(..)), again, "{method} {failure:?} {sent:?}: {next:?}");
    }
}

#[test]
fn what_is_older_than_a_hint_does_not_end_it() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let key = scene.key();
    let Entry::Route(route, _) = scene.table.entry(&key) else { panic!("it has a route") };
    // A check ran ahead of the watch; the key has moved since.
    scene.builder.read_ahead(key.clone(), Read { revision: 15, route: Some(route) });
    scene.table = publish(&mut scene.builder, 10);
    scene.now = scene.now + Duration::from_millis(5);
    let _ = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    let (_, next) = scene.started();
    assert_eq!(sent(&next), ("b".to_owned(), 6, 0), "the read is of revision 15, the hint of 20");
    let settle_at = |scene: &mut Scene, began| {
        settle(
            &key,
            began,
            &World {
                table: &scene.table,
                hints: &scene.hints,
                now: scene.now,
                gold_age: Duration::ZERO,
                is_other_history: false,
                rng: &mut scene.rng,
            },
        );
        (scene.hints.len(), scene.hints.refuted())
    };
    assert_eq!(settle_at(&mut scene, Moment::default()), (1, 0), "a read that began before the hint was taken says nothing of it");
    let now = scene.now;
    assert_eq!(settle_at(&mut scene, now), (0, 1), "one that began after it does");
}

#[test]
fn what_is_said_of_a_record_that_has_gone_is_no_hint() {
    let mut scene = Scene::new(&[]);
    let key = RecordKey::parse(b"routes/orders/t1").unwrap();
    let record = waypost_conf::decode(&key, br#"{"owner":"a","epoch":3}"#).unwrap().record;
    scene.builder.remove(&key);
    scene.builder.put(&key, record, crate::table::Meta { create_revision: 30, mod_revision: 30, digest: 0, leased: false });
    scene.table = publish(&mut scene.builder, 30);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    assert!(matches!(next, Next::Check(_)), "the owner is at revision 20, where the key had another record: {next:?}");
    assert!(scene.hints.is_empty());
    let next = scene.step(&mut exchange, Input::Found(answered(scene.now)));
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "{next:?}");
    assert_eq!(scene.hints.refuted(), 0, "it was true in its time");
}

#[test]
fn a_hint_has_to_advance_what_is_known_of_a_frozen_key_too() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    scene.put("routes/orders/t1", r#"{"owner":"c","epoch":7,"state":"frozen"}"#, 12);
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    assert!(matches!(next, Next::Park(_)), "{next:?}");
    assert!(scene.hints.is_empty());
}

#[test]
fn a_false_hint_is_refuted_by_the_store() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    scene.put("routes/orders/t2", r#"{"owner":"a"}"#, 20);
    assert_eq!(sent(&scene.started().1), ("a".to_owned(), 5, 0), "the table at the hint's revision does not show it");
    assert_eq!(scene.hints.refuted(), 1);
    scene.hints.end(&scene.key(), 6, Ending::Refuted, scene.now);
    assert_eq!(scene.hints.refuted(), 1, "a hint ends once");
}

#[test]
fn what_the_table_lacks_has_its_own_code() {
    let cases: [(&[(&str, &str)], Code); 3] = [
        (&[("routes/orders/t1", r#"{"owner":"nobody"}"#)], Code::NoUpstream),
        (&[("upstreams/a", "{}")], Code::NoEndpoint),
        (&[("services/orders", r#"{"match":[{"path_prefix":"/else"}],"key":{"header":"x-tenant"}}"#)], Code::NoService),
    ];
    for (records, wanted) in cases {
        let next = Scene::new(records).started().1;
        assert!(matches!(next, Next::Answer(code) if code == wanted), "{wanted:?}: {next:?}");
    }
}

#[test]
fn the_chain_of_dispatches_says_who_was_asked_when_and_what_came_of_it() {
    let two = ("upstreams/b", r#"{"endpoints":[{"address":"127.0.0.1:2"},{"address":"127.0.0.1:9"}]}"#);
    let mut scene = Scene::new(&[two]);
    let at = |ms: u64| Moment::default() + Duration::from_millis(ms);
    scene.now = at(1);
    let (mut exchange, _next) = scene.started();
    assert_eq!(exchange.trace().dispatches.iter().next().map(|first| (first.at, first.ended.clone())), Some((at(1), None)));
    scene.now = at(3);
    let _next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    scene.now = at(7);
    let _next = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::None));
    scene.now = at(8);
    let _next = scene.step(&mut exchange, Input::Reply(&Answered(204, None), Body::None));
    let trace = exchange.trace();
    let shown = trace.dispatches.iter().map(|one| {
        let (ended, outcome) = one.ended.clone().unwrap();
        (one.owner.to_string(), one.epoch, one.source, one.at, ended, outcome.to_string())
    });
    let shown: Vec<_> = shown.collect();
    let hop = |owner: &str, epoch, source, from, to, outcome: &str| (owner.to_owned(), epoch, source, at(from), at(to), outcome.to_owned());
    assert_eq!(
        shown,
        [
            hop("a", 5, Source::Watch, 1, 3, "stale moved to b at 6"),
            hop("b", 6, Source::Hint, 3, 7, "connect_failed"),
            hop("b", 6, Source::Hint, 7, 8, "answered 204"),
        ]
    );
    assert_eq!((trace.started, trace.hops, trace.retries), (at(1), 1, 1));
}

/// What a backend may answer to a dispatch: nothing wrong, or a claim.
fn claims() -> impl Strategy<Value = Vec<(usize, u64, bool)>> {
    proptest::collection::vec((0usize..4, 0u64..12, any::<bool>()), 0..24)
}

proptest! {
    /// Whatever backends claim: the request ends, after at most four owners, without leaking a slot, and its epoch goes back
    /// only where the store was read in between.
    #[test]
    fn no_claims_of_backends_make_a_request_endless(claims in claims(), published in proptest::collection::vec(5u64..9, 0..4)) {
        let mut scene = Scene::new(&[]);
        let (mut exchange, mut next) = scene.started();
        let mut owners = 0;
        let mut last_epoch = 0;
        let mut published = published.into_iter();
        let mut revision = 10;
        let owner_names = ["a", "b", "c", "nobody"];
        let mut claims = claims.into_iter();
        for _ in 0..64 {
            next = match next {
                Next::Forward(lease, stamp) => {
                    owners += 1;
                    prop_assert!(stamp.epoch >= last_epoch, "an epoch went back from {last_epoch} to {}", stamp.epoch);
                    prop_assert_eq!(stamp.hop + 1, owners);
                    last_epoch = stamp.epoch;
                    drop(lease);
                    match claims.next() {
                        Some((owner, epoch, _)) => scene.step(&mut exchange, Input::Reply(&moved(&stale(owner_names[owner], epoch)), Body::Buffered)),
                        None => scene.step(&mut exchange, Input::Reply(&Answered(200, None), Body::Buffered)),
                    }
                }
                Next::Check(_) => {
                    last_epoch = 0;
                    if let Some(epoch) = published.next() {
                        revision += 1;
                        if epoch > 5 + revision - 11 {
                            scene.put("routes/orders/t1", &format!(r#"{{"owner":"c","epoch":{}}}"#, 20 + revision), revision);
                        }
                    }
                    scene.step(&mut exchange, Input::Found(answered(scene.now)))
                }
                ended => { next = ended; break }
            };
        }
        prop_assert!(matches!(next, Next::Relay | Next::Answer(_)), "{next:?}");
        prop_assert!(owners <= 4, "{owners} owners");
        let in_flight: HashMap<_, _> = scene.table.upstreams().flat_map(|u| u.endpoints.iter().map(|e| (e.address.clone(), e.state.in_flight()))).collect();
        prop_assert!(in_flight.values().all(|n| *n == 0), "{in_flight:?}");
    }
}

#[test]
fn a_service_is_not_served_from_a_table_that_is_older_than_its_policy_allows() {
    let mut scene = Scene::new(&[("policies/default", r#"{"max_staleness_ms":1000}"#)]);
    scene.gold_age = Duration::from_millis(1000);
    assert!(matches!(scene.started().1, Next::Forward(..)), "as old as is allowed");
    scene.gold_age = Duration::from_millis(1001);
    let (exchange, next) = scene.started();
    assert!(matches!(next, Next::Answer(Code::TooStale)), "{next:?}");
    assert!(exchange.trace().service.is_some(), "the log names the service");
    scene.put("policies/default", r#"{"max_staleness_ms":0}"#, 11);
    assert!(matches!(scene.started().1, Next::Forward(..)), "0 serves for ever");
}

#[test]
fn a_file_is_always_fresh() {
    let mut scene = Scene::new(&[("policies/default", r#"{"max_staleness_ms":1000}"#)]);
    scene.gold_age = Duration::MAX;
    scene.table = scene.builder.publish(Publication { revision: 1, id: TableId::file(), source: Source::File, digest: 0 });
    assert!(matches!(scene.started().1, Next::Forward(..)));
}
