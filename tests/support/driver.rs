//! One thread that runs everything asynchronous, so that tests themselves are plain blocking code.

use std::{
    future::Future,
    sync::{LazyLock, mpsc},
    time::Duration,
};

use tokio::runtime::Handle;

use super::PATIENCE;

static DRIVER: LazyLock<Handle> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("driver".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .unwrap();
    handle
});

/// Starts `task` on the driver's thread.
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    DRIVER.spawn(task)
}

/// Runs `task` to its end on the driver's thread, and fails the test when that takes longer than [`PATIENCE`].
#[track_caller]
pub fn run<F>(task: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    run_within(PATIENCE, task)
}

/// [`run`] with its own deadline.
#[track_caller]
pub fn run_within<F>(patience: Duration, task: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let (done, result) = mpsc::channel();
    let running = spawn(async move {
        let _ = done.send(task.await);
    });
    match result.recv_timeout(patience) {
        Ok(output) => output,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            running.abort();
            panic!("not done after {patience:?}");
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the task panicked; see above"),
    }
}
