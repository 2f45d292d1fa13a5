//! `waypost status`: a person's view of a running proxy's `/status`.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::print;
use crate::{
    cli::StatusArgs,
    failure::{Failed, Outcome},
};

const LIMIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let asked = print::runtime()?.block_on(async { tokio::time::timeout(LIMIT, get(&args.admin, "/status")).await });
    let body = asked.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}"))).map_err(|why| {
        Failed::not_done(format!("the proxy's admin endpoints at {} can't be asked: {why}; name them with --admin", args.admin))
    })?;
    let status: Value = serde_json::from_slice(&body)
        .map_err(|_| Failed::not_done(format!("what answers at {} is no Waypost admin endpoint", args.admin)))?;
    if args.json {
        print::json(&status);
    } else {
        show(&status);
    }
    Ok(())
}

fn show(status: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let seconds = |ms: &Value| ms.as_u64().map_or_else(|| "never".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1000.0));
    print::line(format_args!(
        "proxy {}, version {}, up {} s",
        text(&status["proxy"]),
        text(&status["version"]),
        status["uptime_ms"].as_u64().unwrap_or(0) / 1000
    ));
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

/// One GET over a connection of its own; the body of a 200.
async fn get(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request =
        hyper::Request::get(path).header("host", address).body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes().to_vec())
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(error.to_string()),
    }
}
