//! Traefik: a router for each route, by a rule about the header, from its file provider; a change is a new file.

use std::{path::Path, process::Command, time::Instant};

use waypost_bench::processes::{Told, say};

use crate::{
    peer::{Peer, Place, Updates, fill},
    rows::{Row, What},
    table::Move,
};

/// The largest table that it is asked to have.
const MOST_ROUTES: u64 = 10_000;

const LOG: &str = "accessLog:
  filePath: {{folder}}/access.log
  format: json
  bufferingSize: 1000
  fields: { headers: { defaultMode: drop, names: { User-Agent: keep, X-Tenant: keep, X-Request-Id: keep } } }";

pub(crate) struct Traefik;

impl Peer for Traefik {
    fn name(&self) -> &'static str {
        "Traefik"
    }

    fn program(&self) -> &'static str {
        "traefik"
    }

    fn version_arguments(&self) -> &'static [&'static str] {
        &["version"]
    }

    fn version_in(&self, said: &str) -> Option<String> {
        said.lines().find_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned()))
    }

    fn prepare(&self, program: &Path, place: &Place) -> Told<Command> {
        std::fs::create_dir_all(place.file("dynamic")).map_err(say)?;
        write_routes(place, None)?;
        let log = if place.setup.has_log { LOG.replace("{{folder}}", &place.folder_text()) } else { String::new() };
        let file = place.configure("traefik.yaml", include_str!("configs/traefik.yaml"), &[("log", &log)])?;
        let mut command = Command::new(program);
        // Go's own way to say how many threads run at once.
        command.env("GOMAXPROCS", place.setup.threads.to_string()).arg(format!("--configfile={}", file.display()));
        Ok(command)
    }

    fn cannot(&self, row: &Row) -> Option<&'static str> {
        if matches!(row.what, What::Updates(_)) {
            Some("every change is the whole set of routers built anew (how long one takes stands below)")
        } else if row.setup.table.tenants > MOST_ROUTES {
            Some("routers are tried one after the other, and 100,000 of them took it 145 s to build; see 10,000 routes")
        } else {
            None
        }
    }

    fn updates(&self, place: &Place, _: u32) -> Told<Box<dyn Updates>> {
        Ok(Box::new(Rewrite(place.clone())))
    }

    fn templates(&self) -> &'static [&'static str] {
        &["traefik.yaml", "traefik-routes.yaml"]
    }
}

fn write_routes(place: &Place, moved: Option<Move>) -> Told<Instant> {
    let owners = place.owners.lines(|name, address| {
        format!("    {name}: {{ loadBalancer: {{ servers: [{{ url: \"http://{address}\" }}], serversTransport: owners }} }}")
    });
    let head = fill(include_str!("configs/traefik-routes.yaml"), &[("folder", &place.folder_text()), ("owners", &owners)])?;
    place.setup.table.write(&place.file("dynamic/routes.yaml"), moved, [&head, ""], |out, _, key, owner| {
        writeln!(out, "    {key}: {{ rule: \"Header(`x-tenant`, `{key}`)\", service: {owner} }}")
    })
}

/// The file of the routers is written anew and put in place of the old one.
struct Rewrite(Place);

impl Updates for Rewrite {
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant> {
        write_routes(&self.0, moves.last().copied())
    }
}
