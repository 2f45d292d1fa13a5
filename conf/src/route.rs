//! `routes/<service>/<key>`: who owns a routing key.

use serde::{Deserialize, Serialize};

use crate::{Name, number::Epoch};

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Route {
    /// The upstream that owns the key.
    pub owner: Name,
    /// The generation of the ownership, 1 to 999,999,999,999,999; left out: the record's `mod_revision`.
    pub epoch: Option<u64>,
    /// Whether and how the key is served.
    pub state: RouteState,
}

/// Whether and how a key is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// By its owner.
    Serving,
    /// By its owner, which may answer *ask `target`* for single requests.
    Moving {
        /// Where the key is going.
        target: Name,
    },
    /// By nobody now: requests are parked.
    Frozen {
        /// The move that froze it.
        move_id: Option<String>,
        /// Where the key is going, if that is written.
        target: Option<Name>,
    },
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum StateWord {
    #[default]
    Serving,
    Moving,
    Frozen,
}

#[derive(Deserialize)]
struct Wire {
    owner: Name,
    epoch: Option<Epoch>,
    #[serde(default)]
    state: StateWord,
    target: Option<Name>,
    r#move: Option<String>,
}

impl TryFrom<Wire> for Route {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let state = match (wire.state, wire.target, wire.r#move) {
            (StateWord::Serving, None, None) => RouteState::Serving,
            (StateWord::Serving, Some(_), _) => {
                return Err("\"target\" goes with \"state\": \"moving\"; write that, or leave \"target\" out");
            }
            (StateWord::Moving, Some(target), None) => RouteState::Moving { target },
            (StateWord::Moving, None, _) => return Err("\"state\": \"moving\" needs a \"target\", the upstream it is moving to"),
            (StateWord::Frozen, target, move_id) => RouteState::Frozen { move_id, target },
            (_, _, Some(_)) => return Err("\"move\" goes with \"state\": \"frozen\"; write that, or leave \"move\" out"),
        };
        Ok(Self { owner: wire.owner, epoch: wire.epoch.map(|epoch| epoch.0), state })
    }
}

impl Serialize for Route {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            owner: &'a Name,
            #[serde(skip_serializing_if = "Option::is_none")]
            epoch: Option<u64>,
            #[serde(skip_serializing_if = "crate::service::is_default")]
            state: StateWord,
            #[serde(skip_serializing_if = "Option::is_none")]
            target: Option<&'a Name>,
            #[serde(skip_serializing_if = "Option::is_none")]
            r#move: Option<&'a str>,
        }
        let (state, target, move_id) = match &self.state {
            RouteState::Serving => (StateWord::Serving, None, None),
            RouteState::Moving { target } => (StateWord::Moving, Some(target), None),
            RouteState::Frozen { move_id, target } => (StateWord::Frozen, target.as_ref(), move_id.as_deref()),
        };
        Out { owner: &self.owner, epoch: self.epoch, state, target, r#move: move_id }.serialize(to)
    }
}
