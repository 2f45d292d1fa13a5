//! A store that streams its lists, as etcd does from 3.7 on: what a stream brings is what ranges would, and one that breaks changes nothing.

use std::time::Duration;

use futures_util::future::join_all;
use h2::Reason;
use serde_json::Value;
use waypost_tests::{Course, Etcd, FaultProxy, Steady, Streaming, Waypost, until_true};

use super::{Cells, WITHOUT_REPORTS, users::with_users};
use crate::scene::route;

/// How many routes there are beside `t1`: a stream of all records has three messages. Below what a guard against mass deletes looks at.
const ROUTES: usize = 60;
/// Answers before 3.7.
const NOT_KNOWN: Course = Course::Refused(0, 12, "unknown method RangeStream for service etcdserverpb.KV");
const FUTURE: Course = Course::Refused(0, 11, "etcdserver: mvcc: required revision is a future revision");

/// Every way in which a stream may break so that it can't be told from one that takes a while, or from one that is whole.
const BREAKS: [Course; 12] = [
    Course::Ends(1),
    Course::EndsWell(0),
    Course::EndsWell(1),
    Course::EndsWell(2),
    Course::Lost(0),
    Course::Lost(1),
    Course::Lost(2),
    Course::Reset(1, Reason::NO_ERROR),
    Course::Reset(2, Reason::INTERNAL_ERROR),
    Course::Cut(2),
    Course::Refused(2, 14, "etcdserver: leader changed"),
    Course::RefusedLast(13, "etcdserver: something new"),
];

/// A proxy of a store that streams, behind a network that can be broken.
struct Streamed {
    relay: Streaming,
    between: FaultProxy,
    waypost: Waypost,
}

impl Streamed {
    /// `courses`: what becomes of its first streams.
    async fn start(etcd: &Etcd, courses: &[Course], flags: &[&str]) -> Self {
        let relay = Streaming::start(etcd.address()).await;
        relay.play(courses);
        let between = FaultProxy::start(relay.address()).await;
        let waypost = Waypost::start(&between.url(), &[flags, &WITHOUT_REPORTS].concat()).await;
        Self { relay, between, waypost }
    }

    /// How many streams and ranges were asked for, and how many connections it took: two, one of them for the watch, where nothing broke.
    fn asked(&self) -> (usize, usize, usize) {
        (self.relay.streams(), self.relay.ranges(), self.between.accepted())
    }

    async fn gold(&self) -> Value {
        self.waypost.status().await["gold"][0].clone()
    }
}

async fn filled(etcd: &Etcd) -> Cells {
    let cells = Cells::of(etcd).await;
    put_routes(etcd, 0..ROUTES, "").await;
    cells
}

async fn put_routes(etcd: &Etcd, numbers: std::ops::Range<usize>, filler: &str) {
    let routes: Vec<(String, Value)> = numbers.map(|n| (format!("routes/orders/u{n:04}{filler}"), route("a", 1))).collect();
    for some in routes.chunks(100) {
        etcd.put_all(&some.iter().map(|(key, value)| (&**key, value.clone())).collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn a_list_by_stream_is_what_ranges_would_bring() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    put_routes(&etcd, 0..1000, &"x".repeat(500)).await;
    etcd.put_raw("routes/orders/bad", b"{").await;
    etcd.put_raw("unknown/kind", b"{}").await;
    let streamed = Streamed::start(&etcd, &[], &[]).await;
    assert_eq!(streamed.asked(), (1, 0, 2));
    assert!(streamed.relay.messages() > 5, "{} messages", streamed.relay.messages());
    let by_ranges = Waypost::start(&etcd.url(), &[]).await;
    let (gold, other) = (streamed.gold().await, by_ranges.status().await["gold"][0].clone());
    assert_eq!((&gold["digest"], &gold["revision"]), (&other["digest"], &other["revision"]), "{gold} {other}");
    assert_eq!(streamed.waypost.status().await["quarantined"], by_ranges.status().await["quarantined"]);
    assert_eq!(streamed.waypost.get("u0059", "/").await.text(), "a");
    // Who judges a table asks in another way than it was listed.
    streamed.waypost.equals(&["--gold", &streamed.relay.url()]).await;
    assert_eq!(streamed.relay.streams(), 1);
    assert!(streamed.relay.ranges() > 0);
}

#[tokio::test]
async fn an_empty_store_is_streamed_too() {
    let etcd = Etcd::start().await;
    let streamed = Streamed::start(&etcd, &[], &[]).await;
    assert_eq!(streamed.asked(), (1, 0, 2));
    let cells = Cells::start().await;
    let revision = etcd.put_all(&cells.records()).await;
    streamed.waypost.at(revision).await;
    assert_eq!(streamed.waypost.get("t1", "/").await.text(), "a");
}

#[tokio::test]
async fn who_does_not_stream_or_says_too_much_at_once_is_asked_for_ranges_at_once() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    for course in [NOT_KNOWN, Course::TooLarge(0), Course::TooLarge(2)] {
        let streamed = Streamed::start(&etcd, &[course], &[]).await;
        let (streams, ranges, connections) = streamed.asked();
        assert!(streams == 1 && ranges > 0 && connections == 2, "{course:?}: {:?}", streamed.asked());
        streamed.waypost.equals(&["--gold", &etcd.url()]).await;
    }
    // Whatever the etcd here says.
    let streamed = Streamed::start(&etcd, &[Course::Passed], &[]).await;
    assert_eq!((streamed.relay.streams(), streamed.between.accepted()), (1, 2));
    streamed.waypost.equals(&["--gold", &etcd.url()]).await;
}

#[tokio::test]
async fn a_member_that_is_behind_catches_up_first() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    let streamed = Streamed::start(&etcd, &[FUTURE], &[]).await;
    assert_eq!(streamed.asked(), (2, 0, 2));
    let called = streamed.relay.called();
    let streams = called.iter().filter(|call| call.path.ends_with("RangeStream"));
    assert_eq!(streams.map(|call| call.serializable).collect::<Vec<_>>(), [true, false]);
    streamed.waypost.equals(&["--gold", &etcd.url()]).await;
}

/// Wherever in a stream the refusal comes; etcd looks once more when it has sent everything.
#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let (etcd, _cells, user) = with_users(&[]).await;
    put_routes(&etcd, 0..ROUTES, "").await;
    let old = "etcdserver: revision of auth store is old";
    for course in [Course::Refused(0, 16, "etcdserver: invalid auth token"), Course::Refused(1, 3, old), Course::RefusedLast(3, old)] {
        let flags = user.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let streamed = Streamed::start(&etcd, &[course], &flags).await;
        assert_eq!(streamed.asked(), (2, 0, 2), "{course:?}");
        let tokens = streamed.relay.called().iter().filter(|call| call.path.ends_with("/Authenticate")).count();
        assert_eq!(tokens, 3, "{course:?}: one for each connection, and a new one");
        streamed.waypost.equals(&[&["--gold", &etcd.url()][..], &flags].concat()).await;
    }
}

/// The list behind a broken stream is made of ranges, in case that something between bears no streams.
#[tokio::test]
async fn nothing_is_in_force_of_a_first_stream_that_breaks_anywhere() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    for (course, streamed) in join_all(BREAKS.map(async |course| (course, Streamed::start(&etcd, &[course], &[]).await))).await {
        assert_eq!(streamed.waypost.get("u0059", "/").await.text(), "a", "{course:?}");
        streamed.waypost.equals(&["--gold", &etcd.url()]).await;
        assert!(streamed.relay.streams() == 1 && streamed.relay.ranges() > 0, "{course:?}: {:?}", streamed.asked());
    }
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_takes_nothing_from_a_live_table() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    let mut live = Vec::new();
    for (course, streamed) in join_all(BREAKS.map(async |course| (course, Streamed::start(&etcd, &[], &[]).await))).await {
        let steady = Steady::start(&streamed.waypost, &[("t1", "a"), ("u0000", "a"), ("u0059", "a")]);
        streamed.relay.play(&[course]);
        streamed.between.cut();
        live.push((course, streamed, steady));
    }
    for (_, streamed, _) in &live {
        streamed.waypost.until_connected(false).await;
    }
    etcd.delete("routes/orders/u0001").await;
    for (.., steady) in &live {
        steady.may("t1", "b");
    }
    let revision = etcd.put("routes/orders/t1", route("b", 2)).await;
    etcd.compact().await;
    live.iter().for_each(|(_, streamed, _)| streamed.between.pass());
    for (course, streamed, steady) in live {
        streamed.waypost.at(revision).await;
        eprintln!("{course:?}");
        steady.stop().await;
        streamed.waypost.equals(&["--gold", &etcd.url()]).await;
        assert_eq!(streamed.waypost.get("t1", "/").await.text(), "b");
        assert_eq!(streamed.waypost.get("u0001", "/").await.reason(), "no_route");
        assert!(streamed.relay.streams() == 2 && streamed.relay.ranges() > 0, "{course:?}: {:?}", streamed.asked());
        let gold = streamed.gold().await;
        assert_eq!(gold["resyncs"], 1, "{course:?}: {gold}");
    }
}

/// A history that is compacted in the middle of a stream is listed again by another stream.
#[tokio::test]
async fn what_is_compacted_under_a_stream_is_streamed_again() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    let streamed = Streamed::start(&etcd, &[], &[]).await;
    let steady = Steady::start(&streamed.waypost, &[("t1", "a"), ("u0059", "a")]);
    let before = streamed.relay.messages();
    streamed.relay.play(&[Course::Held(1)]);
    streamed.between.cut();
    streamed.waypost.until_connected(false).await;
    etcd.delete("routes/orders/u0001").await;
    etcd.compact().await;
    streamed.between.pass();
    until_true("a part has been streamed", async || streamed.relay.messages() == before + 1).await;
    etcd.delete("routes/orders/u0002").await;
    steady.may("t1", "b");
    let revision = etcd.put("routes/orders/t1", route("b", 2)).await;
    etcd.compact().await;
    streamed.relay.go_on();
    streamed.waypost.at(revision).await;
    assert_eq!((streamed.relay.streams(), streamed.relay.ranges()), (3, 0));
    streamed.waypost.equals(&["--gold", &etcd.url()]).await;
    for gone in ["u0001", "u0002"] {
        assert_eq!(streamed.waypost.get(gone, "/").await.reason(), "no_route");
    }
    steady.stop().await;
}

/// What changes while a stream is under way is in force behind it.
#[tokio::test]
async fn what_changes_while_a_stream_is_under_way_is_not_lost() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    let relay = Streaming::start(etcd.address()).await;
    relay.play(&[Course::Held(1)]);
    let mut waypost = Waypost::new(&relay.url(), &[]);
    waypost.spawn();
    until_true("a part has been streamed", async || relay.messages() == 1).await;
    etcd.put("routes/orders/t1", route("b", 2)).await;
    etcd.delete("routes/orders/u0059").await;
    let revision = etcd.put("routes/orders/u9999", route("a", 1)).await;
    relay.go_on();
    waypost.ready().await;
    waypost.at(revision).await;
    assert_eq!((relay.streams(), relay.ranges()), (1, 0));
    waypost.equals(&["--gold", &etcd.url()]).await;
    assert_eq!((waypost.get("t1", "/").await.text(), waypost.get("u9999", "/").await.text()), ("b".to_owned(), "a".to_owned()));
}

/// The watch is heard all the while, so nothing but the stream shows that anything is wrong.
#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up() {
    let etcd = Etcd::start().await;
    let _cells = filled(&etcd).await;
    let began = std::time::Instant::now();
    let streamed = Streamed::start(&etcd, &[Course::Held(2)], &[]).await;
    assert!(began.elapsed() > Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(streamed.relay.streams(), 1);
    assert!(streamed.relay.ranges() > 0);
    streamed.waypost.equals(&["--gold", &etcd.url()]).await;
}
