//! Waypost beside HAProxy in one run: requests a second and a CPU-second, with 1 and 100,000 routes in a real etcd.
//!
//! The proxy under test is pinned to core 0 with one worker; the load generator and the backend run on core 1. The order is turned each
//! round, and medians are printed. Everything listens on loopback and is ended by its own pid.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use waypost_bench::{
    Keys, Plan, Report, Target,
    processes::{Running, Told, free_address, http_get, pin, start_etcd, wait_until, waypost_binary},
    serve_fixed,
};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 32;
const MEASURED: Duration = Duration::from_secs(4);
const ROUTES: [u64; 2] = [1, 100_000];

struct Subject {
    name: String,
    address: SocketAddr,
    pid: u32,
    keys: u64,
    reports: Vec<Report>,
}

fn main() -> Told<()> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    compare(folder.path()).inspect_err(|_| {
        for name in ["haproxy", "etcd", "waypost"] {
            let log = std::fs::read_to_string(folder.path().join(format!("{name}.log"))).unwrap_or_default();
            log.lines().rev().take(5).for_each(|line| eprintln!("{name}: {line}"));
        }
    })
}

fn compare(folder: &Path) -> Told<()> {
    pin(std::process::id(), "1")?;
    let backend = start_backend()?;
    let mut running = Vec::new();
    let mut subjects = vec![start_haproxy(folder, backend, &mut running)?];
    for routes in ROUTES {
        subjects.push(start_waypost(folder, backend, routes, &mut running)?);
    }
    let direct = measure(backend, 1, None)?;
    for round in 0..ROUNDS {
        let turn = round % subjects.len();
        subjects.rotate_left(turn);
        for subject in &mut subjects {
            let report = measure(subject.address, subject.keys, Some(subject.pid))?;
            if report.failed() > 0 {
                return Err(format!("{}: {} requests failed", subject.name, report.failed()));
            }
            subject.reports.push(report);
        }
        eprintln!("round {} of {ROUNDS} done", round + 1);
    }
    subjects.sort_by(|one, other| one.name.cmp(&other.name));
    show(&subjects, &direct);
    Ok(())
}

fn show(subjects: &[Subject], direct: &Report) {
    let median = |subject: &Subject, of: fn(&Report) -> f64| {
        let mut values: Vec<f64> = subject.reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let base = subjects.iter().find(|subject| subject.name == "haproxy");
    let per_cpu: fn(&Report) -> f64 = |report| report.requests_per_cpu_second.unwrap_or(0.0);
    println!(
        "medians of {ROUNDS} rounds, {CONNECTIONS} connections, {} s each; direct to the backend: p50 {} µs",
        MEASURED.as_secs(),
        direct.latency.p50_us
    );
    println!("{:<26} {:>12} {:>14} {:>10} {:>10} {:>10}", "", "requests/s", "req/CPU-s", "÷ HAProxy", "p50 µs", "p99 µs");
    for subject in subjects {
        let ratio = base.map_or(0.0, |base| median(subject, per_cpu) / median(base, per_cpu));
        println!(
            "{:<26} {:>12.0} {:>14.0} {:>10.2} {:>10.0} {:>10.0}",
            subject.name,
            median(subject, |report| report.requests_per_second),
            median(subject, per_cpu),
            ratio,
            median(subject, |report| report.latency.p50_us as f64),
            median(subject, |report| report.latency.p99_us as f64),
        );
    }
}

fn measure(address: SocketAddr, keys: u64, pid: Option<u32>) -> Told<Report> {
    waypost_bench::run(&Plan {
        headers: vec![("x-tenant".to_owned(), "{key}".to_owned())],
        keys: Keys { prefix: "tenant-".to_owned(), range: 0..keys },
        connections: CONNECTIONS,
        duration: MEASURED,
        watch_pids: pid.into_iter().collect(),
        ..Plan::to(Target { address, tls: false, host: "bench.example.com".to_owned(), path: "/".to_owned() })
    })
}

fn start_backend() -> Told<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            serve_fixed(tokio::net::TcpListener::from_std(listener)?, 2).await;
            Ok::<_, std::io::Error>(())
        })
    });
    Ok(address)
}

fn start_haproxy(folder: &Path, backend: SocketAddr, running: &mut Vec<Running>) -> Told<Subject> {
    let address = free_address()?;
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  \
         option forwardfor\n  http-reuse always\n  unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid\n  unique-id-header X-Request-Id\n\
         frontend in\n  bind {address}\n  http-request add-header Via \"1.1 haproxy\"\n  http-response add-header Via \"1.1 haproxy\"\n  default_backend out\n\
         backend out\n  server one {backend}\n"
    );
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let child = Running::start(Command::new("haproxy").arg("-db").arg("-f").arg(&config), folder, "haproxy")?;
    let pid = child.pid();
    pin(pid, "0")?;
    running.push(child);
    wait_for(address)?;
    Ok(Subject { name: "haproxy".to_owned(), address, pid, keys: 1, reports: Vec::new() })
}

fn start_waypost(folder: &Path, backend: SocketAddr, routes: u64, running: &mut Vec<Running>) -> Told<Subject> {
    let client = free_address()?;
    let client_url = format!("http://{client}");
    running.push(start_etcd(folder, &format!("etcd-{routes}"), client, &[])?);
    load(&client_url, backend, routes)?;
    let (address, admin) = (free_address()?, free_address()?);
    let mut waypost = Command::new(waypost_binary()?);
    waypost.args(["run", "--gold", &client_url, "--id", "bench", "--threads", "1", "--access-log", "off"]);
    waypost
        .args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--snapshot"])
        .arg(folder.join(format!("{routes}.snapshot")));
    let child = Running::start(&mut waypost, folder, "waypost")?;
    let pid = child.pid();
    pin(pid, "0")?;
    running.push(child);
    wait_until("the proxy to be ready", || Ok(http_get(admin, "/readyz").is_some_and(|(status, _)| status == 200)))?;
    Ok(Subject { name: format!("waypost, {routes} routes"), address, pid, keys: routes, reports: Vec::new() })
}

fn load(etcd: &str, backend: SocketAddr, routes: u64) -> Told<()> {
    use etcd_client::{Client, Txn, TxnOp};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut client = Client::connect([etcd], None).await.map_err(|error| error.to_string())?;
        let put = |key: String, value: String| TxnOp::put(format!("/waypost/v1/{key}"), value, None);
        let mut puts = vec![
            put("services/bench".to_owned(), r#"{"match":[{}],"key":{"header":"x-tenant"}}"#.to_owned()),
            put("upstreams/bench".to_owned(), format!(r#"{{"endpoints":[{{"address":"{backend}"}}]}}"#)),
        ];
        puts.extend((0..routes).map(|number| put(format!("routes/bench/tenant-{number}"), r#"{"owner":"bench"}"#.to_owned())));
        for part in puts.chunks(100) {
            client.txn(Txn::new().and_then(part)).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

fn wait_for(address: SocketAddr) -> Told<()> {
    wait_until(&format!("{address} to listen"), || Ok(TcpStream::connect(address).is_ok()))
}
