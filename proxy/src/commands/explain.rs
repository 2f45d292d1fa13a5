//! `waypost explain`: asks a running proxy's `/explain` about a request, and shows the answer to a person.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::print;
use crate::{
    admin_client::Admin,
    cli::ExplainArgs,
    failure::{Failed, Outcome},
};

/// How many other services a person is shown; `--json` has all.
const OTHERS_SHOWN: usize = 20;

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Outcome {
    let question = question(args)?.to_string();
    let headers = [("content-type", "application/json")];
    let admin = Admin::of(&args.admin)?;
    let asked = print::runtime()?.block_on(admin.fetch(Method::POST, "/explain", &headers, question.as_bytes()));
    let answer = asked.map_err(|why| {
        Failed::not_done(format!("the proxy's admin endpoints at {} can't be asked: {why}; name them with --admin", admin.address))
    })?;
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    match (answer.status, body) {
        (StatusCode::OK, Some(_)) if args.json => print::line(answer.text()),
        (StatusCode::OK, Some(explained)) => show(&explained),
        (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, Some(problem)) => return Err(Failed::unusable(text(&problem["detail"]))),
        (status, _) => {
            let message = format!("what answers at {} has no /explain: it answers {status}; name a Waypost's with --admin", admin.address);
            return Err(Failed::not_done(message));
        }
    }
    Ok(())
}

fn question(args: &ExplainArgs) -> Result<Value, Failed> {
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for header in &args.header {
        let (name, value) = header
            .split_once(':')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| Failed::unusable(format!("-H \"{}\" is no header; 'name: value' would be right", header.escape_debug())))?;
        headers.entry(name).or_default().push(value.trim());
    }
    Ok(json!({ "method": args.method, "url": args.url, "headers": headers }))
}

/// A line a decision, in the order in which they are taken.
fn show(explained: &Value) {
    let row = |name: &str, what: String| print::line(format_args!("{name:<11}{what}"));
    row("decision", decision(explained));
    row("revision", explained["revision"].to_string());
    if explained["service"].is_string() {
        let matched = &explained["matched"];
        row(
            "service",
            format!("{}  by host {}, path prefix {}", text(&explained["service"]), text(&matched["host"]), text(&matched["path_prefix"])),
        );
        row("policy", text(&explained["policy"]));
    }
    if explained["key"].is_string() {
        row("key", text(&explained["key"]));
    }
    if explained["route"].is_object() {
        row("route", route(explained));
    }
    if explained["upstream"].is_string() {
        row("upstream", text(&explained["upstream"]));
    }
    for endpoint in listed(&explained["endpoints"]) {
        let usable = if endpoint["usable"] == true { "usable" } else { "not usable" };
        row("endpoint", format!("{}  {usable}{}", text(&endpoint["address"]), after(": ", &endpoint["why"])));
    }
    for warning in listed(&explained["warnings"]) {
        row("warning", text(warning));
    }
    let others = listed(&explained["not_chosen"]);
    for other in others.iter().take(OTHERS_SHOWN) {
        row("not chosen", format!("{}{}", text(&other["service"]), after("  ", &other["why"])));
    }
    if others.len() > OTHERS_SHOWN {
        row("", format!("and {} other services (--json shows them)", others.len() - OTHERS_SHOWN));
    }
}

fn decision(explained: &Value) -> String {
    if explained["decision"] == "forward" {
        let endpoints = listed(&explained["endpoints"]);
        let usable = endpoints.iter().filter(|endpoint| endpoint["usable"] == true).count();
        return format!("forward to {}, {usable} of {} endpoints usable", text(&explained["upstream"]), endpoints.len());
    }
    let reason = explained["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{}{reason}{}", text(&explained["decision"]), after(": ", &explained["why"]))
}

fn route(explained: &Value) -> String {
    let route = &explained["route"];
    let name = match route["record"].as_str() {
        Some(record) => format!("routes/{}/{record}", text(&explained["service"])),
        None => "no record".to_owned(),
    };
    let owner = route["owner"].as_str().unwrap_or("unknown");
    let source = match route["source"].as_str() {
        Some("default") => "the service's default owner".to_owned(),
        source => format!("from the {}", source.unwrap_or("unknown")),
    };
    let over = &route["over"];
    let over = if over.is_object() {
        format!(", over the record's owner {} at epoch {}", text(&over["owner"]), over["epoch"])
    } else {
        String::new()
    };
    format!("{name}  owner {owner}, epoch {}, {}, {source}{over}{}", route["epoch"], text(&route["state"]), after("; ", &route["why"]))
}

fn listed(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn after(between: &str, value: &Value) -> String {
    value.as_str().map(|why| format!("{between}{}", printable(why))).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), printable)
}

/// As a terminal may show it: whatever a key or a host has in it, it moves no cursor.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
