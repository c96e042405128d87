//! Threads that accept: one current-thread runtime each, as Weir has them.

use std::{net::SocketAddr, rc::Rc, thread};

use hyper::rt::Executor;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    task::LocalSet,
};

/// Runs futures that stay on their thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Runs a future on this thread, with a current-thread runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}

/// Accepts for ever on so many threads; `start` makes what a thread's connections share, `serve` serves one of them.
pub(crate) fn forever<S, F>(
    listen: SocketAddr,
    workers: usize,
    start: impl Fn() -> S + Clone + Send + 'static,
    serve: impl Fn(Rc<S>, TcpStream) -> F + Clone + Send + 'static,
) where
    S: 'static,
    F: Future<Output = ()> + 'static,
{
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (start, serve) = (start.clone(), serve.clone());
            thread::spawn(move || block_on(accept(listen, start, serve)))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a thread that does not panic");
    }
}

async fn accept<S, F>(listen: SocketAddr, start: impl Fn() -> S, serve: impl Fn(Rc<S>, TcpStream) -> F)
where
    S: 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = bind(listen);
    let shared = Rc::new(start());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(serve(shared.clone(), stream));
    }
}

/// A socket that other threads may bind as well: the kernel spreads the connections.
fn bind(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_nonblocking(true).expect("a socket that does not block");
    socket.bind(&address.into()).expect("a free port");
    socket.listen(4096).expect("a socket that listens");
    TcpListener::from_std(socket.into()).expect("a socket of the runtime")
}
