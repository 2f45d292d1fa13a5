//! Envoy: the matching API's exact map over the header, in a route configuration that is a file; a change is a new file.

use std::{path::Path, process::Command, time::Instant};

use waypost_bench::processes::{Told, say};

use crate::{
    peer::{Peer, Place, Updates},
    rows::{Row, What},
    table::Move,
};

/// Around the routes: an exact map, which its documentation calls more efficient than a list of routes that is searched.
const AROUND: [&str; 2] = [
    r#"{"version_info":"1","resources":[{"@type":"type.googleapis.com/envoy.config.route.v3.RouteConfiguration","name":"routes",
"virtual_hosts":[{"name":"all","domains":["*"],"matcher":{"matcher_tree":{"input":{"name":"tenant","typed_config":
{"@type":"type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput","header_name":"x-tenant"}},"exact_match_map":{"map":{
"#,
    "}}}}}]}]}\n",
];

const LOG: &str = r#"access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {{folder}}/access.log
              log_format:
                json_format: { time: "%START_TIME%", request_id: "%REQ(X-REQUEST-ID)%", client: "%DOWNSTREAM_REMOTE_ADDRESS%", method: "%REQ(:METHOD)%", host: "%REQ(:AUTHORITY)%", path: "%REQ(:PATH)%", key: "%REQ(X-TENANT)%", status: "%RESPONSE_CODE%", reason: "%RESPONSE_FLAGS%", owner: "%UPSTREAM_CLUSTER%", endpoint: "%UPSTREAM_HOST%", bytes_in: "%BYTES_RECEIVED%", bytes_out: "%BYTES_SENT%", duration_ms: "%DURATION%", upstream_ms: "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", protocol: "%PROTOCOL%", user_agent: "%REQ(USER-AGENT)%" }"#;

pub(crate) struct Envoy;

impl Peer for Envoy {
    fn name(&self) -> &'static str {
        "Envoy"
    }

    fn program(&self) -> &'static str {
        "envoy"
    }

    fn version_arguments(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn version_in(&self, said: &str) -> Option<String> {
        Some(said.split("version: ").nth(1)?.split('/').nth(1)?.to_owned())
    }

    fn prepare(&self, program: &Path, place: &Place) -> Told<Command> {
        std::fs::create_dir_all(place.file("rds")).map_err(say)?;
        write_routes(place, None)?;
        let owners = place.owners.lines(|name, address| {
            let (ip, port) = (address.ip(), address.port());
            format!(
                "  - name: {name}\n    type: STATIC\n    circuit_breakers: {{ thresholds: [{{ max_connections: 1000000000, max_pending_requests: \
                 1000000000, max_requests: 1000000000, max_retries: 1000000000 }}] }}\n    load_assignment: {{ cluster_name: {name}, \
                 endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }}] }}] }}"
            )
        });
        let [plain, tls, admin] = [place.plain, place.tls, place.admin].map(|address| address.port().to_string());
        let log = if place.setup.has_log { LOG.replace("{{folder}}", &place.folder_text()) } else { String::new() };
        let values = [("owners", &*owners), ("log", &log), ("plain_port", &plain), ("tls_port", &tls), ("admin_port", &admin)];
        let file = place.configure("envoy.yaml", include_str!("configs/envoy.yaml"), &values)?;
        let mut command = Command::new(program);
        command.args([
            "--concurrency",
            &place.setup.threads.to_string(),
            "--disable-hot-restart",
            "--use-dynamic-base-id",
            "-l",
            "error",
            "-c",
        ]);
        command.arg(file);
        Ok(command)
    }

    fn cannot(&self, row: &Row) -> Option<&'static str> {
        matches!(row.what, What::Updates(_))
            .then_some("every change is the whole route configuration anew, by a file as over gRPC (how long one takes stands below)")
    }

    fn updates(&self, place: &Place, _: u32) -> Told<Box<dyn Updates>> {
        Ok(Box::new(Rewrite(place.clone())))
    }

    fn templates(&self) -> &'static [&'static str] {
        &["envoy.yaml"]
    }
}

fn write_routes(place: &Place, moved: Option<Move>) -> Told<Instant> {
    place.setup.table.write(&place.file("rds/routes.json"), moved, AROUND, |out, is_first, key, owner| {
        let comma = if is_first { "" } else { "," };
        writeln!(
            out,
            r#"{comma}"{key}":{{"action":{{"name":"route","typed_config":{{"@type":"type.googleapis.com/envoy.config.route.v3.Route","match":{{"prefix":"/"}},"route":{{"cluster":"{owner}"}}}}}}}}"#
        )
    })
}

/// The file of the route configuration is written anew and put in place of the old one.
struct Rewrite(Place);

impl Updates for Rewrite {
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant> {
        write_routes(&self.0, moves.last().copied())
    }
}
