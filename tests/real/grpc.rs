//! gRPC as tonic speaks it on both sides: calls of each kind, their errors and time limits; and streams that go on while the table changes
//! and keys are moved between guarded cells.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Server, server::TcpIncoming},
};
use waypost_tests::{Etcd, Guard, RecordFile, Waypost, command};

#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub, reason = "generated")]
mod talk {
    tonic::include_proto!("talk");
}

use talk::{
    Said,
    talk_client::TalkClient,
    talk_server::{Talk, TalkServer},
};

/// How long streams go on while things change; `make soak` has minutes of it.
fn streaming_time() -> Duration {
    let given = std::env::var("WAYPOST_STREAM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(12))
}

/// A cell that says its name in everything.
struct Cell(&'static str);

type Answers = Pin<Box<dyn Stream<Item = Result<Said, Status>> + Send>>;

#[tonic::async_trait]
impl Talk for Cell {
    async fn once(&self, request: Request<Said>) -> Result<Response<Said>, Status> {
        let said = request.into_inner();
        match said.number {
            404 => Err(Status::with_metadata(
                Code::NotFound,
                "no such thing: é",
                [("x-why", "test")].into_iter().fold(tonic::metadata::MetadataMap::new(), |mut map, (name, value)| {
                    map.insert(name, MetadataValue::from_static(value));
                    map
                }),
            )),
            408 => std::future::pending().await,
            _ => Ok(Response::new(Said { by: self.0.to_owned(), ..said })),
        }
    }

    type ListenStream = Answers;

    async fn listen(&self, request: Request<Said>) -> Result<Response<Answers>, Status> {
        let (said, name) = (request.into_inner(), self.0);
        let numbers = stream::iter(1..).take(if said.number == 0 { usize::MAX } else { said.number as usize });
        let body = said.body;
        Ok(Response::new(Box::pin(numbers.then(move |number| {
            let body = body.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok(Said { number, body, by: name.to_owned() })
            }
        }))))
    }

    async fn tell(&self, request: Request<Streaming<Said>>) -> Result<Response<Said>, Status> {
        let (mut told, mut all) = (request.into_inner(), Said { by: self.0.to_owned(), ..Said::default() });
        while let Some(said) = told.message().await? {
            all.number += 1;
            all.body.extend_from_slice(&said.body);
        }
        Ok(Response::new(all))
    }

    type ChatStream = Answers;

    async fn chat(&self, request: Request<Streaming<Said>>) -> Result<Response<Answers>, Status> {
        let name = self.0;
        Ok(Response::new(Box::pin(request.into_inner().map(move |said| said.map(|said| Said { by: name.to_owned(), ..said })))))
    }
}

async fn start(name: &'static str) -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = TalkServer::new(Cell(name)).max_decoding_message_size(8 << 20);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    address
}

async fn client(to: SocketAddr) -> TalkClient<Channel> {
    let channel = Channel::from_shared(format!("http://{to}")).unwrap().connect().await.unwrap();
    TalkClient::new(channel).max_decoding_message_size(8 << 20)
}

/// A message of a tenant.
fn of(tenant: &str, message: Said) -> Request<Said> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-tenant", tenant.parse().unwrap());
    request
}

fn numbered(number: u64) -> Said {
    Said { number, ..Said::default() }
}

#[tokio::test]
async fn calls_of_each_kind_their_errors_and_their_time_limits() {
    let upstream = json!({ "endpoints": [{ "address": start("a").await.to_string() }], "protocol": "h2" });
    let records = RecordFile::of(&json!({ "services/all": { "match": [{}], "default_owner": "a" }, "upstreams/a": upstream }));
    let waypost = Waypost::start(&records.gold(), &[]).await;
    let mut talk = client(waypost.listen).await;
    for size in [0, 10, 70_000, 3_000_000] {
        let body = vec![7; size];
        let answer = talk.once(Said { number: 1, body: body.clone(), by: String::new() }).await.unwrap().into_inner();
        assert_eq!((answer.by.as_str(), answer.body == body), ("a", true));
    }
    let failed = talk.once(numbered(404)).await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::NotFound, "no such thing: é"));
    assert_eq!(failed.metadata().get("x-why").unwrap(), "test");
    let mut late = Request::new(numbered(408));
    late.set_timeout(Duration::from_millis(300));
    let failed = talk.once(late).await.unwrap_err();
    assert!(matches!(failed.code(), Code::DeadlineExceeded | Code::Cancelled), "{failed:?}");

    let heard: Vec<Said> = talk.listen(numbered(500)).await.unwrap().into_inner().map(Result::unwrap).collect().await;
    assert!(heard.iter().map(|said| said.number).eq(1..=500));
    let told = stream::iter((0..300).map(|number| Said { number, body: vec![number as u8; 1000], by: String::new() }));
    let all = talk.tell(told).await.unwrap().into_inner();
    assert_eq!((all.number, all.body.len()), (300, 300_000));
    let (send, said) = mpsc::channel(1);
    let said = stream::unfold(said, |mut said| async move { said.recv().await.map(|next| (next, said)) });
    let mut chat = talk.chat(said).await.unwrap().into_inner();
    for number in 0..200 {
        send.send(numbered(number)).await.unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().number, number);
    }
    drop(send);
    assert!(chat.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_call_without_an_owner_is_unavailable_or_unimplemented() {
    let nobody = json!({ "endpoints": [{ "address": waypost_tests::free_address().to_string() }], "protocol": "h2" });
    let records = RecordFile::of(&json!({
        "services/talk": { "match": [{ "path_prefix": "/talk.Talk/Once" }], "default_owner": "a" },
        "upstreams/a": nobody,
    }));
    let waypost = Waypost::start(&records.gold(), &[]).await;
    let mut talk = client(waypost.listen).await;
    assert_eq!(talk.once(numbered(1)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(talk.listen(numbered(1)).await.map(drop).unwrap_err().code(), Code::Unimplemented);
}

/// What streams and calls have come to.
#[derive(Default)]
struct Course {
    is_over: AtomicBool,
    calls: AtomicUsize,
    said: AtomicUsize,
    heard: AtomicUsize,
    /// Streams that ended UNAVAILABLE.
    ended: AtomicUsize,
}

impl Course {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// One call after the other: none fails.
    async fn call(self: Arc<Self>, mut talk: TalkClient<Channel>, tenant: String) {
        let mut number = 1_000;
        while self.goes_on() {
            number += 1;
            let answer = talk.once(of(&tenant, numbered(number))).await;
            assert_eq!(answer.unwrap_or_else(|status| panic!("{tenant}: {status:?}")).into_inner().number, number);
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Talks on and on; begins again where a move has ended it.
    async fn chat(self: Arc<Self>, mut talk: TalkClient<Channel>, tenant: String, may_end: bool) {
        'streams: while self.goes_on() {
            let (send, said) = mpsc::channel(1);
            let said = stream::unfold(said, |mut said| async move { said.recv().await.map(|next| (next, said)) });
            let mut request = Request::new(said);
            request.metadata_mut().insert("x-tenant", tenant.parse().unwrap());
            send.send(numbered(0)).await.unwrap();
            let mut chat = match talk.chat(request).await {
                Ok(chat) => chat.into_inner(),
                Err(status) => {
                    self.end(&tenant, &status, may_end);
                    continue;
                }
            };
            let mut number = 0;
            while self.goes_on() {
                match chat.message().await {
                    Ok(Some(said)) => assert_eq!(said.number, number, "{tenant}"),
                    Ok(None) => panic!("{tenant}: the stream ended without a word"),
                    Err(status) => {
                        self.end(&tenant, &status, may_end);
                        continue 'streams;
                    }
                }
                self.said.fetch_add(1, Ordering::Relaxed);
                number += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                // Who is ended is told by the answers.
                let _ = send.send(numbered(number)).await;
            }
        }
    }

    /// Listens on and on.
    async fn listen(self: Arc<Self>, mut talk: TalkClient<Channel>, tenant: String, may_end: bool) {
        while self.goes_on() {
            let mut heard = match talk.listen(of(&tenant, numbered(0))).await {
                Ok(heard) => heard.into_inner(),
                Err(status) => {
                    self.end(&tenant, &status, may_end);
                    continue;
                }
            };
            let mut number = 0;
            while self.goes_on() {
                number += 1;
                match heard.message().await {
                    Ok(said) => assert_eq!(said.unwrap().number, number, "{tenant}"),
                    Err(status) => {
                        self.end(&tenant, &status, may_end);
                        break;
                    }
                }
                self.heard.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn end(&self, tenant: &str, status: &Status, may_end: bool) {
        assert!(may_end && status.code() == Code::Unavailable, "{tenant}: {status:?}");
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn streams_go_on_while_the_table_changes_and_end_unavailable_where_their_key_is_moved() {
    let etcd = Etcd::start().await;
    let guards = [
        Guard::start(&etcd.url(), "a", "a-1", start("a").await, &[]).await,
        Guard::start(&etcd.url(), "b", "b-1", start("b").await, &[]).await,
    ];
    let mut records = vec![("services/talk".to_owned(), json!({ "match": [{}], "key": { "header": "x-tenant" } }))];
    for guard in &guards {
        let mut record = guard.record();
        record["protocol"] = json!("h2");
        records.push((format!("upstreams/{}", guard.upstream()), record));
    }
    let tenants: Vec<String> = (0..12).map(|at| format!("t{at}")).collect();
    records.extend(tenants.iter().map(|tenant| (format!("routes/talk/{tenant}"), json!({ "owner": "a", "epoch": 1 }))));
    let records: Vec<(&str, Value)> = records.iter().map(|(key, value)| (&**key, value.clone())).collect();
    let revision = etcd.put_all(&records).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    waypost.at(revision).await;

    let course = Arc::<Course>::default();
    let mut tasks = JoinSet::new();
    for (at, tenant) in tenants.iter().enumerate() {
        // Some share a connection.
        let talk = client(waypost.listen).await;
        let is_moved = at < 3;
        tasks.spawn(Arc::clone(&course).call(talk.clone(), tenant.clone()));
        tasks.spawn(Arc::clone(&course).chat(talk.clone(), tenant.clone(), is_moved));
        tasks.spawn(Arc::clone(&course).listen(talk, tenant.clone(), is_moved));
    }
    let ends = tokio::time::Instant::now() + streaming_time();
    let mut moves = 0;
    while tokio::time::Instant::now() < ends {
        for change in 0..20 {
            etcd.put(&format!("routes/talk/other-{change}"), json!({ "owner": "b", "epoch": 1 + moves })).await;
            etcd.put("policies/other", json!({ "park_ms": 1000 + change })).await;
        }
        let (tenant, to) = (&tenants[moves % 3], if moves / 3 % 2 == 0 { "b" } else { "a" });
        let gold = etcd.url();
        let moved = tokio::task::spawn_blocking({
            let args = ["route", "move", "talk", tenant, "--to", to, "--gold", &gold].map(str::to_owned);
            move || command(&args.each_ref().map(|arg| &**arg)).output().unwrap()
        });
        let moved = moved.await.unwrap();
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
        moves += 1;
        if let Some(ended) = tasks.try_join_next() {
            panic!("a client ended early: {ended:?}");
        }
    }
    course.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (calls, said, heard, ended) = (count(&course.calls), count(&course.said), count(&course.heard), count(&course.ended));
    eprintln!("{moves} moves; {calls} calls, {said} messages said and {heard} heard; {ended} streams ended");
    assert!(moves >= 3 && calls > 500 && said > 500 && heard > 500, "{moves} moves, {calls} calls, {said} said, {heard} heard");
    assert!(ended > 0 && ended <= 4 * moves, "{ended} streams ended in {moves} moves");
}
