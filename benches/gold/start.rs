//! Starts, from the store and from the snapshot, and what the routes take in memory.

use std::time::{Duration, Instant};

use waypost_bench::processes::{Told, memory_of};

use crate::{
    figures::{Figure, mb, median, percentile},
    stage::{Asked, Proxy, Stage, say_done},
    store::{self, Knows, PREFIX},
};

/// Memory has come to rest when it has not fallen by a hundredth for so long.
const AT_REST: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Starts without a snapshot, in turn with lists of the same ranges that are thrown away; all on both cores.
///
/// A first start knows nothing of the keys, so that its first range is open at its end, and etcd counts all of it. One of the lists begins like that; the
/// other is told beforehand where to cut, which only a list behind another can be.
pub(crate) fn from_the_store(stage: &Stage) -> Told<Vec<Figure>> {
    let fences = store::fences(stage.size.routes);
    let before = stage.moment(None)?;
    let list = |knows: Knows| -> Told<f64> {
        let since = Instant::now();
        let records = store::block_on(store::bare_list(&stage.gold(), &fences, knows))?;
        if (records as u64) < stage.size.routes {
            return Err(format!("the bare list has {records} records of more than {}", stage.size.routes));
        }
        Ok(since.elapsed().as_secs_f64())
    };
    let (mut alike, mut told, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..stage.size.rounds {
        alike.push(list(Knows::Nothing)?);
        let proxy = stage.start(&Asked { on_one_core: false, ..stage.asked(&format!("first-{round}")) })?;
        starts.push(proxy.ready_after.as_secs_f64());
        let routes = proxy.status()?["table"]["routes"].as_u64();
        if routes != Some(stage.size.routes) {
            return Err(format!("the proxy was ready with {routes:?} routes"));
        }
        // What it does behind its start is not the next list's burden.
        drop(proxy);
        told.push(list(Knows::Fences)?);
    }
    let others = stage.others_since(&before, None)?;
    let figure = |name, lists: &[f64], target| {
        let mut ratios: Vec<f64> = starts.iter().zip(lists).map(|(start, list)| start / list).collect();
        let ratio = median(&mut ratios);
        say_done(&format!("{name}: {ratio:.2}"));
        Figure {
            name,
            measured: format!("{ratio:.2} ({:.2} s ÷ {:.2} s)", median(&mut starts.clone()), median(&mut lists.to_vec())),
            target,
            is_met: ratio <= 1.3,
            others,
            note: format!(
                "{} rounds, one after the other in each; ratios from {:.2} to {:.2}",
                ratios.len(),
                percentile(&mut ratios, 0.0),
                percentile(&mut ratios, 1.0)
            ),
        }
    };
    Ok(vec![
        figure("start from etcd ÷ a bare list by the same method", &alike, "≤ 1.3"),
        figure("the same ÷ a bare list that is told where to cut", &told, ""),
    ])
}

/// What a proxy takes with the routes over what it takes without any.
pub(crate) fn memory(stage: &Stage) -> Told<Figure> {
    let empty = stage.start(&Asked { prefix: "/empty/v1", ..stage.asked("empty") })?;
    std::thread::sleep(AT_REST.min(stage.size.settle) / 4);
    let (without, _) = memory_of(empty.pid())?;
    drop(empty);
    let proxy = stage.start(&stage.asked("memory"))?;
    let (at_once, _) = memory_of(proxy.pid())?;
    let before = stage.moment(Some(&proxy))?;
    proxy.is_saved()?;
    let (with, peak) = at_rest(&proxy, stage.size.settle)?;
    let others = stage.others_since(&before, Some(&proxy))?;
    let over = mb(with) - mb(without);
    say_done(&format!("memory: {over:.0} MB over an empty proxy"));
    proxy.end()?;
    Ok(Figure {
        name: "memory over an empty proxy",
        measured: format!("{over:.0} MB"),
        target: "≤ 150 MB",
        is_met: over <= 150.0,
        others,
        note: format!(
            "VmRSS {:.0} MB empty; with the routes {:.0} MB at /readyz 200, {:.0} MB at rest; peak (VmHWM) {:.0} MB",
            mb(without),
            mb(at_once),
            mb(with),
            mb(peak)
        ),
    })
}

/// The resident memory when it falls no more, or at the limit; and the peak.
fn at_rest(proxy: &Proxy, limit: Duration) -> Told<(u64, u64)> {
    let begun = Instant::now();
    let (mut least, mut peak) = memory_of(proxy.pid())?;
    let mut fell_at = begun;
    while fell_at.elapsed() < AT_REST && begun.elapsed() < limit {
        std::thread::sleep(LOOK_EVERY);
        let now;
        (now, peak) = memory_of(proxy.pid())?;
        if now < least - least / 100 {
            (least, fell_at) = (now, Instant::now());
        }
    }
    let (now, _) = memory_of(proxy.pid())?;
    Ok((now, peak))
}

/// Starts from the snapshot that the last scene left, with no store there at all.
pub(crate) fn from_the_snapshot(stage: &Stage) -> Told<Figure> {
    stage.end_store()?;
    let before = stage.moment(None)?;
    let mut starts = Vec::new();
    for _ in 0..stage.size.rounds {
        let proxy = stage.start(&Asked { on_one_core: false, prefix: PREFIX, ..stage.asked("main") })?;
        let status = proxy.status()?;
        let (source, routes) = (&status["gold"][0]["source"], status["table"]["routes"].as_u64().unwrap_or(0));
        if source != "snapshot" || routes != stage.size.routes {
            return Err(format!("the proxy was ready with {routes} routes from {source}"));
        }
        starts.push(proxy.ready_after.as_secs_f64());
    }
    let others = stage.others_since(&before, None)?;
    let start = median(&mut starts);
    say_done(&format!("starts from the snapshot: {start:.2} s"));
    Ok(Figure {
        name: "start from the snapshot, etcd down",
        measured: format!("{start:.2} s"),
        target: "≤ 1 s",
        is_met: start <= 1.0,
        others,
        note: format!("to /readyz 200; {} rounds, the slowest {:.2} s", starts.len(), percentile(&mut starts, 1.0)),
    })
}
