//! The course of a run: all instances are started and stopped, then woken in turn, row by row and round by round.
//!
//! Every row is measured in every round, every peer in turn within a row, and who comes first changes with the round: what the machine
//! does meanwhile falls on all alike.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use waypost_bench::processes::Told;

use crate::{
    figures::{Cell, Sample},
    instance::{Habits, Instance},
    machine,
    measure::Round,
    options::Size,
    peer::{PEERS, Peer},
    rows::{PEAK, Row, Setup, What},
    stage::Stage,
    table::Table,
    tree,
};

/// All that was measured.
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    /// By row and peer, as they are numbered.
    pub(crate) cells: BTreeMap<(usize, usize), Cell>,
    /// What each peer adds to requests and answers.
    pub(crate) habits: BTreeMap<usize, Habits>,
    /// What each table takes of each peer: the time from its start until it answers, and memory then, in MB.
    pub(crate) starts: BTreeMap<(Table, usize), (f64, f64)>,
    pub(crate) programs: Vec<Option<std::path::PathBuf>>,
    /// p50 of one connection to an owner, in µs, of each round in which it was needed.
    pub(crate) direct_us: Vec<f64>,
    /// What processes that are no part of it used during the rounds, in cores.
    pub(crate) others: f64,
}

/// Instances by peer and setup, or why there is none.
type Instances = BTreeMap<(usize, Setup), Result<Instance, String>>;

/// Runs the rows for the peers that are wanted.
pub(crate) fn run(rows: Vec<Row>, size: &Size, wants: impl Fn(&dyn Peer) -> bool) -> Told<Results> {
    let tables: BTreeSet<Table> = rows.iter().map(|row| row.setup.table).collect();
    let stage = Stage::open(&tables, size.is_judged, &wants)?;
    let peers: Vec<usize> = (0..PEERS.len()).filter(|peer| wants(PEERS[*peer])).collect();
    let mut results = Results {
        rows,
        cells: BTreeMap::new(),
        habits: BTreeMap::new(),
        starts: BTreeMap::new(),
        programs: stage.programs.clone(),
        direct_us: Vec::new(),
        others: 0.0,
    };
    let mut instances = start(&stage, &mut results, &peers)?;
    let began = machine::Moment::now()?;
    for round in 0..size.rounds {
        stage.share_out(results.rows[0].setup)?;
        let is_needed = results.rows.iter().any(|row| matches!(row.what, What::Added));
        let direct_us = if is_needed { Round::direct(&stage, size)? } else { 0.0 };
        results.direct_us.extend(is_needed.then_some(direct_us));
        // What is measured once comes first: etcd does not stand back yet.
        let (once, each): (Vec<usize>, Vec<usize>) = (0..results.rows.len()).partition(|row| results.rows[*row].is_once());
        let once = once.into_iter().filter(|_| round == 0);
        for number in once.chain(each) {
            let row = results.rows[number].clone();
            stage.share_out(row.setup)?;
            for turn in 0..peers.len() {
                let peer = peers[(turn + round) % peers.len()];
                let peak = results.peak(peer);
                let course = Round { stage: &stage, size, seed: round as u64 + 1, peak, direct_us };
                let outcome = one(&course, peer, &row, &mut instances);
                results.take(number, peer, outcome);
            }
        }
        eprintln!("round {} of {} done", round + 1, size.rounds);
    }
    results.others = began.others_since()?;
    Ok(results)
}

/// Starts what the rows need of each peer, and looks at what it does with a request.
fn start(stage: &Stage, results: &mut Results, peers: &[usize]) -> Told<Instances> {
    let mut instances = Instances::new();
    for number in 0..results.rows.len() {
        let row = results.rows[number].clone();
        for &peer in peers {
            let key = (peer, row.setup);
            let can = stage.programs[peer].is_some() && PEERS[peer].cannot(&row).is_none() && !row.is_fresh;
            if !can || instances.contains_key(&key) {
                continue;
            }
            stage.share_out(row.setup)?;
            let started = stage.start(peer, row.setup).and_then(|instance| {
                let (took, memory) = (instance.took.as_secs_f64(), tree::memory(instance.pid())? as f64 / 1e6);
                eprintln!("{} with {} routes: answers after {took:.2} s, {memory:.0} MB", PEERS[peer].name(), row.setup.table.tenants);
                results.starts.entry((row.setup.table, peer)).or_insert((took, memory));
                instance.check_routes()?;
                if let Entry::Vacant(place) = results.habits.entry(peer) {
                    place.insert(instance.habits()?);
                }
                instance.stop();
                Ok(instance)
            });
            instances.insert(key, started.inspect_err(|why| eprintln!("{}: {why}", PEERS[peer].name())));
        }
    }
    Ok(instances)
}

/// A row of a peer in a round; or why there is no figure.
fn one(round: &Round<'_>, peer: usize, row: &Row, instances: &mut Instances) -> Result<Sample, String> {
    if round.stage.programs[peer].is_none() {
        return Err("not installed".to_owned());
    }
    if let Some(why) = PEERS[peer].cannot(row) {
        return Err(why.to_owned());
    }
    if row.is_fresh {
        return round.measure(PEERS[peer], row, &round.stage.start(peer, row.setup)?);
    }
    let instance = match instances.get_mut(&(peer, row.setup)) {
        Some(Ok(instance)) => instance,
        Some(Err(why)) => return Err(why.clone()),
        None => return Err("not started".to_owned()),
    };
    if instance.has_ended() {
        return Err("it has ended by itself".to_owned());
    }
    instance.wake();
    let measured = round.measure(PEERS[peer], row, instance);
    if matches!(row.what, What::Updates(_) | What::Effect(_)) {
        round.stage.settle(instance)?;
    }
    instance.stop();
    measured
}

impl Results {
    /// What a peer has reached so far in the row that others are compared with.
    fn peak(&self, peer: usize) -> Option<f64> {
        let row = self.rows.iter().position(|row| row.id == PEAK)?;
        Some(self.cells.get(&(row, peer))?.spread(|sample| sample.requests_per_second)?.median)
    }

    /// A round that failed is said, and does not take the others' figures away.
    fn take(&mut self, row: usize, peer: usize, outcome: Result<Sample, String>) {
        let id = self.rows[row].id;
        match (self.cells.get_mut(&(row, peer)), outcome) {
            (Some(Cell::Measured(samples)), Ok(sample)) => samples.push(sample),
            (Some(Cell::Measured(samples)), Err(why)) => {
                eprintln!("{id}, {}: {why}", PEERS[peer].name());
                if let Some(last) = samples.last_mut() {
                    last.failed += 1;
                    last.note = Some(format!("a round without a figure: {why}"));
                }
            }
            (_, Ok(sample)) => drop(self.cells.insert((row, peer), Cell::Measured(vec![sample]))),
            (Some(Cell::Cannot(_)), Err(_)) => {}
            (None, Err(why)) => {
                eprintln!("{id}, {}: {why}", PEERS[peer].name());
                self.cells.insert((row, peer), Cell::Cannot(why));
            }
        }
    }

    /// A cell, by the row's name.
    pub(crate) fn cell(&self, id: &str, peer: usize) -> Option<&Cell> {
        self.cells.get(&(self.rows.iter().position(|row| row.id == id)?, peer))
    }

    /// The median of a figure.
    pub(crate) fn median(&self, id: &str, peer: usize, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        self.cell(id, peer)?.spread(of).map(|spread| spread.median)
    }
}
