//! An etcd that answers `RangeStream` as 3.7 does, and that can be made to break it anywhere: a relay before a real one, to which it passes
//! every other call. It reads what it streams from there, under the caller's own token, in parts that it sizes as 3.7 does.
//!
//! What it says was read in etcd 3.7's source and in the messages' definition: parts of 10 records at first, then twice or half as many by
//! their size; header, count and `more` in the last message only; refusals as `Range` has them, also between two parts.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::http2::{read_body, send};

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
/// How many records the first part has.
const FIRST_PART: i64 = 10;
/// How large a part is meant to be: small, so that there are many.
const PART_BYTES: usize = 100_000;
/// How much either side may send before it is read.
const WINDOW: u32 = 1 << 20;
/// The size that a message says it has which is too large.
const TOO_LARGE: u32 = 80 << 20;

/// What becomes of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It is as it should be.
    Whole,
    /// It is not known here: passed on to a real etcd, which may not know it either.
    Passed,
    /// It ends after so many messages with this status: gRPC's code, and what is said. With none before, there is nothing but the status.
    Refused(usize, u16, &'static str),
    /// It has all messages, and ends with this status all the same.
    RefusedLast(u16, &'static str),
    /// It is reset after so many messages, with this reason of HTTP/2.
    Reset(usize, Reason),
    /// It ends after so many messages as if something between had cut it: well for HTTP/2, without a status.
    Ends(usize),
    /// It ends after so many messages with the status of one that is whole.
    EndsWell(usize),
    /// The message behind so many others is lost, and all else is as it should be.
    Lost(usize),
    /// Nothing comes any more after so many messages, until [`Streaming::go_on`].
    Held(usize),
    /// The connection ends after so many messages.
    Cut(usize),
    /// After so many messages comes one that says it is 80 MB.
    TooLarge(usize),
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// gRPC's path.
    pub path: String,
    /// Of `Range` and `RangeStream`: whether more than one key was asked for.
    pub is_range: bool,
    /// Of the same: whether any member might answer it from what it has.
    pub serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(int64, tag = "4")]
    revision: i64,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

/// What is inside is passed on as it came.
#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(bytes = "vec", optional, tag = "1")]
    header: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    kvs: Vec<Vec<u8>>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RangeStreamResponse {
    #[prost(message, optional, tag = "1")]
    range_response: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// What all connections share.
struct Shared {
    etcd: SocketAddr,
    courses: Mutex<VecDeque<Course>>,
    called: Mutex<Vec<Called>>,
    /// Messages that were sent in streams.
    messages: watch::Sender<usize>,
    may_go_on: watch::Sender<bool>,
}

/// The relay; gone when dropped.
pub struct Streaming {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Streaming {
    /// Starts before an etcd.
    pub async fn start(etcd: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            etcd,
            courses: Mutex::default(),
            called: Mutex::default(),
            messages: watch::Sender::default(),
            may_go_on: watch::Sender::default(),
        });
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            // Connections end with the relay.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(relay(stream, Arc::clone(&all)));
            }
        });
        Self { address, shared, task }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of the next streams, one behind the other; those behind them are whole.
    pub fn play(&self, courses: &[Course]) {
        self.shared.courses.lock().unwrap().extend(courses);
    }

    /// Whether all that was to be played has been.
    pub fn has_played(&self) -> bool {
        self.shared.courses.lock().unwrap().is_empty()
    }

    /// Lets streams go on that are held, now and from now on.
    pub fn go_on(&self) {
        self.shared.may_go_on.send_replace(true);
    }

    /// All calls so far.
    pub fn called(&self) -> Vec<Called> {
        self.shared.called.lock().unwrap().clone()
    }

    /// How many streams were asked for.
    pub fn streams(&self) -> usize {
        self.called().iter().filter(|call| call.path == RANGE_STREAM).count()
    }

    /// How many ranges of more than one key were asked for otherwise.
    pub fn ranges(&self) -> usize {
        self.called().iter().filter(|call| call.path == RANGE && call.is_range).count()
    }

    /// How many messages all streams have had.
    pub fn messages(&self) -> usize {
        *self.shared.messages.borrow()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a call ends, where it does not end as it should.
enum End {
    /// With these trailers.
    Status(HeaderMap),
    Reset(Reason),
    /// It has ended.
    Done,
    /// With its connection.
    Cut,
}

/// Either side of it has gone.
impl From<String> for End {
    fn from(_: String) -> Self {
        Self::Reset(Reason::CANCEL)
    }
}

impl From<h2::Error> for End {
    fn from(error: h2::Error) -> Self {
        Self::Reset(error.reason().unwrap_or(Reason::CANCEL))
    }
}

async fn relay(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.etcd).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut from_client = h2::server::Builder::new();
    let from_client = from_client.initial_window_size(WINDOW).initial_connection_window_size(4 * WINDOW).handshake(client);
    let mut to_server = h2::client::Builder::new();
    let to_server = to_server.initial_window_size(WINDOW).initial_connection_window_size(4 * WINDOW).handshake(server);
    let (Ok(mut client), Ok((etcd, connection))) = tokio::join!(from_client, to_server) else { return };
    let (cut, mut is_cut) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    loop {
        let call = tokio::select! {
            call = client.accept() => call,
            _ = is_cut.wait_for(|cut| *cut) => return,
        };
        let Some(Ok((request, respond))) = call else { return };
        let call = Call { shared: Arc::clone(&shared), etcd: etcd.clone(), respond, body: None };
        let cut = cut.clone();
        tasks.spawn(async move {
            let (head, body) = request.into_parts();
            if call.run(head, body).await {
                cut.send_replace(true);
            }
        });
    }
}

struct Call {
    shared: Arc<Shared>,
    etcd: SendRequest<Bytes>,
    respond: SendResponse<Bytes>,
    /// The answer's, once it has begun.
    body: Option<SendStream<Bytes>>,
}

impl Call {
    /// Answers it; whether the connection is to end.
    async fn run(mut self, head: Parts, body: RecvStream) -> bool {
        let done = match head.uri.path() {
            RANGE | RANGE_STREAM => self.read(&head, body).await,
            path => {
                self.note(path, None);
                self.pass(head, body).await
            }
        };
        match done {
            Ok(()) | Err(End::Done) => {}
            Err(End::Status(trailers)) => self.end(trailers),
            Err(End::Reset(reason)) => match &mut self.body {
                Some(body) => body.send_reset(reason),
                None => self.respond.send_reset(reason),
            },
            Err(End::Cut) => return true,
        }
        false
    }

    fn note(&self, path: &str, asked: Option<&RangeRequest>) {
        let is_range = asked.is_some_and(|asked| !asked.range_end.is_empty());
        let serializable = asked.is_some_and(|asked| asked.serializable);
        self.shared.called.lock().unwrap().push(Called { path: path.to_owned(), is_range, serializable });
    }

    /// Passes a call on while it is being made, and its answer back.
    async fn pass(&mut self, head: Parts, mut body: RecvStream) -> Result<(), End> {
        let has_body = !body.is_end_stream();
        let (answer, mut to_etcd) = self.ask(&head, !has_body).await?;
        let up = async {
            if has_body {
                // Who is answered early is told by the answer.
                let _ = carry(&mut body, &mut to_etcd).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            done = self.pass_back(answer) => done,
            () = up => Ok(()),
        }
    }

    async fn pass_back(&mut self, answer: ResponseFuture) -> Result<(), End> {
        let (head, mut body) = answer.await?.into_parts();
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        let ends = body.is_end_stream();
        let to_client = self.respond.send_response(response, ends)?;
        if ends { Ok(()) } else { carry(&mut body, self.body.insert(to_client)).await }
    }

    /// `Range` or `RangeStream`.
    async fn read(&mut self, head: &Parts, mut body: RecvStream) -> Result<(), End> {
        let (bytes, _) = read_body(&mut body).await?;
        let asked = RangeRequest::decode(&bytes[FRAME..]).unwrap();
        let path = head.uri.path();
        self.note(path, Some(&asked));
        let course = (path == RANGE_STREAM).then(|| self.shared.courses.lock().unwrap().pop_front().unwrap_or(Course::Whole));
        match course {
            None | Some(Course::Passed) => {
                let (answer, mut to_etcd) = self.ask(head, false).await?;
                let _ = send(&mut to_etcd, &bytes, true).await;
                self.pass_back(answer).await
            }
            Some(course) => self.stream(head, asked, course).await,
        }
    }

    async fn stream(&mut self, head: &Parts, mut asked: RangeRequest, course: Course) -> Result<(), End> {
        assert_eq!(asked.limit, 0, "all that there is should be asked for");
        let (mut sent, mut count, mut limit) = (0, 0, FIRST_PART);
        let mut header = None;
        loop {
            self.before(course, sent).await?;
            asked.limit = limit;
            let mut part = self.range(head, &asked).await?;
            let first_header = header.get_or_insert(part.header.take());
            count += i64::try_from(part.kvs.len()).unwrap();
            let is_last = !part.more;
            let next = part.kvs.last().map(|kv| [&Key::decode(&**kv).unwrap().key[..], b"\0"].concat());
            part.count = 0;
            if is_last {
                (part.header, part.count) = (first_header.take(), count);
            }
            part.more = false;
            let message = RangeStreamResponse { range_response: Some(part) };
            let bytes = message.encoded_len();
            if course != Course::Lost(sent) {
                self.send(&framed(&message.encode_to_vec())).await?;
            }
            sent += 1;
            self.shared.messages.send_modify(|messages| *messages += 1);
            if is_last {
                break;
            }
            asked.key = next.unwrap();
            limit = match bytes {
                few if few < PART_BYTES / 2 => limit * 2,
                many if many > PART_BYTES * 2 => (limit / 2).max(1),
                _ => limit,
            };
        }
        match course {
            Course::RefusedLast(code, says) => Err(End::Status(status(code, says))),
            Course::Whole | Course::Lost(_) | Course::Held(_) | Course::TooLarge(_) => Err(End::Status(status(0, ""))),
            early => panic!("the stream had only {sent} messages, too few for {early:?}"),
        }
    }

    /// What is to happen when so many messages have been sent.
    async fn before(&mut self, course: Course, sent: usize) -> Result<(), End> {
        match course {
            Course::Refused(at, code, says) if at == sent => Err(End::Status(status(code, says))),
            Course::Reset(at, reason) if at == sent => Err(End::Reset(reason)),
            Course::EndsWell(at) if at == sent => Err(End::Status(status(0, ""))),
            Course::Cut(at) if at == sent => Err(End::Cut),
            Course::Ends(at) if at == sent => {
                self.begin()?.send_data(Bytes::new(), true)?;
                Err(End::Done)
            }
            Course::TooLarge(at) if at == sent => {
                let head = [&[0][..], &TOO_LARGE.to_be_bytes()].concat();
                self.send(&head).await
            }
            Course::Held(at) if at == sent => {
                let mut may_go_on = self.shared.may_go_on.subscribe();
                let _ = may_go_on.wait_for(|may| *may).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks the real one, as the caller.
    async fn range(&self, head: &Parts, asked: &RangeRequest) -> Result<RangeResponse, End> {
        let mut head = head.clone();
        head.uri = head.uri.to_string().replace(RANGE_STREAM, RANGE).parse().unwrap();
        let (answer, mut to_etcd) = self.ask(&head, false).await?;
        let _ = send(&mut to_etcd, &framed(&asked.encode_to_vec()), true).await;
        let (head, mut body) = answer.await?.into_parts();
        let (bytes, trailers) = read_body(&mut body).await?;
        let trailers = trailers.unwrap_or(head.headers);
        if trailers.get("grpc-status").is_none_or(|status| status != "0") {
            return Err(End::Status(trailers));
        }
        Ok(RangeResponse::decode(&bytes[FRAME..]).unwrap())
    }

    async fn ask(&self, head: &Parts, ends: bool) -> Result<(ResponseFuture, SendStream<Bytes>), End> {
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (head.method.clone(), head.uri.clone(), head.headers.clone());
        *request.version_mut() = http::Version::HTTP_2;
        Ok(self.etcd.clone().ready().await?.send_request(request, ends)?)
    }

    /// The answer's body; its head has been sent.
    fn begin(&mut self) -> Result<&mut SendStream<Bytes>, End> {
        if self.body.is_none() {
            self.body = Some(self.respond.send_response(grpc_head(), false)?);
        }
        Ok(self.body.as_mut().unwrap())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        Ok(send(self.begin()?, bytes, false).await?)
    }

    /// Trailers; where nothing else was sent, they are the whole answer.
    fn end(&mut self, trailers: HeaderMap) {
        let _ = match &mut self.body {
            Some(body) => body.send_trailers(trailers),
            None => {
                let mut response = grpc_head();
                response.headers_mut().extend(trailers);
                self.respond.send_response(response, true).map(|_| ())
            }
        };
    }
}

/// What stands before each message: whether it is compressed, and its length.
const FRAME: usize = 5;

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn status(code: u16, says: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", HeaderValue::from_static(says));
    trailers
}

/// Passes a body on as it comes, to its end, with its trailers.
async fn carry(from: &mut RecvStream, to: &mut SendStream<Bytes>) -> Result<(), End> {
    while let Some(part) = from.data().await {
        let part = part?;
        let _ = from.flow_control().release_capacity(part.len());
        send(to, &part, false).await?;
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers)?,
        None => to.send_data(Bytes::new(), true)?,
    }
    Ok(())
}
