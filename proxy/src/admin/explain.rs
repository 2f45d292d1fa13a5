//! `POST /explain`: what would become of a request, and why.
//!
//! The question is JSON of at most [`MAX_BODY_BYTES`]; the answer is `waypost_policy::explain`'s, put into the words of INTERFACE.md.

use std::{fmt, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{StatusCode, body::Incoming};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use waypost_policy::explain::{Decision, Explanation, ShownRoute as Route};

use super::{Answer, as_json, percent_encoded, problem_saying, shown_key};
use crate::{state::Shared, transport::Asked};

/// The largest question: as large as a request's head may be.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a question may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
const EXAMPLE: &str = r#"{"method":"GET","url":"http://orders.example.com/x","headers":{"x-tenant":"t1"}}"#;

/// The question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: Fields,
}

fn get() -> String {
    "GET".to_owned()
}

/// Header fields in order, one value each; a name may come twice, or with an array of values.
#[derive(Default)]
struct Fields(Vec<(String, String)>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a header's value must be a string or an array of strings")]
enum Values {
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of header fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, values)) = map.next_entry::<String, Values>()? {
                    match values {
                        Values::One(value) => fields.push((name, value)),
                        Values::Several(values) => fields.extend(values.into_iter().map(|value| (name.clone(), value))),
                    }
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// The answer.
pub(super) async fn explain(shared: &Shared, body: Incoming) -> Answer {
    let body = match tokio::time::timeout(BODY_LIMIT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            return problem_saying(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", &detail);
        }
        Ok(Err(_)) => return problem_saying(StatusCode::BAD_REQUEST, "bad_request", "the body broke off"),
        Err(_) => return problem_saying(StatusCode::REQUEST_TIMEOUT, "client_timeout", "the body did not arrive in time"),
    };
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(why) => {
            let detail = format!("the body is no question: {why}; for example: {EXAMPLE}");
            return problem_saying(StatusCode::BAD_REQUEST, "bad_request", &detail);
        }
    };
    match Asked::new(question.method, &question.url, question.headers.0) {
        Ok(asked) => as_json(StatusCode::OK, &shown(&asked.explain(shared))),
        Err(why) => problem_saying(StatusCode::BAD_REQUEST, "bad_request", &why),
    }
}

/// The answer, in the order of INTERFACE.md.
#[derive(Serialize)]
struct Shown<'a> {
    revision: u64,
    decision: &'static str,
    reason: Option<&'static str>,
    why: Option<&'a str>,
    service: Option<&'a str>,
    matched: Option<ShownMatch<'a>>,
    key: Option<String>,
    key_percent_encoded: Option<String>,
    route: Option<ShownRoute<'a>>,
    policy: Option<&'a str>,
    upstream: Option<&'a str>,
    endpoints: Vec<ShownEndpoint<'a>>,
    not_chosen: Vec<ShownOther<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct ShownMatch<'a> {
    host: &'a str,
    path_prefix: &'a str,
}

#[derive(Serialize)]
struct ShownRoute<'a> {
    record: Option<String>,
    owner: Option<&'a str>,
    epoch: u64,
    state: &'static str,
    target: Option<&'a str>,
    source: &'static str,
    over: Option<ShownOver<'a>>,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownOver<'a> {
    owner: Option<&'a str>,
    epoch: u64,
}

#[derive(Serialize)]
struct ShownEndpoint<'a> {
    address: &'a str,
    usable: bool,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownOther<'a> {
    service: &'a str,
    why: &'a str,
}

fn shown(explanation: &Explanation) -> Shown<'_> {
    let (decision, reason) = match explanation.decision {
        Decision::Forward => ("forward", None),
        Decision::Park => ("park", None),
        Decision::Answer(code) => ("answer", Some(code.as_str())),
    };
    let endpoints = explanation.endpoints.iter();
    let others = explanation.not_chosen.iter();
    Shown {
        revision: explanation.revision,
        decision,
        reason,
        why: explanation.why.as_deref(),
        service: explanation.service.as_ref().map(|service| &*service.name),
        matched: explanation.matched.as_ref().map(|(host, path_prefix)| ShownMatch { host, path_prefix }),
        key: explanation.key.as_deref().map(shown_key),
        key_percent_encoded: explanation.key.as_deref().map(percent_encoded),
        route: explanation.route.as_ref().map(shown_route),
        policy: explanation.service.as_ref().map(|service| &*service.policy_name),
        upstream: explanation.upstream.as_ref().map(|upstream| &*upstream.name),
        endpoints: endpoints
            .map(|one| ShownEndpoint { address: one.address.as_str(), usable: one.usable, why: one.why.as_deref() })
            .collect(),
        not_chosen: others.map(|other| ShownOther { service: &other.service, why: &other.why }).collect(),
        warnings: &explanation.warnings,
    }
}

fn shown_route(route: &Route) -> ShownRoute<'_> {
    ShownRoute {
        record: route.record.as_deref().map(shown_key),
        owner: route.owner.as_deref(),
        epoch: route.epoch,
        state: route.state.as_str(),
        target: route.target.as_deref(),
        source: route.source.as_str(),
        over: route.over.as_ref().map(|(owner, epoch)| ShownOver { owner: owner.as_deref(), epoch: *epoch }),
        why: route.why.as_deref(),
    }
}
