//! Snapshots: what is saved is what is loaded, and what is damaged is set aside.

use proptest::prelude::*;
use waypost_policy::Table;

use super::*;
use crate::applier::histories::{TENANTS, VALUES, follow, history, play, routes};

fn followed(history: &[Vec<(usize, Option<&str>)>]) -> Applier {
    let mut applier = Applier::new(TableId::etcd(7, 3), Source::Watch, false);
    follow(&mut applier, &play(history).0);
    applier
}

/// What a request or a person can tell of a table.
fn shown(table: &Table) -> impl PartialEq + std::fmt::Debug {
    let mut services: Vec<_> = table.services().iter().map(|service| (service.name.to_string(), service.quarantined)).collect();
    services.sort();
    let mut upstreams: Vec<_> = table.upstreams().map(|upstream| upstream.name.to_string()).collect();
    upstreams.sort();
    let routes: Vec<_> = routes(table, &TENANTS).into_iter().map(|(key, (owner, epoch, state, _))| (key, owner, epoch, state)).collect();
    let found = table.find_service(Some(b"any"), b"/x").map(|service| service.name.to_string());
    (table.revision(), table.id().clone(), table.digest(), services, upstreams, routes, found, table.route_count())
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_a_missing_one_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    assert!(load_or_set_aside(&path, false).is_none());
    let bytes = encode(&followed(&[vec![(0, Some(VALUES[0]))]]));
    write(&path, &bytes).unwrap();
    assert!(load_or_set_aside(&path, false).is_some());
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load_or_set_aside(&path, false).is_none());
    assert!(!path.exists() && with_ending(&path, "damaged").exists());
}

#[test]
fn a_newer_format_and_a_foreign_file_are_told_apart() {
    let mut bytes = encode(&followed(&[]));
    bytes[MAGIC.len()] = 99;
    assert!(matches!(decode_snapshot(&bytes, false), Err(SnapshotFault::Newer(99))));
    assert!(matches!(decode_snapshot(b"services: {}", false), Err(SnapshotFault::Foreign)));
}

#[test]
fn two_processes_never_share_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let first = Saver::open(path.clone()).unwrap();
    assert!(Saver::open(path.clone()).unwrap_err().contains("another running proxy"));
    drop(first);
    Saver::open(path).unwrap();
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_costs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let mut saver = Saver::open(path.clone()).unwrap();
    // A directory in its place can't be renamed over.
    fs::create_dir(&path).unwrap();
    let applier = followed(&[]);
    saver.changed();
    saver.save_last(&applier).await;
    assert_eq!(saver.due_in(), None, "it waits for the next change");
    fs::remove_dir(&path).unwrap();
    saver.changed();
    saver.save_last(&applier).await;
    assert!(load_or_set_aside(&path, false).is_some());
    assert!(!with_ending(&path, "new").exists());
}

proptest! {
    #[test]
    fn what_is_saved_is_what_is_loaded(history in history(VALUES)) {
        let mut saved = followed(&history);
        let mut loaded = decode_snapshot(&encode(&saved), false).unwrap();
        prop_assert_eq!(loaded.bad(), saved.bad());
        prop_assert_eq!(loaded.anchor(), saved.anchor());
        prop_assert_eq!(loaded.incarnation(), saved.incarnation());
        prop_assert_eq!(encode(&loaded).len(), encode(&saved).len());
        let (saved, loaded) = (saved.publish(), loaded.publish());
        prop_assert_eq!(loaded.source(), Source::Snapshot);
        prop_assert_eq!(shown(&loaded), shown(&saved));
    }

    #[test]
    fn a_flipped_or_missing_byte_is_noticed(history in history(VALUES), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let bytes = encode(&followed(&history));
        let mut flipped = bytes.clone();
        let at = at.index(bytes.len());
        flipped[at] ^= 1 << bit;
        prop_assert!(decode_snapshot(&flipped, false).is_err());
        prop_assert!(decode_snapshot(&bytes[..at], false).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        // With a right checksum, so that the reader behind it is reached.
        let mut whole = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
        whole.extend_from_slice(&xxh3_128(&whole).to_le_bytes());
        let _ = decode_snapshot(&whole, false);
    }
}
