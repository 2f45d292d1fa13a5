//! nginx: a `map` from the header to an upstream group; a change is a reload.

use std::{path::Path, process::Command, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use waypost_bench::processes::{Told, say};

use crate::{
    peer::{Peer, Place, Updates},
    rows::{Row, What},
    table::Move,
};

const LOG_FORMAT: &str = r#"log_format json escape=json '{"time":"$time_iso8601","request_id":"$request_id","client":"$remote_addr:$remote_port","method":"$request_method","host":"$host","path":"$request_uri","key":"$http_x_tenant","status":$status,"owner":"$owner","endpoint":"$upstream_addr","bytes_in":$request_length,"bytes_out":$bytes_sent,"duration_s":$request_time,"upstream_s":"$upstream_response_time","protocol":"$server_protocol","user_agent":"$http_user_agent"}';"#;

pub(crate) struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn program(&self) -> &'static str {
        "nginx"
    }

    fn version_arguments(&self) -> &'static [&'static str] {
        &["-v"]
    }

    fn version_in(&self, said: &str) -> Option<String> {
        Some(said.split("nginx/").nth(1)?.split_whitespace().next()?.to_owned())
    }

    fn prepare(&self, program: &Path, place: &Place) -> Told<Command> {
        write_map(place, None)?;
        let owners = place.owners.lines(|name, address| {
            format!("  upstream {name} {{ server {address}; keepalive 6000; keepalive_requests 100000000; keepalive_timeout 120s; }}")
        });
        let log = if place.setup.has_log {
            format!("{LOG_FORMAT}\n  access_log {}/access.log json buffer=64k flush=1s;", place.folder_text())
        } else {
            "access_log off;".to_owned()
        };
        let map_size = (place.setup.table.tenants * 2).max(2048).to_string();
        let values = [("owners", &*owners), ("log", &log), ("map_size", &map_size)];
        let file = place.configure("nginx.conf", include_str!("configs/nginx.conf"), &values)?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&place.folder).args(["-e", "stderr", "-c"]).arg(file);
        Ok(command)
    }

    fn cannot(&self, row: &Row) -> Option<&'static str> {
        matches!(row.what, What::Updates(_)).then_some(
            "every change is a reload: the whole configuration read anew and new workers started (how long one takes stands below)",
        )
    }

    fn updates(&self, place: &Place, pid: u32) -> Told<Box<dyn Updates>> {
        Ok(Box::new(Reload { place: place.clone(), pid }))
    }

    fn speaks_h2c_apart(&self) -> bool {
        true
    }

    fn templates(&self) -> &'static [&'static str] {
        &["nginx.conf"]
    }
}

fn write_map(place: &Place, moved: Option<Move>) -> Told<Instant> {
    place.setup.table.write(&place.file("routes.map"), moved, ["", ""], |out, _, key, owner| writeln!(out, "{key} {owner};"))
}

/// The map is written anew, then the master is told to reload.
struct Reload {
    place: Place,
    pid: u32,
}

impl Updates for Reload {
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant> {
        write_map(&self.place, moves.last().copied())?;
        let master = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or("nginx has no process id")?;
        let handed_over = Instant::now();
        kill_process(master, Signal::HUP).map_err(say)?;
        Ok(handed_over)
    }
}
