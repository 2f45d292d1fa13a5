//! `policies/<policy>`: time-outs, retries, limits, and what to do on a stale route.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    number::{Count, Millis, Whole},
    service::is_default,
};

/// A policy. The default is what applies without any record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// What a stale route leads to.
    #[serde(skip_serializing_if = "is_default")]
    pub on_stale: OnStale,
    /// Where a redirected client is sent.
    #[serde(skip_serializing_if = "is_default")]
    pub redirect_to: RedirectTo,
    /// How often a request may be sent to another owner or at a newer epoch, 0 to 16.
    #[serde(deserialize_with = "hops")]
    pub max_hops: u32,
    /// How long a request may wait for an owner to change; 0: not at all.
    #[serde(deserialize_with = "millis")]
    pub park_ms: u64,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// The retry budget.
    pub retries: Retries,
    /// Limits.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Past this without word from the store requests are answered 503; 0: served for ever.
    #[serde(deserialize_with = "millis", skip_serializing_if = "is_default")]
    pub max_staleness_ms: u64,
}

/// What a stale route leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStale {
    /// The proxy sends the request on.
    #[default]
    Follow,
    /// The client is told to.
    Redirect,
}

/// Where a redirected client is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectTo {
    /// Back to this proxy, which has healed.
    #[default]
    #[serde(rename = "self")]
    Itself,
    /// To the owner's `public_url`.
    #[serde(rename = "owner")]
    Owner,
}

/// Time-outs in milliseconds; 0: none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// From the first byte of a request's head to its end.
    #[serde(deserialize_with = "millis")]
    pub header_ms: u64,
    /// For a connection to an endpoint.
    #[serde(deserialize_with = "millis")]
    pub connect_ms: u64,
    /// From the end of the request to the head of its answer.
    #[serde(deserialize_with = "millis")]
    pub first_byte_ms: u64,
    /// Between two parts of a body, and between two requests of a connection.
    #[serde(deserialize_with = "millis")]
    pub idle_ms: u64,
    /// For the whole request.
    #[serde(deserialize_with = "millis")]
    pub total_ms: u64,
}

/// The retry budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// How many percent of requests may be sent again, 0 to 100.
    #[serde(deserialize_with = "percent")]
    pub budget_percent: u32,
    /// How many a second may be sent again in any case.
    #[serde(deserialize_with = "per_second")]
    pub min_per_second: u32,
}

/// Limits; 0: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests a second of the service.
    #[serde(deserialize_with = "count")]
    pub requests_per_second: u64,
    /// Requests of the service at the same time.
    #[serde(deserialize_with = "count")]
    pub in_flight: u64,
    /// Bytes of a request's body.
    #[serde(deserialize_with = "count")]
    pub body_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            on_stale: OnStale::Follow,
            redirect_to: RedirectTo::Itself,
            max_hops: 3,
            park_ms: 1000,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            limits: Limits::default(),
            max_staleness_ms: 0,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { header_ms: 10_000, connect_ms: 1000, first_byte_ms: 15_000, idle_ms: 60_000, total_ms: 0 }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { budget_percent: 20, min_per_second: 10 }
    }
}

fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(Millis::deserialize(from)?.0)
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(Count::deserialize(from)?.0)
}

fn hops<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u32::try_from(Whole::<0, 16>::deserialize(from)?.0).map_err(de::Error::custom)
}

fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u32::try_from(Whole::<0, 100>::deserialize(from)?.0).map_err(de::Error::custom)
}

fn per_second<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u32::try_from(Whole::<0, 1_000_000>::deserialize(from)?.0).map_err(de::Error::custom)
}
