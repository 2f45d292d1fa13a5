//! `waypost status`: a person's view of a running proxy's `/status`.

use hyper::{Method, StatusCode};
use serde_json::Value;
use waypost_conf::escaped;

use super::print;
use crate::{
    admin_client::Admin,
    cli::StatusArgs,
    failure::{Failed, Outcome},
};

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let admin = Admin::of(&args.admin)?;
    let asked = print::runtime()?.block_on(admin.fetch(Method::GET, "/status", &[], b""));
    let answer = asked.map_err(|why| {
        Failed::not_done(format!(
            "the admin endpoints at {} can't be asked: {why}; is the proxy running, and is that its --admin?",
            admin.address
        ))
    })?;
    let body = Some(&answer.body).filter(|_| answer.status == StatusCode::OK);
    let status: Option<Value> = body.and_then(|body| serde_json::from_slice(body).ok()).filter(|status: &Value| status["gold"].is_array());
    let status = status.ok_or_else(|| {
        let (admin, code) = (&admin.address, answer.status);
        Failed::not_done(format!("what answers at {admin} is not a proxy's admin endpoints ({code} for /status); name those with --admin"))
    })?;
    if args.json {
        print::json(&status);
    } else {
        show(&status);
    }
    Ok(())
}

fn show(status: &Value) {
    // What records say may hold anything: it must not write to a terminal.
    let text = |value: &Value| escaped(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_bytes());
    let seconds = |ms: &Value| ms.as_u64().map_or_else(|| "never".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1000.0));
    print::line(format_args!(
        "proxy {}, version {}, up {} s",
        text(&status["proxy"]),
        text(&status["version"]),
        status["uptime_ms"].as_u64().unwrap_or(0) / 1000
    ));
    if status["guard"].is_object() {
        show_guard(&status["guard"], text);
    }
    for gold in status["gold"].as_array().into_iter().flatten() {
        let contact = if gold["connected"] == true { "in contact" } else { "NO CONTACT" };
        print::line(format_args!(
            "gold  {contact}, revision {} from {}, fresh {}, resyncs {}, table {}",
            gold["revision"],
            text(&gold["source"]),
            seconds(&gold["age_ms"]),
            gold["resyncs"],
            text(&gold["table"]),
        ));
        if let Some(checked) = gold["digest_check"].as_object() {
            let says = if checked["equal"] == true { "equal to the store's" } else { "DIFFERENT from the store's" };
            print::line(format_args!("      digest {says} at revision {}, {}", checked["revision"], seconds(&checked["age_ms"])));
        }
        if let Some(error) = gold["last_error"].as_str() {
            print::line(format_args!("      {error}"));
        }
    }
    let table = &status["table"];
    print::line(format_args!(
        "table {} services, {} routes, {} upstreams, {} endpoints, digest {}",
        table["services"],
        table["routes"],
        table["upstreams"],
        table["endpoints"],
        text(&table["digest"]),
    ));
    print::line(format_args!("hints {}, refuted {}", status["hints"]["count"], status["hints"]["refuted"]));
    for hint in status["hints"]["newest"].as_array().into_iter().flatten() {
        print::line(format_args!(
            "hint         {}/{}: {} at epoch {}, said by {} {}",
            text(&hint["service"]),
            text(&hint["key"]),
            text(&hint["owner"]),
            hint["epoch"],
            text(&hint["reporter"]),
            seconds(&hint["age_ms"]),
        ));
    }
    for bad in status["quarantined"].as_array().into_iter().flatten() {
        print::line(format_args!("quarantined  {} at revision {}: {}", text(&bad["key"]), bad["revision"], text(&bad["reason"])));
    }
    for held in status["held_back"].as_array().into_iter().flatten() {
        print::line(format_args!("held back    {}", text(held)));
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        print::line(format_args!("warning      {}", text(warning)));
    }
}

/// What a guard stands before, and how far it is with that.
fn show_guard(guard: &Value, text: impl Fn(&Value) -> String) {
    let serves = match (guard["announced"] == true, guard["admits"] == true) {
        (true, true) => "announced",
        (true, false) => "announced, but ADMITS NOTHING: the store is out of its reach",
        (false, _) => "NOT ANNOUNCED YET",
    };
    print::line(format_args!(
        "guard of {} as {}, before {}: {serves}, serving {} now, without the store: {}",
        text(&guard["upstream"]),
        text(&guard["id"]),
        text(&guard["to"]),
        guard["serving"],
        text(&guard["without_store"]),
    ));
}
