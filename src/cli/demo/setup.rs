//! What the demo needs before it can start: ports and a folder, and nothing left behind.

use std::{
    fs::DirBuilder,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// What each port is for, and the one that is easy to remember.
const FRIENDLY: [(&str, u16); 4] = [("traffic", 8080), ("admin", 9901), ("metrics", 9902), ("toys", 9900)];

/// Four loopback ports that are free.
#[derive(Debug)]
pub(super) struct Ports {
    /// For traffic, admin, telemetry and toys.
    pub(super) addresses: [SocketAddr; 4],
    /// The toys' port, held from now on; the others are Weir's to take.
    pub(super) toys: TcpListener,
    /// Which friendly ports were taken, in words; `None` when none was.
    pub(super) instead: Option<String>,
}

/// A port that was asked for and cannot be had.
#[derive(Debug)]
pub(super) struct PortTaken {
    what: &'static str,
    port: u16,
    source: io::Error,
}

impl std::fmt::Display for PortTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "port {} (for {}) cannot be had: {}", self.port, self.what, self.source)
    }
}

impl Ports {
    /// The ports that were asked for, in the order of [`FRIENDLY`]; for the rest the friendly ones when they are
    /// free, else any.
    pub(super) fn choose(wanted: &[u16]) -> Result<Self, PortTaken> {
        Self::choose_with(wanted, FRIENDLY)
    }

    fn choose_with(wanted: &[u16], friendly: [(&'static str, u16); 4]) -> Result<Self, PortTaken> {
        let mut instead = Vec::new();
        let mut open = |n: usize| {
            let (what, friend) = friendly.get(n).copied().unwrap_or(("traffic", 0));
            let bind = |port| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
                let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
                bound.map_err(|source| PortTaken { what, port, source })
            };
            if let Some(port) = wanted.get(n) {
                return bind(*port);
            }
            bind(friend).or_else(|_taken| {
                let any = bind(0)?;
                instead.push(format!("{} for {friend}", any.0.port()));
                Ok(any)
            })
        };
        // All stay open until all are found, so that none is chosen twice.
        let (traffic, admin, telemetry, toys) = (open(0)?, open(1)?, open(2)?, open(3)?);
        let instead =
            (!instead.is_empty()).then(|| format!("taken ports were replaced: {}", instead.join(", ")));
        Ok(Self { addresses: [traffic.0, admin.0, telemetry.0, toys.0], toys: toys.1, instead })
    }
}

/// A folder of the demo's own; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one that only this user may read, with a short name that is easy to type.
    pub(super) fn make() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let mut number = std::process::id();
        loop {
            let path = parent.join(format!("weir-demo-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by a demo that was killed, or somebody else's.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number = fastrand::u32(..),
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is in the folder for temporary files: what cannot be removed now goes with that.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_friendly_port_is_replaced_and_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports::choose_with(&[0, 0, 0], [("a", 0), ("b", 0), ("c", 0), ("d", port)]).unwrap();
        assert_ne!(ports.addresses[3].port(), port);
        assert!(ports.instead.unwrap().ends_with(&format!("{} for {port}", ports.addresses[3].port())));
        let mut all = ports.addresses.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_taken_port_that_was_asked_for_is_an_error() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::choose_with(&[0, port], [("a", 0), ("admin", 0), ("c", 0), ("d", 0)]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("port {port} (for admin) cannot be had")), "{error}");
    }

    #[test]
    fn the_folder_goes_with_everything_in_it() {
        let folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("weir.yaml"), "x").unwrap();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
