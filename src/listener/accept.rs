//! The accept loop: it cannot fail, and it cannot spin.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use super::{Listener, Place, connection::Connection};
use crate::{
    drain::Phase,
    net::{Acceptor, Socket},
    telemetry::ConnectionRefusal,
    worker::{Arrival, Worker},
};

/// The first pause after an accept error, in milliseconds; it doubles with each further one.
const FIRST_PAUSE: u64 = 5;
/// The longest pause after accept errors, in milliseconds.
const LONGEST_PAUSE: u64 = 1_000;

/// Accepts connections until the listener's drain says no more; never returns for an error.
///
/// Every worker runs this loop on a copy of the same socket. A connection goes to the worker that has the
/// fewest, which with one worker costs nothing.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Arc<Listener>, socket: Acceptor) {
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = worker.stops_accepting(&listener) => return,
        };
        if listener.phase.get() >= Phase::Closing {
            if accepted.is_ok() {
                listener.metrics.refused.of(ConnectionRefusal::Draining).increment(1);
            }
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                take(&worker, &listener, stream, peer);
            }
            Err(error) if is_about_one_connection(&error) => listener.metrics.accept_errors.increment(1),
            Err(error) => {
                // EMFILE and its kind: the connection stays in the backlog, so that trying at once would spin.
                listener.metrics.accept_errors.increment(1);
                tracing::warn!(listener = %listener.config.name, %error, pause_ms = pause, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Errors that say something about the connection that was about to be accepted, nothing about the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn take(worker: &Rc<Worker>, listener: &Arc<Listener>, stream: Socket, peer: SocketAddr) {
    let Some(place) = listener.admit() else { return };
    let target = worker.least_loaded();
    if target == worker.index {
        serve(worker.clone(), listener.clone(), stream, peer, place);
        return;
    }
    match stream.loosen() {
        Ok(stream) => worker.hand_over(target, Arrival { listener: listener.clone(), stream, peer, place }),
        Err(error) => tracing::warn!(%error, "a connection could not be handed to another worker"),
    }
}

/// Serves one connection on this worker until it ends.
pub(crate) fn serve(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    stream: Socket,
    peer: SocketAddr,
    place: Place,
) {
    if listener.phase.get() >= Phase::Closing {
        listener.metrics.refused.of(ConnectionRefusal::Draining).increment(1);
        return;
    }
    if let Err(error) = stream.set_nodelay() {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let connection = Connection::new(worker, listener, peer, place);
    tokio::task::spawn_local(connection.serve(stream));
}
