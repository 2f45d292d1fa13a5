//! `waypost watch`: a line for each change of a running proxy's table, as it comes into force.
//!
//! It goes on when the proxy restarts (said once, on stderr), and ends quietly when nobody reads its output.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;

use super::print;
use crate::{
    admin_client::Admin,
    cli::WatchArgs,
    failure::{Failed, Outcome},
};

/// The first pause before the proxy is tried again; each doubles the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a connection and the head of its answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A line of more bytes than this comes from no proxy.
const MAX_LINE_BYTES: usize = 4 << 20;

/// How a stream of changes ended.
enum Ended {
    /// The proxy has gone, or can't be asked; why.
    Lost(String),
    /// Nobody reads stdout any more.
    Unread,
}

/// Runs the command.
pub(crate) fn run(args: &WatchArgs) -> Outcome {
    print::runtime()?.block_on(async {
        tokio::select! {
            ended = follow(args) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn follow(args: &WatchArgs) -> Outcome {
    let admin = Admin::of(&args.admin)?;
    let mut body = open(&admin, args).await?;
    loop {
        match show(&mut body, args.json).await {
            Ended::Unread => return Ok(()),
            Ended::Lost(why) => eprintln!("waypost: the proxy at {} is away: {why}; watching goes on when it is back", admin.address),
        }
        let mut pause = FIRST_PAUSE;
        body = loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Ok(body) = open(&admin, args).await {
                break body;
            }
        };
    }
}

/// Opens the stream.
async fn open(admin: &Admin, args: &WatchArgs) -> Result<Incoming, Failed> {
    let opened = tokio::time::timeout(ANSWER_LIMIT, ask(admin, args)).await;
    let opened = opened.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_LIMIT:?}")));
    opened.map_err(|why| {
        Failed::not_done(format!("the proxy's admin endpoints at {} can't be asked: {why}; name them with --admin", admin.address))
    })
}

async fn ask(admin: &Admin, args: &WatchArgs) -> Result<Incoming, String> {
    let say = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(&admin.address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
    tokio::spawn(connection);
    let request = Request::get(path(args)).header("host", &admin.address);
    let request = admin.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let request = request.body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(say)?;
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(admin.shut());
    }
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let problem = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let detail = serde_json::from_slice::<Value>(&problem).ok().and_then(|problem| Some(problem["detail"].as_str()?.to_owned()));
    Err(detail.unwrap_or_else(|| format!("it answers {status}")))
}

fn path(args: &WatchArgs) -> String {
    let wanted = [("service", &args.service), ("key", &args.key)];
    let wanted =
        wanted.iter().filter_map(|(name, value)| Some(format!("{name}={}", utf8_percent_encode(value.as_ref()?, NON_ALPHANUMERIC))));
    format!("/watch?{}", wanted.collect::<Vec<_>>().join("&"))
}

/// Shows lines until the stream ends or nobody reads them.
async fn show(body: &mut Incoming, as_json: bool) -> Ended {
    let mut buffer = Vec::new();
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(_)) | None => return Ended::Lost("the connection has ended".to_owned()),
        };
        buffer.extend_from_slice(frame.data_ref().map_or(&b""[..], |data| data));
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else {
            if buffer.len() > MAX_LINE_BYTES {
                return Ended::Lost("what it says is no line of changes".to_owned());
            }
            continue;
        };
        let rest = buffer.split_off(end + 1);
        let lines = std::mem::replace(&mut buffer, rest);
        let mut out = std::io::stdout().lock();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let written = if as_json {
                out.write_all(line).and_then(|()| out.write_all(b"\n"))
            } else {
                serde_json::from_slice(line).map_or(Ok(()), |change| writeln!(out, "{}", sentence(&change)))
            };
            if written.is_err() {
                return Ended::Unread;
            }
        }
        if out.flush().is_err() {
            return Ended::Unread;
        }
    }
}

/// A change in a person's words.
fn sentence(change: &Value) -> String {
    let text = |name: &str| change[name].as_str().unwrap_or_default().escape_debug().to_string();
    let at = format!("revision {}{}", change["revision"], in_force(change));
    match change["change"].as_str().unwrap_or_default() {
        "route" => format!("{}  {}  {at}", text("key"), route(change)),
        "record" => format!("{} {} {}  {at}", text("kind"), text("name"), text("what")),
        "quarantined" => format!("{} quarantined: {}  {at}", text("key"), text("reason")),
        "released" => format!("{} no longer quarantined  {at}", text("key")),
        "resync" if change["held_back"].as_u64() > Some(0) => {
            format!("listed anew ({}): {} routes, {} deletes not believed  {at}", text("reason"), change["routes"], change["held_back"])
        }
        "resync" => format!("listed anew ({}): {} routes  {at}", text("reason"), change["routes"]),
        "new_incarnation" => format!("the store is another incarnation: {}  {at}", text("table")),
        "contact" if change["connected"] == true => match change["error"].as_str() {
            Some(error) => format!("in contact with the gold copy, but: {}  {at}", error.escape_debug()),
            None => format!("in contact with the gold copy  {at}"),
        },
        "contact" => format!("no contact with the gold copy: {}  {at}", text("error")),
        "missed" => format!("missed {} changes", change["missed"]),
        "watching" => {
            let contact = if change["connected"] == true { "" } else { ", which has no contact with the gold copy" };
            format!("watching {}{contact}  revision {}", text("proxy"), change["revision"])
        }
        // A newer proxy may tell of more.
        _ => change.to_string(),
    }
}

fn route(change: &Value) -> String {
    let (before, after) = (&change["before"], &change["after"]);
    let owner = |side: &Value| side["owner"].as_str().unwrap_or("nobody").to_owned();
    let state = match (after["state"].as_str(), after["target"].as_str()) {
        (Some("serving") | None, _) => String::new(),
        (Some(state), None) => format!("  {state}"),
        (Some(state), Some(target)) => format!("  {state} to {target}"),
    };
    let ahead = if change["source"] == "store" { "  read ahead of the watch" } else { "" };
    match (before.is_null(), after.is_null()) {
        (_, true) => format!("{} → deleted", owner(before)),
        (true, false) => format!("new → {}  epoch {}{state}{ahead}", owner(after), after["epoch"]),
        (false, false) if before["owner"] == after["owner"] => format!("{}  epoch {}{state}{ahead}", owner(after), after["epoch"]),
        (false, false) => format!("{} → {}  epoch {}{state}{ahead}", owner(before), owner(after), after["epoch"]),
    }
}

fn in_force(change: &Value) -> String {
    change["in_force_ms"].as_f64().map(|ms| format!("  in force {ms:.1} ms after it arrived")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_said_in_a_line() {
        let side = |owner: &str, epoch: u64, state: &str| json!({ "owner": owner, "epoch": epoch, "state": state, "target": null });
        let route = |before: Value, after: Value| {
            json!({ "change": "route", "service": "orders", "key": "tenant-42", "before": before, "after": after, "source": "watch",
                    "revision": 918_377, "in_force_ms": 0.4 })
        };
        let moved = sentence(&route(side("cell-7", 43, "serving"), side("cell-9", 44, "serving")));
        assert_eq!(moved, "tenant-42  cell-7 → cell-9  epoch 44  revision 918377  in force 0.4 ms after it arrived");
        let gone = sentence(&route(side("cell-7", 43, "serving"), Value::Null));
        assert_eq!(gone, "tenant-42  cell-7 → deleted  revision 918377  in force 0.4 ms after it arrived");
        let frozen = sentence(&route(side("cell-7", 43, "serving"), side("cell-7", 43, "frozen")));
        assert_eq!(frozen, "tenant-42  cell-7  epoch 43  frozen  revision 918377  in force 0.4 ms after it arrived");
        let changed = json!({ "change": "record", "kind": "service", "name": "orders", "what": "changed", "revision": 5 });
        assert_eq!(sentence(&changed), "service orders changed  revision 5");
        assert_eq!(sentence(&json!({ "change": "missed", "missed": 7 })), "missed 7 changes");
        let strange = json!({ "change": "of a newer version" });
        assert_eq!(sentence(&strange), strange.to_string());
    }
}
