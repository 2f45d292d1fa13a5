//! A real nginx with a folder and a port of its own; it reads and writes nothing outside that folder.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{Client, free_address, process::Process, python::listens};

/// How often it is started on another port if its port turns out to be taken.
const STARTS: usize = 3;
/// Where Debian has it, which is not in every user's path.
const DEBIAN: &str = "/usr/sbin/nginx";

/// A running nginx; killed when dropped.
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
    process: Process,
}

impl Nginx {
    /// Starts it with these lines inside its `server` block; `root` is [`Self::files`], and `/connections` is its own count.
    pub async fn start(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["files", "tmp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for _ in 0..STARTS {
            let address = free_address();
            fs::write(folder.path().join("nginx.conf"), settings(address, server)).unwrap();
            let mut command = Command::new(if Path::new(DEBIAN).exists() { DEBIAN } else { "nginx" });
            command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
            let mut process = Process::start(&mut command, &folder.path().join("nginx.log"));
            if listens("nginx listens", &mut process, address).await {
                return Self { address, folder, process };
            }
            assert!(process.log().contains("in use"), "nginx ended: {}", process.log());
        }
        panic!("nginx found {STARTS} ports taken");
    }

    /// The folder of the files that it serves.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Puts a file there.
    pub fn write(&self, name: impl AsRef<Path>, content: &[u8]) {
        let path = self.files().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// How many connections it has accepted so far, without those of this question and of the start.
    pub async fn accepted(&self) -> u64 {
        let text = Client::fetch(self.address, "/connections").await.unwrap().text();
        let counts = text.lines().nth(2).unwrap_or_else(|| panic!("nginx counts otherwise than expected: {text}"));
        counts.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// One process in the foreground, so that its pid is all there is to end.
fn settings(address: SocketAddr, server: &str) -> String {
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr warn;
        events {{ worker_connections 8192; }}
        http {{
            types {{ text/html html; text/css css; application/json json; }}
            default_type application/octet-stream;
            access_log off; sendfile on; server_tokens off; etag on;
            keepalive_requests 1000000; keepalive_timeout 120s;
            client_max_body_size 0; large_client_header_buffers 8 64k;
            client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
            uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
            server {{
                listen {address} backlog=4096;
                root files;
                location = /connections {{ stub_status; }}
                {server}
            }}
        }}\n"
    )
}
