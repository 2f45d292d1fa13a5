//! The fields of every kind of record.

use super::{
    Absent::{Means, Required, Same},
    Field, Holds, Kind, flag, form, table, tables, whole, word,
};

/// Up to ten years.
const MS: (u64, u64, &str) = (0, 315_360_000_000, "ms");
/// What JSON numbers carry exactly.
const MOST: u64 = 9_007_199_254_740_992;
const NAME: &str = "a name: letters, digits, `.`, `_`, `-`";
const EPOCH: Holds = Holds::Whole { least: 1, most: 999_999_999_999_999, unit: "" };

/// The kinds of records, in the order of [`crate::RecordKey`].
pub const RECORDS: [Kind; 7] = [
    Kind {
        name: "services/<service>",
        meaning: "Which requests belong to a data service, and where their routing key is.",
        least: r#"{"match":[{}],"default_owner":"cell-0"}"#,
        fields: &[
            tables("match[]", Required, "A request belongs to the service if any entry matches; at least one. `{}` matches every request."),
            form(
                "match[].hosts",
                "a list of hosts, or `*.` before one",
                &[r#"["orders.example.com","*.example.com"]"#],
                Same("[]"),
                "Any of these hosts; `*.x` is one or more labels before `x`. Empty: any host.",
            ),
            form("match[].path_prefix", "a path", &[r#""/orders""#], Same(r#""/""#), "The path's first segments."),
            table("key", Means("no routing key: everything goes to `default_owner`"), "Where the routing key is: exactly one of these."),
            form("key.header", "a header's name", &[r#""x-tenant""#], Means("–"), "In this header field."),
            form("key.query", "text", &[r#""tenant""#], Means("–"), "In this query parameter."),
            form("key.cookie", "text", &[r#""tenant""#], Means("–"), "In this cookie."),
            form("key.path", "a path template", &[r#""/buckets/{key}/*rest""#], Means("–"), "The segment `{key}` of the path."),
            form("key.host", "a host template", &[r#""{key}.orders.example.com""#], Means("–"), "The part `{key}` of the host."),
            form(
                "partition",
                "`exact`, `range` or `{slots: 1 to 65536, hash: crc16 or xxh3}`",
                &[r#""exact""#, r#""range""#, r#"{"slots":16384,"hash":"crc16"}"#, r#"{"slots":1,"hash":"xxh3"}"#],
                Same(r#""exact""#),
                "How routes cover routing keys: by name, by ranges of names, by ranges of hash slots.",
            ),
            Field {
                path: "partition.slots",
                holds: Holds::Whole { least: 1, most: 65_536, unit: "" },
                absent: Required,
                meaning: "How many slots keys are hashed into.",
            },
            Field {
                path: "partition.hash",
                holds: Holds::Word(&["crc16", "xxh3"]),
                absent: Required,
                meaning: "The hash: Redis Cluster's with its `{tag}` rule, or XXH3.",
            },
            form("default_owner", NAME, &[r#""cell-0""#], Means("404 `no_route`"), "The upstream that gets a key without a route."),
            form("policy", NAME, &[r#""patient""#], Means("the policy named `default`"), "The policy."),
            flag("dot_segments", "Let paths with `.` and `..` segments through, instead of 400 `bad_path`."),
        ],
    },
    Kind {
        name: "routes/<service>/<key>",
        meaning: "Who owns a routing key. `<key>` is the rest of the etcd key and may contain `/`.",
        least: r#"{"owner":"cell-7"}"#,
        fields: &[
            form("owner", NAME, &[r#""cell-7""#], Required, "The upstream that owns the key."),
            Field {
                path: "epoch",
                holds: EPOCH,
                absent: Means("the record's etcd revision; 0 from a file"),
                meaning: "The ownership's generation: never goes down, and a change of owner raises it.",
            },
            word(
                "state",
                &["serving", "moving", "frozen"],
                r#""serving""#,
                "`moving`: the owner may send single requests to `target`. `frozen`: nobody serves it now.",
            ),
            form("target", NAME, &[r#""cell-9""#], Means("–"), "The upstream that a `moving` route goes to; required with it."),
            form("move", "text", &[r#""m-1""#], Means("–"), "The move that froze a `frozen` route."),
        ],
    },
    Kind {
        name: "upstreams/<upstream>",
        meaning: "An owner: a group of interchangeable endpoints.",
        least: "{}",
        fields: &[
            tables("endpoints[]", Same("[]"), "Where it is reached; `endpoints` records add to these."),
            form("endpoints[].address", "`host:port`", &[r#""10.0.0.7:8080""#, r#""[::1]:80""#], Required, "Where it listens."),
            whole("endpoints[].weight", (1, 1000, ""), "1", "Its share against the others."),
            form("endpoints[].zone", "text", &[r#""a""#], Means("none"), "The zone it is in."),
            word(
                "balance",
                &["p2c", "round_robin", "least_request", "hash"],
                r#""p2c""#,
                "How an endpoint is chosen: the better of two by requests in flight, in turn, the fewest in flight, consistently by routing key.",
            ),
            word("protocol", &["http1", "h2", "auto"], r#""http1""#, "What it speaks."),
            flag("stale_aware", "Its backends answer stale routes before they read a body."),
            form(
                "public_url",
                "an http or https URL",
                &[r#""https://cell-7.example.com""#],
                Means("clients are never sent there"),
                "Where a redirected client reaches it by itself.",
            ),
            table("tls", Means("no TLS"), "TLS towards it: its certificate is always checked."),
            form(
                "tls.sni",
                "a host or an IP address",
                &[r#""cell-7.internal""#, r#""10.0.0.7""#],
                Means("the address's host"),
                "The name that its certificate must carry.",
            ),
            form(
                "tls.ca",
                "`file:PATH` or the PEM itself",
                &[r#""file:/etc/waypost/ca.pem""#],
                Means("the system's authorities"),
                "The authorities that its certificate must be signed by.",
            ),
            form(
                "tls.cert",
                "`file:PATH` or the PEM chain itself",
                &[r#""file:/etc/waypost/edge.pem""#],
                Means("none"),
                "The certificate shown to it; goes with `key`.",
            ),
            form(
                "tls.key",
                "`file:PATH` or `env:NAME`, never the key itself",
                &[r#""file:/etc/waypost/edge.key""#, r#""env:EDGE_KEY""#],
                Means("none"),
                "Its private key.",
            ),
            table("health", Means("no health checks"), "Health checks."),
            form("health.path", "a path", &[r#""/healthz""#], Same(r#""/""#), "What is asked for."),
            whole("health.interval_ms", (100, 3_600_000, "ms"), "2000", "How often."),
            whole("health.unhealthy_after", (1, 1000, "failures"), "3", "After how many it is passed over."),
            whole("health.healthy_after", (1, 1000, "successes"), "2", "After how many it is used again."),
        ],
    },
    Kind {
        name: "endpoints/<upstream>/<id>",
        meaning: "One more endpoint of an upstream, usually put by the backend itself under an etcd lease.",
        least: r#"{"address":"10.0.0.7:8080"}"#,
        fields: &[
            form("address", "`host:port`", &[r#""cell-7.internal:8080""#], Required, "Where it listens."),
            whole("weight", (1, 1000, ""), "1", "Its share against the others."),
            form("zone", "text", &[r#""a""#], Means("none"), "The zone it is in."),
        ],
    },
    Kind {
        name: "policies/<policy>",
        meaning: "Time-outs, retries, limits, and what to do on a stale route. The one named `default` applies where none is named.",
        least: "{}",
        fields: &[
            word(
                "on_stale",
                &["follow", "redirect"],
                r#""follow""#,
                "What a stale route leads to: the proxy sends the request on, or the client is told to.",
            ),
            word(
                "redirect_to",
                &["self", "owner"],
                r#""self""#,
                "Where a redirected client is sent: to this proxy, or to the owner's `public_url`.",
            ),
            whole("max_hops", (0, 16, "hops"), "3", "How often a request may be sent to another owner or at a newer epoch."),
            whole("park_ms", MS, "1000", "How long a request may wait for an owner to change; 0: not at all."),
            table("timeouts", Same("{}"), "Time-outs; 0: none."),
            whole("timeouts.header_ms", MS, "10000", "From the first byte of a request's head to its end."),
            whole("timeouts.connect_ms", MS, "1000", "For a connection to an endpoint."),
            whole("timeouts.first_byte_ms", MS, "15000", "From the end of the request to the head of its answer."),
            whole("timeouts.idle_ms", MS, "60000", "Between two parts of a body, and between two requests of a connection."),
            whole("timeouts.total_ms", MS, "0", "For the whole request."),
            table("retries", Same("{}"), "The retry budget."),
            whole("retries.budget_percent", (0, 100, "%"), "20", "How many of all requests may be sent again."),
            whole("retries.min_per_second", (0, 1_000_000, "a second"), "10", "How many may be sent again in any case."),
            table("limits", Same("{}"), "Limits; 0: none."),
            whole("limits.requests_per_second", (0, MOST, "a second"), "0", "Requests of the service."),
            whole("limits.in_flight", (0, MOST, "requests"), "0", "Requests of the service at the same time."),
            whole("limits.body_bytes", (0, MOST, "bytes"), "0", "The body of a request."),
            whole("max_staleness_ms", MS, "0", "Past this without word from the store: 503 `too_stale`; 0: served for ever."),
        ],
    },
    Kind {
        name: "certificates/<name>",
        meaning: "A certificate for listeners, and where its private key is.",
        least: r#"{"cert":"file:/etc/waypost/orders.pem","key":"file:/etc/waypost/orders.key"}"#,
        fields: &[
            form("hosts", "a list of hosts, or `*.` before one", &[r#"["orders.example.com"]"#], Same("[]"), "The names it is used for."),
            form("cert", "`file:PATH` or the PEM chain itself", &[r#""file:/etc/waypost/orders.pem""#], Required, "The chain."),
            form(
                "key",
                "`file:PATH` or `env:NAME`, never the key itself",
                &[r#""file:/k.pem""#, r#""env:ORDERS_KEY""#],
                Required,
                "The private key.",
            ),
            flag("default", "Used for a name that no record has."),
        ],
    },
    Kind {
        name: "incarnation",
        meaning: "A whole number, not an object: raised above any value ever used by whoever restores or replaces the store. Absent: 0.",
        least: "1",
        fields: &[],
    },
];
