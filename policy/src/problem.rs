//! The answers that the proxy itself gives: one code each, its status and its words.
//!
//! This is the one place that maps a decision to an answer (INTERFACE.md, "Answers that the proxy itself gives"). What a
//! client reads says nothing internal; what a person who runs the proxy needs goes to logs and metrics.

/// Why the proxy answered by itself; also the value of `Waypost-Reason` and of `reason` in log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is its code, and INTERFACE.md's table says when it is given")]
pub enum Code {
    NoService,
    BadRequest,
    BadPath,
    NoKey,
    NoRoute,
    NoUpstream,
    NoEndpoint,
    Quarantined,
    TooStale,
    NotReady,
    Draining,
    Overloaded,
    ConnectFailed,
    UpstreamReset,
    UpstreamTls,
    BadResponse,
    ConnectTimeout,
    UpstreamTimeout,
    Moved,
    StaleUnhealed,
    ParkTimeout,
    ParkFull,
    Loop,
    Misdirected,
    BodyTooLarge,
    RateLimited,
    HeaderTooLarge,
    ClientTimeout,
    Internal,
}

impl Code {
    /// The code as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        self.entry().0
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        self.entry().1
    }

    /// A short sentence for a client: what happened, and where it helps what to do, never anything internal.
    pub fn detail(self) -> &'static str {
        self.entry().2
    }

    /// The title of the status (RFC 9110).
    pub fn title(self) -> &'static str {
        match self.status() {
            307 => "Temporary Redirect",
            400 => "Bad Request",
            404 => "Not Found",
            408 => "Request Timeout",
            413 => "Content Too Large",
            421 => "Misdirected Request",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            508 => "Loop Detected",
            _ => "Internal Server Error",
        }
    }

    fn entry(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::NoService => ("no_service", 404, "No data service here answers to this host and path."),
            Self::BadRequest => ("bad_request", 400, "The request is malformed or ambiguous."),
            Self::BadPath => ("bad_path", 400, "The path has a `.` or `..` segment."),
            Self::NoKey => ("no_key", 400, "The request does not carry the routing key that this service needs."),
            Self::NoRoute => ("no_route", 404, "Nothing is known under this routing key."),
            Self::NoUpstream => ("no_upstream", 503, "The owner of this routing key is not set up."),
            Self::NoEndpoint => ("no_endpoint", 503, "The owner of this routing key has no usable endpoint."),
            Self::Quarantined => ("quarantined", 503, "The route of this routing key can't be used at the moment."),
            Self::TooStale => ("too_stale", 503, "The routes are older than this service allows."),
            Self::NotReady => ("not_ready", 503, "The proxy has no routes yet."),
            Self::Draining => ("draining", 503, "The proxy is shutting down."),
            Self::Overloaded => ("overloaded", 503, "The proxy is overloaded."),
            Self::ConnectFailed => ("connect_failed", 502, "No connection to the owner of this routing key could be made."),
            Self::UpstreamReset => ("upstream_reset", 502, "The owner of this routing key closed the connection before it answered."),
            Self::UpstreamTls => ("upstream_tls", 502, "No secure connection to the owner of this routing key could be made."),
            Self::BadResponse => ("bad_response", 502, "The owner of this routing key sent no valid answer."),
            Self::ConnectTimeout => ("connect_timeout", 504, "The owner of this routing key did not accept a connection in time."),
            Self::UpstreamTimeout => ("upstream_timeout", 504, "The owner of this routing key did not answer in time."),
            Self::Moved => ("moved", 307, "The data has moved; send the request again to the place in `Location`."),
            Self::StaleUnhealed => ("stale_unhealed", 503, "The owner of this routing key is changing; try again."),
            Self::ParkTimeout => ("park_timeout", 503, "The owner of this routing key was still changing when the wait ended; try again."),
            Self::ParkFull => ("park_full", 503, "Too many requests wait for owners that are changing; try again."),
            Self::Loop => ("loop", 508, "The request has passed through this proxy already."),
            Self::Misdirected => ("misdirected", 421, "This owner may not serve the routing key now; `Route-Stale` says what is known."),
            Self::BodyTooLarge => ("body_too_large", 413, "The request body is larger than this service allows."),
            Self::RateLimited => ("rate_limited", 429, "Too many requests."),
            Self::HeaderTooLarge => ("header_too_large", 431, "The request head or its routing key is too large."),
            Self::ClientTimeout => ("client_timeout", 408, "The request did not arrive in time."),
            Self::Internal => ("internal", 500, "The proxy failed; the request id names the entry in its log."),
        }
    }
}
