//! The few things that the cache wants from a file system: a seam, so that tests can make each of them fail.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// A file system.
pub trait Disk: Send {
    /// The first `most` bytes of a file.
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Vec<u8>>;
    /// Makes a file anew, mode 0600, whose content is on the disk when this returns. Its folder is made when missing.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames a file over another.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Brings the names in a folder to the disk.
    fn sync_folder(&mut self, folder: &Path) -> io::Result<()>;
    /// The names in a folder; those that are no UTF-8 are left out.
    fn list(&mut self, folder: &Path) -> io::Result<Vec<String>>;
    /// Takes the lock at `path`, for as long as `self` lives. Taking it again does nothing.
    fn lock(&mut self, path: &Path) -> io::Result<()>;
}

/// The system's own.
#[derive(Debug, Default)]
pub struct System {
    lock: Option<(PathBuf, File)>,
}

/// A folder as the system calls want it: the current one has a name too.
fn named(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

impl Disk for System {
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        // A pipe in its place must not hold the start up.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let made = create().or_else(|error| match error.kind() {
            // What a crash left: it may have any mode, or be a link.
            io::ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create()),
            io::ErrorKind::NotFound => {
                fs::create_dir_all(named(path.parent().unwrap_or(Path::new("")))).and_then(|()| create())
            }
            _ => Err(error),
        });
        let mut file = made?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        File::open(named(folder))?.sync_all()
    }

    fn list(&mut self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(named(folder))?.filter_map(Result::ok);
        Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn lock(&mut self, path: &Path) -> io::Result<()> {
        if self.lock.as_ref().is_some_and(|(held, _)| held == path) {
            return Ok(());
        }
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = open().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                fs::create_dir_all(named(path.parent().unwrap_or(Path::new("")))).and_then(|()| open())
            }
            _ => Err(error),
        })?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                let message =
                    format!("another Weir has locked {}: give each its own `store.cache`", path.display());
                io::Error::new(io::ErrorKind::WouldBlock, message)
            } else {
                error.into()
            }
        })?;
        self.lock = Some((path.to_owned(), file));
        Ok(())
    }
}
