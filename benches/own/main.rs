//! What the generator and the fixed backend cost by themselves: nothing that is measured with them can be cheaper.
//!
//! The backend is this program once more, on core 0; the generator is on core 1. Medians of rounds in which all rows take turns.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::{net::SocketAddr, process::Command, time::Duration};

use waypost_bench::{
    Body, Keys, Plan, Report, Target,
    processes::{Running, Told, free_address, pin, say, wait_until},
    serve_fixed,
};

const ROUNDS: usize = 5;
const MEASURED: Duration = Duration::from_secs(2);

/// What is asked, and how much comes and goes.
struct Row {
    name: &'static str,
    answer_bytes: usize,
    body: Body,
    reports: Vec<Report>,
}

fn main() -> Told<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match &*given {
        [] => compare(),
        [serve, address, bytes] if serve == "serve" => run_backend(address.parse().map_err(say)?, bytes.parse().map_err(say)?),
        _ => Err("nothing, or serve ADDRESS BYTES would be right".to_owned()),
    }
}

fn run_backend(address: SocketAddr, body_bytes: usize) -> Told<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
    runtime.block_on(async {
        serve_fixed(tokio::net::TcpListener::bind(address).await.map_err(say)?, body_bytes).await;
        Ok(())
    })
}

fn compare() -> Told<()> {
    let folder = tempfile::tempdir().map_err(say)?;
    pin(std::process::id(), "1")?;
    let row = |name, answer_bytes, bytes, chunked| Row { name, answer_bytes, body: Body { bytes, chunked }, reports: Vec::new() };
    let mut rows = [
        row("GET, 2 B", 2, 0, false),
        row("GET, 10 KiB", 10 << 10, 0, false),
        row("GET, 1 MiB", 1 << 20, 0, false),
        row("POST 1 KiB", 2, 1 << 10, false),
        row("POST 1 MiB", 2, 1 << 20, false),
        row("POST 1 MiB, chunked", 2, 1 << 20, true),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let address = free_address()?;
            let mut backend = Command::new(std::env::current_exe().map_err(say)?);
            let backend = backend.args(["serve", &address.to_string(), &row.answer_bytes.to_string()]);
            let backend = Running::start(backend, folder.path(), "backend")?;
            pin(backend.pid(), "0")?;
            wait_until("the backend to listen", || Ok(std::net::TcpStream::connect(address).is_ok()))?;
            let report = waypost_bench::run(&Plan {
                method: if row.body.bytes > 0 { "POST" } else { "GET" }.to_owned(),
                headers: vec![("x-tenant".to_owned(), "{key}".to_owned())],
                keys: Keys { prefix: "tenant-".to_owned(), range: 0..1_000_000 },
                body: row.body,
                duration: MEASURED,
                watch_pids: vec![backend.pid()],
                ..Plan::to(Target { address, tls: false, host: "bench.example.com".to_owned(), path: "/".to_owned() })
            })?;
            if report.failed() > 0 {
                return Err(format!("{}: {report}", row.name));
            }
            row.reports.push(report);
        }
    }
    println!("{:<22} {:>12} {:>22} {:>22}", "", "requests/s", "generator, req/CPU-s", "backend, req/CPU-s");
    for Row { name, reports, .. } in &rows {
        let median = |of: fn(&Report) -> f64| {
            let mut values: Vec<f64> = reports.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{name:<22} {:>12.0} {:>22.0} {:>22.0}",
            median(|report| report.requests_per_second),
            median(|report| report.requests as f64 / report.generator_cpu_seconds.max(1e-3)),
            median(|report| report.requests_per_cpu_second.unwrap_or(0.0)),
        );
    }
    Ok(())
}
