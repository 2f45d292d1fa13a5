//! The machine by script: what each kind of trouble leads to, without a store.

use super::*;

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

    fn later(&mut self, by: Duration) {
        self.now = self.now + by;
    }
}

fn hello(revision: u64) -> Hello {
    Hello { cluster_id: 7, incarnation: 0, revision, anchor: Anchor::Same, progress_is_barrier: true }
}

fn event(revision: u64) -> Event {
    Event::Delete { key: b"routes/a/b".to_vec(), mod_revision: revision }
}

#[test]
fn a_first_start_lists_at_a_pinned_revision_and_watches_from_the_next() {
    let mut scene = Scene::new(None);
    assert_eq!(scene.step(Input::Start), [Effect::Connect { endpoint: 0 }]);
    assert_eq!(scene.step(Input::Connected(hello(40))), [Effect::List { revision: 40 }]);
    let effects = scene.step(Input::Listed { revision: 40, records: Vec::new() });
    assert!(matches!(&effects[..], [Effect::Resync { revision: 40, reason: "first", fresh: false, .. }, Effect::Watch { from: 41 }]));
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
fn a_compacted_history_is_listed_beside_the_live_table() {
    let mut scene = Scene::watching(40, true);
    assert_eq!(scene.step(Input::Compacted), [Effect::Connect { endpoint: 0 }]);
    assert_eq!(scene.step(Input::Connected(hello(50))), [Effect::List { revision: 50 }]);
    let effects = scene.step(Input::Listed { revision: 50, records: Vec::new() });
    assert!(matches!(&effects[..], [Effect::Resync { reason: "compacted", fresh: false, .. }, _]));
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    let compacted = Hello { anchor: Anchor::Compacted, ..hello(50) };
    assert_eq!(scene.step(Input::Connected(compacted)), [Effect::List { revision: 50 }]);
}

#[test]
fn another_incarnation_starts_afresh_and_a_silent_restore_changes_nothing() {
    let mut scene = Scene::new(Some(40));
    scene.step(Input::Start);
    assert_eq!(scene.step(Input::Connected(Hello { incarnation: 1, ..hello(9) })), [Effect::List { revision: 9 }]);
    let effects = scene.step(Input::Listed { revision: 9, records: Vec::new() });
    assert!(matches!(&effects[..], [Effect::Resync { fresh: true, .. }, Effect::Watch { from: 10 }]));
    for restored in [hello(39), Hello { anchor: Anchor::Differs, ..hello(60) }] {
        let mut scene = Scene::new(Some(40));
        scene.step(Input::Start);
        let effects = scene.step(Input::Connected(restored));
        assert!(matches!(&effects[..], [Effect::Disconnect, Effect::Report { error: Some(why), .. }] if why.contains("incarnation")));
    }
}

#[test]
fn the_cursor_moves_by_events_and_only_by_progress_that_can_be_trusted() {
    for (barrier, moves) in [(true, true), (false, false)] {
        let mut scene = Scene::watching(40, barrier);
        let effects = scene.step(Input::Progress { revision: 60 });
        assert_eq!(effects.contains(&Effect::Advance { revision: 60 }), moves);
        assert!(effects.contains(&Effect::Alive));
        let effects = scene.step(Input::Events(vec![event(61), event(63)]));
        assert!(matches!(&effects[0], Effect::Apply { revision: 63, events } if events.len() == 2));
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
    scene.step(Input::Listed { revision: 1, records: Vec::new() });
    scene.step(Input::Opened { revision: 1 });
    assert!(scene.machine.failures > 0, "a watch that has just opened proves nothing");
    scene.later(STABLE_AFTER);
    scene.step(Input::Progress { revision: 1 });
    scene.step(Input::Tick);
    assert_eq!(scene.machine.failures, 0);
}
