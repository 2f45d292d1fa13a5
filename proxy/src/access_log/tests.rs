//! What becomes of lines between the workers and the places where they are written: none is lost, doubled, or out of its order.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    path::Path,
};

use proptest::prelude::*;
use waypost_conf::AccessTarget;

use super::*;
use crate::worker;

const FORMAT: LogFormat = LogFormat::Json;

fn put(log: &AccessLog, request_id: &str) {
    let trace = Trace::default();
    log.write(&Line::without_request(Code::BadRequest, request_id, [127, 0, 0, 1].into(), &trace), SystemTime::now());
}

/// The ids in a log, by the worker that they begin with.
fn written(log: &str) -> HashMap<usize, Vec<String>> {
    let mut of_workers: HashMap<usize, Vec<String>> = HashMap::new();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = line["request_id"].as_str().unwrap().to_owned();
        of_workers.entry(id.split('-').next().unwrap().parse().unwrap()).or_default().push(id);
    }
    of_workers
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_target_that_is_none_shows_no_secret() {
    assert_eq!(without_secrets(b"user:pw@host:443"), b"host:443");
    assert_eq!(without_secrets(b"what?token=1"), b"what");
    assert_eq!(without_secrets(b"http://user:pw@host/?a@b"), b"host/");
}

#[derive(Clone, Debug)]
enum Does {
    /// This worker has a line.
    Put(usize),
    /// The writer comes by.
    Takes,
    /// From now on lines go there; 0: nowhere.
    Changes(usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_line_is_in_the_place_of_its_time_behind_those_before_it(
        course in proptest::collection::vec(prop_oneof![
            6 => (0..4_usize).prop_map(Does::Put),
            2 => Just(Does::Takes),
            1 => (0..3_usize).prop_map(Does::Changes),
        ], 1..120)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("1"), folder.path().join("2")];
        let place = |number: usize| {
            let target = number.checked_sub(1).map_or(AccessTarget::Off, |file| AccessTarget::File(paths[file].clone()));
            Place::open(&target).unwrap()
        };
        let batches = Batches::new(3, place(1).as_ref(), FORMAT);
        let (mut now, mut spare, lost) = (1, Vec::new(), Counter::default());
        let mut expected = [HashMap::new(), HashMap::new()];
        let trace = Trace::default();
        for (number, does) in course.into_iter().chain([Does::Takes]).enumerate() {
            match does {
                Does::Put(of) => {
                    worker::begin(of);
                    let id = format!("{of}-{number}");
                    let put = batches.put(&Line::without_request(Code::BadRequest, &id, [127, 0, 0, 1].into(), &trace), SystemTime::now());
                    prop_assert_eq!(put, if now == 0 { Put::Unwanted } else { Put::Waits });
                    if now > 0 {
                        expected[now - 1].entry(of).or_insert_with(Vec::new).push(id);
                    }
                }
                Does::Takes => {
                    batches.take(&mut spare, |batch| batch.place.write(batch, &lost));
                }
                Does::Changes(to) => {
                    batches.change(place(to).as_ref(), FORMAT);
                    now = to;
                }
            }
        }
        prop_assert_eq!([&paths[0], &paths[1]].map(|path| written(&read(path))), expected);
        prop_assert_eq!(lost.get(), 0);
    }
}

#[test]
fn workers_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // Two of them share a batch.
    let log = AccessLog::open(&AccessTarget::File(path.clone()), FORMAT, 3).unwrap();
    std::thread::scope(|scope| {
        for of in 0..4 {
            let log = &log;
            scope.spawn(move || {
                worker::begin(of);
                (0..5_000).for_each(|number| put(log, &format!("{of}-{number}")));
            });
        }
    });
    log.flush(Duration::from_secs(40));
    let expected = (0..4).map(|of| (of, (0..5_000).map(|number| format!("{of}-{number}")).collect())).collect();
    assert!(written(&read(&path)) == expected, "{} lines, {} lost", read(&path).lines().count(), log.dropped().get());
}

#[test]
fn a_line_after_a_pause_is_written_without_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = AccessLog::open(&AccessTarget::File(path.clone()), FORMAT, 2).unwrap();
    for number in 1..200 {
        put(&log, &format!("0-{number}"));
        let began = std::time::Instant::now();
        while read(&path).lines().count() < number {
            assert!(began.elapsed() < Duration::from_secs(40), "line {number} is never written");
            std::thread::yield_now();
        }
        // The writer is met at any moment of its round.
        std::thread::sleep(Duration::from_micros(number as u64 * 41 % 8_000));
    }
}

#[test]
fn a_reader_that_stalls_holds_nobody_up_and_what_it_misses_is_counted() {
    let (reader, writer) = io::pipe().unwrap();
    let place = Arc::new(Place::of(File::from(OwnedFd::from(writer)), None));
    let log = AccessLog::start(Some(&place), FORMAT, 1).unwrap();
    drop(place);
    // More than may wait, and as much again that is being written.
    (0..40_000).for_each(|number| put(&log, &format!("0-{number}")));
    assert!(log.dropped().get() > 0, "what nobody reads can't all be kept");
    let reads = std::thread::spawn(move || BufReader::new(reader).lines().map(|line| line.unwrap() + "\n").collect::<String>());
    log.flush(Duration::from_secs(40));
    put(&log, "1-afterwards");
    log.flush(Duration::from_secs(40));
    let lost = log.dropped().get();
    drop(log);
    let mut read = written(&reads.join().unwrap());
    assert_eq!(read.remove(&1).unwrap(), ["1-afterwards"]);
    let read = read.remove(&0).unwrap();
    assert_eq!(read.len() as u64 + lost, 40_000);
    assert!(read.iter().map(|id| id[2..].parse::<u64>().unwrap()).is_sorted());
}
