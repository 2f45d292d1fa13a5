//! From a put's acknowledgement to its table in force, without and with requests.
//!
//! The proxy tells by `GET /watch` when each table came into force, by the wall clock in microseconds; the acknowledgement is noted by the
//! same clock here. To be watched costs the proxy a little, which is in the figures.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use waypost_bench::{
    Report,
    processes::{LIMIT, Told, say},
};

use crate::{
    figures::{Figure, ms, percentile},
    stage::{OWNERS, Proxy, Stage, say_done},
    store,
};

/// Between two puts that are to be alone.
const ALONE: Duration = Duration::from_millis(2);

/// A put.
#[derive(Clone, Copy, Debug)]
struct Put {
    revision: u64,
    sent: SystemTime,
    acknowledged: SystemTime,
}

/// What the puts showed, in microseconds. Before the acknowledgement is less than zero.
#[derive(Debug)]
struct Shown {
    after_acknowledgement: Vec<i64>,
    after_sending: Vec<i64>,
    until_acknowledged: Vec<i64>,
}

/// Each put alone, and then as fast as one client can.
pub(crate) fn idle(stage: &Stage, proxy: &Proxy) -> Told<Vec<Figure>> {
    let before = stage.moment(Some(proxy))?;
    let mut alone = puts(stage, proxy, stage.size.puts, ALONE, LIMIT)?;
    let others = stage.others_since(&before, Some(proxy))?;
    let before = stage.moment(Some(proxy))?;
    let mut in_a_row = puts(stage, proxy, stage.size.puts, Duration::ZERO, LIMIT)?;
    let others_in_a_row = stage.others_since(&before, Some(proxy))?;
    say_done(&format!("puts, idle: {}; in a row: {}", alone.say(), in_a_row.say()));
    let is_met = alone.percentile(0.5) <= 200 && alone.percentile(0.99) <= 1000;
    let alone = Figure {
        name: "put acknowledged → in force, idle",
        measured: alone.say(),
        target: "p50 ≤ 0.2 ms, p99 ≤ 1 ms",
        is_met,
        others,
        note: alone.note("2 ms and more apart"),
    };
    let in_a_row = Figure {
        name: "the same, puts without a pause",
        measured: in_a_row.say(),
        target: "",
        is_met: true,
        others: others_in_a_row,
        note: in_a_row.note("one client, the next put when the last is acknowledged"),
    };
    Ok(vec![alone, in_a_row])
}

/// The same beside requests.
pub(crate) fn loaded(stage: &Stage, proxy: &Proxy) -> Told<Figure> {
    let size = stage.size;
    let before = stage.moment(Some(proxy))?;
    let plan = stage.plan(proxy, size.loaded_requests, size.loaded + Duration::from_secs(1));
    let (report, shown) = std::thread::scope(|scope| {
        let load = scope.spawn(|| waypost_bench::run(&plan));
        // The load has warmed up by then.
        std::thread::sleep(plan.warm_up);
        let shown = puts(stage, proxy, size.puts, ALONE, size.loaded);
        let report = load.join().unwrap_or_else(|_| Err("the load panicked".to_owned()));
        Ok::<(Report, Shown), String>((report?, shown?))
    })?;
    let others = stage.others_since(&before, Some(proxy))?;
    if report.failed() > 0 {
        return Err(format!("{} requests failed: {report}", report.failed()));
    }
    let mut shown = shown;
    say_done(&format!("puts beside {:.0} requests/s: {}", report.requests_per_second, shown.say()));
    let reached = report.requests_per_second >= size.loaded_requests * 0.98;
    Ok(Figure {
        name: "the same beside 20,000 requests/s",
        measured: shown.say(),
        target: "p99 ≤ 5 ms",
        is_met: shown.percentile(0.99) <= 5000 && reached,
        others,
        note: format!(
            "{}; {:.0} requests/s were answered, p50 {} µs, p99 {} µs",
            shown.note("2 ms and more apart"),
            report.requests_per_second,
            report.latency.p50_us,
            report.latency.p99_us
        ),
    })
}

impl Shown {
    fn percentile(&mut self, share: f64) -> i64 {
        percentile(&mut self.after_acknowledgement, share)
    }

    fn say(&mut self) -> String {
        format!("p50 {}, p99 {}", ms(self.percentile(0.5)), ms(self.percentile(0.99)))
    }

    fn note(&mut self, how: &str) -> String {
        let count = self.after_acknowledgement.len();
        let sooner = self.after_acknowledgement.iter().filter(|micros| **micros < 0).count();
        format!(
            "{count} puts, {how}; {:.0} % were in force before their acknowledgement was here, which counts as 0; from sending: acknowledged p50 \
             {}, p99 {}, in force p50 {}, p99 {}, most {}",
            sooner as f64 * 100.0 / count.max(1) as f64,
            ms(percentile(&mut self.until_acknowledged, 0.5)),
            ms(percentile(&mut self.until_acknowledged, 0.99)),
            ms(percentile(&mut self.after_sending, 0.5)),
            ms(percentile(&mut self.after_sending, 0.99)),
            ms(percentile(&mut self.after_sending, 1.0)),
        )
    }
}

/// Puts so many routes one after the other, but not for longer than a limit, and finds when each came into force.
fn puts(stage: &Stage, proxy: &Proxy, count: usize, apart: Duration, limit: Duration) -> Told<Shown> {
    let (heard, changes) = mpsc::channel();
    let watch = watch(proxy.admin, heard)?;
    let first = changes.recv_timeout(LIMIT).map_err(say)?;
    let put = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
    let put = put.block_on(put_all(stage, count, apart, limit))?;
    let last = put.last().map_or(0, |put| put.revision);
    let mut in_force = BTreeMap::from([first]);
    while in_force.last_key_value().is_none_or(|(revision, _)| *revision < last) {
        let (revision, at) = changes.recv_timeout(LIMIT).map_err(|_| "not every put came into force in time".to_owned())?;
        in_force.entry(revision).or_insert(at);
    }
    let _ = watch.shutdown(Shutdown::Both);
    let micros = |from: SystemTime, to: SystemTime| match to.duration_since(from) {
        Ok(later) => later.as_micros() as i64,
        Err(earlier) => -(earlier.duration().as_micros() as i64),
    };
    let mut shown = Shown { after_acknowledgement: Vec::new(), after_sending: Vec::new(), until_acknowledged: Vec::new() };
    for Put { revision, sent, acknowledged } in put {
        let Some((_, at)) = in_force.range(revision..).next() else { continue };
        shown.after_acknowledgement.push(micros(acknowledged, *at));
        shown.after_sending.push(micros(sent, *at));
        shown.until_acknowledged.push(micros(sent, acknowledged));
    }
    Ok(shown)
}

async fn put_all(stage: &Stage, count: usize, apart: Duration, limit: Duration) -> Told<Vec<Put>> {
    let mut kv = store::connect(&stage.gold()).await?.kv_client();
    let mut rng = fastrand::Rng::with_seed(7);
    let ends = Instant::now() + limit;
    let mut put = Vec::with_capacity(count);
    while put.len() < count && Instant::now() < ends {
        if !apart.is_zero() {
            tokio::time::sleep(apart).await;
        }
        let (number, owner) = (rng.u64(0..stage.size.routes), rng.u64(0..OWNERS));
        let sent = SystemTime::now();
        let revision = store::put(&mut kv, number, owner).await?;
        put.push(Put { revision, sent, acknowledged: SystemTime::now() });
        if let Some(place) = stage.owners().get_mut(number as usize) {
            *place = owner as u8;
        }
    }
    Ok(put)
}

/// Follows a proxy's changes on a thread of its own, until the stream is shut down: revisions, and when each came into force.
fn watch(admin: SocketAddr, heard: mpsc::Sender<(u64, SystemTime)>) -> Told<TcpStream> {
    let mut stream = TcpStream::connect(admin).map_err(say)?;
    write!(stream, "GET /watch HTTP/1.1\r\nHost: x\r\n\r\n").map_err(say)?;
    let reader = BufReader::new(stream.try_clone().map_err(say)?);
    std::thread::spawn(move || {
        // Of the chunks' own lines none is an object.
        for line in reader.lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let at = line["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH);
            if heard.send((line["revision"].as_u64().unwrap_or(0), at)).is_err() {
                return;
            }
        }
    });
    Ok(stream)
}
