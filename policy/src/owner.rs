//! The owner's side of the stale-route protocol: may this request be served here, and if not, what is to be said? Sans-IO.
//!
//! The rows of STALE-ROUTES.md's table of answers, in their order, over the same [`Table`] that a proxy has: an owner that watches the
//! gold copy judges each request's head by what it knows, before it reads a body or sheds load. What always holds: a refusal means
//! that nothing was executed; a frozen key is served by nobody; a stamp of another incarnation decides nothing about order.

use crate::{
    Table,
    table::{Entry, RequestKey, State, UpstreamId},
    wire::{Stale, StaleState, Stamp, Update},
};

/// What an owner does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Serve it.
    Serve(Serving),
    /// Execute nothing, and answer 421 with this.
    Refuse(Stale),
    /// Wait for the own view to change, no longer than the stamp's `wait-ms` in all, and judge again; then with `may_wait` unset.
    Wait,
}

/// How a request is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The generation of the ownership that it is served under: with the incarnation, a fencing token for storage.
    pub epoch: u64,
    /// What is to be said beside the answer: the proxy knows less than the owner.
    pub update: Option<Update>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The routing key; empty where the service has none.
    pub key: &'a [u8],
    /// The proxy's stamp; `None`: no proxy sent it.
    pub stamp: Option<&'a Stamp>,
    /// Whether the method is safe (RFC 9110, section 9.2.1): it may be served although the proxy's epoch is older.
    pub is_safe: bool,
    /// Whether the own view may still catch up.
    pub may_wait: bool,
}

/// What a view says of one key.
#[derive(Clone, Copy, Debug)]
struct View {
    owner: Option<UpstreamId>,
    target: Option<UpstreamId>,
    epoch: u64,
    is_frozen: bool,
}

/// Judges a request by an owner's view. `me` is the upstream that the owner is an endpoint of.
pub fn judge(table: &Table, me: &str, asked: &Asked<'_>) -> Judgement {
    let here = Here { table, me: table.upstream_named(me).map(|upstream| upstream.id), name: me, asked };
    let view = here.view();
    let Some(stamp) = asked.stamp else { return here.without_stamp(&view) };
    if *stamp.table != *table.id().as_str() {
        return here.of_another_table(&view);
    }
    if stamp.ask.as_deref() == Some(me) {
        return here.asked_for_one(&view);
    }
    if stamp.epoch > view.epoch {
        return if asked.may_wait { Judgement::Wait } else { here.refuse(StaleState::Behind, None) };
    }
    if view.is_frozen {
        return here.refuse(StaleState::Handoff, None);
    }
    match (here.owns(&view), stamp.epoch < view.epoch) {
        (true, true) if asked.is_safe => here.serve(&view, Some(here.update(&view))),
        (true, false) => here.serve(&view, None),
        // Owned here at a newer epoch, or by somebody else: both are told by name.
        (_, true) => here.refuse(StaleState::Moved, Some(&view)),
        (false, false) => here.refuse(StaleState::Moved, None),
    }
}

/// Whether a key may be served by an upstream at all, by an owner's view.
pub fn owns(table: &Table, me: &str, service: &str, key: &[u8]) -> bool {
    let asked = Asked { service, key, stamp: None, is_safe: false, may_wait: false };
    let here = Here { table, me: table.upstream_named(me).map(|upstream| upstream.id), name: me, asked: &asked };
    here.owns(&here.view())
}

/// The judge's place.
struct Here<'a> {
    table: &'a Table,
    /// `None` while the own upstream has no record.
    me: Option<UpstreamId>,
    name: &'a str,
    asked: &'a Asked<'a>,
}

impl Here<'_> {
    fn view(&self) -> View {
        let nothing = View { owner: None, target: None, epoch: 0, is_frozen: false };
        let Some(service) = self.table.service_named(self.asked.service) else { return nothing };
        let entry = match self.asked.key {
            // Without a key all of it is the default owner's.
            [] => Entry::Absent(self.table.source()),
            key => self.table.entry(&RequestKey { service: service.id, key: key.into() }),
        };
        match entry {
            Entry::Absent(_) => View { owner: service.default_owner, ..nothing },
            Entry::Route(route, _) => match route.state {
                State::Quarantined => nothing,
                State::Serving => View { owner: Some(route.owner), epoch: route.epoch, ..nothing },
                State::Moving(target) => View { owner: Some(route.owner), target: Some(target), epoch: route.epoch, ..nothing },
                State::Frozen => View { epoch: route.epoch, is_frozen: true, ..nothing },
            },
        }
    }

    fn owns(&self, view: &View) -> bool {
        view.owner.is_some() && view.owner == self.me
    }

    /// A redirected client, or a health check.
    fn without_stamp(&self, view: &View) -> Judgement {
        match (view.is_frozen, self.owns(view)) {
            (true, _) => self.refuse(StaleState::Handoff, None),
            (false, true) => self.serve(view, None),
            (false, false) => self.refuse(StaleState::Moved, Some(view)),
        }
    }

    /// Epochs of two incarnations have no order.
    fn of_another_table(&self, view: &View) -> Judgement {
        match (self.asked.may_wait, view.is_frozen, self.owns(view)) {
            (true, ..) => Judgement::Wait,
            (false, true, _) => self.refuse(StaleState::Handoff, None),
            (false, false, true) => self.serve(view, None),
            (false, false, false) => self.refuse(StaleState::Moved, None),
        }
    }

    /// The owner says that this one item has come here already.
    fn asked_for_one(&self, view: &View) -> Judgement {
        let is_here = (view.target.is_some() && view.target == self.me) || self.owns(view);
        match (is_here && !view.is_frozen, self.asked.may_wait) {
            (true, _) => self.serve(view, None),
            (false, true) => Judgement::Wait,
            (false, false) => self.refuse(StaleState::Behind, None),
        }
    }

    fn serve(&self, view: &View, update: Option<Update>) -> Judgement {
        Judgement::Serve(Serving { epoch: view.epoch, update })
    }

    fn update(&self, view: &View) -> Update {
        Update {
            key: self.key(),
            owner: Some(self.name.to_owned()),
            epoch: Some(view.epoch),
            revision: Some(self.table.revision()),
            table: Some(self.table.id().as_str().to_owned()),
        }
    }

    fn key(&self) -> Option<Vec<u8>> {
        (!self.asked.key.is_empty()).then(|| self.asked.key.to_vec())
    }

    /// `newer`: where the key is, if that may be named.
    fn refuse(&self, state: StaleState, newer: Option<&View>) -> Judgement {
        let owner = newer.and_then(|view| self.table.upstream_name(view.owner?));
        Judgement::Refuse(Stale {
            state,
            service: Some(self.asked.service.to_owned()),
            key: self.key(),
            owner: owner.map(ToString::to_string),
            epoch: owner.and(newer).map(|view| view.epoch),
            revision: Some(self.table.revision()),
            table: Some(self.table.id().as_str().to_owned()),
        })
    }
}

/// Whether a method is safe (RFC 9110, section 9.2.1).
pub fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::table::testing;

    const SERVICE: (&str, &str) = ("services/orders", r#"{"match":[{}],"key":{"header":"x-tenant"},"default_owner":"d"}"#);

    /// The view of an owner that knows this of `t1`, at revision 20.
    fn view(route: &str) -> Arc<Table> {
        let upstreams = [("upstreams/a", "{}"), ("upstreams/b", "{}"), ("upstreams/d", "{}")];
        let mut records = vec![SERVICE];
        records.extend(upstreams);
        if !route.is_empty() {
            records.push(("routes/orders/t1", route));
        }
        testing::table(&records, 20)
    }

    fn stamp(epoch: u64) -> Stamp {
        Stamp {
            service: "orders".into(),
            key: Some(b"t1"[..].into()),
            epoch,
            revision: 19,
            table: "c0ffee-0".into(),
            hop: 0,
            wait_ms: 50,
            ask: None,
        }
    }

    fn asked<'a>(stamp: Option<&'a Stamp>, method: &str, may_wait: bool) -> Asked<'a> {
        Asked { service: "orders", key: b"t1", stamp, is_safe: is_safe(method), may_wait }
    }

    /// In short: `serve 5`, `serve 6 update`, `wait`, `moved b 6`, `handoff`.
    fn said(judgement: &Judgement) -> String {
        match judgement {
            Judgement::Wait => "wait".to_owned(),
            Judgement::Serve(Serving { epoch, update: None }) => format!("serve {epoch}"),
            Judgement::Serve(Serving { epoch, update: Some(update) }) => {
                assert_eq!(
                    (update.epoch, update.key.as_deref(), update.table.as_deref()),
                    (Some(*epoch), Some(&b"t1"[..]), Some("c0ffee-0"))
                );
                format!("serve {epoch} update")
            }
            Judgement::Refuse(stale) => {
                assert_eq!((stale.key.as_deref(), stale.revision, stale.table.as_deref()), (Some(&b"t1"[..]), Some(20), Some("c0ffee-0")));
                let newer = stale.owner.as_ref().zip(stale.epoch).map(|(owner, epoch)| format!(" {owner} {epoch}"));
                format!("{}{}", stale.state.as_str(), newer.unwrap_or_default())
            }
        }
    }

    #[test]
    fn every_row_of_the_table_in_its_order() {
        const MINE: &str = r#"{"owner":"a","epoch":5}"#;
        const OTHERS: &str = r#"{"owner":"b","epoch":5}"#;
        const FROZEN: &str = r#"{"owner":"a","epoch":5,"state":"frozen"}"#;
        const MOVING_HERE: &str = r#"{"owner":"b","epoch":5,"state":"moving","target":"a"}"#;
        const MOVING_AWAY: &str = r#"{"owner":"a","epoch":5,"state":"moving","target":"b"}"#;
        let another = |epoch| Some(Stamp { table: "c0ffee-1".into(), ..stamp(epoch) });
        let ask = |of: &str| Some(Stamp { ask: Some(of.to_owned()), ..stamp(5) });
        type Row = (&'static str, &'static str, Option<Stamp>, &'static str, [&'static str; 2]);
        let rows: [Row; 23] = [
            ("a", MINE, None, "POST", ["serve 5"; 2]),
            ("a", OTHERS, None, "GET", ["moved b 5"; 2]),
            ("a", FROZEN, None, "GET", ["handoff"; 2]),
            ("b", MINE, another(9), "POST", ["wait", "serve 5"]),
            ("b", OTHERS, another(1), "GET", ["wait", "moved"]),
            ("b", FROZEN, another(5), "GET", ["wait", "handoff"]),
            ("c", MOVING_HERE, ask("a"), "POST", ["serve 5"; 2]),
            ("c", OTHERS, ask("a"), "POST", ["wait", "behind"]),
            ("c", MOVING_AWAY, ask("b"), "POST", ["serve 5"; 2]),
            ("d", MINE, Some(stamp(6)), "GET", ["wait", "behind"]),
            ("d", OTHERS, Some(stamp(6)), "GET", ["wait", "behind"]),
            ("d", FROZEN, Some(stamp(6)), "GET", ["wait", "behind"]),
            ("d", "", Some(stamp(6)), "GET", ["wait", "behind"]),
            ("e", MINE, Some(stamp(4)), "GET", ["serve 5 update"; 2]),
            ("e", MINE, Some(stamp(4)), "DELETE", ["moved a 5"; 2]),
            ("f", MINE, Some(stamp(5)), "POST", ["serve 5"; 2]),
            ("f", MOVING_AWAY, Some(stamp(5)), "POST", ["serve 5"; 2]),
            ("g", OTHERS, Some(stamp(4)), "POST", ["moved b 5"; 2]),
            ("g", MOVING_HERE, Some(stamp(4)), "POST", ["moved b 5"; 2]),
            ("g'", FROZEN, Some(stamp(5)), "GET", ["handoff"; 2]),
            ("g'", FROZEN, Some(stamp(4)), "GET", ["handoff"; 2]),
            ("h", OTHERS, Some(stamp(5)), "POST", ["moved"; 2]),
            ("h", "", Some(stamp(0)), "POST", ["moved"; 2]),
        ];
        for (row, known, stamp, method, wanted) in rows {
            let table = view(known);
            for (may_wait, wanted) in [true, false].into_iter().zip(wanted) {
                let judgement = judge(&table, "a", &asked(stamp.as_ref(), method, may_wait));
                assert_eq!(said(&judgement), wanted, "row {row}: {known} {stamp:?} {method}");
            }
        }
    }

    #[test]
    fn a_default_owner_serves_what_has_no_route_and_nobody_what_is_not_known() {
        let unrouted = stamp(0);
        assert_eq!(said(&judge(&view(""), "d", &asked(Some(&unrouted), "POST", true))), "serve 0");
        assert_eq!(said(&judge(&view(""), "nobody", &asked(Some(&unrouted), "POST", true))), "moved");
        let keyless = judge(&view(""), "d", &Asked { key: b"", ..asked(Some(&unrouted), "POST", true) });
        assert_eq!(keyless, Judgement::Serve(Serving { epoch: 0, update: None }), "a service without routing keys");
        let elsewhere = Asked { service: "billing", ..asked(Some(&unrouted), "POST", true) };
        assert_eq!(said(&judge(&view(""), "d", &elsewhere)), "moved");
    }
}
