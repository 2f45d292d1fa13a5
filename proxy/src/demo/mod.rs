//! `waypost demo`: the whole story on this machine, each step with what was measured.
//!
//! A real etcd, three cells of a small data service and the proxy, all from the one binary. Every step checks what it tells; the
//! first that does not hold ends the story.

mod cell;
mod relay;
mod world;

use std::time::{Duration, Instant};

use hyper::Method;
use waypost_bench::{Keys, Plan, Report, Target};

use crate::{
    cli::DemoArgs,
    commands::print,
    failure::{Failed, Outcome},
    interrupted::interrupted,
};
use cell::{SERVICE, TENANT_HEADER};
use world::{SEEN_LIMIT, Told, World, is_written, until};

const TENANTS: usize = 30;
/// How many puts are timed.
const TIMED_PUTS: usize = 40;

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failed::not_done(format!("the runtime could not be started: {error}")))?;
    runtime.block_on(async {
        let interrupted = interrupted();
        tokio::pin!(interrupted);
        let began = Instant::now();
        let mut world = tokio::select! {
            world = World::start() => world.map_err(Failed::not_done)?,
            stopped = &mut interrupted => return Err(stopped),
        };
        let told = tokio::select! {
            told = tell(&mut world) => told,
            stopped = &mut interrupted => {
                world.end().await;
                return Err(stopped);
            }
        };
        let outcome = match told {
            Ok(()) => {
                print::line(format_args!("\nThe story took {:.1} s; every step held.", began.elapsed().as_secs_f64()));
                if !args.once {
                    invite(&world);
                    let _ = interrupted.await;
                }
                Ok(())
            }
            Err(why) => Err(Failed::not_done(format!("a step did not hold: {why}"))),
        };
        world.end().await;
        outcome
    })
}

async fn tell(world: &mut World) -> Told<()> {
    load(world).await?;
    every_tenant(world).await?;
    put_to_used(world).await?;
    added_latency(world).await?;
    stale_healed(world).await?;
    stale_redirected(world).await?;
    quarantine(world).await?;
    without_store(world).await?;
    store_back(world).await
}

fn step(number: u32, what: &str) {
    print::line(format_args!("\n{number}. {what}"));
}

fn show(what: impl std::fmt::Display) {
    print::line(format_args!("   {what}"));
}

fn tenant(number: usize) -> String {
    format!("tenant-{number}")
}

fn route(tenant: &str, owner: &str) -> (String, Vec<u8>) {
    (format!("routes/{SERVICE}/{tenant}"), format!(r#"{{"owner":"{owner}"}}"#).into_bytes())
}

fn service(policy: &str) -> (String, Vec<u8>) {
    let record = format!(r#"{{"match":[{{}}],"key":{{"header":"{TENANT_HEADER}"}},"policy":"{policy}"}}"#);
    (format!("services/{SERVICE}"), record.into_bytes())
}

fn home(number: usize) -> String {
    format!("cell-{}", number % 3)
}

async fn load(world: &mut World) -> Told<()> {
    step(1, "Routes are written to etcd, the gold copy, and pushed into the proxy.");
    let mut records: Vec<_> = world
        .cells
        .iter()
        .map(|cell| {
            let record = format!(r#"{{"endpoints":[{{"address":"{}"}}],"public_url":"http://{}"}}"#, cell.address, cell.address);
            (format!("upstreams/{}", cell.name), record.into_bytes())
        })
        .collect();
    records.push(service("default"));
    records.push(("policies/redirecting".to_owned(), br#"{"on_stale":"redirect"}"#.to_vec()));
    records.extend((0..TENANTS).map(|number| route(&tenant(number), &home(number))));
    let revision = world.put(&records).await?;
    show(format_args!("{TENANTS} tenants over 3 cells, in one transaction: revision {revision}"));
    let took = world.start_proxy().await?;
    world.wait_for_owner(&tenant(0), &home(0)).await?;
    show(format_args!("the proxy listens on http://{} and was ready {} ms after its start", world.listen, took.as_millis()));
    Ok(())
}

async fn every_tenant(world: &World) -> Told<()> {
    step(2, "Each tenant's request reaches the cell that owns it, by one local look-up.");
    for number in 0..TENANTS {
        let answer = world.request(Method::GET, &tenant(number), "/greeting", b"").await?;
        if answer.status != 200 || answer.header("x-cell") != home(number) {
            return Err(format!(
                "{} was answered {} by {:?}, not by {}",
                tenant(number),
                answer.status,
                answer.header("x-cell"),
                home(number)
            ));
        }
    }
    world.request(Method::PUT, &tenant(1), "/greeting", b"hello").await?;
    let answer = world.request(Method::GET, &tenant(1), "/greeting", b"").await?;
    show(format_args!("{TENANTS} of {TENANTS}; for example  {}", answer.text().trim()));
    Ok(())
}

async fn put_to_used(world: &World) -> Told<()> {
    step(3, "A route is changed by a put to etcd. No restart, no reload.");
    let mut took = Vec::new();
    for round in 0..TIMED_PUTS {
        let owner = home(round + 1);
        world.put(&[route(&tenant(0), &owner)]).await?;
        let acknowledged = Instant::now();
        let used = async || world.request(Method::GET, &tenant(0), "/", b"").await.ok().filter(|answer| answer.header("x-cell") == owner);
        until("the change was not used", SEEN_LIMIT, used).await?;
        took.push(acknowledged.elapsed());
    }
    took.sort();
    let ms = |at: Duration| at.as_secs_f64() * 1000.0;
    show(format_args!(
        "{TIMED_PUTS} puts; from etcd's acknowledgement to the answer of the new owner: p50 {:.2} ms, p99 {:.2} ms (the request included)",
        ms(took[took.len() / 2]),
        ms(took[took.len() * 99 / 100])
    ));
    Ok(())
}

async fn added_latency(world: &World) -> Told<()> {
    let cell = world.cells.iter().find(|cell| cell.name == home(1)).ok_or("there is no such cell")?;
    let direct = measure(format!("http://{}/", cell.address)).await?;
    let through = measure(format!("http://{}/", world.listen)).await?;
    show(format_args!(
        "the proxy adds p50 {} µs, p99 {} µs to a request (p50 {} → {}, p99 {} → {}; one connection)",
        through.latency.p50_us.saturating_sub(direct.latency.p50_us),
        through.latency.p99_us.saturating_sub(direct.latency.p99_us),
        direct.latency.p50_us,
        through.latency.p50_us,
        direct.latency.p99_us,
        through.latency.p99_us,
    ));
    Ok(())
}

async fn measure(url: String) -> Told<Report> {
    let plan = Plan {
        headers: vec![(TENANT_HEADER.to_owned(), "{key}".to_owned())],
        keys: Keys { prefix: "tenant-".to_owned(), range: 1..2 },
        connections: 1,
        duration: Duration::from_millis(1000),
        warm_up: Duration::from_millis(300),
        ..Plan::to(Target::parse(&url).map_err(|fault| fault.to_string())?)
    };
    let report = tokio::task::spawn_blocking(move || waypost_bench::run(&plan)).await.map_err(|error| error.to_string())??;
    if report.failed() > 0 || report.requests == 0 {
        return Err(format!("{} of {} measured requests failed", report.failed(), report.requests));
    }
    Ok(report)
}

/// Moves a tenant while the proxy's view is held back, so that its cell knows first.
async fn move_unseen(world: &World, tenant: &str, owner: &str) -> Told<()> {
    world.relay.hold(true);
    world.put(&[route(tenant, owner)]).await?;
    world.wait_for_owner(tenant, owner).await
}

async fn stale_healed(world: &World) -> Told<()> {
    step(4, "A cell has lost a tenant, and the proxy does not know it yet.");
    let (tenant, from, to) = (tenant(4), home(4), home(5));
    move_unseen(world, &tenant, &to).await?;
    show(format_args!("{tenant} moved {from} → {to}; what etcd sends to the proxy is held back"));
    let (stale_before, began) = (world.metric("waypost_stale_total").await?, Instant::now());
    let answer = world.request(Method::PUT, &tenant, "/note", b"written while stale").await?;
    let took = began.elapsed();
    // A request is counted when it has ended, which its client sees a little earlier.
    let counted_by = Instant::now() + Duration::from_secs(1);
    let mut met = 0.0;
    while met < 1.0 && Instant::now() < counted_by {
        met = world.metric("waypost_stale_total").await? - stale_before;
    }
    world.relay.hold(false);
    if answer.status != 200 || answer.header("x-cell") != to || met < 1.0 {
        return Err(format!("the client saw {} from {:?}, and {met} stale answers were met", answer.status, answer.header("x-cell")));
    }
    show(format_args!("the client's PUT: 200, \"{}\", in {:.1} ms", answer.text().trim(), took.as_secs_f64() * 1000.0));
    show(format_args!("behind it: {from} answered 421 with the new owner, the proxy sent the request on and mended its view"));
    Ok(())
}

async fn stale_redirected(world: &World) -> Told<()> {
    step(5, "The same with the policy `on_stale: redirect`: the client is told.");
    let tenant = tenant(7);
    let (from, to) = (home(7), home(8));
    let revision = world.put(&[service("redirecting")]).await?;
    wait_for_revision(world, revision).await?;
    move_unseen(world, &tenant, &to).await?;
    let answer = world.request(Method::GET, &tenant, "/note?page=2", b"").await?;
    let location = answer.header("location").to_owned();
    if answer.status != 307 || location != "/note?page=2" {
        world.relay.hold(false);
        return Err(format!("the client saw {} with Location {location:?} instead of a 307", answer.status));
    }
    show(format_args!("{tenant} moved {from} → {to}: 307, Waypost-Reason: {}, Location: {location}", answer.header("waypost-reason")));
    let followed = world.request(Method::GET, &tenant, &location, b"").await?;
    world.relay.hold(false);
    if followed.status != 200 || followed.header("x-cell") != to {
        return Err(format!("following it led to {} from {:?}", followed.status, followed.header("x-cell")));
    }
    show(format_args!("following it: 200 from {to}"));
    let revision = world.put(&[service("default")]).await?;
    wait_for_revision(world, revision).await
}

async fn quarantine(world: &World) -> Told<()> {
    step(6, "Somebody writes a bad value. It costs nothing but its own update.");
    let tenant = tenant(10);
    let revision = world.put(&[(format!("routes/{SERVICE}/{tenant}"), br#"{"ownr":"cell-9"}"#.to_vec())]).await?;
    wait_for_revision(world, revision).await?;
    let status = world.status().await?;
    let reason = status["quarantined"][0]["reason"].as_str().unwrap_or_default().to_owned();
    let answer = world.request(Method::GET, &tenant, "/", b"").await?;
    if reason.is_empty() || answer.status != 200 || answer.header("x-cell") != home(10) {
        return Err(format!("quarantined: {}; {tenant} was answered {}", status["quarantined"], answer.status));
    }
    show(format_args!("quarantined: routes/{SERVICE}/{tenant}: {reason}"));
    show(format_args!("its last good value stays in force: {tenant} is still served by {}", home(10)));
    let revision = world.put(&[route(&tenant, &home(10))]).await?;
    wait_for_revision(world, revision).await
}

async fn without_store(world: &mut World) -> Told<()> {
    step(7, "etcd is killed. Nothing can be changed, everything is still served.");
    let snapshot = world.snapshot_path();
    until("the snapshot was not written", SEEN_LIMIT, async || is_written(&snapshot).then_some(())).await?;
    // The last changes are in it a second later; what a snapshot lacks would come by the watch, but there will be none.
    let revision = world.status().await?["gold"][0]["revision"].as_u64().unwrap_or(0);
    until("the last revision did not reach the snapshot", SEEN_LIMIT, async || {
        let saved = std::fs::read(&snapshot).ok()?;
        let saved = waypost_watcher::snapshot::decode_snapshot(&saved, false).ok()?.applier;
        (saved.revision() >= revision).then_some(())
    })
    .await?;
    world.kill_etcd().await?;
    let all = serve_all(world).await?;
    show(format_args!("etcd is gone: {all} of {all} requests served"));
    world.kill_proxy().await?;
    let took = world.start_proxy().await?;
    let status = world.status().await?;
    let source = status["gold"][0]["source"].as_str().unwrap_or_default().to_owned();
    if source != "snapshot" || status["gold"][0]["connected"] == true {
        return Err(format!("the restarted proxy serves from {source:?}"));
    }
    let all = serve_all(world).await?;
    show(format_args!(
        "the proxy was killed and started without etcd: ready after {} ms from its snapshot, {all} of {all} served",
        took.as_millis()
    ));
    Ok(())
}

async fn serve_all(world: &World) -> Told<usize> {
    for round in 0..3 {
        for number in 11..TENANTS {
            let answer = world.request(Method::GET, &tenant(number), "/", b"").await?;
            if answer.status != 200 || answer.header("x-cell") != home(number) {
                return Err(format!("{} was answered {} in round {round}", tenant(number), answer.status));
            }
        }
    }
    Ok(3 * (TENANTS - 11))
}

async fn store_back(world: &mut World) -> Told<()> {
    step(8, "etcd comes back with a change, and the proxy catches up by itself.");
    world.start_etcd().await?;
    let (tenant, to) = (tenant(20), home(21));
    let began = Instant::now();
    let revision = world.put(&[route(&tenant, &to)]).await?;
    wait_for_revision(world, revision).await?;
    let answer = world.request(Method::GET, &tenant, "/", b"").await?;
    let source = world.status().await?["gold"][0]["source"].as_str().unwrap_or_default().to_owned();
    if answer.header("x-cell") != to || source != "watch" {
        return Err(format!("{tenant} is served by {:?} from {source:?}", answer.header("x-cell")));
    }
    show(format_args!("{tenant} is served by {to}; caught up {:.1} s after the put, watching again", began.elapsed().as_secs_f64()));
    Ok(())
}

async fn wait_for_revision(world: &World, revision: u64) -> Told<()> {
    let reached = async || {
        let status = world.status().await.ok()?;
        (status["gold"][0]["revision"].as_u64()? >= revision && status["gold"][0]["source"] == "watch").then_some(())
    };
    until(&format!("the proxy did not reach revision {revision}"), SEEN_LIMIT * 2, reached).await
}

fn invite(world: &World) {
    print::line(format_args!(
        "\nEverything still runs. Try:\n\
         \n  curl -i -H 'x-tenant: tenant-1' http://{listen}/greeting\
         \n  etcdctl --endpoints {etcd} put /waypost/v1/routes/{SERVICE}/tenant-1 '{{\"owner\":\"cell-2\"}}'\
         \n  waypost route list {SERVICE} --gold {etcd}\
         \n  waypost route set {SERVICE} tenant-1 --owner cell-0 --gold {etcd}\
         \n  waypost status --admin {admin}\
         \n  curl http://{admin}/metrics\
         \n\nCtrl-C ends it and leaves nothing behind.",
        listen = world.listen,
        admin = world.admin,
        etcd = world.etcd_url(),
    ));
}
