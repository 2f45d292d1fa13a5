//! Snapshots: what is saved is what is loaded, and what is damaged is set aside.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use proptest::prelude::*;
use waypost_policy::{Source, Table};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    format::{MAGIC, VERSION},
    *,
};
use crate::{
    applier::histories::{TENANTS, VALUES, follow, history, play, routes},
    record::{Event, Stored},
};

pub(crate) fn encode(applier: &Applier) -> Vec<u8> {
    encode_snapshot(applier).unwrap()
}

pub(crate) fn decoded(bytes: &[u8]) -> Result<Applier, SnapshotFault> {
    decode_snapshot(bytes, false).map(|loaded| loaded.applier)
}

fn save(path: &Path, applier: &Applier) -> io::Result<()> {
    write(path, &Content::of(applier), &Arc::default())
}

fn event(key: &str, value: Option<&str>, leased: bool, revision: u64) -> Event {
    let key = key.as_bytes().to_vec();
    let Some(value) = value else { return Event::Delete { key, mod_revision: revision } };
    Event::Put(Stored { key, value: value.as_bytes().to_vec(), create_revision: revision, mod_revision: revision, leased })
}

/// An applier with so many routes of `owner`, at that revision.
fn with_routes(count: usize, owner: &str, revision: u64) -> Applier {
    let mut applier = Applier::new(TableId::etcd(7, 3), Source::Watch, false);
    let value = format!(r#"{{"owner":"{owner}"}}"#);
    applier.apply((0..count).map(|n| event(&format!("routes/orders/{n:06}"), Some(&value), false, revision)).collect()).unwrap();
    applier.advance(revision);
    applier
}

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
    fs::write(&path, &bytes).unwrap();
    assert!(load_or_set_aside(&path, false).is_some());
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load_or_set_aside(&path, false).is_none());
    assert!(!path.exists() && with_ending(&path, "damaged").exists());
}

#[test]
fn a_newer_format_and_a_foreign_file_are_told_apart() {
    let mut bytes = encode(&followed(&[]));
    bytes[MAGIC.len()] = 99;
    assert!(matches!(decode_snapshot(&bytes, false), Err(SnapshotFault::Version(99))));
    assert!(matches!(decode_snapshot(b"services: {}", false), Err(SnapshotFault::Foreign)));
}

#[test]
fn two_processes_never_share_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let first = Saver::open(path.clone(), false).unwrap();
    assert!(Saver::open(path.clone(), false).unwrap_err().contains("another running proxy"));
    drop(first);
    Saver::open(path, false).unwrap();
}

#[tokio::test]
async fn a_process_that_takes_over_writes_nothing_before_the_other_has_left_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let mut first = Saver::open(path.clone(), false).unwrap();
    first.changed();
    first.save_last(&followed(&[])).await;
    let before = fs::read(&path).unwrap();
    let mut second = Saver::open(path.clone(), true).unwrap();
    let newer = with_routes(1, "a", 9);
    second.changed();
    second.save_last(&newer).await;
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(second.due_in().is_some(), "it looks again");
    assert!(Saver::open(path.clone(), false).is_err(), "it has not taken the lock in passing");
    drop(first);
    second.save_last(&newer).await;
    assert_ne!(fs::read(&path).unwrap(), before);
    assert!(Saver::open(path, false).is_err());
}

#[tokio::test]
async fn a_cursor_that_moves_is_written_now_and_then() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let mut saver = Saver::open(path.clone(), false).unwrap();
    let mut applier = followed(&[]);
    assert_eq!(saver.due_in(), None);
    saver.moved();
    saver.moved();
    let due_in = saver.due_in().unwrap();
    assert!(due_in > MOVED_PACE / 2 && due_in <= MOVED_PACE, "{due_in:?}");
    saver.changed();
    assert!(saver.due_in().unwrap() <= PACE, "a change does not wait for it");
    saver.save(&applier);
    saver.written().await;
    assert_eq!(saver.due_in(), None, "the cursor was written with it");
    applier.advance(1000);
    saver.moved = Instant::now().checked_sub(MOVED_PACE);
    saver.not_before = Instant::now();
    assert_eq!(saver.due_in(), Some(Duration::ZERO));
    saver.save(&applier);
    saver.written().await;
    assert_eq!(load_or_set_aside(&path, false).unwrap().applier.revision(), 1000);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_costs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    let mut saver = Saver::open(path.clone(), false).unwrap();
    // A directory in its place can't be renamed over.
    fs::create_dir(&path).unwrap();
    let applier = followed(&[]);
    saver.changed();
    saver.save_last(&applier).await;
    assert!(saver.due_in() > Some(RETRY / 2), "it is tried again, but not at once");
    fs::remove_dir(&path).unwrap();
    saver.changed();
    saver.save_last(&applier).await;
    assert!(load_or_set_aside(&path, false).is_some());
    assert!(!with_ending(&path, "new").exists());
}

#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    let whole =
        encode(&followed(&[vec![(0, Some(VALUES[0])), (3, Some(VALUES[2])), (4, Some("{}")), (7, Some("{"))], vec![(0, Some("{"))]]));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            assert!(decoded(&flipped).is_err(), "byte {at}, bit {bit}");
        }
        assert!(decoded(&whole[..at]).is_err(), "cut at {at}");
    }
    assert!(decoded(&[&whole[..], b"x"].concat()).is_err());
}

/// A tag, the length of a key, the key.
const FENCE: &[u8] = b"\x06\x01\0\0\0k";

#[test]
fn fences_that_earlier_versions_wrote_are_passed_over() {
    let applier = with_routes(3, "a", 5);
    let bytes = encode(&applier);
    // Before the end's tag and the checksum.
    let mut old = [&bytes[..bytes.len() - 17], FENCE, b"\0"].concat();
    let checksum = xxh3_128(&old);
    old.extend(checksum.to_le_bytes());
    let loaded = decode_snapshot(&old, false).unwrap().applier;
    assert_eq!((loaded.digest(), loaded.route_count()), (applier.digest(), 3));
}

#[test]
fn the_last_leased_endpoint_of_an_upstream_outlives_a_restart() {
    let mut applier = with_routes(0, "a", 1);
    applier
        .apply(vec![event("upstreams/a", Some("{}"), false, 2), event("endpoints/a/x", Some(r#"{"address":"10.0.0.7:80"}"#), true, 2)])
        .unwrap();
    applier.advance(2);
    applier.apply(vec![event("endpoints/a/x", None, true, 3)]).unwrap();
    applier.advance(3);
    let mut loaded = decoded(&encode(&applier)).unwrap();
    let endpoints = |applier: &mut Applier| -> Vec<(String, bool)> {
        let table = applier.publish();
        let endpoints = table.upstream_named("a").unwrap().endpoints.iter();
        endpoints.map(|endpoint| (endpoint.address.to_string(), endpoint.orphaned)).collect()
    };
    assert_eq!(endpoints(&mut loaded), [("10.0.0.7:80".to_owned(), true)]);
    assert_eq!(loaded.digest(), applier.digest());
    loaded.apply(vec![event("endpoints/a/y", Some(r#"{"address":"10.0.0.8:80"}"#), true, 4)]).unwrap();
    assert_eq!(endpoints(&mut loaded), [("10.0.0.8:80".to_owned(), false)], "another one ends it");
}

#[test]
fn what_is_held_back_stays_so_until_somebody_has_decided() {
    let mut applier = with_routes(150, "a", 5);
    applier.apply((0..150).map(|n| event(&format!("routes/orders/{n:06}"), None, false, 6)).collect()).unwrap();
    applier.advance(6);
    let bytes = encode(&applier);
    let held = decoded(&bytes).unwrap();
    assert_eq!((held.held_back().len(), held.route_count(), held.digest()), (150, 150, 0));
    let decided = decode_snapshot(&bytes, true).unwrap().applier;
    assert_eq!((decided.held_back().len(), decided.route_count(), decided.digest()), (0, 0, 0));
}

#[test]
fn a_full_disk_leaves_the_last_snapshot() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    save(&path, &with_routes(10, "a", 5)).unwrap();
    std::os::unix::fs::symlink("/dev/full", with_ending(&path, BESIDE)).unwrap();
    let failed = save(&path, &with_routes(100_000, "b", 6)).unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    assert_eq!(load_or_set_aside(&path, false).unwrap().applier.revision(), 5);
    assert!(fs::symlink_metadata(with_ending(&path, BESIDE)).is_err(), "what was begun is removed");
    save(&path, &with_routes(10, "b", 6)).unwrap();
    assert_eq!(load_or_set_aside(&path, false).unwrap().applier.revision(), 6);
}

/// Names the file for the process that [`a_kill_at_any_moment_leaves_the_old_or_the_new_one`] starts.
const WRITE_TO: &str = "WAYPOST_TEST_SNAPSHOT";
const WRITTEN_ROUTES: usize = 5000;

#[test]
#[ignore = "the process that another test kills"]
fn writes_one_after_the_other() {
    let Some(path) = std::env::var_os(WRITE_TO).map(PathBuf::from) else { return };
    let snapshots = [1, 2].map(|revision| with_routes(WRITTEN_ROUTES, if revision == 1 { "a" } else { "b" }, revision));
    io::stdout().write_all(b"\nwriting\n").unwrap();
    for snapshot in snapshots.iter().cycle().take(10_000) {
        save(&path, snapshot).unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.snapshot");
    save(&path, &with_routes(WRITTEN_ROUTES, "a", 1)).unwrap();
    let whole = [1, 2].map(|revision| with_routes(WRITTEN_ROUTES, if revision == 1 { "a" } else { "b" }, revision).digest());
    let mut begun = 0;
    for round in 0..25 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "snapshot::tests::writes_one_after_the_other"])
            .env(WRITE_TO, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let says = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line == "writing");
        assert!(says, "the writer did not begin");
        // A moment that no condition names: anywhere in the course of a write.
        std::thread::sleep(Duration::from_micros(fastrand::Rng::with_seed(round).u64(0..30_000)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        begun += usize::from(with_ending(&path, BESIDE).exists());
        let loaded = load_or_set_aside(&path, false).unwrap_or_else(|| panic!("round {round}: no whole snapshot")).applier;
        let revision = usize::try_from(loaded.revision()).unwrap();
        assert_eq!((loaded.digest(), loaded.route_count()), (whole[revision - 1], WRITTEN_ROUTES));
    }
    assert!(begun > 0, "no kill came in the middle of a write");
    drop(Saver::open(path.clone(), false).unwrap());
    assert!(!with_ending(&path, BESIDE).exists(), "what was begun is removed");
}

proptest! {
    #[test]
    fn what_is_saved_is_what_is_loaded(history in history(VALUES)) {
        let mut saved = followed(&history);
        let mut loaded = decoded(&encode(&saved)).unwrap();
        prop_assert_eq!(loaded.bad(), saved.bad());
        prop_assert_eq!(loaded.last_changes(), saved.last_changes());
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
        prop_assert!(decoded(&flipped).is_err());
        prop_assert!(decoded(&bytes[..at]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        // With a right checksum, so that the reader behind it is reached.
        let mut whole = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
        whole.extend_from_slice(&xxh3_128(&whole).to_le_bytes());
        let _ = decoded(&whole);
    }

    /// The same, but near to what is written: the entries of a true one, some bytes of them otherwise, under a right checksum. What loads
    /// anyway has the digest that it says.
    #[test]
    fn no_change_makes_it_panic(history in history(VALUES), changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = encode(&followed(&history));
        let content = bytes.len() - 16;
        for (at, byte) in changes {
            bytes[MAGIC.len() + 4 + at.index(content - MAGIC.len() - 4)] = byte;
        }
        let checksum = xxh3_128(&bytes[..content]);
        bytes[content..].copy_from_slice(&checksum.to_le_bytes());
        let _ = decoded(&bytes);
    }
}
