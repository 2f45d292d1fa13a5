//! The old process's side: it offers its sockets and goes on serving until the new process says that it does.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use tokio::{net::UnixStream, time::Instant};

use super::{
    Known, Meeting,
    link::{Link, Word},
};

/// How long it is waited for a new process that is about to begin: whoever starts one and signals the other need not look.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Hands copies of these listening sockets over. When this returns well, another process accepts from them.
///
/// # Errors
/// Why this process has to go on by itself, in a sentence; the other one has been told, if it is there.
pub(crate) async fn give(meeting: Meeting, id: String, known: Known, sockets: Vec<OwnedFd>, limit: Duration) -> Result<(), String> {
    let mut link = Link::over(connect(&meeting).await?)?;
    let offered = tokio::time::timeout(limit, offer(&mut link, id, known, sockets)).await;
    let offered = offered.unwrap_or_else(|_| Err(format!("the new process was not ready within {limit:?}")));
    if let Err(why) = offered {
        let _ = link.say(&Word::No { why: why.clone() }).await;
        return Err(why);
    }
    link.say(&Word::Yours).await?;
    // From here on the new process may serve; nothing but its word or its end tells.
    match link.hear().await? {
        Some(Word::Serving) => Ok(()),
        Some(_) => Err("the new process says what this version does not expect".to_owned()),
        None => Err("the new process has ended".to_owned()),
    }
}

/// Ends when the new process is ready.
async fn offer(link: &mut Link, id: String, Known { revision, digest }: Known, sockets: Vec<OwnedFd>) -> Result<(), String> {
    link.say(&Word::Offer { id, pid: std::process::id(), sockets: sockets.len(), revision, digest }).await?;
    for socket in &sockets {
        link.send(socket.as_fd()).await?;
    }
    match link.hear().await? {
        Some(Word::Ready) => Ok(()),
        Some(Word::No { why }) => Err(format!("the new process has declined: {why}")),
        Some(_) => Err("the new process says what this version does not expect".to_owned()),
        None => Err("the new process has ended".to_owned()),
    }
}

async fn connect(meeting: &Meeting) -> Result<UnixStream, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match UnixStream::connect(meeting.path()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let is_absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if !is_absent || Instant::now() > until {
            let path = meeting.path().display();
            return Err(if is_absent {
                format!("no process waits at {path}; start one with `waypost run --upgrade` and the same --upgrade-socket first")
            } else {
                format!("{path} can't be connected to: {error}")
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
