//! Waiting: a frozen key, a handover, an owner that is behind; and asking the target of a move for one request.

use super::*;

const FROZEN: &str = r#"{"owner":"a","epoch":5,"state":"frozen"}"#;

fn at(ms: u64) -> Moment {
    Moment::default() + Duration::from_millis(ms)
}

fn refusal(state: StaleState) -> Answered {
    moved(&Stale { state, owner: None, epoch: None, ..stale("b", 6) })
}

/// Until when it sleeps.
fn sleeps(next: &Next) -> Moment {
    match next {
        Next::Sleep(until) => *until,
        other => panic!("it does not sleep: {other:?}"),
    }
}

#[test]
fn a_frozen_key_is_waited_for_and_served_by_its_next_owner() {
    let mut scene = Scene::new(&[("routes/orders/t1", FROZEN)]);
    let (mut exchange, next) = scene.started();
    assert!(matches!(&next, Next::Park(key) if *key == scene.key()));
    let next = scene.step(&mut exchange, Input::Parked);
    assert_eq!(sleeps(&next), at(1000), "park_ms");
    scene.now = at(10);
    assert_eq!(sleeps(&scene.step(&mut exchange, Input::Woken)), at(1000), "woken for nothing");
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 12);
    let next = scene.step(&mut exchange, Input::Woken);
    assert_eq!(sent(&next), ("b".to_owned(), 6, 0), "it was never sent before: no hop");
    assert!(exchange.trace().stale.is_empty());
}

#[test]
fn what_changes_before_the_place_is_taken_is_seen() {
    let mut scene = Scene::new(&[("routes/orders/t1", FROZEN)]);
    let (mut exchange, _next) = scene.started();
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 12);
    assert_eq!(sent(&scene.step(&mut exchange, Input::Parked)).0, "b");
}

#[test]
fn a_wait_ends_in_time_and_where_there_is_no_room() {
    let mut scene = Scene::new(&[("routes/orders/t1", FROZEN), ("policies/default", r#"{"park_ms":100}"#)]);
    let (mut exchange, _next) = scene.started();
    assert_eq!(sleeps(&scene.step(&mut exchange, Input::Parked)), at(100));
    scene.now = at(100);
    assert!(matches!(scene.step(&mut exchange, Input::Woken), Next::Answer(Code::ParkTimeout)));
    let (mut exchange, _next) = scene.started();
    assert!(matches!(scene.step(&mut exchange, Input::NoRoom), Next::Answer(Code::ParkFull)));
}

#[test]
fn a_handover_is_waited_for_and_its_owner_asked_again_now_and_then() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
    assert!(matches!(next, Next::Park(_)), "{next:?}");
    let mut asked_at = Vec::new();
    let mut next = scene.step(&mut exchange, Input::Parked);
    while let Next::Sleep(until) = next {
        assert!(until <= at(1000));
        scene.now = until;
        next = scene.step(&mut exchange, Input::Woken);
        if matches!(next, Next::Forward(..)) {
            assert_eq!(sent(&next), ("a".to_owned(), 5, 0));
            asked_at.push(until);
            next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
            if matches!(next, Next::Park(_)) {
                next = scene.step(&mut exchange, Input::Parked);
            }
        }
    }
    assert!(matches!(next, Next::Answer(Code::ParkTimeout)), "{next:?}");
    assert_eq!(scene.now, at(1000), "counted from the first wait");
    let pauses: Vec<Duration> = asked_at.windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(pauses.iter().all(|pause| (25..=200).contains(&pause.as_millis())), "{pauses:?}");
    assert!((4..=20).contains(&asked_at.len()), "{asked_at:?}");
}

#[test]
fn a_handover_ends_with_the_table_or_a_hint_whichever_comes_first() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
    assert!(matches!(scene.step(&mut exchange, Input::Parked), Next::Sleep(_)));
    scene.put("routes/orders/t1", r#"{"owner":"a","epoch":5,"state":"frozen"}"#, 11);
    assert!(matches!(scene.step(&mut exchange, Input::Woken), Next::Sleep(_)), "frozen in the table as well");
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 12);
    assert_eq!(sent(&scene.step(&mut exchange, Input::Woken)), ("b".to_owned(), 6, 1));
    // A move that was given up: the same owner serves again, at a newer epoch.
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
    let _ = scene.step(&mut exchange, Input::Parked);
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":7}"#, 13);
    assert_eq!(sent(&scene.step(&mut exchange, Input::Woken)), ("b".to_owned(), 7, 1));
}

#[test]
fn a_handover_that_the_table_shows_as_well_is_slept_through() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
    let mut next = scene.step(&mut exchange, Input::Parked);
    scene.put("routes/orders/t1", FROZEN, 11);
    let mut naps = 0;
    while let Next::Sleep(until) = next {
        assert!(until > scene.now, "it would not sleep at all");
        scene.now = until;
        next = scene.step(&mut exchange, Input::Woken);
        naps += 1;
    }
    assert!(matches!(next, Next::Answer(Code::ParkTimeout)), "{next:?}");
    assert_eq!((naps, scene.now), (2, at(1000)));
}

#[test]
fn an_owner_that_is_behind_is_asked_again_for_a_while_and_the_store_nothing() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, mut next) = scene.started();
    let mut times = 0;
    loop {
        assert_eq!(sent(&next), ("a".to_owned(), 5, 0), "the same owner");
        times += 1;
        next = match scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::Buffered)) {
            Next::Sleep(until) => {
                assert!(until.since(scene.now) <= Duration::from_millis(50));
                scene.now = until;
                scene.step(&mut exchange, Input::Woken)
            }
            ended => break next = ended,
        };
    }
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "{next:?}");
    assert_eq!(scene.now, at(250));
    assert!((6..=30).contains(&times), "{times}");
    assert_eq!(exchange.trace().hops, 0);
}

#[test]
fn behind_an_epoch_of_a_hint_the_store_is_read_and_the_hint_ends_by_what_it_says() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    assert_eq!(sent(&next).0, "b");
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::None));
    scene.now = sleeps(&next) + BEHIND_LIMIT;
    assert!(matches!(scene.step(&mut exchange, Input::Woken), Next::Forward(..)));
    assert_eq!(scene.hints.len(), 1);
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::None));
    assert!(matches!(next, Next::Check(_)), "{next:?}");
    assert_eq!((scene.hints.len(), scene.hints.refuted()), (1, 0), "nothing is known of its truth");
    let next = scene.step(&mut exchange, Input::Found(answered(scene.now)));
    assert_eq!(sent(&next), ("a".to_owned(), 5, 2), "the store still names the first owner");
    assert_eq!((scene.hints.len(), scene.hints.refuted()), (0, 1), "and its word was false");
}

#[test]
fn behind_an_epoch_of_a_hint_that_can_t_be_checked_the_hint_stays() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Reply(&moved(&stale("b", 6)), Body::None));
    let _ = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::None));
    scene.now = at(300);
    let _ = scene.step(&mut exchange, Input::Woken);
    assert!(matches!(scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::None)), Next::Check(_)));
    assert!(matches!(scene.step(&mut exchange, Input::Found(Found::Unavailable)), Next::Answer(Code::StaleUnhealed)));
    assert_eq!((scene.hints.len(), scene.hints.refuted()), (1, 0), "nothing is known of its truth");
}

#[test]
fn an_owner_that_was_behind_and_hands_the_key_over_is_asked_again_as_seldom_as_any() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::Buffered));
    scene.now = sleeps(&next);
    assert!(matches!(scene.step(&mut exchange, Input::Woken), Next::Forward(..)));
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Handoff), Body::Buffered));
    assert!(matches!(next, Next::Park(_)), "{next:?}");
    let until = sleeps(&scene.step(&mut exchange, Input::Parked));
    assert!(until.since(scene.now) >= Duration::from_millis(25), "{until:?}");
}

#[test]
fn an_ask_goes_to_the_target_once_and_changes_nothing() {
    let moving = ("routes/orders/t1", r#"{"owner":"a","epoch":5,"state":"moving","target":"b"}"#);
    let asks = |owner: &str, epoch| moved(&Stale { state: StaleState::Ask, ..stale(owner, epoch) });
    let mut scene = Scene::new(&[moving]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&asks("b", 5), Body::Buffered));
    let Next::Forward(lease, stamp) = &next else { panic!("{next:?}") };
    assert_eq!((&*lease.upstream().name, stamp.ask.as_deref(), stamp.epoch, stamp.hop), ("b", Some("b"), 5, 0));
    assert!(scene.hints.is_empty());
    assert_eq!(sent(&scene.started().1).0, "a", "only this one request");
    // The target does not know of the move yet.
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Behind), Body::Buffered));
    scene.now = sleeps(&next);
    let next = scene.step(&mut exchange, Input::Woken);
    assert!(
        matches!(&next, Next::Forward(lease, stamp) if &*lease.upstream().name == "b" && stamp.ask.as_deref() == Some("b")),
        "{next:?}"
    );
    let next = scene.step(&mut exchange, Input::Reply(&asks("c", 5), Body::Buffered));
    assert!(matches!(next, Next::Check(_)), "one ask: {next:?}");
    for (owner, epoch) in [("b", 6), ("b", 4), ("nobody", 5)] {
        let (mut exchange, _next) = scene.started();
        let next = scene.step(&mut exchange, Input::Reply(&asks(owner, epoch), Body::Buffered));
        assert!(matches!(next, Next::Check(_)), "{owner} {epoch}: {next:?}");
    }
}

#[test]
fn a_spent_body_waits_for_nothing() {
    for state in [StaleState::Handoff, StaleState::Behind, StaleState::Ask] {
        let mut scene = Scene::new(&[]);
        let (mut exchange, _next) = scene.started();
        let next = scene.step(&mut exchange, Input::Reply(&refusal(state), Body::Spent));
        assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "{next:?}");
    }
}

#[test]
fn an_owner_that_serves_may_correct_what_is_known() {
    let update = |key: &str, owner: &str, epoch| {
        Answered(200, Some(format!(r#"key="{key}", owner="{owner}", epoch={epoch}, revision=20, table="{ID}""#)))
    };
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    for nothing in [update("t2", "a", 6), update("t1", "a", 5), update("t1", "nobody", 6), Answered(200, Some("=".to_owned()))] {
        assert!(matches!(scene.step(&mut exchange, Input::Reply(&nothing, Body::None)), Next::Relay));
        assert!(scene.hints.is_empty());
    }
    assert!(matches!(scene.step(&mut exchange, Input::Reply(&update("t1", "a", 6), Body::None)), Next::Relay));
    assert_eq!(sent(&scene.started().1), ("a".to_owned(), 6, 0));
}

#[test]
fn an_owner_that_can_not_be_reached_may_have_been_replaced() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::Buffered));
    assert!(matches!(next, Next::Check(_)));
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":6}"#, 12);
    assert_eq!(sent(&scene.step(&mut exchange, Input::Found(answered(scene.now)))), ("b".to_owned(), 6, 1));
    // After a time-out nobody knows what was executed: the view is mended, the request is not sent again.
    let (mut exchange, _next) = scene.started();
    let next = scene.step(&mut exchange, Input::Failed(Failure::FirstByteTimeout, Sent::Something, Body::Buffered));
    assert!(matches!(next, Next::Check(_)));
    scene.put("routes/orders/t1", r#"{"owner":"c","epoch":7}"#, 13);
    assert!(matches!(scene.step(&mut exchange, Input::Found(answered(scene.now))), Next::Answer(Code::UpstreamTimeout)));
    let (mut exchange, _next) = scene.started();
    let _ = scene.step(&mut exchange, Input::Failed(Failure::Connect, Sent::Nothing, Body::Buffered));
    assert!(matches!(scene.step(&mut exchange, Input::Found(Found::Capped)), Next::Answer(Code::ConnectFailed)));
}

/// A request that could not be sent again does not wait for the time when it might be.
#[test]
fn a_spent_body_is_never_parked() {
    let mut scene = Scene::new(&[]);
    let (mut exchange, _) = scene.started();
    let next = scene.step(&mut exchange, Input::Reply(&refusal(StaleState::Moved), Body::Spent));
    assert!(matches!(next, Next::Check(_)), "{next:?}");
    scene.put("routes/orders/t1", FROZEN, 11);
    let found = answered(scene.now);
    let next = scene.step(&mut exchange, Input::Found(found));
    assert!(matches!(next, Next::Answer(Code::StaleUnhealed)), "{next:?}");
}
