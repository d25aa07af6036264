//! Futures on lightweight threads: operations that take more than one step.
//!
//! A task runs only on the thread that spawned it, so it may hold values that are not `Send`. After a wait it runs again when its waker
//! is called. When the plugin stops, the SDK drops the running tasks before the host calls `fini`: every `.await` may be the last step
//! of a task. So long work must record its progress on disk or in its object, never only in the future.

#![expect(unsafe_code, reason = "tasks of the app thread state their thread")]

use super::executor::Handle;
pub(crate) use super::executor::{Executor, end_all, end_here};
use crate::app::App;
use crate::error::{Error, Result, errno};
use crate::thread::{self, Thread};
use futures_channel::oneshot as channel;
use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use super::timer::Sleep;
pub use futures_channel::oneshot;

/// Runs a future on the current lightweight thread. It starts in the thread's next round of messages. `name` appears in lists and
/// errors. `[any lightweight thread]`
///
/// # Errors
/// `EAGAIN` when the thread has 1024 tasks, `EPERM` outside of a lightweight thread. The future is then dropped.
pub fn spawn<T: 'static>(
    name: impl Into<Cow<'static, str>>,
    future: impl Future<Output = T> + 'static,
) -> Result<JoinHandle<T>> {
    let name = name.into();
    let (sender, receiver) = channel::channel();
    let of_handle = name.clone();
    let run = async move {
        // This fails when the handle was dropped; then no one needs the result.
        drop(sender.send(future.await));
    };
    let handle = Executor::here()?.add(name, run)?;
    Ok(JoinHandle { name: of_handle, task: Task::Here(handle), receiver })
}

/// As [`spawn`], for a task that needs the app thread: it gets an [`App`] for as long as it runs. `[app thread]`
///
/// # Errors
/// As [`spawn`].
pub fn spawn_app<T: 'static>(
    _app: &App,
    name: impl Into<Cow<'static, str>>,
    operation: impl AsyncFnOnce(&App) -> T + 'static,
) -> Result<JoinHandle<T>> {
    spawn(name, async move {
        // SAFETY: the task runs only on the thread of this call, which is the app thread.
        operation(unsafe { App::assume() }).await
    })
}

/// As [`spawn_on`], on the app thread. The task gets an [`App`] for as long as it runs. `[any thread]`
///
/// # Errors
/// As [`spawn_on`].
pub fn spawn_on_app<T: Send + 'static>(
    name: impl Into<Cow<'static, str>>,
    operation: impl AsyncFnOnce(&App) -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    spawn_on(thread::app(), name, async move || {
        // SAFETY: the task runs only on the app thread.
        operation(unsafe { App::assume() }).await
    })
}

/// Creates a future on another lightweight thread and runs it there. It runs to its first wait before later messages.
/// `[any thread]`
///
/// # Errors
/// When the thread does not exist. If the thread has too many tasks, the handle returns the error.
pub fn spawn_on<T: Send + 'static>(
    thread: Thread,
    name: impl Into<Cow<'static, str>>,
    make: impl AsyncFnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    spawn_some_on(thread, name.into(), move || Some(make()))
}

/// As [`spawn_on`]. If `make` returns no future, the task is canceled.
pub(super) fn spawn_some_on<T: Send + 'static, F: Future<Output = T> + 'static>(
    thread: Thread,
    name: Cow<'static, str>,
    make: impl FnOnce() -> Option<F> + Send + 'static,
) -> Result<JoinHandle<T>> {
    let (sender, receiver) = channel::channel();
    let (cancel, canceled) = channel::channel::<()>();
    let of_handle = name.clone();
    thread.send(move || {
        let Some(future) = make() else { return };
        let run = async move {
            // Dropping the handle in any other way would detach the task.
            let canceled = async move {
                if canceled.await.is_err() {
                    std::future::pending().await
                }
            };
            if let Either::Left(result) = select(future, canceled).await {
                drop(sender.send(result));
            }
        };
        let added = Executor::here().and_then(|executor| executor.start(name, run));
        if let Err(error) = added {
            tracing::warn!("{error}");
        }
    })?;
    Ok(JoinHandle { name: of_handle, task: Task::There(Some(cancel)), receiver })
}

/// A future that waits for the end of a task. Dropping it detaches the task, which continues.
#[must_use = "dropping the handle does not stop the task; `detach` says that this is intended"]
pub struct JoinHandle<T> {
    name: Cow<'static, str>,
    task: Task,
    receiver: channel::Receiver<T>,
}

enum Task {
    Here(Arc<Handle>),
    There(Option<channel::Sender<()>>),
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T> JoinHandle<T> {
    /// Drops the task at its current `.await`, on its thread. Its finished steps are not undone.
    pub fn cancel(&mut self) {
        match &mut self.task {
            Task::Here(handle) => handle.cancel(),
            Task::There(cancel) => {
                if let Some(cancel) = cancel.take() {
                    let _ = cancel.send(());
                }
            }
        }
    }

    /// Detaches the task, which continues.
    pub fn detach(self) {}
}

impl<T> Future for JoinHandle<T> {
    /// The task's result, or `ECANCELED`.
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.receiver).poll(context).map(|received| {
            received.map_err(|_| Error::new(errno::ECANCELED, format!("{}: canceled", self.name)))
        })
    }
}

/// A task, an I/O or a job under way, for lists.
#[derive(Clone, Debug)]
pub struct Info {
    /// Description of the work.
    pub name: String,
    /// How long it has been running, in nanoseconds.
    pub running_ns: u64,
}

/// The tasks of the current thread, oldest first. `[any lightweight thread]`
#[must_use]
pub fn list() -> Vec<Info> {
    info(Executor::tasks)
}

/// The I/O and jobs of the current thread that the host has, oldest first. Some may belong to tasks that were dropped.
/// `[any lightweight thread]`
#[must_use]
pub fn list_in_flight() -> Vec<Info> {
    info(Executor::held)
}

fn info(of: impl Fn(&Executor) -> Vec<(String, u64)>) -> Vec<Info> {
    let now = thread::now_ns();
    let all = Executor::here().map(|executor| of(&executor)).unwrap_or_default();
    let info = |(name, began_ns)| Info { name, running_ns: now.saturating_sub(began_ns) };
    all.into_iter().map(info).collect()
}

/// Waits for the given time. On a reactor that sleeps it may take a millisecond longer. `[any lightweight thread]`
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(after(time))
}

/// Waits until a time on the host's clock ([`thread::now_ns`]), in nanoseconds. `[any lightweight thread]`
pub fn sleep_until(deadline_ns: u64) -> Sleep {
    Sleep::until(deadline_ns)
}

fn after(time: Duration) -> u64 {
    thread::now_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Drops `future` if it does not end within `limit`. `[any lightweight thread]`
///
/// # Errors
/// [`Elapsed`], which converts to `ETIMEDOUT`.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    match select(future, sleep(limit)).await {
        Either::Left(result) => Ok(result),
        Either::Right(()) => Err(Elapsed { limit }),
    }
}

/// The error of a future that did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    /// The time limit.
    pub limit: Duration,
}

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not done after {:?}", self.limit)
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(errno::ETIMEDOUT, elapsed.to_string())
    }
}

/// Lets other tasks, messages and pollers run. Call it in every loop that has no other `.await`.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The output of the future that ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first.
    Left(A),
    /// The second.
    Right(B),
}

/// Runs both futures until one has ended, and drops the other. Polls the first one first.
pub async fn select<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|context| {
        if let Poll::Ready(output) = a.as_mut().poll(context) {
            return Poll::Ready(Either::Left(output));
        }
        b.as_mut().poll(context).map(Either::Right)
    })
    .await
}

/// Runs both futures until both have ended.
pub async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|context| {
        if of_a.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(context)
        {
            of_a = Some(output);
        }
        if of_b.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(context)
        {
            of_b = Some(output);
        }
        if of_a.is_some() && of_b.is_some() {
            return of_a.take().zip(of_b.take()).map_or(Poll::Pending, Poll::Ready);
        }
        Poll::Pending
    })
    .await
}

/// Runs all futures until all have ended. Returns their outputs in the order of the futures.
pub async fn join_all<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> =
        all.into_iter().map(|future| (Some(Box::pin(future)), None)).collect();
    poll_fn(|context| {
        let mut left = 0;
        for (future, output) in &mut running {
            if let Some(pinned) = future {
                match pinned.as_mut().poll(context) {
                    Poll::Ready(done) => (*future, *output) = (None, Some(done)),
                    Poll::Pending => left += 1,
                }
            }
        }
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests;
