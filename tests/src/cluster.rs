//! An etcd cluster of three members on this machine, whose members can be parted from one another.
//!
//! Members reach each other through proxies, one in front of each. Both directions of a link end in one of the two proxies, and every
//! request between members says whom it is from (`X-Server-From`), so that one member's links can be cut and no other's.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, MemberAddOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    etcd::{Etcd, Place},
    free_address, until, until_true,
};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// How long a member may take to say who leads.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// The cluster.
pub struct Cluster {
    members: Vec<Etcd>,
    links: Vec<Links>,
    ids: Vec<String>,
    /// As `--initial-cluster` wants it.
    places: Vec<String>,
}

impl Cluster {
    /// Starts three members and waits until all of them answer.
    pub async fn start() -> Self {
        let listen: Vec<SocketAddr> = NAMES.iter().map(|_| free_address()).collect();
        let urls: Vec<String> = listen.iter().map(|address| format!("http://{address}")).collect();
        let cluster: Vec<String> = NAMES.iter().zip(&urls).map(|(name, url)| format!("{name}={url}")).collect();
        let (mut members, mut links) = (Vec::new(), Vec::new());
        for ((name, url), address) in NAMES.iter().zip(&urls).zip(&listen) {
            let mut member = Etcd::new(&[]);
            member.join(Place { name: (*name).to_owned(), advertised: url.clone(), cluster: cluster.join(",") });
            links.push(Links::start(*address, member.peer_address()).await);
            members.push(member);
        }
        members.iter_mut().for_each(Etcd::spawn);
        for member in &mut members {
            assert!(member.is_up().await, "a member does not start");
        }
        let mut ids = Vec::new();
        for member in &members {
            let status = member.client().await.maintenance_client().status().await.unwrap();
            ids.push(format!("{:x}", status.header().unwrap().member_id()));
        }
        Self { members, links, ids, places: cluster }
    }

    /// One of the members.
    pub fn member(&self, number: usize) -> &Etcd {
        &self.members[number]
    }

    /// The same, to be killed or started.
    pub fn member_mut(&mut self, number: usize) -> &mut Etcd {
        &mut self.members[number]
    }

    /// Its members' URLs, as `--gold` wants them.
    pub fn urls(&self) -> String {
        self.members.iter().map(Etcd::url).collect::<Vec<_>>().join(",")
    }

    /// The member whose URL this is.
    pub fn number_of(&self, url: &str) -> Option<usize> {
        self.members.iter().position(|member| member.url() == url)
    }

    /// The leader's number, as one of `who` knows it.
    pub async fn leader(&self, who: &[usize]) -> usize {
        until("there is a leader", async || {
            let mut said = "none of them answers".to_owned();
            for number in who {
                let status = async {
                    let options = ConnectOptions::new().with_timeout(STATUS_LIMIT);
                    Client::connect([self.members[*number].url()], Some(options)).await?.maintenance_client().status().await
                };
                match status.await.map(|status| format!("{:x}", status.leader())) {
                    Ok(leader) if who.iter().any(|number| self.ids[*number] == leader) => {
                        return Ok(self.ids.iter().position(|id| *id == leader).unwrap());
                    }
                    Ok(leader) => said = format!("the leader is {leader}"),
                    Err(error) => said = error.to_string(),
                }
            }
            Err(said)
        })
        .await
    }

    /// Adds a member that only learns: it listens, but answers nothing that is asked of the store. Its id in the cluster goes with it.
    pub async fn learner(&self) -> (Etcd, u64) {
        let mut learner = Etcd::new(&["--initial-cluster-state", "existing"]);
        let url = format!("http://{}", learner.peer_address());
        // Only by members that have known one another for some seconds.
        let id = until("the learner is added", async || {
            let options = MemberAddOptions::new().with_is_learner();
            let added = self.members[0].client().await.cluster_client().member_add([url.clone()], Some(options)).await;
            added.map(|added| added.member().unwrap().id()).map_err(|error| error.to_string())
        })
        .await;
        let cluster = [&self.places[..], &[format!("learner={url}")]].concat().join(",");
        learner.join(Place { name: "learner".to_owned(), advertised: url, cluster });
        learner.spawn();
        until_true("the learner listens", async || TcpStream::connect(learner.address()).await.is_ok()).await;
        (learner, id)
    }

    /// Has a learner vote from now on, once it has learnt enough.
    pub async fn promote(&self, id: u64) {
        until("the learner is promoted", async || {
            let promoted = self.members[0].client().await.cluster_client().member_promote(id).await;
            promoted.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Takes a member out of the cluster for good, by word of another: its process ends.
    pub async fn remove(&self, number: usize, by: usize) {
        let id = u64::from_str_radix(&self.ids[number], 16).unwrap();
        // Only from a cluster whose members have known one another for some seconds.
        until("the member is removed", async || {
            let removed = self.members[by].client().await.cluster_client().member_remove(id).await;
            removed.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Cuts a member off from the others; clients reach it as before.
    pub fn part(&self, number: usize) {
        for (other, links) in self.links.iter().enumerate() {
            let from = if other == number { None } else { Some(self.ids[number].clone()) };
            links.cut.send_modify(|cut| {
                cut.insert(from);
            });
        }
    }

    /// Joins what was parted.
    pub fn rejoin(&self) {
        for links in &self.links {
            links.cut.send_modify(BTreeSet::clear);
        }
    }
}

/// Whose links are cut; `None`: everybody's.
type CutFrom = BTreeSet<Option<String>>;

/// What comes in at one member.
struct Links {
    cut: Arc<watch::Sender<CutFrom>>,
    task: tokio::task::JoinHandle<()>,
}

impl Links {
    async fn start(listen: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let cut = Arc::new(watch::channel(CutFrom::new()).0);
        let cuts = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(link(stream, to, cuts.subscribe()));
            }
        });
        Self { cut, task }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn link(mut from: TcpStream, to: SocketAddr, mut cuts: watch::Receiver<CutFrom>) {
    let mut head = vec![0; 4096];
    let Ok(read) = from.read(&mut head).await else { return };
    head.truncate(read);
    let who = sender(&String::from_utf8_lossy(&head));
    let is_cut = |cut: &CutFrom| cut.contains(&None) || (who.is_some() && cut.contains(&who));
    let relay = async {
        let mut server = TcpStream::connect(to).await?;
        server.write_all(&head).await?;
        copy_bidirectional(&mut from, &mut server).await
    };
    tokio::select! {
        _ = cuts.wait_for(is_cut) => {}
        _ = relay => {}
    }
}

/// Whom a request between members is from.
fn sender(head: &str) -> Option<String> {
    let line = head.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("x-server-from")));
    line.map(|(_, id)| id.trim().to_owned())
}
