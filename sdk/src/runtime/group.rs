//! Poll groups: one value on each of several lightweight threads, for work that is spread over them.

use super::resident::Resident;
use super::task::{self, oneshot};
use crate::error::Result;
use crate::thread::{self, Thread};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Several threads with one value on each. Dropping it ends the values and the threads; [`end`](Self::end) also waits for that.
pub struct Group<T: 'static> {
    members: Vec<Member<T>>,
}

/// One thread of a group.
struct Member<T: 'static> {
    value: Resident<T>,
    load: Arc<AtomicUsize>,
}

/// One part of a member's load, such as a connection. It counts until it is dropped, on any thread.
#[derive(Debug)]
#[must_use = "dropping it takes the load off the member"]
pub struct Weight(Arc<AtomicUsize>);

impl Weight {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members()).finish()
    }
}

impl<T: 'static> Group<T> {
    /// Creates a thread `NAME_000`, `NAME_001` and so on for each core in `cores`, and a value on each thread, from its index.
    /// [`thread::cores`] returns all cores that have a reactor. `[any lightweight thread]`
    ///
    /// # Errors
    /// `EINVAL` for a core without a reactor, `EAGAIN` when there are too many threads.
    pub fn start(
        name: &str,
        cores: impl IntoIterator<Item = u32>,
        make: impl Fn(usize) -> T + Send + Clone + 'static,
    ) -> Result<Self> {
        let mut group = Self { members: Vec::new() };
        for (index, core) in cores.into_iter().enumerate() {
            let thread = thread::create(&format!("{name}_{index:03}"), &format!("[{core}]"))?;
            let make = make.clone();
            let value = Resident::new(thread, move || make(index))?;
            group.members.push(Member { value, load: Arc::default() });
        }
        Ok(group)
    }

    /// The values, by index.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Resident<T>> {
        self.members.iter().map(|member| &member.value)
    }

    /// Returns the member with the least load and adds one weight to it. `None` when the group has no members.
    #[must_use]
    pub fn least_loaded(&self) -> Option<(&Resident<T>, Weight)> {
        let member =
            self.members.iter().min_by_key(|member| member.load.load(Ordering::Relaxed))?;
        Some((&member.value, Weight::new(&member.load)))
    }

    /// The load of each member, by index.
    pub fn loads(&self) -> impl ExactSizeIterator<Item = usize> {
        self.members.iter().map(|member| member.load.load(Ordering::Relaxed))
    }

    /// Runs `call` on every member's thread, after earlier messages, and waits for all. Returns the results by index.
    ///
    /// # Errors
    /// `ECANCELED` when a member has ended meanwhile.
    pub async fn on_each<R: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Rc<T>) -> R + Send + Clone + 'static,
    ) -> Result<Vec<R>> {
        // Send all calls before waiting for the first.
        let calls: Result<Vec<_>> = self.members().map(|value| value.call(call.clone())).collect();
        task::join_all(calls?).await.into_iter().collect()
    }

    /// Drops the values and ends their threads one after another, each after its earlier messages. A thread that still has
    /// other pollers or channels ends when these are gone.
    pub async fn end(mut self) {
        for member in std::mem::take(&mut self.members) {
            // An error means that the member has already ended.
            let _ = member.end().await;
        }
    }
}

impl<T: 'static> Member<T> {
    fn end(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.value.end(move || {
            if let Err(error) = thread::current().map_or(Ok(()), Thread::exit) {
                tracing::error!("cannot end a thread of a poll group: {error}");
            }
            let _ = sender.send(());
        });
        receiver
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        for member in &self.members {
            drop(member.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;
    use std::cell::{Cell, RefCell};

    fn run<R: 'static>(host: &FakeHost, future: impl Future<Output = R> + 'static) -> R {
        let result = Rc::new(RefCell::new(None));
        let to = Rc::clone(&result);
        let run = async move {
            let output = future.await;
            *to.borrow_mut() = Some(output);
        };
        task::spawn("test", run).unwrap().detach();
        host.wait(|| result.take())
    }

    struct Share {
        index: usize,
        thread: Option<Thread>,
        calls: Cell<u32>,
    }

    fn group(host: &FakeHost) -> Group<Share> {
        host.set_cores(2);
        let make = |index| Share { index, thread: thread::current(), calls: Cell::new(0) };
        Group::start("share", thread::cores(), make).unwrap()
    }

    #[test]
    fn each_member_lives_on_a_thread_of_its_own() {
        let host = FakeHost::new();
        let group = group(&host);
        let threads: Vec<_> = group.members().map(|member| Some(member.thread())).collect();
        let seen = run(&host, async move {
            group.on_each(async |share| (share.index, share.thread)).await.unwrap()
        });
        assert_eq!(seen, [(0, threads[0]), (1, threads[1])]);
        assert_ne!(threads[0], threads[1]);
    }

    #[test]
    fn a_call_of_all_comes_after_what_was_sent_before() {
        let host = FakeHost::new();
        let group = group(&host);
        for member in group.members() {
            member.send(|share| share.calls.set(share.calls.get() + 1));
        }
        let calls = run(&host, async move { group.on_each(async |share| share.calls.get()).await });
        assert_eq!(calls, Ok(vec![1, 1]));
    }

    #[test]
    fn connections_go_where_the_fewest_are() {
        let host = FakeHost::new();
        let group = group(&host);
        let weights: Vec<_> = (0..3).map(|_| group.least_loaded().unwrap().1).collect();
        assert_eq!(group.loads().collect::<Vec<_>>(), [2, 1]);
        drop(weights);
        assert_eq!(group.loads().collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn the_end_of_a_group_ends_its_threads() {
        let host = FakeHost::new();
        let group = group(&host);
        let threads: Vec<_> = group.members().map(Resident::thread).collect();
        run(&host, group.end());
        assert!(threads.iter().all(|thread| thread.send(|| ()).is_err()));
    }
}
