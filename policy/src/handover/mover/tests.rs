//! A move against a scripted store: each line is what it asked for, and what it was told.

use waypost_conf::{Record, decode};

use super::*;
use crate::handover::BusyKey;

const KEY: &str = "routes/orders/t1";

fn name(name: &str) -> Name {
    name.try_into().unwrap()
}

fn plan() -> Plan {
    Plan {
        key: RecordKey::parse(KEY.as_bytes()).unwrap(),
        from: Some(name("a")),
        to: name("b"),
        id: "me".to_owned(),
        covers_many: false,
        force: false,
        assume_dead: Vec::new(),
    }
}

fn at(ms: u64) -> Moment {
    Moment::default() + Duration::from_millis(ms)
}

fn known(value: &str, revision: u64) -> Known {
    let key = RecordKey::parse(KEY.as_bytes()).unwrap();
    let Record::Route(route) = decode(&key, value.as_bytes()).unwrap().record else { panic!("no route") };
    Known { route, revision }
}

fn read(value: &str, revision: u64) -> Input<'static> {
    Input::Read(Some(known(value, revision)))
}

fn busy(key: &str, record: Option<&str>) -> BusyKey {
    BusyKey { service: "orders".to_owned(), key: key.to_owned(), record: record.map(str::to_owned) }
}

fn instances(of: &[(&str, u64, &[&str])]) -> Instances {
    let announced = |applied: u64, keys: &[&str]| Announcement {
        applied,
        busy: keys.iter().map(|key| busy(key, None)).collect(),
        ends_with_lease: false,
    };
    of.iter().map(|(id, applied, keys)| ((*id).to_owned(), announced(*applied, keys))).collect()
}

/// In short: `mark`, `read`, `look a`, `swap 10 {…}`, `sleep 500`, `moved 12`, `failed: …`.
fn said(asked: &Asks) -> String {
    match asked {
        Effect::Mark => "mark".to_owned(),
        Effect::Read => "read".to_owned(),
        Effect::LookForMark(id) => format!("look for {id}"),
        Effect::Look(owner) => format!("look {owner}"),
        Effect::Swap { route, read_at } => format!("swap {read_at} {}", Record::Route(route.clone()).to_json()),
        Effect::Sleep(until) => format!("sleep {}", until.since(Moment::default()).as_millis()),
        Effect::End(Ok(moved)) => format!("moved {}", moved.revision),
        Effect::End(Err(why)) => format!("failed: {why}"),
    }
}

const SERVING: &str = r#"{"owner":"a","epoch":5}"#;
const FROZEN: &str = r#"{"epoch":5,"move":"me","owner":"a","state":"frozen","target":"b"}"#;
const FROZEN_BY_ANOTHER: &str = r#"{"epoch":5,"move":"other","owner":"a","state":"frozen"}"#;
const MOVED: &str = r#"{"epoch":6,"owner":"b"}"#;
const BACK: &str = r#"{"epoch":6,"owner":"a"}"#;

struct Course {
    moving: Move,
    now: u64,
}

impl Course {
    fn new(plan: Plan) -> Self {
        Self { moving: Move::new(plan), now: 0 }
    }

    fn tell(&mut self, input: Input<'_>) -> String {
        said(&self.moving.step(input, at(self.now)))
    }

    /// Up to the first look.
    fn frozen(plan: Plan) -> Self {
        let mut course = Self::new(plan);
        assert_eq!(course.tell(Input::Woke), "mark");
        assert_eq!(course.tell(Input::Marked), "read");
        assert_eq!(course.tell(read(SERVING, 9)), format!("swap 9 {FROZEN}"));
        assert_eq!(course.tell(Input::Swapped(10)), "look a");
        course
    }
}

#[test]
fn a_key_is_frozen_let_go_and_committed() {
    let mut course = Course::frozen(plan());
    course.now = 3;
    for held in [&[("one", 9, &[][..])][..], &[("one", 10, &["t1"])], &[("one", 10, &[]), ("two", 9, &[])]] {
        assert_eq!(course.tell(Input::Saw(&instances(held))), "sleep 5", "{held:?}");
        assert_eq!(course.tell(Input::Woke), "look a");
    }
    let let_go = instances(&[("one", 10, &["t2"]), ("two", 12, &[])]);
    assert_eq!(course.tell(Input::Saw(&let_go)), format!("swap 10 {MOVED}"));
    course.now = 5;
    let ended = course.moving.step(Input::Swapped(13), at(5));
    let took = [0, 3, 2].map(Duration::from_millis);
    assert_eq!(ended, Effect::End(Ok(Moved { from: name("a"), revision: 13, tries: 1, taken_over: false, took })));
}

#[test]
fn what_is_not_let_go_in_time_is_given_back_and_after_three_tries_left_where_it_was() {
    let mut course = Course::new(plan());
    for try_number in 0..3 {
        assert_eq!(course.tell(Input::Woke), "mark");
        course.tell(Input::Marked);
        course.tell(read(SERVING, 9));
        course.tell(Input::Swapped(10));
        course.now += 499;
        assert_eq!(course.tell(Input::Saw(&instances(&[("one", 9, &[])]))), format!("sleep {}", course.now + 2));
        course.tell(Input::Woke);
        course.now += 1;
        // A store that can't be read says nothing either.
        let told = if try_number == 1 { Input::Failed("is away".to_owned()) } else { Input::Saw(&instances(&[("one", 10, &["t1"])])) };
        assert_eq!(course.tell(told), format!("swap 10 {BACK}"));
        let ended = course.tell(Input::Swapped(11));
        if try_number < 2 {
            assert_eq!(ended, format!("sleep {}", course.now + 500));
            course.now += 500;
        } else {
            assert!(ended.ends_with("by a's one (still serves requests); it was given back 3 times, and stays where it was"), "{ended}");
        }
    }
}

#[test]
fn who_has_gone_or_never_came_has_not_let_go() {
    let mut course = Course::frozen(plan());
    assert_eq!(course.tell(Input::Saw(&instances(&[("one", 9, &[]), ("two", 10, &[])]))), "sleep 2");
    course.tell(Input::Woke);
    assert_eq!(course.tell(Input::Saw(&instances(&[("two", 10, &[])]))), "sleep 2", "one may be paused");
    let mut course = Course::frozen(plan());
    let mut two = instances(&[("one", 9, &[]), ("two", 10, &[])]);
    two.values_mut().for_each(|announced| announced.ends_with_lease = true);
    assert_eq!(course.tell(Input::Saw(&two)), "sleep 2");
    course.tell(Input::Woke);
    let said = course.tell(Input::Saw(&instances(&[("two", 10, &[])])));
    assert!(said.starts_with("swap 10"), "it serves nothing outside its lease: {said}");
    for (force, assume_dead, wanted) in [(false, "", "sleep 2"), (true, "", "swap 10"), (false, "one", "swap 10")] {
        let assume_dead = vec![assume_dead.to_owned()].into_iter().filter(|id| !id.is_empty()).collect();
        let mut course = Course::frozen(Plan { force, assume_dead, ..plan() });
        let said = course.tell(Input::Saw(&Instances::new()));
        assert!(said.starts_with(wanted), "{said}");
    }
    let mut course = Course::frozen(Plan { assume_dead: vec!["one".to_owned()], ..plan() });
    let said = course.tell(Input::Saw(&instances(&[("one", 3, &["t1"]), ("two", 10, &[])])));
    assert!(said.starts_with("swap 10"), "{said}");
}

#[test]
fn a_key_that_a_dead_mover_left_frozen_is_taken_over_and_a_living_one_is_waited_for() {
    let mut course = Course::new(plan());
    course.tell(Input::Woke);
    for round in 0..50 {
        assert_eq!(course.tell(Input::Marked), "read");
        assert_eq!(course.tell(read(FROZEN_BY_ANOTHER, 8)), "look for other");
        assert_eq!(course.tell(Input::Mark(true)), format!("sleep {}", round * 100 + 100));
        course.now += 100;
        assert_eq!(course.tell(Input::Woke), "mark");
    }
    course.tell(Input::Marked);
    course.tell(read(FROZEN_BY_ANOTHER, 8));
    let mut given_up = Course::new(plan());
    std::mem::swap(&mut given_up.moving, &mut course.moving);
    given_up.now = course.now;
    assert!(given_up.tell(Input::Mark(true)).ends_with("another mover, other, has frozen it and is alive"));

    for frozen in [FROZEN, FROZEN_BY_ANOTHER, r#"{"owner":"a","epoch":5,"state":"frozen"}"#] {
        let mut course = Course::new(plan());
        course.tell(Input::Woke);
        course.tell(Input::Marked);
        let mut said = course.tell(read(frozen, 8));
        if frozen == FROZEN_BY_ANOTHER {
            assert_eq!(said, "look for other");
            said = course.tell(Input::Mark(false));
        }
        assert_eq!(said, "look a");
        // Its freeze is what the owner has to know of.
        assert_eq!(course.tell(Input::Saw(&instances(&[("one", 8, &[])]))), format!("swap 8 {MOVED}"));
        let Effect::End(Ok(moved)) = course.moving.step(Input::Swapped(9), at(0)) else { panic!("not moved") };
        assert!(moved.taken_over);
    }
}

#[test]
fn a_write_that_was_not_answered_is_looked_at_and_written_again_on_the_same_revision() {
    let let_go = instances(&[("one", 10, &[])]);
    let unsure = || Input::Unsure("no answer".to_owned());
    // The freeze.
    let mut course = Course::new(plan());
    course.tell(Input::Woke);
    course.tell(Input::Marked);
    course.tell(read(SERVING, 9));
    assert_eq!(course.tell(unsure()), "read");
    assert_eq!(course.tell(read(FROZEN, 10)), "look a");
    // The commit: nothing had come of it, then it had.
    assert_eq!(course.tell(Input::Saw(&let_go)), format!("swap 10 {MOVED}"));
    assert_eq!(course.tell(unsure()), "read");
    assert_eq!(course.tell(read(FROZEN, 10)), format!("swap 10 {MOVED}"));
    assert_eq!(course.tell(unsure()), "read");
    assert_eq!(course.tell(read(MOVED, 11)), "moved 11");
    // Somebody gave it back before.
    let mut course = Course::frozen(plan());
    course.tell(Input::Saw(&let_go));
    course.tell(unsure());
    assert_eq!(course.tell(read(BACK, 11)), "sleep 500");
    // The store stays away: it is said that the key may be left frozen.
    let mut course = Course::frozen(plan());
    course.tell(Input::Saw(&let_go));
    course.tell(unsure());
    let mut ended = String::new();
    for _ in 0..3 {
        ended = course.tell(Input::Failed("the store is away".to_owned()));
        if ended == "sleep 500" {
            ended = course.tell(Input::Woke);
        }
    }
    assert!(ended.starts_with("failed:") && ended.contains("its owner takes it back"), "{ended}");
}

#[test]
fn who_loses_looks_again_and_a_key_of_somebody_else_is_left_alone() {
    let mut course = Course::frozen(plan());
    course.tell(Input::Saw(&instances(&[("one", 10, &[])])));
    assert_eq!(course.tell(Input::Lost), "sleep 500");
    course.tell(Input::Woke);
    course.tell(Input::Marked);
    assert_eq!(course.tell(read(r#"{"owner":"c","epoch":7}"#, 12)), "failed: routes/orders/t1 was not moved: it belongs to c by now");
    let mut course = Course::new(Plan { from: None, ..plan() });
    course.tell(Input::Woke);
    course.tell(Input::Marked);
    assert_eq!(course.tell(read(MOVED, 12)), "failed: routes/orders/t1 was not moved: it belongs to b already");
    for (input, wanted) in [(Input::Read(None), "failed: there is no routes/orders/t1"), (Input::Lost, "failed: routes/orders/t1")] {
        let mut course = Course::new(plan());
        course.tell(Input::Woke);
        course.tell(Input::Marked);
        let said = course.tell(input);
        assert!(said.starts_with(wanted), "{said}");
    }
}

#[test]
fn where_a_record_covers_many_keys_all_of_them_have_to_end() {
    let one = |key: &str, record: Option<&str>| {
        Instances::from([("one".to_owned(), Announcement { applied: 10, busy: vec![busy(key, record)], ends_with_lease: false })])
    };
    for (covers_many, key, record, is_held) in [
        (true, "x", Some("t1"), true),
        (true, "x", Some("t2"), false),
        (true, "x", None, true),
        (false, "x", None, false),
        (false, "t1", None, true),
    ] {
        let mut course = Course::frozen(Plan { covers_many, ..plan() });
        let said = course.tell(Input::Saw(&one(key, record)));
        assert_eq!(said.starts_with("sleep"), is_held, "{covers_many} {key} {record:?}: {said}");
    }
}

/// Whatever it is told, a move ends or goes on, and the new owner is asked for only right after the old one was seen to have let go, or
/// again after such a commit was not answered.
#[test]
fn no_answers_of_the_store_make_a_commit_early() {
    let let_go = instances(&[("one", 100, &[])]);
    let held = instances(&[("one", 100, &["t1"])]);
    for seed in 0..2000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut moving, mut now, mut was_let_go) = (Move::new(plan()), 0, false);
        let mut asked = moving.step(Input::Woke, at(0));
        for _ in 0..200 {
            now += rng.u64(0..200);
            let saw = rng.bool();
            let input = match (&asked, rng.u8(0..6)) {
                (Effect::End(_), _) => break,
                (Effect::Mark, 0) | (Effect::Read | Effect::LookForMark(_) | Effect::Look(_), 0) => Input::Failed("away".to_owned()),
                (Effect::Mark, _) => Input::Marked,
                (Effect::Read, choice) => read([SERVING, FROZEN, FROZEN_BY_ANOTHER, MOVED, BACK][usize::from(choice - 1)], 9),
                (Effect::LookForMark(_), _) => Input::Mark(rng.bool()),
                (Effect::Look(_), _) => Input::Saw(if saw { &let_go } else { &held }),
                (Effect::Swap { .. }, 0) => Input::Lost,
                (Effect::Swap { .. }, 1) => Input::Unsure("late".to_owned()),
                (Effect::Swap { .. }, 2) => Input::Failed("refused".to_owned()),
                (Effect::Swap { .. }, _) => Input::Swapped(10),
                (Effect::Sleep(_), _) => Input::Woke,
            };
            match (&asked, &input) {
                (Effect::Look(_), Input::Saw(_)) => was_let_go = saw,
                (Effect::Swap { route, .. }, _) if route.owner == name("b") => {
                    assert!(was_let_go, "seed {seed}: committed without its old owner's word");
                }
                _ => {}
            }
            asked = moving.step(input, at(now));
        }
        assert!(matches!(asked, Effect::End(_)), "seed {seed}: it never ends: {asked:?}");
    }
}
