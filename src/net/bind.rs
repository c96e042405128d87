//! Where Weir listens: TCP addresses and unix sockets.

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    net::{SocketAddr, TcpListener as StdTcp},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnix, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, Protocol, Socket as RawSocket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{Socket, UNIX_PEER};
use crate::config::bootstrap::ListenAddress;

/// How many connections the kernel keeps for a listener until they are accepted. It takes its own maximum
/// (`net.core.somaxconn`) when that is less.
const BACKLOG: i32 = 4096;

/// A socket that is bound and listens. Connections are queued from here on.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(StdTcp),
    /// A unix socket, whose file goes when the last copy does.
    Unix(StdUnix, Arc<SocketFile>),
}

impl Bound {
    /// Binds `address`; the file of a unix socket gets the permissions `mode`.
    pub fn listen(address: &ListenAddress, mode: u32) -> io::Result<Self> {
        match address {
            ListenAddress::Socket(address) => listen_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => {
                let (socket, file) = SocketFile::listen(path, mode)?;
                Ok(Self::Unix(socket, Arc::new(file)))
            }
        }
    }

    /// The address as it was bound, with the port that the system chose.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().map(ListenAddress::Socket),
            Self::Unix(_, file) => Ok(ListenAddress::Unix(Arc::from(file.path.as_path()))),
        }
    }

    /// Another copy of the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix, file) => unix.try_clone().map(|unix| Self::Unix(unix, file.clone())),
        }
    }
}

/// A listening socket on a runtime.
#[derive(Debug)]
pub enum Acceptor {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener, Arc<SocketFile>),
}

impl Acceptor {
    /// Registers `bound` with the runtime of the calling thread.
    pub fn new(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(tcp) => TcpListener::from_std(tcp).map(Self::Tcp),
            Bound::Unix(unix, file) => UnixListener::from_std(unix).map(|unix| Self::Unix(unix, file)),
        }
    }

    /// The next connection, and who is at its other end; a client of a unix socket counts as 127.0.0.1, port 0.
    ///
    /// Cancel-safe: a connection is taken or still queued.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| (Socket::Tcp(stream), peer)),
            Self::Unix(unix, _) => unix.accept().await.map(|(stream, _)| (Socket::Unix(stream), UNIX_PEER)),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<StdTcp> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for the connections of the process before to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit this: a client that is gone without a word is found out also while nothing is
    // sent to it.
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Asks a silent client whether it is there after a minute, and gives it up half a minute later.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10))
        .with_retries(3)
}

/// The file of a unix socket that this process listens on, and the right to it. Dropping it removes the file.
///
/// Who wants the path locks `PATH.lock` first, and keeps the lock for as long as it listens; the system gives the lock
/// back when a process dies, however it dies. So of two instances one gets the path and the other an error, and a
/// file that a dead instance left is taken over. The socket is made under the name `PATH.new` and moved into its place
/// when it listens and has its permissions: whoever finds it there can connect, and nobody who must not.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    lock_path: PathBuf,
    /// The device and inode of the file, to tell it from one that somebody else has put there.
    identity: (u64, u64),
    _lock: File,
}

impl SocketFile {
    fn listen(path: &Path, mode: u32) -> io::Result<(StdUnix, Self)> {
        let lock_path = with_suffix(path, ".lock");
        let lock = lock(&lock_path)?;
        check_free(path)?;
        let fresh = with_suffix(path, ".new");
        remove_if_there(&fresh)?;
        let socket = bind_hidden(&fresh)?;
        let placed = std::fs::set_permissions(&fresh, Permissions::from_mode(mode))
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| socket.listen(BACKLOG))
            .and_then(|()| std::fs::rename(&fresh, path))
            .and_then(|()| std::fs::symlink_metadata(path));
        match placed {
            Ok(found) => {
                let identity = (found.dev(), found.ino());
                Ok((socket.into(), Self { path: path.to_owned(), lock_path, identity, _lock: lock }))
            }
            Err(error) => {
                // What matters is the first error.
                let _ = remove_if_there(&fresh);
                Err(error)
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let mine = |found: std::fs::Metadata| {
            found.file_type().is_socket() && (found.dev(), found.ino()) == self.identity
        };
        if std::fs::symlink_metadata(&self.path).is_ok_and(mine)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the file of a unix socket stays behind");
        }
        // While it is still locked: see `lock`.
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Makes a socket that nobody else can open, at `path`.
fn bind_hidden(path: &Path) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    // Until it listens nobody can connect to it, so that the permissions it is made with open nothing.
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Takes the lock at `path`; an error of kind `AddrInUse` when another process has it.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another instance listens there"));
            }
            Err(error) => return Err(error.into()),
        }
        // Whoever had it before may have removed the file between the opening and the locking.
        let (held, there) = (file.metadata()?, std::fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

/// Whether `path` may be taken: nothing is there, or a socket that nobody listens on.
fn check_free(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file, and it is no socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A program that keeps no lock listens there, or may.
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there")),
        Err(error) => Err(error),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("s.sock")
    }

    fn files(folder: &tempfile::TempDir) -> Vec<String> {
        let names = std::fs::read_dir(folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_socket_has_its_permissions_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        let (_socket, file) = SocketFile::listen(&path, 0o640).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        StdUnixStream::connect(&path).unwrap();
        drop(file);
        assert!(files(&folder).is_empty(), "{:?}", files(&folder));
    }

    #[test]
    fn a_live_socket_is_never_taken_and_a_stale_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        let first = SocketFile::listen(&path, 0o600).unwrap();
        let error = SocketFile::listen(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        StdUnixStream::connect(&path).unwrap();
        drop(first);
        // As a killed process leaves it.
        drop(StdUnix::bind(&path).unwrap());
        assert!(path.exists());
        let taken = SocketFile::listen(&path, 0o600).unwrap();
        StdUnixStream::connect(&path).unwrap();
        drop(taken);
        assert!(!path.exists());
        // A program that knows nothing of the lock.
        let foreign = StdUnix::bind(&path).unwrap();
        assert_eq!(SocketFile::listen(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(foreign);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::listen(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        // What another has put in its place while it was in use.
        std::fs::remove_file(&path).unwrap();
        let (_socket, file) = SocketFile::listen(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
