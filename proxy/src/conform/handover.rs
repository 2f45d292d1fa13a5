//! The rows of a handover (STALE-ROUTES.md, "Handover"): the backend announces itself, lets a frozen key go, and serves nothing of it after
//! its word.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use waypost_policy::wire::StaleState;

use super::{
    cases::{Cast, EPOCH, Facts, HANDOVER, Names, Sends, Wanted, stamp},
    exchange::{Exchange, Open},
    judge::judge,
    play::{KNOWN_LIMIT, Played, SLACK, Stage},
    world::Announced,
};
use crate::until::until;

/// A mover waits so long for the old owner, and tries so often.
const LET_GO_LIMIT: Duration = Duration::from_millis(500);
const TRIES: u64 = 3;
/// How long the backend may take to say that the body may come; who says nothing has the rest of the head's time.
const CONTINUE_LIMIT: Duration = Duration::from_millis(1000);
const UNDER_WAY: Duration = Duration::from_millis(300);

/// How far the instances of an owner are with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// These have not heard of it.
    Unheard(Vec<String>),
    /// All have; these still serve requests of before.
    Busy(Vec<String>),
    LetGo,
}

/// Judges what the instances say.
fn held(instances: &BTreeMap<String, Announced>, cast: &Cast, key: &[u8], frozen_at: u64) -> Held {
    let key = String::from_utf8_lossy(key);
    let ids = |which: &dyn Fn(&waypost_owner::Announcement) -> bool| -> Vec<String> {
        let found = instances.iter().filter(|(_, instance)| instance.said.as_ref().map_or(true, which));
        found.map(|(id, _)| id.clone()).collect()
    };
    let unheard = ids(&|said| said.applied < frozen_at);
    let busy = ids(&|said| said.busy.iter().any(|busy| busy.service == cast.service && busy.key == key));
    match (unheard.is_empty() && !instances.is_empty(), busy.is_empty()) {
        (false, _) => Held::Unheard(unheard),
        (true, false) => Held::Busy(busy),
        (true, true) => Held::LetGo,
    }
}

impl Stage<'_> {
    /// Plays all of them.
    pub(super) async fn handover(&mut self) -> Result<Vec<Played>, String> {
        let announced = self.announced().await?;
        let has_announced = announced.verdict == super::play::Verdict::Passed;
        let mut played = vec![announced];
        const ROWS: [&str; 3] = [
            "a key is frozen: let go within 500 ms, then handoff, then served again",
            "a key is frozen while a request is under way: busy until that has ended",
            "a key goes to another owner: announced at once",
        ];
        if !has_announced {
            played.extend(ROWS.map(|says| Played::skipped(HANDOVER, says, "it has not announced itself as it should")));
            return Ok(played);
        }
        played.push(self.lets_go(ROWS[0]).await?);
        played.push(self.under_way(ROWS[1]).await?);
        played.push(self.leaves(ROWS[2]).await?);
        Ok(played)
    }

    async fn announced(&mut self) -> Result<Played, String> {
        let began = Instant::now();
        let instances = self.world.announced(&self.cast.me).await?;
        let mut faults = Vec::new();
        if instances.is_empty() {
            let place = format!("{}-state/owners/{}/ID", self.world.place.prefix, self.cast.me);
            faults.push(format!(
                "it has announced nothing: without a value at {place}, under a lease, no key can be moved away from it but by --force; \
                 --without-handover leaves these rows out"
            ));
        }
        for (id, Announced { said, is_leased }) in &instances {
            let place = format!("{}-state/owners/{}/{id}", self.world.place.prefix, self.cast.me);
            if let Err(why) = said {
                faults.push(format!("{place} can't be read: {why}"));
            }
            if !is_leased {
                faults.push(format!("{place} hangs on no lease: it would outlive its process"));
            }
        }
        Ok(Played::of(HANDOVER, "it has announced itself, under a lease", began, Vec::new(), faults))
    }

    /// How far the backend is with a key, once it is as far as wanted or the limit has passed.
    async fn until_held(&self, key: &[u8], frozen_at: u64, limit: Duration, is_enough: impl Fn(&Held) -> bool) -> Result<Held, String> {
        let mut last = Held::Unheard(Vec::new());
        let seen = until("", limit, async || match self.world.announced(&self.cast.me).await {
            Ok(instances) => {
                last = held(&instances, &self.cast, key, frozen_at);
                is_enough(&last).then_some(Ok(()))
            }
            Err(why) => Some(Err(why)),
        })
        .await;
        if let Ok(Err(why)) = seen {
            return Err(why);
        }
        Ok(last)
    }

    /// Frozen by hand: a freeze that a mover has made and left would be ended by the backend itself.
    fn frozen(&self, epoch: u64) -> serde_json::Value {
        json!({ "owner": self.cast.me, "epoch": epoch, "state": "frozen" })
    }

    /// Freezes a key of the backend's, sees that it is let go and refused, and gives it back.
    async fn lets_go(&mut self, says: &str) -> Result<Played, String> {
        let began = Instant::now();
        let key = self.key("let-go");
        let mut faults = Vec::new();
        let mut exchanges = Vec::new();
        for attempt in 0..TRIES {
            let epoch = EPOCH + attempt;
            let revision = self.put(&key, self.mine(epoch)).await?;
            let facts = Facts { key: key.clone(), epoch, revision };
            if let Err((exchange, why)) = self.until_served(&facts, KNOWN_LIMIT, &mut None).await {
                faults = vec![format!("it owns the key at epoch {epoch}, and does not serve it: {why}")];
                exchanges = exchange.into_iter().collect();
                break;
            }
            let frozen_at = self.put(&key, self.frozen(epoch)).await?;
            let held = self.until_held(&key, frozen_at, LET_GO_LIMIT, |held| *held == Held::LetGo).await?;
            if held != Held::LetGo {
                let why = describe(&held, frozen_at);
                faults = vec![format!("{TRIES} times the key was frozen and not let go within {LET_GO_LIMIT:?}: {why}")];
                continue;
            }
            let facts = Facts { revision: frozen_at, ..facts };
            let stamp = stamp(&self.cast, &facts);
            let request = self.backend.request(Sends::Write, &key, Some(&stamp), "frozen");
            let wanted = Wanted::Refused(StaleState::Handoff, Names::Nobody);
            let (exchange, wrong) = self.ask(&request, Some(&stamp), wanted, &facts).await;
            (exchanges, faults) = (vec![exchange], wrong);
            if !faults.is_empty() {
                faults.insert(0, "it said that it had let the key go".to_owned());
            }
            break;
        }
        let epoch = EPOCH + TRIES;
        let revision = self.put(&key, self.mine(epoch)).await?;
        if faults.is_empty()
            && let Err((exchange, why)) = self.until_served(&Facts { key, epoch, revision }, KNOWN_LIMIT, &mut None).await
        {
            faults = vec![format!("the key was given back at epoch {epoch}, and it does not serve it: {why}")];
            exchanges.extend(exchange);
        }
        Ok(Played::of(HANDOVER, says, began, exchanges, faults))
    }

    /// Freezes a key while a request for it is under way: whatever it says, nothing is served after the word that the key was let go.
    async fn under_way(&mut self, says: &str) -> Result<Played, String> {
        let began = Instant::now();
        let key = self.key("under-way");
        let revision = self.put(&key, self.mine(EPOCH)).await?;
        let facts = Facts { key: key.clone(), epoch: EPOCH, revision };
        if let Err((exchange, why)) = self.until_served(&facts, KNOWN_LIMIT, &mut None).await {
            let fault = format!("it owns the key at epoch {EPOCH}, and does not serve it: {why}");
            return Ok(Played::of(HANDOVER, says, began, exchange.into_iter().collect(), vec![fault]));
        }
        let stamp = stamp(&self.cast, &facts);
        let text = "under way when its key was frozen";
        let mut request = self.backend.request(Sends::Write, &key, Some(&stamp), text);
        let end = request.head.len() - 2;
        request.head.splice(end..end, *b"Expect: 100-continue\r\n");
        request.body.clear();
        let mut open = Open::send(self.backend.to, &request, SLACK).await?;
        let (first, rest) = text.as_bytes().split_at(1);
        match open.first_status(CONTINUE_LIMIT).await {
            Some(100) => {}
            // It does not know the expectation; a part of the body is as good.
            None => {
                open.send_more(first).await;
                tokio::time::sleep(UNDER_WAY).await;
            }
            Some(_) => {
                let exchange = open.answer(SLACK).await;
                let skipped = Played::skipped(HANDOVER, says, "it answers before the body has come, so nothing can be under way");
                return Ok(Played { exchanges: vec![exchange], ..skipped });
            }
        }
        let rest = if open.has_sent_body() { rest } else { text.as_bytes() };
        let frozen_at = self.put(&key, self.frozen(EPOCH)).await?;
        let heard = self.until_held(&key, frozen_at, KNOWN_LIMIT, |held| !matches!(held, Held::Unheard(_))).await?;
        open.send_more(rest).await;
        let exchange = open.answer(SLACK).await;
        let faults = self.judge_under_way(&heard, &exchange, &facts, frozen_at).await?;
        self.put(&key, self.mine(EPOCH + 1)).await?;
        Ok(Played::of(HANDOVER, says, began, vec![exchange], faults))
    }

    async fn judge_under_way(&self, heard: &Held, exchange: &Exchange, facts: &Facts, frozen_at: u64) -> Result<Vec<String>, String> {
        let answer = match &exchange.answer {
            Ok(answer) => answer,
            Err(why) => return Ok(vec![format!("the request under way was not answered: {why}")]),
        };
        if matches!(heard, Held::Unheard(_)) {
            return Ok(vec![format!("the key was frozen, and {}", describe(heard, frozen_at))]);
        }
        if answer.is_refusal() {
            // It looked again before it executed anything.
            return Ok(judge(
                Wanted::Refused(StaleState::Handoff, Names::Nobody),
                &super::judge::Answer { interim: Vec::new(), ..answer.clone() },
                &self.cast,
                facts,
            ));
        }
        if *heard == Held::LetGo {
            return Ok(vec![
                "it said that it had let the key go, and then executed a request for it; \"busy\" has to name the key".to_owned(),
            ]);
        }
        let ended = self.until_held(&facts.key, frozen_at, KNOWN_LIMIT, |held| *held == Held::LetGo).await?;
        let still = (ended != Held::LetGo).then(|| format!("the request has ended, and {}", describe(&ended, frozen_at)));
        Ok(still.into_iter().collect())
    }

    /// A key leaves without having been frozen.
    async fn leaves(&mut self, says: &str) -> Result<Played, String> {
        let began = Instant::now();
        let key = self.key("leaves");
        let revision = self.put(&key, self.mine(EPOCH)).await?;
        let served = self.until_served(&Facts { key: key.clone(), epoch: EPOCH, revision }, KNOWN_LIMIT, &mut None).await;
        if let Err((exchange, why)) = served {
            let fault = format!("it owns the key at epoch {EPOCH}, and does not serve it: {why}");
            return Ok(Played::of(HANDOVER, says, began, exchange.into_iter().collect(), vec![fault]));
        }
        let left_at = self.put(&key, json!({ "owner": self.cast.other, "epoch": EPOCH + 1 })).await?;
        let held = self.until_held(&key, left_at, KNOWN_LIMIT, |held| *held == Held::LetGo).await?;
        let fault = (held != Held::LetGo).then(|| format!("the key went to {}, and {}", self.cast.other, describe(&held, left_at)));
        Ok(Played::of(HANDOVER, says, began, Vec::new(), fault.into_iter().collect()))
    }
}

/// What an owner that has not let go still has to say.
fn describe(held: &Held, frozen_at: u64) -> String {
    match held {
        Held::Unheard(ids) => format!("\"applied\" of {} is not yet {frozen_at} or more", ids.join(", ")),
        Held::Busy(ids) => format!("\"busy\" of {} still names the key", ids.join(", ")),
        Held::LetGo => "it has let go".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_owner::{Announcement, BusyKey};

    #[test]
    fn a_key_is_let_go_when_every_instance_has_heard_and_none_is_busy() {
        let cast = Cast { service: "orders".to_owned(), me: "cell-a".to_owned(), other: "cell-b".to_owned(), table: "c0ffee-0".to_owned() };
        let instance = |applied, busy: &[&str]| {
            let busy = busy.iter().map(|key| BusyKey { service: "orders".to_owned(), key: (*key).to_owned(), record: None }).collect();
            Announced { said: Ok(Announcement { applied, busy, ends_with_lease: false }), is_leased: true }
        };
        let said = |instances: Vec<Announced>| {
            let instances = instances.into_iter().enumerate().map(|(id, instance)| (id.to_string(), instance)).collect();
            held(&instances, &cast, b"k", 10)
        };
        assert_eq!(said(vec![instance(10, &["other"]), instance(11, &[])]), Held::LetGo);
        assert_eq!(said(vec![instance(10, &["k"]), instance(11, &[])]), Held::Busy(vec!["0".to_owned()]));
        assert_eq!(said(vec![instance(10, &["k"]), instance(9, &[])]), Held::Unheard(vec!["1".to_owned()]));
        let unread = Announced { said: Err("no JSON".to_owned()), is_leased: true };
        assert_eq!(said(vec![unread]), Held::Unheard(vec!["0".to_owned()]));
        assert_eq!(said(vec![]), Held::Unheard(vec![]), "nobody has said anything");
    }
}
