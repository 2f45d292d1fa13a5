//! Backups of a member, and what may take its place: its own past, or nothing. With the flags that it had it is the same cluster to
//! everybody who asks for its id.

use std::{fs, path::PathBuf, process::Command};

use super::Etcd;

impl Etcd {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn etcdctl(&self, arguments: &[&str]) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(arguments).current_dir(self.folder.path());
        let done = command.output().unwrap();
        assert!(done.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Saves a backup beside the data; a later one takes its place.
    pub fn back_up(&self) {
        self.etcdctl(&["snapshot", "save", "backup"]);
    }

    /// Goes back to the backup and starts again.
    pub async fn restore(&mut self) {
        self.stop_without_data();
        let peer = format!("http://{}", self.peer);
        let cluster = format!("test={peer}");
        let place = ["--name", "test", "--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
        self.etcdctl(&[&["snapshot", "restore", "backup", "--data-dir", "data"][..], &place].concat());
        self.restart().await;
    }

    /// Starts again with nothing.
    pub async fn empty(&mut self) {
        self.stop_without_data();
        // So that it keeps its ports.
        fs::create_dir(self.data()).unwrap();
        self.restart().await;
    }

    fn stop_without_data(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
    }
}
