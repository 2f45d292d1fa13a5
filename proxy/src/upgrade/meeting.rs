//! Where the two processes meet: a unix socket that only its owner may use, and one new process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::net::UnixListener;
use waypost_watcher::files::why;

/// The path of the socket.
#[derive(Clone, Debug)]
pub(crate) struct Meeting(PathBuf);

/// A new process that waits there; the socket goes with it.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Locked for as long as this process waits.
    _lock: File,
}

impl Meeting {
    /// Where the bootstrap file or a flag says.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Begins to wait there. What a process that was killed has left is taken away.
    ///
    /// # Errors
    /// A sentence, if another new process waits there, or nothing can be put there.
    pub(super) fn open(&self) -> Result<Attended, String> {
        let wrong = |error: &io::Error| format!("{} can't be listened at for the old process: {}", self.0.display(), why(error));
        let beside = self.0.with_added_extension("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&beside);
        let lock = lock.map_err(|error| {
            format!("{} can't be opened: {}; choose another place with --upgrade-socket", beside.display(), why(&error))
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("another process waits at {} for the same sockets; one is enough", self.0.display()));
            }
            Err(TryLockError::Error(error)) => return Err(wrong(&error)),
        }
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(&error)),
            _ => {}
        }
        let listener = self.bind().map_err(|error| wrong(&error))?;
        Ok(Attended { listener, path: self.0.clone(), _lock: lock })
    }

    fn bind(&self) -> io::Result<UnixListener> {
        let address = SocketAddrUnix::new(&self.0)
            .map_err(|_| io::Error::other("the path is too long for a socket; choose a shorter one with --upgrade-socket"))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        // Before it has a name, so that it never has one that others may use.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        listen(&socket, 1)?;
        UnixListener::from_std(StdListener::from(socket))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
