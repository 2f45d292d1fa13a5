//! The settings of the bootstrap file.

use super::{
    Absent::{Means, Required, Same},
    Kind, flag, form, table, tables, word,
};

/// The bootstrap file.
pub const BOOTSTRAP: Kind = Kind {
    name: "waypost.toml",
    meaning: "What a process must know before it has a table. Unknown settings are errors.",
    least: "{}",
    fields: &[
        table("gold", Means("etcd at `http://127.0.0.1:2379`"), "The gold copy: `endpoints` or `file`, one of them."),
        form(
            "gold.endpoints",
            "a list of URLs",
            &[r#"["http://127.0.0.1:2379"]"#],
            Means("`file` is required"),
            "The members of an etcd cluster.",
        ),
        form(
            "gold.file",
            "a path",
            &[r#""routes.yaml""#],
            Means("`endpoints` is required"),
            "A record file, or a directory of them, instead of etcd.",
        ),
        form(
            "gold.prefix",
            "text that does not end with `/`",
            &[r#""/waypost/v2""#],
            Same(r#""/waypost/v1""#),
            "What all keys in etcd start with.",
        ),
        flag("gold.allow_empty", "Believe a store that has lost all of more than a hundred routes."),
        form("gold.user", "text", &[r#""waypost""#], Means("no user"), "The etcd user."),
        form("gold.password_file", "a path", &[r#""/etc/waypost/etcd.password""#], Means("no password"), "Where the user's password is."),
        form(
            "gold.ca",
            "a path",
            &[r#""/etc/waypost/etcd-ca.pem""#],
            Means("no certificate is trusted"),
            "Certificates that etcd's must be signed by (PEM), for https endpoints.",
        ),
        form("gold.cert", "a path", &[r#""/etc/waypost/etcd.pem""#], Means("none"), "The certificate shown to etcd (PEM)."),
        form("gold.key", "a path", &[r#""/etc/waypost/etcd.key""#], Means("none"), "Its private key (PEM)."),
        tables("listener[]", Means("one, at `0.0.0.0:8080`"), "Where clients connect to."),
        form("listener[].address", "`address:port`", &[r#""127.0.0.1:8080""#, r#""[::]:8080""#], Required, "The address."),
        form(
            "listener[].trusted",
            "a list of networks",
            &[r#"["10.0.0.0/8"]"#],
            Same("[]"),
            "From these, `X-Forwarded-*` and `X-Request-Id` are kept and appended to; from others, replaced.",
        ),
        flag("listener[].tls", "TLS, with certificates from the table by SNI."),
        form(
            "listener[].client_ca",
            "`file:PATH`",
            &[r#""file:/etc/waypost/clients.pem""#],
            Means("none"),
            "Certificates that clients' must be signed by.",
        ),
        super::Field {
            path: "listener[].client_cert",
            holds: super::Holds::Word(&["optional", "required"]),
            absent: Means("clients are not asked for one"),
            meaning: "Whether clients must show a certificate.",
        },
        flag("listener[].proxy_protocol", "Connections start with the PROXY protocol."),
        super::Field {
            path: "listener[].h2c",
            holds: super::Holds::Flag,
            absent: Means("as this version does"),
            meaning: "HTTP/2 with prior knowledge on a plain listener.",
        },
        table("admin", Same("{}"), "The admin endpoints."),
        form("admin.address", "`address:port`", &[r#""127.0.0.1:9900""#], Same(r#""127.0.0.1:9901""#), "Where they are."),
        table("snapshot", Same("{}"), "The table on disk, for a start without the store."),
        form(
            "snapshot.path",
            "a path",
            &[r#""/var/lib/waypost/edge-1.snapshot""#],
            Means("`<id>.snapshot` in the state directory"),
            "Where it is; not used with `file`.",
        ),
        table("log", Same("{}"), "Logs."),
        form(
            "log.access",
            "`stdout`, `off` or a path",
            &[r#""off""#, r#""/var/log/waypost/access.log""#],
            Same(r#""stdout""#),
            "Where the access log goes.",
        ),
        word("log.format", &["json", "text"], r#""json""#, "How lines are written."),
    ],
};
