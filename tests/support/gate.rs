//! Ways to a server that fail on demand.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{driver, wait_until, weir::unused_address};

/// A way to a server that can be cut.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    /// An open one before `server`.
    #[track_caller]
    pub fn start(server: SocketAddr) -> Self {
        let address = unused_address();
        let (open, is_open) = watch::channel(true);
        driver::spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    if !*is_open.borrow() {
                        return;
                    }
                    let Ok(mut to) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut stream, &mut to) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        wait_until("the gate to listen", || std::net::TcpStream::connect(address).is_ok());
        Self { address, open }
    }

    /// What clients of an etcd connect to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections, and new ones at once.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets new ones through.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

/// A port that takes connections and never says anything.
#[track_caller]
pub fn hole() -> SocketAddr {
    let address = unused_address();
    driver::spawn(async move {
        let listener = TcpListener::bind(address).await.unwrap();
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    wait_until("the hole to listen", || std::net::TcpStream::connect(address).is_ok());
    address
}
