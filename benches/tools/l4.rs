//! A layer-4 forwarder: what carrying bytes costs, before anybody reads them.

use std::net::SocketAddr;

use tokio::{io::copy_bidirectional, net::TcpStream};

use crate::serve;

/// Forwards every connection to one address.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

pub(crate) fn run(arguments: &Arguments) {
    let to = arguments.to;
    serve::forever(
        arguments.listen,
        arguments.workers,
        || (),
        move |_, mut client| async move {
            let Ok(mut origin) = TcpStream::connect(to).await else { return };
            let _ = origin.set_nodelay(true);
            let _ = copy_bidirectional(&mut client, &mut origin).await;
        },
    );
}
