//! Giving a key back whose mover has died, as an instance of its old owner does.
//!
//! What always holds: nothing is given back that has been frozen for less than two seconds, whose mover's mark is there, or that was frozen
//! by hand; and only by compare and swap on the record that was looked at, so that a mover that was only slow is told.

use std::time::Duration;

use waypost_conf::RouteState;

use super::{Effect, Input, Known, given_back};
use crate::Moment;

/// How long a key stays frozen at least, ...
pub const RESCUE_AFTER: Duration = Duration::from_secs(2);
/// ... how often it is looked whether its mover still lives, ...
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// ... and by how much that differs at most between the instances of an owner, so that mostly one does what there is to do.
const JITTER: Duration = Duration::from_millis(300);

/// One frozen key.
#[derive(Debug)]
pub struct Rescue {
    /// The revision of the freeze.
    revision: u64,
    jitter: Duration,
    state: State,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescued {
    /// The key was given back to its owner, at this revision.
    GivenBack(u64),
    /// It is not frozen any more, or anew.
    Over,
    /// No mover has frozen it: it stays so until a person changes that.
    ByHand,
}

#[derive(Debug)]
enum State {
    Waiting,
    Reading,
    Looking(Known),
    GivingBack,
    Ended,
}

type Asks = Effect<Rescued>;

impl Rescue {
    /// A key that was frozen at `revision`.
    pub fn new(revision: u64, rng: &mut fastrand::Rng) -> Self {
        let jitter = JITTER.mul_f64(rng.f64());
        Self { revision, jitter, state: State::Ended }
    }

    /// What is asked for first. `since`: when the freeze was seen.
    pub fn begin(&mut self, since: Moment) -> Asks {
        self.state = State::Waiting;
        Effect::Sleep(since + RESCUE_AFTER + self.jitter)
    }

    /// Says how what was asked for has ended. What is to be done next.
    pub fn step(&mut self, input: Input<'_>, now: Moment) -> Asks {
        match (std::mem::replace(&mut self.state, State::Ended), input) {
            (State::Waiting, Input::Woke) => self.ask(State::Reading, Effect::Read),
            (State::Reading, Input::Read(Some(known))) if known.revision == self.revision => match &known.route.state {
                RouteState::Frozen { move_id: Some(id), .. } => {
                    let look = Effect::LookForMark(id.clone());
                    self.ask(State::Looking(known), look)
                }
                RouteState::Frozen { move_id: None, .. } => Effect::End(Rescued::ByHand),
                RouteState::Serving | RouteState::Moving { .. } => Effect::End(Rescued::Over),
            },
            (State::Reading, Input::Read(_)) => Effect::End(Rescued::Over),
            (State::Looking(known), Input::Mark(false)) => {
                let back = Effect::Swap { route: given_back(&known.route), read_at: known.revision };
                self.ask(State::GivingBack, back)
            }
            (State::Looking(_), Input::Mark(true)) => self.again(now),
            (State::GivingBack, Input::Swapped(revision)) => Effect::End(Rescued::GivenBack(revision)),
            (State::GivingBack, Input::Lost) => Effect::End(Rescued::Over),
            // The store is away, or did not say: it is looked at anew.
            (_, Input::Failed(_) | Input::Unsure(_)) => self.again(now),
            _ => Effect::End(Rescued::Over),
        }
    }

    fn again(&mut self, now: Moment) -> Asks {
        self.ask(State::Waiting, Effect::Sleep(now + LOOK_EVERY + self.jitter))
    }

    fn ask(&mut self, next: State, effect: Asks) -> Asks {
        self.state = next;
        effect
    }
}

#[cfg(test)]
mod tests {
    use waypost_conf::{Record, RecordKey, decode};

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn read(value: &str, revision: u64) -> Input<'static> {
        let key = RecordKey::parse(b"routes/orders/t1").unwrap();
        let Record::Route(route) = decode(&key, value.as_bytes()).unwrap().record else { panic!("no route") };
        Input::Read(Some(Known { route, revision }))
    }

    fn awake() -> Rescue {
        let mut rescue = Rescue::new(7, &mut fastrand::Rng::with_seed(1));
        let Effect::Sleep(until) = rescue.begin(at(100)) else { panic!("it does not wait") };
        assert!((at(2100)..at(2400)).contains(&until), "{until:?}");
        assert_eq!(rescue.step(Input::Woke, until), Effect::Read);
        rescue
    }

    const FROZEN: &str = r#"{"owner":"a","epoch":5,"state":"frozen","target":"b","move":"m"}"#;

    #[test]
    fn a_key_is_given_back_once_its_mover_s_mark_has_gone_and_not_before() {
        let mut rescue = awake();
        for now in [3000, 4000] {
            assert_eq!(rescue.step(read(FROZEN, 7), at(now)), Effect::LookForMark("m".to_owned()));
            let Effect::Sleep(until) = rescue.step(Input::Mark(true), at(now)) else { panic!("its mover lives") };
            assert!((at(now + 500)..at(now + 800)).contains(&until));
            assert_eq!(rescue.step(Input::Woke, until), Effect::Read);
        }
        rescue.step(read(FROZEN, 7), at(5000));
        let Effect::Swap { route, read_at } = rescue.step(Input::Mark(false), at(5000)) else { panic!("its mover has died") };
        assert_eq!((Record::Route(route).to_json().to_string(), read_at), (r#"{"epoch":6,"owner":"a"}"#.to_owned(), 7));
        assert!(matches!(rescue.step(Input::Unsure("late".to_owned()), at(5001)), Effect::Sleep(_)));
        assert_eq!(rescue.step(Input::Woke, at(6000)), Effect::Read);
        assert_eq!(rescue.step(read(r#"{"owner":"a","epoch":6}"#, 8), at(6000)), Effect::End(Rescued::Over), "it had been written");
    }

    #[test]
    fn what_has_changed_or_was_frozen_by_hand_is_left_alone() {
        for (value, revision, wanted) in [
            (FROZEN, 8, Rescued::Over),
            (r#"{"owner":"b","epoch":6}"#, 8, Rescued::Over),
            (r#"{"owner":"a","epoch":5,"state":"frozen"}"#, 7, Rescued::ByHand),
        ] {
            assert_eq!(awake().step(read(value, revision), at(3000)), Effect::End(wanted));
        }
        assert_eq!(awake().step(Input::Read(None), at(3000)), Effect::End(Rescued::Over));
        let mut rescue = awake();
        rescue.step(read(FROZEN, 7), at(3000));
        rescue.step(Input::Mark(false), at(3000));
        assert_eq!(rescue.step(Input::Lost, at(3001)), Effect::End(Rescued::Over), "another instance was first");
        let mut rescue = awake();
        rescue.step(read(FROZEN, 7), at(3000));
        rescue.step(Input::Mark(false), at(3000));
        assert_eq!(rescue.step(Input::Swapped(9), at(3001)), Effect::End(Rescued::GivenBack(9)));
    }
}
