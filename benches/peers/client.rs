//! One connection to a proxy, one request at a time, the thread waiting: for what is asked singly and not as a load.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use waypost_bench::{
    OWNER_HEADER,
    processes::{Told, say},
};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    to: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// Which owner gave it.
    pub(crate) fn owner(&self) -> Option<u64> {
        self.field(OWNER_HEADER)?.parse().ok()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { to, stream: None, buffer: Vec::new() }
    }

    /// Whether the connection of the last request still stands, as far as is known here.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks for a key; a connection that has been closed meanwhile is made anew once.
    pub(crate) fn get(&mut self, key: &str) -> Told<Answer> {
        let was_open = self.is_open();
        match self.once(key) {
            Err(_) if was_open => self.once(key),
            outcome => outcome,
        }
    }

    fn once(&mut self, key: &str) -> Told<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.to).map_err(say)?;
                stream.set_nodelay(true).map_err(say)?;
                stream.set_read_timeout(Some(LIMIT)).map_err(say)?;
                stream
            }
        };
        write!(stream, "GET / HTTP/1.1\r\nHost: bench.example.com\r\nx-tenant: {key}\r\n\r\n").map_err(say)?;
        self.buffer.clear();
        let mut part = [0; 4096];
        loop {
            let read = stream.read(&mut part).map_err(say)?;
            if read == 0 {
                return Err("the connection was closed".to_owned());
            }
            self.buffer.extend_from_slice(&part[..read]);
            if let Some(answer) = whole(&self.buffer)? {
                let closes = answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                self.stream = Some(stream).filter(|_| !closes);
                return Ok(answer);
            }
        }
    }
}

/// The answer, once all of it has come; every owner says how long it is.
fn whole(buffer: &[u8]) -> Told<Option<Answer>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(buffer).map_err(say)? else { return Ok(None) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = answer.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
    let mut answer = Answer { status: answer.code.unwrap_or(0), fields, body: String::new() };
    let length = answer.field("content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    if buffer.len() < head + length {
        return Ok(None);
    }
    answer.body = text(&buffer[head..head + length]);
    Ok(Some(answer))
}
