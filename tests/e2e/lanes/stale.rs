//! Refusals: 421 with every kind of `Route-Stale`, announcements in `Route-Update`, and redirects.

use super::case::{Act, Case, OK, answers};

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";

fn refusal(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 421 Misdirected Request\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn moved(owner: &str, epoch: &str, table: &str) -> String {
    format!(
        "Route-Stale: state=moved, service=\"web\", key=\"NUMBER\", owner=\"{owner}\", epoch={epoch}, revision=1, table=\"{table}\"\r\n"
    )
}

pub(super) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    let claims = [
        moved("bNUMBER", "6", "TABLE"),
        moved("bNUMBER", "5", "TABLE"),
        moved("bNUMBER", "4", "TABLE"),
        moved("bNUMBER", "6", "another"),
        moved("nobody", "6", "TABLE"),
        moved("aNUMBER", "6", "TABLE"),
        moved("bNUMBER", "6", "TABLE").replace("NUMBER\", owner", "0\", owner"),
        moved("bNUMBER", "6", "TABLE") + &moved("bNUMBER", "7", "TABLE"),
        "Route-Stale: state=unknown\r\n".to_owned(),
        "Route-Stale: state=starting\r\n".to_owned(),
        "Route-Stale: state=frozen\r\n".to_owned(),
        "Route-Stale: state=not-mine, service=\"web\", key=\"NUMBER\"\r\n".to_owned(),
        "Route-Stale: nonsense\r\n".to_owned(),
        "Route-Stale:\r\n".to_owned(),
        "route_stale: state=unknown\r\n".to_owned(),
        "Route-Stale: state=behind, service=\"web\", key=\"NUMBER\", revision=1, table=\"TABLE\"\r\n".to_owned(),
        String::new(),
    ];
    for claim in &claims {
        for request in [GET, POST] {
            all.push(Case::of(format!("a refusal: {claim}"), request).owner(answers(refusal(claim, "no"))));
        }
        all.push(Case::of(format!("a refusal before the body: {claim}"), POST).owner(vec![Act::Send(refusal(claim, "no")), Act::Body]));
        all.push(Case::of(format!("a refusal without a body: {claim}"), GET).owner(answers(refusal(claim, ""))));
        all.push(
            Case::of(format!("a refusal with more: {claim}"), GET)
                .owner(answers([refusal(claim, "no"), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()].concat())),
        );
        let closing = vec![Act::Body, Act::Send(refusal(&format!("{claim}Connection: close\r\n"), "no")), Act::Close];
        all.push(Case::of(format!("a refusal that closes: {claim}"), POST).owner(closing));
        let endless = format!("HTTP/1.1 421 No\r\n{claim}\r\nno").into_bytes();
        all.push(Case::of(format!("a refusal without a length: {claim}"), GET).owner(vec![Act::Body, Act::Send(endless), Act::Close]));
        let broken = format!("HTTP/1.1 421 No\r\n{claim}Transfer-Encoding: chunked\r\n\r\nzz\r\n").into_bytes();
        all.push(Case::of(format!("a broken refusal: {claim}"), GET).owner(answers(broken)));
        let early = [b"HTTP/1.1 103 E\r\n\r\n".to_vec(), refusal(claim, "no")].concat();
        all.push(Case::of(format!("a refusal behind an interim answer: {claim}"), GET).owner(answers(early)));
        all.push(
            Case::of(format!("a refusal on 200: {claim}"), GET)
                .owner(answers(format!("HTTP/1.1 200 OK\r\n{claim}Content-Length: 2\r\n\r\nok"))),
        );
        let long = POST.replace("Content-Length: 3", "Content-Length: 200000").replace("abc", &"x".repeat(200_000));
        all.push(
            Case::of(format!("a refusal of a long body: {claim}"), long.clone()).owner(vec![Act::Send(refusal(claim, "no")), Act::Body]),
        );
        // Whether the general lane keeps a connection whose chunks it has replayed over and over depends on the time that took.
        if !claim.contains("state=behind") {
            let chunked = POST.replace("Content-Length: 3", "Transfer-Encoding: chunked").replace("abc", "3\r\nabc\r\n0\r\n\r\n");
            all.push(Case::of(format!("a refusal of chunks: {claim}"), chunked).owner(answers(refusal(claim, "no"))));
        }
        // To be sent to the owner itself.
        all.push(
            Case::of(format!("a redirect: {claim}"), GET.replace("/a", "/redirect"))
                .owner(answers(refusal(&claim.replace("web", "redirect"), "no"))),
        );
    }
    for owner in [answers(OK), answers(refusal("Route-Stale: state=unknown\r\n", "")), vec![Act::Body, Act::Close]] {
        for request in [GET, POST] {
            all.push(Case::of("followed", request).owner(answers(refusal(&claims[0], "no"))).next_owner(owner.clone()));
        }
    }
    for update in ["x", "", "service=\"web\", key=\"NUMBER\", owner=\"bNUMBER\", epoch=6, revision=1, table=\"TABLE\""] {
        let answer = format!("HTTP/1.1 200 OK\r\nRoute-Update: {update}\r\nContent-Length: 2\r\n\r\nok");
        all.push(Case::of(format!("Route-Update: {update}"), GET).owner(answers(answer)));
    }
    all
}
