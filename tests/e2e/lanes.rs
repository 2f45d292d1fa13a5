//! Both lanes, held against each other: the same bytes of clients and owners go down the express lane and the general one, and what owners saw, what
//! clients saw and what the log says is the same.
//!
//! Each case has owners of its own, so that no connection to one is another case's. What differs for a good reason is in `allowed`, narrowly.

mod allowed;
mod answers;
mod case;
mod drawn;
mod http2;
mod lane;
mod message;
mod requests;
mod stale;

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use waypost_tests::{Certificates, SecureClient};

use case::{Case, Way};
use lane::{Lane, Seen, Setting};
use message::{End, Message, text};

/// So many cases are under way at once.
const AT_ONCE: usize = 16;
/// How long a line of the log may be on its way.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// Plays all cases on both lanes, and asserts that they do not differ.
async fn hold(setting: Setting<'_>, cases: Vec<Case>) {
    let cases = Arc::new(cases);
    let general = Setting { is_general: true, ..setting.clone() };
    let (express, general) = (Lane::start(setting, Arc::clone(&cases)).await, Lane::start(general, Arc::clone(&cases)).await);
    let mut played: Vec<(usize, Seen, Seen)> = stream::iter(0..cases.len())
        .map(|number| {
            let (express, general) = (&express, &general);
            async move {
                let (one, other) = futures_util::future::join(express.play(number), general.play(number)).await;
                (number, one, other)
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    played.sort_by_key(|(number, ..)| *number);
    for lane in [&express, &general] {
        waypost_tests::until_true("no request is under way", async || lane.waypost.metric("waypost_in_flight").await.abs() < 0.5).await;
    }
    // Those that are alike; whether all that was sent has come whole.
    let (mut judged, mut wrong) = (BTreeMap::new(), Vec::new());
    for (number, mut one, mut other) in played {
        (one.owner, other.owner) = (express.owned(number), general.owned(number));
        let case = &cases[number];
        let is_whole = allowed::is_whole(&one) && allowed::is_whole(&other);
        for seen in [&mut one, &mut other] {
            allowed::once(case, &mut seen.owner);
        }
        let both = [(&one, &express), (&other, &general)].map(|(seen, lane)| shown(case, number, &allowed::settled(seen), lane));
        if both[0] == both[1] && allowed::are_parts(&one, &other) {
            judged.insert(number, is_whole);
        } else if !allowed::differ(case, &one, &other) {
            wrong.push(format!("{}\nexpress:\n{}\ngeneral:\n{}", told(case, number), both[0], both[1]));
        }
    }
    wrong.extend(logged_wrongly(&cases, &judged, &express, &general).await);
    assert!(wrong.is_empty(), "{} differences in {} cases:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

/// A case as it can be read in a failure.
fn told(case: &Case, number: usize) -> String {
    let shorten = |bytes: &[u8]| {
        if bytes.len() > 600 { format!("{:?}… of {}", text(&bytes[..600]), bytes.len()) } else { format!("{:?}", text(bytes)) }
    };
    let requests: Vec<String> = case.sent(number).iter().map(|request| shorten(request)).collect();
    let acts: Vec<String> = case
        .owner
        .iter()
        .map(|act| match act {
            case::Act::Send(bytes) => format!("Send {}", shorten(bytes)),
            act => format!("{act:?}").chars().take(300).collect(),
        })
        .collect();
    format!("## {number}: {} ({:?}, {:?})\n{}\nowner: {}", case.name, case.way, case.then, requests.join("\n"), acts.join("; "))
}

/// What was seen, without what must differ.
fn shown(case: &Case, number: usize, seen: &Seen, lane: &Lane) -> String {
    let mut shown = String::new();
    let mut message = |who: &str, message: &Message| {
        let _ = writeln!(shown, "  {who}: {:?}", message.first);
        for (name, values) in &message.fields {
            let values = values.iter().map(|value| if name == "date" { "(a time)" } else { value });
            let _ = writeln!(shown, "    {name}: {:?}", values.collect::<Vec<_>>());
        }
        // Of what was cut short, the parts are compared elsewhere.
        let body = if message.end == End::Cut || case.is_torn { String::new() } else { text(&message.body) };
        let body = if body.len() > 300 {
            format!("{:?}… of {}, {:x}", &body.chars().take(300).collect::<String>(), body.len(), sum(&message.body))
        } else {
            format!("{body:?}")
        };
        let _ = writeln!(shown, "    {:?} {body}", message.end);
    };
    for (who, seen) in seen.owner.iter().filter(|(_, seen)| allowed::is_compared(seen)) {
        message(who, seen);
    }
    for seen in &seen.client {
        message("client", seen);
    }
    if !seen.behind.is_empty() {
        // The body of a refusal, as its request was to HEAD if it was one.
        let _ = writeln!(shown, "  behind: {:?}", text(&seen.behind));
    }
    // The proxy's own, wherever they stand: of one that was asked in another way than this reader takes it, a body is read as a head.
    let sent = text(&case.sent(number).concat());
    let ids = seen.owner.iter().map(|(_, request)| request).chain(&seen.client).filter_map(|message| message.value("x-request-id"));
    for id in ids.filter(|id| !sent.contains(id)) {
        shown = shown.replace(id, "(an id)");
    }
    shown.replace(lane.table(), "TABLE").replace(&format!(":{}", lane.port()), ":PORT")
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(5381, |sum: u64, byte| sum.wrapping_mul(33) ^ u64::from(*byte))
}

/// What the two logs do not both have, of those cases that were seen to be alike.
async fn logged_wrongly(cases: &[Case], judged: &BTreeMap<usize, bool>, express: &Lane, general: &Lane) -> Vec<String> {
    let ends = std::time::Instant::now() + LOG_LIMIT;
    loop {
        let wrong = log_differences(cases, judged, express, general);
        if wrong.is_empty() || std::time::Instant::now() >= ends {
            return wrong;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn log_differences(cases: &[Case], judged: &BTreeMap<usize, bool>, express: &Lane, general: &Lane) -> Vec<String> {
    let by_case = |lane: &Lane| {
        let mut by_case = BTreeMap::<Option<usize>, Vec<String>>::new();
        for (number, line) in lane.logged() {
            let is_whole = number.is_none_or(|number| judged.get(&number) == Some(&true));
            by_case.entry(number).or_default().push(allowed::logged(&line, is_whole));
        }
        by_case.values_mut().for_each(|lines| lines.sort());
        by_case
    };
    let (one, other) = (by_case(express), by_case(general));
    let mut wrong = Vec::new();
    for number in judged.keys().copied().map(Some).chain([None]) {
        let (one, other) = (one.get(&number).cloned().unwrap_or_default(), other.get(&number).cloned().unwrap_or_default());
        if one != other && !number.is_some_and(|number| allowed::is_logged_otherwise(&cases[number])) {
            let whose = number.map_or("those without a key".to_owned(), |number| told(&cases[number], number));
            let missing = |one: &[String], other: &[String]| one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>();
            wrong.push(format!("{whose}\nexpress logs: {:#?}\ngeneral logs: {:#?}", missing(&one, &other), missing(&other, &one)));
        }
    }
    wrong
}

#[tokio::test]
async fn requests_reach_owners_alike() {
    hold(Setting::default(), requests::all()).await;
}

#[tokio::test]
async fn what_trusted_clients_say_passes_alike() {
    hold(Setting { listener: "trusted = [\"127.0.0.0/8\"]".to_owned(), ..Setting::default() }, requests::of_clients()).await;
}

#[tokio::test]
async fn answers_reach_clients_alike() {
    hold(Setting::default(), answers::all()).await;
}

#[tokio::test]
async fn silence_and_early_ends_are_told_alike() {
    hold(Setting::default(), answers::in_time()).await;
}

#[tokio::test]
async fn refusals_are_healed_alike() {
    let upstream = json!({ "stale_aware": true });
    hold(Setting { has_etcd: true, upstream, ..Setting::default() }, stale::all()).await;
}

#[tokio::test]
async fn over_tls_both_are_alike_too() {
    let certificates = Certificates::new();
    let signed = certificates.sign("localhost");
    let secure = SecureClient::new(&certificates.ca, None);
    let record = json!({
        "hosts": [], "default": true,
        "cert": format!("file:{}", signed.cert.display()), "key": format!("file:{}", signed.key.display()),
    });
    let records = vec![("certificates/default".to_owned(), record)];
    let some = requests::all().into_iter().chain(answers::all()).filter(|case| case.way == Way::AtOnce && case.then == case::Then::Reads);
    let setting = Setting { listener: "tls = true".to_owned(), secure: Some(&secure), records, ..Setting::default() };
    hold(setting, some.collect()).await;
}

#[tokio::test]
async fn clients_of_http2_find_them_alike_too() {
    let in_time = answers::in_time().into_iter().filter(|case| !case.is_left());
    let all = requests::all().into_iter().chain(answers::all()).chain(in_time).filter(http2::can_be_said);
    hold(Setting { is_http2: true, ..Setting::default() }, all.collect()).await;
    let (upstream, some) = (json!({ "stale_aware": true }), stale::all().into_iter().filter(http2::can_be_said));
    hold(Setting { is_http2: true, has_etcd: true, upstream, ..Setting::default() }, some.collect()).await;
}

#[tokio::test]
async fn what_a_seed_draws_is_treated_alike() {
    drawn::course().await;
}

#[tokio::test]
async fn what_fuzzing_has_kept_is_treated_alike() {
    hold(Setting::default(), drawn::kept()).await;
}
