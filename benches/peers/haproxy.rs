//! HAProxy: a map from the header to a backend, changed through its runtime API.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use waypost_bench::processes::{Told, say};

use crate::{
    peer::{Peer, Place, Updates},
    rows::Row,
    table::{Move, TENANT, owner_name},
};

/// One line of JSON a request; what is a client's is escaped.
const LOG_FORMAT: &str = r#"  log-format '{"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","request_id":"%ID","client":"%ci:%cp","method":"%HM","host":"%[capture.req.hdr(0),json(utf8s)]","path":"%[capture.req.uri,json(utf8s)]","key":"%[capture.req.hdr(1),json(utf8s)]","status":%ST,"owner":"%b","endpoint":"%si:%sp","bytes_in":%U,"bytes_out":%B,"duration_ms":%Ta,"protocol":"%HV","user_agent":"%[capture.req.hdr(2),json(utf8s)]"}'
  capture request header host len 64
  capture request header x-tenant len 64
  capture request header user-agent len 64"#;

pub(crate) struct HaProxy;

impl Peer for HaProxy {
    fn name(&self) -> &'static str {
        "HAProxy"
    }

    fn program(&self) -> &'static str {
        "haproxy"
    }

    fn version_arguments(&self) -> &'static [&'static str] {
        &["-v"]
    }

    fn version_in(&self, said: &str) -> Option<String> {
        Some(said.split("version ").nth(1)?.split_whitespace().next()?.to_owned())
    }

    fn prepare(&self, program: &Path, place: &Place) -> Told<Command> {
        place.setup.table.write(&place.file("routes.map"), None, ["", ""], |out, _, key, owner| writeln!(out, "{key} {owner}"))?;
        let owners = place.owners.lines(|name, address| format!("backend {name}\n  server {name} {address}"));
        let (log, log_format) = if place.setup.has_log {
            ("  log stdout format raw local0", format!("  log global\n{LOG_FORMAT}"))
        } else {
            ("", String::new())
        };
        let values = [("owners", &*owners), ("log", log), ("log_format", &log_format)];
        let file = place.configure("haproxy.cfg", include_str!("configs/haproxy.cfg"), &values)?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    }

    fn cannot(&self, _: &Row) -> Option<&'static str> {
        None
    }

    fn updates(&self, place: &Place, _: u32) -> Told<Box<dyn Updates>> {
        Ok(Box::new(Runtime { socket: place.file("haproxy.sock"), map: place.file("routes.map") }))
    }

    fn templates(&self) -> &'static [&'static str] {
        &["haproxy.cfg"]
    }
}

/// `set map`, several in a line, each line over a connection of its own, as the manual has it.
struct Runtime {
    socket: PathBuf,
    map: PathBuf,
}

impl Updates for Runtime {
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant> {
        let map = self.map.display();
        let commands = moves.iter().map(|(tenant, owner)| format!("set map {map} {TENANT}{tenant} {}", owner_name(*owner)));
        let line = commands.collect::<Vec<_>>().join(";");
        let mut socket = UnixStream::connect(&self.socket).map_err(say)?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(say)?;
        let handed_over = Instant::now();
        writeln!(socket, "{line}").map_err(say)?;
        let mut said = String::new();
        socket.read_to_string(&mut said).map_err(say)?;
        if said.trim().is_empty() { Ok(handed_over) } else { Err(format!("HAProxy says: {}", said.trim())) }
    }
}
