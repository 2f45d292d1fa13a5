//! What an answer of a watch means, and from which versions on progress is a barrier.

use etcd_client::{WatchResponse, proto};

use super::*;
use crate::connect::Credentials;

const REASON: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

fn place() -> EtcdPlace {
    EtcdPlace { endpoints: Vec::new(), prefix: "/w".to_owned(), credentials: Credentials::default() }
}

fn kv(key: &str, mod_revision: i64) -> proto::PbKeyValue {
    proto::PbKeyValue { key: key.into(), value: b"v".to_vec(), create_revision: 3, mod_revision, lease: 9, version: 1 }
}

fn event(kind: i32, key: &str, mod_revision: i64) -> proto::PbEvent {
    proto::PbEvent { r#type: kind, kv: Some(kv(key, mod_revision)), prev_kv: None }
}

fn heard(response: proto::PbWatchResponse) -> Input {
    heard_response(&WatchResponse(response), &place())
}

#[test]
fn changes_are_of_keys_below_the_prefix_and_what_is_not_known_is_left_out() {
    let (put, delete, unknown) = (EventType::Put as i32, EventType::Delete as i32, 7);
    let nameless = proto::PbEvent { r#type: put, kv: None, prev_kv: None };
    let events = vec![event(put, "/w/routes/a/b", 5), event(delete, "/w/routes/a/c", 6), event(unknown, "/w/routes/a/d", 7), nameless];
    let heard = heard(proto::PbWatchResponse { events, fragment: true, ..Default::default() });
    let Input::Events { events, more: true } = heard else { panic!("{heard:?}") };
    let stored = Stored { key: b"routes/a/b".to_vec(), value: b"v".to_vec(), create_revision: 3, mod_revision: 5, leased: true };
    assert_eq!(events, [Event::Put(stored), Event::Delete { key: b"routes/a/c".to_vec(), mod_revision: 6 }]);
}

#[test]
fn an_answer_without_changes_is_progress_up_to_its_header() {
    let header = Some(proto::PbResponseHeader { revision: 41, ..Default::default() });
    assert!(matches!(heard(proto::PbWatchResponse { header, ..Default::default() }), Input::Progress { revision: 41 }));
    assert!(matches!(heard(proto::PbWatchResponse::default()), Input::Progress { revision: 0 }));
}

#[test]
fn the_end_of_a_watch_is_a_compaction_or_said_in_our_words() {
    let canceled = |compact_revision| proto::PbWatchResponse {
        canceled: true,
        compact_revision,
        cancel_reason: REASON.to_owned(),
        ..Default::default()
    };
    assert!(matches!(heard(canceled(12)), Input::Compacted), "also with a header revision of 0");
    let Input::Failed(why) = heard(canceled(0)) else { panic!("it is no failure") };
    assert!(!why.contains("rpc error") && !why.contains("etcdserver:"), "{why}");
}

#[test]
fn progress_is_a_barrier_from_the_versions_on_that_mended_it() {
    let barriers = ["3.4.25", "3.4.38", "3.5.8", "3.5.22", "3.6.0", "3.6.0-rc.1", "3.7.1", "4.0.0", "3.5.8+git"];
    for version in barriers {
        assert!(progress_is_barrier(version), "{version}");
    }
    for version in ["3.4.23", "3.4.24", "3.5.1", "3.5.7", "3.3.99", "2.3.8", "", "three", "3", "3.5", "3.5.x"] {
        assert!(!progress_is_barrier(version), "{version}");
    }
}
