//! What a guard lets through, by script: one backend, and what may be sent to it again.

use super::*;
use crate::Upstream;

const BACKEND: &str = "127.0.0.1:9";

fn passed(scene: &mut Scene, method: &'static str) -> (Exchange, Get, u16) {
    let head = Get(method, "/x?y=1");
    let mut exchange = Exchange::default();
    let backend = Arc::new(Upstream::alone("a".try_into().unwrap(), BACKEND.try_into().unwrap()));
    let mut world = World {
        table: &scene.table,
        hints: &scene.hints,
        now: scene.now,
        gold_age: scene.gold_age,
        is_other_history: false,
        rng: &mut scene.rng,
    };
    let identity = identify(&head, &world).unwrap();
    exchange.identified(identity, &world);
    let port = port(&exchange.pass(backend, 5, &mut world));
    (exchange, head, port)
}

fn port(next: &Next) -> u16 {
    match next {
        Next::Forward(lease, _) => lease.socket_addr().port(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_goes_to_the_backend_and_any_answer_is_passed_on() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, head, port) = passed(&mut scene, "GET");
    assert_eq!(port, 9, "none of the table's endpoints");
    // A backend that knows nothing can't mean what it says of routes.
    assert!(matches!(scene.step_for(&head, &mut exchange, Input::Reply(&moved(&stale("b", 9)), Body::None)), Next::Relay));
    let told = Answered(200, Some(stale("b", 9).to_value()));
    assert!(matches!(scene.step_for(&head, &mut exchange, Input::Reply(&told, Body::None)), Next::Relay));
    assert!(scene.hints.is_empty());
    let trace = exchange.trace();
    assert_eq!((trace.epoch, trace.key.as_deref(), trace.hops), (Some(5), Some(&b"t1"[..]), 0));
    assert_eq!(trace.upstream.as_ref().map(|upstream| upstream.name.to_string()).as_deref(), Some("a"));
}

#[test]
fn failures_are_the_proxy_s_and_lead_to_no_check() {
    for (method, failure, sent, wanted) in [
        ("GET", Failure::Reset { reused: true }, Sent::Something, None),
        ("POST", Failure::Reset { reused: true }, Sent::Nothing, None),
        ("POST", Failure::Reset { reused: true }, Sent::Something, Some(Code::UpstreamReset)),
        ("GET", Failure::Reset { reused: false }, Sent::Something, Some(Code::UpstreamReset)),
        ("GET", Failure::Connect, Sent::Nothing, Some(Code::ConnectFailed)),
        ("GET", Failure::ConnectTimeout, Sent::Nothing, Some(Code::ConnectTimeout)),
        ("GET", Failure::FirstByteTimeout, Sent::Something, Some(Code::UpstreamTimeout)),
        ("GET", Failure::BadResponse, Sent::Something, Some(Code::BadResponse)),
    ] {
        let mut scene = Scene::new(&[]);
        let (mut exchange, head, _) = passed(&mut scene, method);
        let next = scene.step_for(&head, &mut exchange, Input::Failed(failure, sent, Body::None));
        match (next, wanted) {
            (Next::Answer(code), Some(wanted)) => assert_eq!(code, wanted, "{method} {failure:?}"),
            (next, None) => assert_eq!(port(&next), 9, "{method} {failure:?}"),
            (next, wanted) => panic!("{method} {failure:?}: {next:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn repeats_draw_on_the_budget() {
    let mut scene = Scene::new(&[("policies/default", r#"{"retries":{"budget_percent":0,"min_per_second":0}}"#)]);
    let (mut exchange, head, _) = passed(&mut scene, "GET");
    let reset = Input::Failed(Failure::Reset { reused: true }, Sent::Something, Body::None);
    assert!(matches!(scene.step_for(&head, &mut exchange, reset), Next::Answer(Code::UpstreamReset)));
    assert!(exchange.trace().budget_exhausted);
}

#[test]
fn a_request_is_of_a_key_whoever_owns_it_or_of_none() {
    let bad = (r"services/bad", r#"{"match":[{"hosts":["bad.example.com"]}],"default_owner":"a"}"#);
    let mut scene = Scene::new(&[bad]);
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6,"state":"frozen"}"#, 11);
    let identified = |scene: &mut Scene, target: &'static str| {
        let world = World {
            table: &scene.table,
            hints: &scene.hints,
            now: scene.now,
            gold_age: Duration::MAX,
            is_other_history: false,
            rng: &mut scene.rng,
        };
        identify(&Get("GET", target), &world)
            .map(|identity| (identity.service.unwrap().name.to_string(), identity.key.map(|key| key.to_vec())))
    };
    assert_eq!(identified(&mut scene, "/"), Ok(("orders".to_owned(), Some(b"t1".to_vec()))), "frozen");
    scene.builder.remove(&RecordKey::parse(b"routes/orders/t1").unwrap());
    scene.table = publish(&mut scene.builder, 12);
    assert_eq!(identified(&mut scene, "/"), Ok(("orders".to_owned(), Some(b"t1".to_vec()))), "nobody's");
    assert_eq!(identified(&mut scene, "/../a"), Err(Code::BadPath));
    assert_eq!(identified(&mut scene, "http://bad.example.com/../a"), Err(Code::BadPath));
    assert_eq!(identified(&mut scene, "http://bad.example.com/a"), Ok(("bad".to_owned(), None)));
    assert_eq!(identified(&mut scene, "http://elsewhere/a"), Err(Code::NoService));
}
