//! Servers and proxies of others: nginx, HAProxy.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    wait_until,
    weir::{get, unused_address},
};

/// A server in the foreground, with a folder for its files; ends with this.
#[derive(Debug)]
pub struct Other {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    /// Its files.
    pub folder: TempDir,
}

impl Other {
    /// Starts `program` with a configuration made for a folder and an address, and waits until it answers.
    #[track_caller]
    pub fn start(program: &str, arguments: &[&str], configure: impl Fn(&str, SocketAddr) -> String) -> Self {
        let folder = TempDir::new().unwrap();
        let (path, address) = (folder.path().to_str().unwrap().to_owned(), unused_address());
        let file = format!("{path}/configuration");
        fs::write(&file, configure(&path, address)).unwrap();
        // Debian keeps servers where only root looks for them.
        let paths = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let mut command = Command::new("env");
        command.env("PATH", paths).arg(program).args(arguments).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_until(&format!("{program} to answer; `make setup-test` installs it"), || {
            assert!(child.try_wait().unwrap().is_none(), "{program} ended; `make setup-test` installs it");
            get(address, "/").is_some()
        });
        Self { address, child, folder }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
