//! Is that what the contract says? An answer held against what is wanted, each fault in words.
//!
//! Pure. What an answer says beyond what is asked of it must be true as well: a wrong owner is never excused by its not having been wanted.

use waypost_policy::wire::{STALE_HEADER, Stale, StaleState, UPDATE_HEADER, Update};

use super::cases::{Cast, Facts, Names, Wanted};

/// An answer, as far as it is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    /// The interim answers before it.
    pub(super) interim: Vec<u16>,
}

impl Answer {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Whether the backend has refused it: nothing was executed.
    pub(super) fn is_refusal(&self) -> bool {
        self.status == 421 && self.values(STALE_HEADER).next().is_some()
    }
}

/// All that is wrong with an answer; empty: nothing.
pub(super) fn judge(wanted: Wanted, answer: &Answer, cast: &Cast, facts: &Facts) -> Vec<String> {
    let is_wanted = match wanted {
        Wanted::Served | Wanted::ServedWithUpdate => !answer.is_refusal(),
        Wanted::ServedOrAsk => true,
        Wanted::Refused(..) => answer.is_refusal(),
    };
    if !is_wanted {
        return vec![format!("it answers {}", said(answer))];
    }
    match wanted {
        Wanted::ServedOrAsk if answer.is_refusal() => refused(StaleState::Ask, Names::Other, answer, cast, facts),
        Wanted::Served | Wanted::ServedOrAsk => served(answer, false, cast, facts),
        Wanted::ServedWithUpdate => served(answer, true, cast, facts),
        Wanted::Refused(state, names) => refused(state, names, answer, cast, facts),
    }
}

/// What would be right, for a person.
pub(super) fn right(wanted: Wanted, cast: &Cast, facts: &Facts) -> String {
    let (state, names) = match wanted {
        Wanted::Served => return "the application's own answer, without Route-Stale".to_owned(),
        Wanted::ServedWithUpdate => {
            let update = Update {
                key: Some(facts.key.clone()),
                owner: Some(cast.me.clone()),
                epoch: Some(facts.epoch),
                revision: Some(facts.revision),
                table: Some(cast.table.clone()),
            };
            return format!("the application's own answer, with Route-Update: {}", update.to_value());
        }
        Wanted::ServedOrAsk => {
            let ask = right(Wanted::Refused(StaleState::Ask, Names::Other), cast, facts);
            return format!("the application's own answer, without Route-Stale; or {ask}");
        }
        Wanted::Refused(state, names) => (state, names),
    };
    let owner = match names {
        Names::Nobody => None,
        Names::Me => Some(cast.me.clone()),
        Names::Other | Names::Either => Some(cast.other.clone()),
    };
    let epoch = owner.as_ref().map(|_| facts.epoch);
    let stale = Stale {
        state,
        service: Some(cast.service.clone()),
        key: Some(facts.key.clone()),
        owner,
        epoch,
        revision: Some(facts.revision),
        table: Some(cast.table.clone()),
    };
    format!("421 with Route-Stale: {} and Cache-Control: no-store", stale.to_value())
}

/// An answer in a few words.
fn said(answer: &Answer) -> String {
    let stale = answer.values(STALE_HEADER).next().map(|value| format!(" with Route-Stale: {}", String::from_utf8_lossy(value)));
    match (answer.status, stale) {
        (421, None) => "421 without Route-Stale, which a client would get as it is".to_owned(),
        (status, stale) => format!("{status}{}", stale.unwrap_or_default()),
    }
}

fn served(answer: &Answer, must_update: bool, cast: &Cast, facts: &Facts) -> Vec<String> {
    let mut faults = Vec::new();
    if answer.status == 421 || answer.status >= 500 {
        faults.push(format!("it answers {}", said(answer)));
    } else if answer.values(STALE_HEADER).next().is_some() {
        faults.push(format!("it answers {}; that header belongs to 421 alone", said(answer)));
    }
    let updates: Vec<&[u8]> = answer.values(UPDATE_HEADER).collect();
    match updates[..] {
        [] if must_update => faults.push("there is no Route-Update".to_owned()),
        [] => {}
        [update] => match Update::parse(update) {
            Some(update) => faults.extend(update_faults(&update, cast, facts)),
            None => faults.push("Route-Update is no structured-field dictionary".to_owned()),
        },
        _ => faults.push("there is more than one Route-Update".to_owned()),
    }
    faults
}

fn update_faults(update: &Update, cast: &Cast, facts: &Facts) -> Vec<String> {
    let header = "Route-Update";
    let mut faults = Vec::new();
    faults.extend(key_fault(header, update.key.as_deref(), facts));
    faults.extend(text_fault(header, "owner", update.owner.as_deref(), &cast.me));
    faults.extend(text_fault(header, "table", update.table.as_deref(), &cast.table));
    faults.extend(epoch_fault(header, update.epoch, facts));
    faults.extend(revision_fault(header, update.revision, facts));
    faults
}

fn refused(state: StaleState, names: Names, answer: &Answer, cast: &Cast, facts: &Facts) -> Vec<String> {
    let header = "Route-Stale";
    let mut faults = Vec::new();
    if answer.interim.contains(&100) {
        faults.push("it said 100 Continue before it refused".to_owned());
    }
    let no_store =
        |value: &[u8]| value.split(|b| *b == b',').any(|word| word.trim_ascii().split(|b| *b == b'=').next() == Some(b"no-store"));
    if !answer.values("cache-control").any(no_store) {
        faults.push("there is no Cache-Control: no-store".to_owned());
    }
    let values: Vec<&[u8]> = answer.values(STALE_HEADER).collect();
    let [value] = values[..] else {
        faults.push("there is more than one Route-Stale".to_owned());
        return faults;
    };
    let stale = match Stale::parse(value) {
        Ok(stale) => stale,
        Err(fault) => {
            faults.push(fault.to_string());
            return faults;
        }
    };
    if stale.state != state {
        faults.push(format!("state is {}, not {}", stale.state.as_str(), state.as_str()));
    }
    faults.extend(key_fault(header, stale.key.as_deref(), facts));
    // What may be left out must be right where it is given.
    faults.extend(stale.service.as_deref().and_then(|given| text_fault(header, "service", Some(given), &cast.service)));
    faults.extend(stale.table.as_deref().and_then(|given| text_fault(header, "table", Some(given), &cast.table)));
    let owner = match (names, &stale.owner) {
        (Names::Nobody, None) | (Names::Either, None) => return faults,
        // Beside the other states it says nothing.
        (Names::Nobody, Some(_)) if state != StaleState::Moved => return faults,
        (Names::Nobody, Some(owner)) => {
            faults.push(format!("it names an owner, \"{owner}\", where it knows nothing newer"));
            return faults;
        }
        (Names::Me, _) => &cast.me,
        (Names::Other | Names::Either, _) => &cast.other,
    };
    faults.extend(text_fault(header, "owner", stale.owner.as_deref(), owner));
    faults.extend(epoch_fault(header, stale.epoch, facts));
    faults.extend(revision_fault(header, stale.revision, facts));
    if stale.table.is_none() {
        faults.push("Route-Stale names an owner and no table: no proxy may follow it".to_owned());
    }
    faults
}

fn key_fault(header: &str, given: Option<&[u8]>, facts: &Facts) -> Option<String> {
    let shown = |key: &[u8]| waypost_conf::escaped(key);
    match given {
        None => Some(format!("{header} has no usable key; \"{}\" would be right", shown(&facts.key))),
        Some(given) if given != facts.key => {
            Some(format!("{header} speaks of the key \"{}\", not of \"{}\"", shown(given), shown(&facts.key)))
        }
        Some(_) => None,
    }
}

fn text_fault(header: &str, name: &str, given: Option<&str>, wanted: &str) -> Option<String> {
    match given {
        None => Some(format!("{header} has no usable {name}; \"{wanted}\" would be right")),
        Some(given) if given != wanted => Some(format!("{header}'s {name} is \"{given}\", not \"{wanted}\"")),
        Some(_) => None,
    }
}

fn epoch_fault(header: &str, given: Option<u64>, facts: &Facts) -> Option<String> {
    match given {
        None => Some(format!("{header} has no usable epoch; {} would be right", facts.epoch)),
        Some(given) if given != facts.epoch => Some(format!("{header}'s epoch is {given}, not {}", facts.epoch)),
        Some(_) => None,
    }
}

fn revision_fault(header: &str, given: Option<u64>, facts: &Facts) -> Option<String> {
    match given {
        None => Some(format!("{header} has no usable revision; the one that the view reflects would be right")),
        Some(given) if given < facts.revision => {
            Some(format!("{header}'s revision is {given}, but the record that it knows is of {}", facts.revision))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast() -> Cast {
        Cast { service: "orders".to_owned(), me: "cell-a".to_owned(), other: "cell-b".to_owned(), table: "c0ffee-0".to_owned() }
    }

    fn facts() -> Facts {
        Facts { key: b"t1".to_vec(), epoch: 5, revision: 20 }
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Answer { status, headers: headers.collect(), ..Answer::default() }
    }

    fn refusal(stale: &str) -> Answer {
        answer(421, &[("ROUTE-STALE", stale), ("cache-control", "private, no-store")])
    }

    fn faults(wanted: Wanted, answer: &Answer) -> String {
        judge(wanted, answer, &cast(), &facts()).join("; ")
    }

    const MOVED_ON: Wanted = Wanted::Refused(StaleState::Moved, Names::Other);
    const GOOD: &str = r#"state=moved, key="t1", owner="cell-b", epoch=5, revision=21, table="c0ffee-0""#;

    /// What is shown as right is right.
    #[test]
    fn what_would_be_right_passes() {
        use StaleState::{Ask, Behind, Handoff, Moved};
        for (state, names) in [
            (Moved, Names::Other),
            (Moved, Names::Me),
            (Moved, Names::Nobody),
            (Behind, Names::Nobody),
            (Handoff, Names::Nobody),
            (Ask, Names::Other),
        ] {
            let wanted = Wanted::Refused(state, names);
            let right = right(wanted, &cast(), &facts());
            let stale =
                right.strip_prefix("421 with Route-Stale: ").and_then(|rest| rest.strip_suffix(" and Cache-Control: no-store")).unwrap();
            assert_eq!(faults(wanted, &refusal(stale)), "", "{right}");
        }
        assert_eq!(faults(MOVED_ON, &refusal(GOOD)), "");
        assert_eq!(faults(Wanted::Refused(Moved, Names::Either), &refusal(r#"state=moved, key="t1""#)), "");
        assert_eq!(faults(Wanted::ServedOrAsk, &answer(200, &[])), "");
        assert_eq!(faults(Wanted::ServedOrAsk, &refusal(&GOOD.replace("moved", "ask"))), "");
        let update = r#"key="t1", owner="cell-a", epoch=5, revision=20, table="c0ffee-0""#;
        assert_eq!(faults(Wanted::ServedWithUpdate, &answer(404, &[("Route-Update", update)])), "", "what the application says is its own");
    }

    #[test]
    fn each_member_that_is_wrong_is_named() {
        for (from, to, wanted) in [
            ("state=moved", "state=behind", "state is behind, not moved"),
            ("state=moved", "state=\"moved\"", "Route-Stale has no `state` token"),
            (r#"key="t1""#, r#"key="t2""#, r#"Route-Stale speaks of the key "t2", not of "t1""#),
            (r#"key="t1", "#, "", r#"Route-Stale has no usable key; "t1" would be right"#),
            ("cell-b", "127.0.0.1:80", r#"Route-Stale's owner is "127.0.0.1:80", not "cell-b""#),
            (r#"owner="cell-b", "#, "", r#"Route-Stale has no usable owner; "cell-b" would be right"#),
            ("epoch=5", "epoch=\"5\"", "Route-Stale has no usable epoch; 5 would be right"),
            ("epoch=5", "epoch=6", "Route-Stale's epoch is 6, not 5"),
            ("revision=21", "revision=19", "Route-Stale's revision is 19, but the record that it knows is of 20"),
            ("c0ffee-0", "c0ffee-1", r#"Route-Stale's table is "c0ffee-1", not "c0ffee-0""#),
            (r#", table="c0ffee-0""#, "", "Route-Stale names an owner and no table: no proxy may follow it"),
            ("state=moved", "state=moved, service=\"billing\"", r#"Route-Stale's service is "billing", not "orders""#),
        ] {
            assert_eq!(faults(MOVED_ON, &refusal(&GOOD.replace(from, to))), wanted);
        }
        let handoff = GOOD.replace("moved", "handoff");
        assert_eq!(faults(Wanted::Refused(StaleState::Handoff, Names::Nobody), &refusal(&handoff)), "", "an owner says nothing there");
        let named = faults(Wanted::Refused(StaleState::Moved, Names::Nobody), &refusal(GOOD));
        assert_eq!(named, "it names an owner, \"cell-b\", where it knows nothing newer");
    }

    #[test]
    fn what_is_around_the_header_counts_too() {
        assert_eq!(faults(MOVED_ON, &answer(421, &[("route-stale", GOOD)])), "there is no Cache-Control: no-store");
        assert_eq!(
            faults(MOVED_ON, &answer(421, &[("route-stale", GOOD), ("route-stale", GOOD), ("cache-control", "no-store")])),
            "there is more than one Route-Stale"
        );
        assert_eq!(faults(MOVED_ON, &Answer { interim: vec![100], ..refusal(GOOD) }), "it said 100 Continue before it refused");
        assert_eq!(faults(MOVED_ON, &answer(200, &[])), "it answers 200");
        assert_eq!(faults(MOVED_ON, &answer(421, &[])), "it answers 421 without Route-Stale, which a client would get as it is");
        assert_eq!(faults(Wanted::Served, &refusal(GOOD)), format!("it answers 421 with Route-Stale: {GOOD}"));
        assert_eq!(faults(Wanted::Served, &answer(503, &[])), "it answers 503");
        assert_eq!(
            faults(Wanted::Served, &answer(200, &[("route-stale", "x")])),
            "it answers 200 with Route-Stale: x; that header belongs to 421 alone"
        );
        assert_eq!(faults(Wanted::ServedWithUpdate, &answer(200, &[])), "there is no Route-Update");
        assert!(faults(Wanted::Served, &answer(200, &[("route-update", "owner=\"cell-b\"")])).contains("owner is \"cell-b\""));
    }
}
