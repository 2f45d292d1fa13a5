//! `POST /explain`: what would become of a request, and why.
//!
//! The question is JSON of at most [`MAX_BODY_BYTES`]; the answer is `waypost_policy::explain`'s, put into the words of INTERFACE.md.

use std::{fmt, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{StatusCode, body::Incoming};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};
use waypost_policy::explain::{Decision, Explanation, NotChosen, ShownEndpoint, ShownRoute};

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
    let question: Result<Question, String> = serde_json::from_slice(&body).map_err(|error| error.to_string());
    match question.and_then(|question| Asked::new(question.method, &question.url, question.headers.0)) {
        Ok(asked) => as_json(StatusCode::OK, &shown(&asked.explain(shared))),
        Err(why) => {
            let detail = format!("the body does not describe a request: {why}; for example: {EXAMPLE}");
            problem_saying(StatusCode::BAD_REQUEST, "bad_request", &detail)
        }
    }
}

fn shown(explanation: &Explanation) -> Value {
    let (decision, reason) = match explanation.decision {
        Decision::Forward => ("forward", None),
        Decision::Answer(code) => ("answer", Some(code.as_str())),
    };
    let matched = explanation.matched.as_ref().map(|(host, path_prefix)| json!({ "host": host, "path_prefix": path_prefix }));
    json!({
        "revision": explanation.revision,
        "decision": decision,
        "reason": reason,
        "why": explanation.why,
        "service": explanation.service.as_ref().map(|service| &*service.name),
        "matched": matched,
        "key": explanation.key.as_deref().map(shown_key),
        "key_percent_encoded": explanation.key.as_deref().map(percent_encoded),
        "route": explanation.route.as_ref().map(shown_route),
        "policy": explanation.service.as_ref().map(|service| &*service.policy_name),
        "upstream": explanation.upstream.as_ref().map(|upstream| &*upstream.name),
        "endpoints": explanation.endpoints.iter().map(shown_endpoint).collect::<Vec<_>>(),
        "not_chosen": explanation.not_chosen.iter().map(shown_other).collect::<Vec<_>>(),
        "warnings": explanation.warnings,
    })
}

fn shown_route(route: &ShownRoute) -> Value {
    let over = route.over.as_ref().map(|(owner, epoch)| json!({ "owner": owner.as_deref(), "epoch": epoch }));
    json!({
        "record": route.record.as_deref().map(shown_key),
        "owner": route.owner.as_deref(),
        "epoch": route.epoch,
        "state": route.state.as_str(),
        "target": route.target.as_deref(),
        "source": route.source.as_str(),
        "over": over,
        "why": route.why,
    })
}

fn shown_endpoint(endpoint: &ShownEndpoint) -> Value {
    json!({ "address": endpoint.address.as_str(), "usable": endpoint.usable, "why": endpoint.why })
}

fn shown_other(other: &NotChosen) -> Value {
    json!({ "service": &*other.service, "why": other.why })
}
