//! The list of all records as one stream, which etcd has from 3.7 on: there is nothing to count, and nothing waits for the next question.
//!
//! Only the last message of a stream has a header, and says how many records there were. What always holds: the records of a stream are
//! taken all or not at all, and only once that message has come, its number is that of the records, and the stream has ended well. Neither
//! is enough alone: what stands between may end a stream so that it looks whole, and etcd refuses a token that became old meanwhile behind
//! the last message.

use etcd_client::{Error, GetResponse, KvClient};
use tokio::task::JoinSet;

use super::{AT_ONCE, Fault, Outcome, READ_LIMIT, Reader, Refusal, lost, silent};
use crate::{
    connect::{Wanted, say_later},
    etcd::stored,
    listed::{Listed, Part},
    ranges::Range,
    record::Stored,
};

impl Reader {
    /// All records. They have to be listed by ranges if this member streams none, or if one message of it would be too large.
    ///
    /// Read on a task of its own, and prepared on others; dropped with this future.
    pub(super) async fn streamed(&self) -> Result<Outcome, Fault> {
        let reader = self.clone();
        let mut reading = JoinSet::new();
        reading.spawn(async move { reader.stream().await });
        reading.join_next().await.and_then(Result::ok).unwrap_or_else(|| Err(lost()))
    }

    async fn stream(self) -> Result<Outcome, Fault> {
        let mut serializable = true;
        loop {
            match self.kv.ask(|kv| self.read_stream(kv, serializable)).await {
                Ok(outcome) => return outcome,
                Err(error) => match Refusal::of(&error) {
                    Refusal::Compacted => return Err(Fault::Compacted),
                    Refusal::Behind if serializable => serializable = false,
                    Refusal::Unknown | Refusal::TooLarge => return Ok(Outcome::NotStreamed),
                    _ => return Err(Fault::Unreadable(format!(" {}", say_later(&error, Wanted::Read)))),
                },
            }
        }
    }

    /// One stream to its end. What etcd or the connection says of it is the outer error, what we say of it the inner one.
    async fn read_stream(&self, mut kv: KvClient, serializable: bool) -> Result<Result<Outcome, Fault>, Error> {
        let options = self.options(&Range { from: Vec::new(), end: None }, serializable);
        let asked = tokio::time::timeout(READ_LIMIT, kv.get_stream(&*self.prefix, Some(options)));
        let Ok(asked) = asked.await else { return Ok(Err(silent())) };
        let mut stream = asked?;
        let mut got = Got::default();
        let mut listed = Listed::default();
        let mut preparing = JoinSet::new();
        loop {
            let Ok(message) = tokio::time::timeout(READ_LIMIT, stream.message()).await else { return Ok(Err(silent())) };
            let Some(mut message) = message? else { break };
            let last = Last::of(&message);
            let records: Vec<Stored> = message.take_kvs().into_iter().map(|kv| stored(kv, self.prefix.len())).collect();
            if !got.adds(&records, last) {
                return Ok(Err(cut(&got)));
            }
            if got.records > self.most_records {
                return Ok(Ok(Outcome::TooMany));
            }
            // What is prepared is bounded: no more is read until there is room.
            if preparing.len() >= AT_ONCE
                && let Some(part) = preparing.join_next().await
            {
                let Ok(part) = part else { return Ok(Err(lost())) };
                listed.add(part);
            }
            preparing.spawn(async move { Part::of(records) });
        }
        if !got.is_whole {
            return Ok(Err(cut(&got)));
        }
        while let Some(part) = preparing.join_next().await {
            let Ok(part) = part else { return Ok(Err(lost())) };
            listed.add(part);
        }
        Ok(Ok(Outcome::Listed(listed)))
    }
}

fn cut(got: &Got) -> Fault {
    Fault::Unreadable(format!("'s stream of them is not whole: {} had come when it ended or went astray", got.records))
}

/// What only the last message says.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// How many records there were.
    count: i64,
    /// Whether there are others behind them.
    more: bool,
}

impl Last {
    fn of(message: &GetResponse) -> Option<Self> {
        message.header().map(|_| Self { count: message.count(), more: message.more() })
    }
}

/// What a stream has brought so far.
#[derive(Debug, Default)]
struct Got {
    records: usize,
    last_key: Option<Vec<u8>>,
    /// All that there is.
    is_whole: bool,
}

impl Got {
    /// Counts a message's records; false if they can't be what comes next.
    fn adds(&mut self, records: &[Stored], last: Option<Last>) -> bool {
        let leads_on = match (records, &self.last_key) {
            // Nothing, for ever, would be no end either.
            ([], _) => last.is_some(),
            ([first, ..], Some(before)) => first.key > *before,
            ([_, ..], None) => true,
        };
        if self.is_whole || !leads_on {
            return false;
        }
        self.records += records.len();
        self.last_key = records.last().map(|record| record.key.clone()).or(self.last_key.take());
        self.is_whole = last.is_some_and(|last| !last.more && usize::try_from(last.count) == Ok(self.records));
        self.is_whole == last.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(keys: &[&str]) -> Vec<Stored> {
        let record =
            |key: &&str| Stored { key: key.as_bytes().to_vec(), value: Vec::new(), create_revision: 1, mod_revision: 1, leased: false };
        keys.iter().map(record).collect()
    }

    /// The keys of a message, and what the last one says: a count, and whether there is more.
    type Message<'a> = (&'a [&'a str], Option<(i64, bool)>);

    /// How far a stream gets, and whether it is whole then.
    fn read(messages: &[Message<'_>]) -> (usize, bool) {
        let mut got = Got::default();
        let taken = messages.iter().take_while(|(keys, last)| {
            let last = last.map(|(count, more)| Last { count, more });
            got.adds(&records(keys), last)
        });
        (taken.count(), got.is_whole)
    }

    #[test]
    fn a_stream_is_whole_with_its_last_message_and_as_many_records_as_that_says() {
        assert_eq!(read(&[(&[], Some((0, false)))]), (1, true));
        assert_eq!(read(&[(&["", "a"], None), (&["b"], Some((3, false)))]), (2, true));
        assert_eq!(read(&[(&["a", "b"], None), (&[], Some((2, false)))]), (2, true));
        assert_eq!(read(&[]), (0, false));
        assert_eq!(read(&[(&["a"], None)]), (1, false), "it may go on");
    }

    #[test]
    fn what_a_stream_can_not_say_ends_it() {
        for (bad, is_whole) in [
            (&[(&["a"][..], None), (&["c"], Some((3, false)))][..], false),
            (&[(&["a"], None), (&["c"], Some((1, false)))], false),
            (&[(&["a"], None), (&["c"], Some((2, true)))], false),
            (&[(&["a"], None), (&["c"], Some((-2, false)))], false),
            (&[(&["a"], None), (&["a"], None)], false),
            (&[(&["b"], None), (&["a"], None)], false),
            (&[(&["a"], None), (&[], None)], false),
            (&[(&["a"], Some((1, false))), (&["b"], None)], true),
            (&[(&["a"], Some((1, false))), (&[], Some((1, false)))], true),
        ] {
            assert_eq!(read(bad), (1, is_whole), "{bad:?}");
        }
    }
}
