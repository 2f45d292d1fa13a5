//! The machine by script: what each kind of trouble leads to, without a store.

use super::{open::PROGRESS_BEHIND_EVERY, *};
use crate::record::Stored;

struct Scene {
    machine: Machine,
    applied: Applied,
    now: Moment,
    rng: fastrand::Rng,
}

impl Scene {
    fn new(applied: Option<u64>) -> Self {
        let applied = Applied { revision: applied.unwrap_or(0), id: applied.map(|_| TableId::etcd(7, 0)) };
        Self { machine: Machine::new(3, 0), applied, now: Moment::default(), rng: fastrand::Rng::with_seed(1) }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        self.machine.step(input, &self.applied, self.now, &mut self.rng)
    }

    fn watching(applied: u64, barrier: bool) -> Self {
        let mut scene = Self::new(Some(applied));
        scene.step(Input::Start);
        scene.step(Input::Connected(Hello { progress_is_barrier: barrier, ..hello(applied) }));
        scene.step(Input::Opened { revision: applied });
        scene
    }

    /// A watch is resumed at 40 when the store has come to 60.
    fn catching_up(barrier: bool) -> Self {
        let mut scene = Self::new(Some(40));
        scene.step(Input::Start);
        scene.step(Input::Connected(Hello { progress_is_barrier: barrier, ..hello(60) }));
        assert_eq!(scene.step(Input::Opened { revision: 60 }), [Effect::Report { error: None, again_in: None }], "it has missed something");
        scene
    }

    /// Whether the store is said to have nothing newer; what is to be applied is.
    fn is_current(&mut self, input: Input) -> bool {
        let effects = self.step(input);
        for effect in &effects {
            if let Effect::Apply { revision, .. } | Effect::Advance { revision } = effect {
                self.applied.revision = *revision;
            }
        }
        effects.contains(&Effect::Alive)
    }

    /// A list at 40 is under way, and the watch that follows it stands.
    fn listing() -> Self {
        let mut scene = Self::new(None);
        scene.step(Input::Start);
        assert_eq!(scene.step(Input::Connected(hello(40))), [Effect::Watch { from: 41 }]);
        assert_eq!(scene.step(Input::Opened { revision: 40 }), [Effect::List { revision: 40 }]);
        scene
    }

    /// What is done when the time for another attempt has come.
    fn again(&mut self) -> Vec<Effect> {
        self.later(BACKOFF_MOST);
        self.step(Input::Tick)
    }

    fn later(&mut self, by: Duration) {
        self.now = self.now + by;
    }
}

fn hello(revision: u64) -> Hello {
    Hello { cluster_id: 7, incarnation: 0, revision, anchor: Anchor::Same, resume_behind: 40, progress_is_barrier: true }
}

fn event(revision: u64) -> Event {
    Event::Delete { key: format!("routes/a/{revision}").into_bytes(), mod_revision: revision }
}

fn events(revisions: &[u64], more: bool) -> Input {
    Input::Events { events: revisions.iter().map(|revision| event(*revision)).collect(), more }
}

fn listed(revision: u64) -> Input {
    Input::Listed { revision, records: Listed::default() }
}

/// Whether the connection was given up and something is told of it.
fn is_failure(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Disconnect, Effect::Report { error: Some(_), again_in: Some(_) }])
}

#[test]
fn a_first_start_watches_from_behind_a_pinned_revision_and_then_lists_at_it() {
    let mut scene = Scene::new(None);
    assert_eq!(scene.step(Input::Start), [Effect::Connect { endpoint: 0 }]);
    assert_eq!(scene.step(Input::Connected(hello(40))), [Effect::Watch { from: 41 }]);
    assert_eq!(scene.step(Input::Opened { revision: 41 }), [Effect::List { revision: 40 }]);
    let effects = scene.step(listed(40));
    let stands = Effect::Report { error: None, again_in: None };
    assert!(matches!(&effects[0], Effect::Resync { revision: 40, reason: "first", fresh: false, .. }));
    assert_eq!(effects[1..], [stands, Effect::Alive]);
}

#[test]
fn what_changes_while_a_list_is_under_way_is_applied_behind_it_at_once() {
    let mut scene = Scene::listing();
    assert_eq!(scene.step(events(&[41, 43, 44], true)), []);
    assert_eq!(scene.step(Input::Progress { revision: 44 }), []);
    assert_eq!(scene.step(events(&[44], false)), []);
    assert_eq!(scene.step(events(&[45, 46], true)), []);
    let effects = scene.step(listed(40));
    assert!(matches!(&effects[0], Effect::Resync { revision: 40, .. }));
    assert!(matches!(&effects[1], Effect::Apply { revision: 45, events } if events.len() == 4), "46 is not whole: {effects:?}");
    let effects = scene.step(events(&[46], false));
    assert!(matches!(&effects[0], Effect::Apply { revision: 46, events } if events.len() == 2));
}

#[test]
fn a_list_that_can_not_be_finished_is_begun_again_at_a_newer_revision() {
    let large = || {
        let put = |n: u64| Stored {
            key: n.to_be_bytes().to_vec(),
            value: vec![0; 1 << 20],
            create_revision: 41,
            mod_revision: 41,
            leased: false,
        };
        Input::Events { events: (0..=(BUFFER_BYTES as u64 >> 20)).map(|n| Event::Put(put(n))).collect(), more: false }
    };
    let broken = || Input::Failed("reset".to_owned());
    for trouble in [&large as &dyn Fn() -> Input, &broken, &|| Input::Compacted, &|| events(&[43, 42], false)] {
        let mut scene = Scene::listing();
        assert!(is_failure(&scene.step(trouble())));
        assert_eq!(scene.step(listed(40)), [], "a late answer of a given-up list");
        assert_eq!(scene.again(), [Effect::Connect { endpoint: 1 }]);
        assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
        assert_eq!(scene.step(Input::Opened { revision: 50 }), [Effect::List { revision: 50 }]);
    }
}

#[test]
fn a_list_is_owed_until_it_is_whole() {
    let mut scene = Scene::watching(40, true);
    scene.step(Input::Compacted);
    scene.step(Input::Connected(hello(50)));
    for trouble in [Input::Compacted, Input::Failed("reset".to_owned())] {
        assert!(is_failure(&scene.step(trouble)));
        scene.again();
        assert_eq!(scene.step(Input::Connected(hello(60))), [Effect::Watch { from: 61 }], "not from the cursor");
        scene.step(Input::Opened { revision: 60 });
    }
    assert!(matches!(&scene.step(listed(60))[0], Effect::Resync { reason: "compacted", .. }));
    scene.applied.revision = 60;
    assert!(is_failure(&scene.step(Input::Failed("reset".to_owned()))));
    scene.again();
    scene.step(Input::Connected(hello(60)));
    assert_eq!(scene.step(Input::Opened { revision: 60 })[1], Effect::Alive, "resumed, not listed");
}

#[test]
fn a_silent_watch_is_left_also_while_a_list_is_under_way() {
    let mut scene = Scene::listing();
    scene.later(PROGRESS_EVERY);
    assert_eq!(scene.step(Input::Tick), [Effect::AskProgress]);
    scene.step(Input::Progress { revision: 40 });
    scene.later(SILENT_LIMIT);
    assert!(is_failure(&scene.step(Input::Tick)));
}

#[test]
fn only_whole_revisions_are_applied() {
    let mut scene = Scene::watching(40, true);
    let effects = scene.step(events(&[41, 42], true));
    assert!(matches!(&effects[..], [Effect::Apply { revision: 41, events }] if events.len() == 1), "{effects:?}");
    let effects = scene.step(Input::Progress { revision: 60 });
    assert_eq!(effects, [], "what is still to come is not overtaken");
    scene.applied.revision = 41;
    let effects = scene.step(events(&[42], false));
    assert!(matches!(&effects[..], [Effect::Apply { revision: 42, events }] if events.len() == 2), "the store is known to be at 60");
    assert!(is_failure(&scene.step(events(&[44, 43], false))), "a watch that goes back in time");
}

#[test]
fn a_lost_watch_is_resumed_from_the_cursor_at_another_endpoint() {
    let mut scene = Scene::watching(40, true);
    let effects = scene.step(Input::Failed("reset".to_owned()));
    assert!(matches!(&effects[..], [Effect::Disconnect, Effect::Report { error: Some(_), again_in: Some(_) }]));
    assert_eq!(scene.step(Input::Opened { revision: 50 }), [], "a late answer of a given-up connection");
    scene.later(BACKOFF_FIRST);
    assert_eq!(scene.step(Input::Tick), [Effect::Connect { endpoint: 1 }]);
    assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 41 }]);
}

#[test]
fn what_no_history_can_be_known_by_is_listed() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    assert_eq!(scene.step(Input::Connected(Hello { anchor: Anchor::None, ..hello(50) })), [Effect::Watch { from: 51 }]);
    assert_eq!(scene.step(Input::Opened { revision: 50 }), [Effect::List { revision: 50 }]);
    assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "unproven", fresh: false, .. }));
}

#[test]
fn a_compacted_history_is_listed_beside_the_live_table() {
    let mut scene = Scene::watching(40, true);
    assert_eq!(scene.step(Input::Compacted), [Effect::Connect { endpoint: 0 }]);
    assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
    assert_eq!(scene.step(Input::Opened { revision: 50 }), [Effect::List { revision: 50 }]);
    assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "compacted", fresh: false, .. }));
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    let compacted = Hello { anchor: Anchor::Compacted, ..hello(50) };
    assert_eq!(scene.step(Input::Connected(compacted)), [Effect::Watch { from: 51 }]);
    assert_eq!(scene.step(Input::Opened { revision: 50 }), [Effect::List { revision: 50 }]);
}

#[test]
fn another_incarnation_starts_afresh_and_a_silent_restore_changes_nothing() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    assert_eq!(scene.step(Input::Connected(Hello { incarnation: 1, ..hello(9) })), [Effect::Watch { from: 10 }]);
    assert_eq!(scene.step(Input::Opened { revision: 9 }), [Effect::List { revision: 9 }]);
    assert!(matches!(&scene.step(listed(9))[0], Effect::Resync { fresh: true, .. }));
    for restored in [hello(39), Hello { anchor: Anchor::Differs, ..hello(60) }] {
        let mut scene = Scene::new(Some(40));
        scene.step(Input::Start);
        let effects = scene.step(Input::Connected(restored));
        assert!(matches!(&effects[..], [Effect::Disconnect, Effect::Report { error: Some(why), .. }] if why.contains("incarnation")));
    }
}

#[test]
fn another_history_stays_one_when_what_showed_it_has_been_forgotten() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    let connected = |anchor| Input::Connected(Hello { anchor, ..hello(60) });
    for anchor in [Anchor::Differs, Anchor::Compacted] {
        assert!(is_failure(&scene.step(connected(anchor))));
        scene.again();
    }
    assert_eq!(scene.step(connected(Anchor::Same)), [Effect::Watch { from: 41 }], "the right store is back");
}

#[test]
fn a_history_is_proven_by_a_hello_and_another_until_a_list_has_shown_otherwise() {
    let mut scene = Scene::watching(40, true);
    assert_eq!(scene.machine.history(), History::Proven);
    scene.step(Input::Failed("reset".to_owned()));
    assert_eq!(scene.machine.history(), History::Unknown);
    scene.again();
    scene.step(Input::Connected(Hello { anchor: Anchor::Differs, ..hello(60) }));
    assert_eq!(scene.machine.history(), History::Other);
    scene.again();
    scene.step(Input::Connected(Hello { incarnation: 1, ..hello(60) }));
    assert_eq!(scene.machine.history(), History::Unknown, "its records are not in force yet");
    scene.step(Input::Opened { revision: 60 });
    scene.step(listed(60));
    assert_eq!(scene.machine.history(), History::Proven);
    // What a list has shown, no hello can take back.
    scene.applied = Applied { revision: 60, id: Some(TableId::etcd(7, 1)) };
    scene.step(Input::Refused { why: "another".to_owned(), reason: "history", is_lasting: true });
    assert_eq!(scene.machine.history(), History::Other);
    scene.again();
    scene.step(Input::Connected(Hello { incarnation: 1, ..hello(60) }));
    scene.step(Input::Opened { revision: 60 });
    assert_eq!(scene.machine.history(), History::Other);
    scene.step(listed(60));
    assert_eq!(scene.machine.history(), History::Proven);
}

#[test]
fn what_is_not_trusted_is_listed_at_once_and_what_was_refused_after_a_while() {
    let refused = |is_lasting| Input::Refused { why: "too much".to_owned(), reason: "refused", is_lasting };
    let mut scene = Scene::watching(40, true);
    assert_eq!(scene.step(Input::Distrusted("digest")), [Effect::Connect { endpoint: 0 }]);
    for trouble in [None, Some(refused(false)), Some(refused(true))] {
        if let Some(trouble) = trouble {
            assert!(is_failure(&scene.step(trouble)));
            scene.again();
        }
        assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
        scene.step(Input::Opened { revision: 50 });
        assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "digest" | "refused", fresh: false, .. }));
    }
}

/// A read that began on one connection may contradict the watch when there is another, or none.
#[test]
fn distrust_is_not_forgotten_while_there_is_no_watch() {
    let distrust = || Input::Distrusted("contradicted");
    for connected in [false, true] {
        let mut scene = Scene::watching(40, true);
        scene.step(Input::Failed("reset".to_owned()));
        if connected {
            scene.again();
        }
        assert_eq!(scene.step(distrust()), []);
        if !connected {
            scene.again();
        }
        assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
        scene.step(Input::Opened { revision: 50 });
        assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "contradicted", .. }));
    }
    // A watch that is being resumed, and a list that is under way.
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    scene.step(Input::Connected(hello(50)));
    assert_eq!(scene.step(distrust()), [Effect::Connect { endpoint: 0 }]);
    scene.step(Input::Connected(hello(50)));
    assert_eq!(scene.step(distrust()), []);
    assert_eq!(scene.step(Input::Opened { revision: 50 }), [Effect::List { revision: 50 }]);
    assert_eq!(scene.step(distrust()), []);
    assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "contradicted", .. }));
}

/// An answer that takes longer than silence may last, or that the store never has ready.
#[test]
fn a_watch_that_never_gets_past_an_answer_is_given_up_for_a_list() {
    let mut scene = Scene::catching_up(true);
    for turn in 0..STUCK_WATCHES {
        assert!(is_failure(&scene.step(Input::Failed("reset".to_owned()))), "a short one says nothing");
        scene.again();
        assert_eq!(scene.step(Input::Connected(hello(60))), [Effect::Watch { from: 41 }], "turn {turn}");
        scene.step(Input::Opened { revision: 60 });
        scene.later(SILENT_LIMIT);
        assert!(is_failure(&scene.step(Input::Tick)));
        scene.again();
        if turn + 1 < STUCK_WATCHES {
            scene.step(Input::Connected(hello(60)));
            scene.step(Input::Opened { revision: 60 });
        }
    }
    assert_eq!(scene.step(Input::Connected(hello(60))), [Effect::Watch { from: 61 }]);
    scene.step(Input::Opened { revision: 60 });
    assert!(matches!(&scene.step(listed(60))[0], Effect::Resync { reason: "stuck", fresh: false, .. }));
}

#[test]
fn a_watch_that_moves_on_or_has_nothing_to_bring_is_resumed_however_often_it_breaks() {
    let mut scene = Scene::catching_up(true);
    for turn in 1..10 {
        scene.later(SILENT_LIMIT - Duration::from_secs(1));
        assert!(!scene.is_current(events(&[40 + turn], false)));
        scene.later(SILENT_LIMIT);
        assert!(is_failure(&scene.step(Input::Tick)));
        scene.again();
        assert_eq!(scene.step(Input::Connected(hello(60))), [Effect::Watch { from: 41 }]);
        scene.step(Input::Opened { revision: 60 });
    }
    let mut scene = Scene::watching(40, true);
    for _ in 1..10 {
        scene.later(SILENT_LIMIT);
        assert!(is_failure(&scene.step(Input::Tick)));
        scene.again();
        assert_eq!(scene.step(Input::Connected(hello(40))), [Effect::Watch { from: 41 }]);
        scene.step(Input::Opened { revision: 40 });
    }
}

/// Each of a fleet that learns of something at the same moment: how long after it begins to list, and what it says meanwhile.
fn lists_after(list_took: Duration, seed: u64, mut scene: Scene, learns: &dyn Fn(&mut Scene) -> Vec<Effect>) -> Duration {
    scene.rng = fastrand::Rng::with_seed(seed);
    scene.machine.list_took = list_took;
    let began = scene.now;
    let mut effects = learns(&mut scene);
    if let [Effect::Disconnect, Effect::Report { error: Some(_), again_in: Some(again_in) }] = &effects[..] {
        scene.later(*again_in);
        effects = scene.step(Input::Tick);
    }
    let after = scene.now.since(began);
    if matches!(effects[..], [Effect::Connect { .. }]) {
        effects = scene.step(Input::Connected(Hello { anchor: Anchor::Compacted, ..hello(50) }));
    }
    assert_eq!(effects, [Effect::Watch { from: 51 }], "the pause is made once");
    after
}

#[test]
fn a_fleet_that_learns_at_once_why_to_list_does_not_list_at_once() {
    let resumed = || {
        let mut scene = Scene::new(Some(40));
        scene.step(Input::Start);
        scene
    };
    type Learns = dyn Fn(&mut Scene) -> Vec<Effect>;
    let cases: [(&dyn Fn() -> Scene, &Learns); 5] = [
        (&|| Scene::watching(40, true), &|scene| scene.step(Input::Compacted)),
        (&|| Scene::watching(40, true), &|scene| scene.step(Input::NewIncarnation)),
        (&|| Scene::watching(40, true), &|scene| scene.step(Input::Distrusted("contradicted"))),
        (&resumed, &|scene| scene.step(Input::Connected(Hello { anchor: Anchor::Compacted, ..hello(50) }))),
        (&resumed, &|scene| scene.step(Input::Connected(Hello { incarnation: 1, ..hello(50) }))),
    ];
    for (number, (scene, learns)) in cases.into_iter().enumerate() {
        for (took, most) in [(0, 0), (10, 0), (1000, 4000), (60_000, 5000)] {
            let took = Duration::from_millis(took);
            let after: Vec<u128> = (0..100).map(|seed| lists_after(took, seed, scene(), learns).as_millis()).collect();
            let (first, last) = (after.iter().min().unwrap(), after.iter().max().unwrap());
            assert!(*last <= most && *first <= most / 10 && *last >= most * 9 / 10, "{number}: {first} to {last} ms for {took:?}");
        }
    }
}

#[test]
fn nobody_waits_for_a_list_that_is_needed() {
    // Nothing is in force.
    let mut scene = Scene::new(None);
    scene.machine.list_took = Duration::from_secs(1);
    scene.step(Input::Start);
    assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
    // Somebody asks for it, and also while it is put off.
    for is_put_off in [false, true] {
        let mut scene = Scene::watching(40, true);
        scene.machine.list_took = Duration::from_secs(1);
        if is_put_off {
            assert!(is_failure(&scene.step(Input::NewIncarnation)));
        }
        assert_eq!(scene.step(Input::ListAnew), [Effect::Connect { endpoint: 0 }]);
        assert_eq!(scene.step(Input::Connected(Hello { incarnation: 1, ..hello(50) })), [Effect::Watch { from: 51 }]);
    }
    let mut scene = Scene::watching(40, true);
    scene.step(Input::Failed("reset".to_owned()));
    assert_eq!(scene.step(Input::ListAnew), [], "a store that is out of reach");
}

#[test]
fn a_list_that_is_refused_is_repeated_the_later_the_more_it_cost() {
    for (took, most) in [(0, 1), (1, 10), (60, 30)].map(|(took, most)| (Duration::from_secs(took), Duration::from_secs(most))) {
        let mut scene = Scene::new(None);
        scene.step(Input::Start);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            scene.step(Input::Connected(hello(50)));
            scene.step(Input::Opened { revision: 50 });
            scene.later(took);
            scene.step(listed(50));
            let why = "too much".to_owned();
            let effects = scene.step(Input::Refused { why, reason: "full", is_lasting: true });
            let Effect::Report { again_in: Some(again_in), .. } = effects[1] else { panic!("{effects:?}") };
            longest = longest.max(again_in);
            scene.later(again_in);
            scene.step(Input::Tick);
        }
        assert!(most / 2 < longest && longest <= most, "{took:?}: {longest:?}");
    }
}

#[test]
fn a_list_that_is_too_long_is_begun_again_after_a_while() {
    let mut scene = Scene::new(None);
    scene.step(Input::Start);
    scene.step(Input::Connected(hello(40)));
    scene.step(Input::Opened { revision: 40 });
    scene.later(Duration::from_secs(2));
    let effects = scene.step(Input::Refused { why: "too much".to_owned(), reason: "full", is_lasting: true });
    assert!(is_failure(&effects), "{effects:?}");
    scene.again();
    assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::Watch { from: 51 }]);
    scene.step(Input::Opened { revision: 50 });
    assert!(matches!(&scene.step(listed(50))[0], Effect::Resync { reason: "first", .. }));
}

#[test]
fn a_store_with_another_history_is_asked_often_for_its_incarnation() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    for _ in 0..100 {
        let effects = scene.step(Input::Connected(Hello { anchor: Anchor::Differs, ..hello(60) }));
        let Effect::Report { again_in: Some(again_in), .. } = effects[1] else { panic!("{effects:?}") };
        assert!(again_in <= BACKOFF_FROM_OTHER);
        scene.later(again_in);
        scene.step(Input::Tick);
    }
}

#[test]
fn the_cursor_moves_by_events_and_only_by_progress_that_can_be_trusted() {
    for (barrier, moves) in [(true, true), (false, false)] {
        let mut scene = Scene::watching(40, barrier);
        let effects = scene.step(Input::Progress { revision: 60 });
        assert_eq!(effects.contains(&Effect::Advance { revision: 60 }), moves);
        assert_eq!(effects.contains(&Effect::Alive), moves, "it may have overtaken something");
        let effects = scene.step(events(&[61, 63], false));
        assert!(matches!(&effects[0], Effect::Apply { revision: 63, events } if events.len() == 2));
    }
}

#[test]
fn nothing_is_current_before_what_the_store_had_has_been_applied() {
    for barrier in [true, false] {
        let mut scene = Scene::catching_up(barrier);
        for (events, is_current) in [
            (events(&[41, 42], false), false),
            (events(&[59], false), false),
            (events(&[60, 61], true), false),
            (events(&[61], false), true),
        ] {
            assert_eq!(scene.is_current(events), is_current, "at {}, barrier {barrier}", scene.applied.revision);
        }
        assert!(scene.is_current(events(&[62], false)));
    }
}

#[test]
fn what_was_missed_below_other_prefixes_is_known_by_progress() {
    let mut scene = Scene::catching_up(true);
    scene.later(PROGRESS_BEHIND_EVERY);
    assert_eq!(scene.step(Input::Tick), [Effect::AskProgress], "soon: requests may wait for it");
    assert!(!scene.is_current(Input::Progress { revision: 59 }), "a member that lags");
    assert!(scene.is_current(Input::Progress { revision: 60 }));
    scene.later(PROGRESS_BEHIND_EVERY);
    assert_eq!(scene.step(Input::Tick), []);

    // It may overtake what is still to come, so one is not enough, and two are only with nothing in between.
    let mut scene = Scene::catching_up(false);
    assert!(!scene.is_current(Input::Progress { revision: 60 }));
    assert!(!scene.is_current(events(&[50], false)));
    assert!(!scene.is_current(Input::Progress { revision: 60 }));
    assert!(scene.is_current(Input::Progress { revision: 61 }));
    assert!(scene.is_current(Input::Progress { revision: 70 }), "and so it stays while nothing comes");
    assert_eq!(scene.applied.revision, 50, "the cursor stays");
    let mut lagging = Scene::catching_up(false);
    for _ in 0..5 {
        assert!(!lagging.is_current(Input::Progress { revision: 50 }), "the member has not come to what another one had");
    }
}

#[test]
fn a_quiet_watch_is_asked_and_a_silent_one_left() {
    let mut scene = Scene::watching(40, true);
    scene.later(PROGRESS_EVERY);
    assert_eq!(scene.step(Input::Tick), [Effect::AskProgress]);
    assert_eq!(scene.step(Input::Tick), []);
    scene.later(SILENT_LIMIT);
    assert!(matches!(scene.step(Input::Tick)[..], [Effect::Disconnect, Effect::Report { error: Some(_), .. }]));
}

#[test]
fn a_watch_that_starts_in_the_future_is_not_believed() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    scene.step(Input::Connected(hello(40)));
    assert!(matches!(scene.step(Input::Opened { revision: 30 })[..], [Effect::Disconnect, Effect::Report { error: Some(_), .. }]));
}

#[test]
fn the_backoff_grows_to_its_bound_and_starts_over_only_after_a_stable_while() {
    let mut scene = Scene::new(None);
    scene.step(Input::Start);
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let effects = scene.step(Input::Failed("refused".to_owned()));
        let Effect::Report { again_in: Some(again_in), .. } = effects[1] else { panic!("{effects:?}") };
        assert!(again_in <= BACKOFF_MOST);
        longest = longest.max(again_in);
        scene.later(again_in);
        scene.step(Input::Tick);
    }
    assert!(longest > BACKOFF_MOST / 2, "{longest:?}");
    scene.step(Input::Connected(hello(1)));
    scene.step(Input::Opened { revision: 1 });
    scene.step(listed(1));
    assert!(scene.machine.failures > 0, "a watch that has just opened proves nothing");
    scene.later(STABLE_AFTER);
    scene.step(Input::Progress { revision: 1 });
    scene.step(Input::Tick);
    assert_eq!(scene.machine.failures, 0);
}
