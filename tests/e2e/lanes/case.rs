//! A case: what a client sends and how, and what the owners do then.

/// What an owner does, one after the other, once a request's head has come.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Reads the request to its end.
    Body,
    Send(Vec<u8>),
    /// A byte at a time.
    SendBytewise(Vec<u8>),
    /// Closes, both ways at once.
    Close,
    /// Sends nothing more, and reads on.
    Finish,
    Reset,
    /// Says nothing until the other end has closed.
    Hang,
}

/// How a client's bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    AtOnce,
    Bytewise,
    /// At random, by this seed.
    Parts(u64),
    /// Each request when the one before has been answered.
    InTurn,
}

/// What a client does when it has sent all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Reads until the other end closes.
    Reads,
    /// Closes its half, and reads until the other end closes.
    Finishes,
    /// Closes at once.
    Leaves,
    /// Closes with a reset.
    Resets,
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// One after the other over one connection.
    pub(super) requests: Vec<Vec<u8>>,
    pub(super) way: Way,
    pub(super) then: Then,
    pub(super) owner: Vec<Act>,
    /// What the key's next owner does.
    pub(super) next_owner: Vec<Act>,
    /// How much of the body passes is nobody's promise.
    pub(super) is_torn: bool,
}

/// The plain answer.
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads the request and gives this answer.
pub(super) fn answers(bytes: impl Into<Vec<u8>>) -> Vec<Act> {
    vec![Act::Body, Act::Send(bytes.into())]
}

/// A last request, which shows whether the connection goes on.
pub(super) fn last() -> Vec<u8> {
    b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_vec()
}

impl Case {
    /// A request whose owner gives the plain answer, and another one behind it.
    pub(super) fn of(name: impl Into<String>, request: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            requests: vec![request.into(), last()],
            way: Way::AtOnce,
            then: Then::Reads,
            owner: answers(OK),
            next_owner: answers("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"),
            is_torn: false,
        }
    }

    pub(super) fn owner(mut self, acts: Vec<Act>) -> Self {
        self.owner = acts;
        self
    }

    pub(super) fn next_owner(mut self, acts: Vec<Act>) -> Self {
        self.next_owner = acts;
        self
    }

    pub(super) fn way(mut self, way: Way) -> Self {
        self.name = format!("{} ({way:?})", self.name);
        self.way = way;
        self
    }

    pub(super) fn then(mut self, then: Then) -> Self {
        self.name = format!("{} ({then:?})", self.name);
        self.then = then;
        self
    }

    pub(super) fn torn(mut self) -> Self {
        self.is_torn = true;
        self
    }

    /// Nothing follows the request.
    pub(super) fn alone(mut self) -> Self {
        self.requests.truncate(1);
        self
    }

    /// Its requests with the case's number in the field that is their routing key.
    pub(super) fn sent(&self, number: usize) -> Vec<Vec<u8>> {
        let with_key = |request: &Vec<u8>| match request.windows(2).position(|window| window == b"\r\n") {
            Some(at) => [&request[..at + 2], format!("X-Case: {number}\r\n").as_bytes(), &request[at + 2..]].concat(),
            None => request.clone(),
        };
        self.requests.iter().map(with_key).collect()
    }

    /// The methods of its requests.
    pub(super) fn methods(&self) -> Vec<String> {
        self.requests.iter().map(|request| super::message::text(request.split(|byte| *byte == b' ').next().unwrap_or_default())).collect()
    }

    /// Whether the client goes before it can have been answered.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.then, Then::Leaves | Then::Resets)
    }
}
