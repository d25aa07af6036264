//! A value that lives on one lightweight thread, with handles for other threads.
#![expect(unsafe_code, reason = "other threads have handles to a value that is not Send")]

use crate::error::{Error, Result, errno};
use crate::runtime::task::{self, JoinHandle};
use crate::thread::{self, Thread};
use std::cell::UnsafeCell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle to a value that stays on one lightweight thread. Clones refer to the same value. The value is dropped on its thread, after
/// the last handle is dropped or [`end`](Self::end) is called.
pub struct Resident<T: 'static>(Arc<Slot<T>>);

struct Slot<T: 'static> {
    thread: Thread,
    /// Accessed on `thread` only, or by the last owner.
    value: UnsafeCell<Option<Rc<T>>>,
}

// SAFETY: `value` is accessed on its thread only. If another thread drops the last handle, it sends the value there without using it.
unsafe impl<T> Send for Slot<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Clone for Resident<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Resident<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("thread", &self.0.thread).finish_non_exhaustive()
    }
}

impl<T: 'static> Resident<T> {
    /// Creates a value on the thread, before any later message to it runs.
    ///
    /// # Errors
    /// When the thread does not exist.
    pub fn new(thread: Thread, make: impl FnOnce() -> T + Send + 'static) -> Result<Self> {
        let resident = Self(Arc::new(Slot { thread, value: UnsafeCell::new(None) }));
        let made = resident.clone();
        let fill = move || {
            let value = Rc::new(make());
            // SAFETY: this is the value's thread, and there is no other reference to it.
            unsafe { *made.0.value.get() = Some(value) };
        };
        if thread.is_current() {
            fill();
        } else {
            thread.send(fill)?;
        }
        Ok(resident)
    }

    /// Creates a value on the current thread.
    ///
    /// # Errors
    /// `EPERM` outside of a lightweight thread.
    pub fn here_with(value: T) -> Result<Self> {
        Self::here_of(Rc::new(value))
    }

    fn here_of(value: Rc<T>) -> Result<Self> {
        let thread = thread::current()
            .ok_or_else(|| Error::new(errno::EPERM, "not on a lightweight thread"))?;
        Ok(Self(Arc::new(Slot { thread, value: UnsafeCell::new(Some(value)) })))
    }

    /// The value's thread.
    pub fn thread(&self) -> Thread {
        self.0.thread
    }

    /// Returns the value if this is its thread and it has not ended.
    pub fn here(&self) -> Option<Rc<T>> {
        if !self.0.thread.is_current() {
            return None;
        }
        // SAFETY: this is the value's thread; the reference ends with this expression, which runs no code of the author.
        unsafe { (*self.0.value.get()).clone() }
    }

    /// Whether both handles refer to the same value.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Runs `call` with the value, on its thread, after earlier messages. Drops `call` when the value has ended.
    pub fn send(&self, call: impl FnOnce(&Rc<T>) + Send + 'static) {
        let resident = self.clone();
        let run = move || {
            if let Some(value) = resident.here() {
                call(&value);
            }
        };
        if let Err(error) = self.0.thread.send(run) {
            tracing::debug!("a message to an ended thread was dropped: {error}");
        }
    }

    /// Runs `call` with the value as a task of its thread. It starts after earlier messages, and runs to its first wait before later
    /// messages.
    ///
    /// # Errors
    /// When the thread does not exist any more. The handle returns `ECANCELED` when the value has ended.
    pub fn call<R: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Rc<T>) -> R + Send + 'static,
    ) -> Result<JoinHandle<R>> {
        let resident = self.clone();
        task::spawn_some_on(self.0.thread, "call".into(), move || {
            let value = resident.here()?;
            Some(call(value))
        })
    }

    /// Drops the value, after earlier messages, then runs `then` on its thread.
    pub fn end(&self, then: impl FnOnce() + Send + 'static) {
        let resident = self.clone();
        let run = move || {
            // SAFETY: this is the value's thread; the reference ends with this expression.
            let value = unsafe { (*resident.0.value.get()).take() };
            drop(value);
            then();
        };
        if let Err(error) = self.0.thread.send(run) {
            tracing::debug!("a message to an ended thread was dropped: {error}");
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.get_mut().take() else { return };
        if self.thread.is_current() {
            drop(value);
        } else {
            // SAFETY: the value belongs to that thread, and this thread does not use it again. If the thread has ended, the value
            // is leaked.
            let _ = unsafe { self.thread.send_any(move || drop(value)) };
        }
    }
}

/// A static whose value stays on the app thread, such as the state of a plugin.
///
/// ```
/// use drivebay_sdk::runtime::OnApp;
/// use std::cell::RefCell;
///
/// static EXPORTS: OnApp<RefCell<Vec<String>>> = OnApp::new();
///
/// fn start() -> drivebay_sdk::Result<()> {
///     let exports = EXPORTS.get_or_init(RefCell::default)?;
///     exports.borrow_mut().push("disk".into());
///     Ok(())
/// }
/// ```
pub struct OnApp<T: 'static>(Mutex<Vec<Resident<T>>>);

impl<T> fmt::Debug for OnApp<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnApp").finish_non_exhaustive()
    }
}

impl<T> Default for OnApp<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: 'static> OnApp<T> {
    /// Creates a static without a value.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The values, one for each host: tests have several hosts in a process.
    fn residents(&self) -> MutexGuard<'_, Vec<Resident<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value. Creates it if there is none. `[app thread]`
    ///
    /// # Errors
    /// `EPERM` on another thread.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<Rc<T>> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        if !thread::app().is_current() {
            return Err(Error::new(
                errno::EPERM,
                "called outside of the app thread; allowed: the app thread only",
            ));
        }
        let resident = Resident::here_with(make())?;
        let value = resident.here();
        self.residents().push(resident);
        value.ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
    }

    /// Returns the value if this is the app thread and there is one.
    pub fn get(&self) -> Option<Rc<T>> {
        self.handle()?.here()
    }

    /// Returns a handle to the value. `[any lightweight thread]`
    pub fn handle(&self) -> Option<Resident<T>> {
        let app = thread::app();
        self.residents().iter().find(|resident| resident.thread() == app).cloned()
    }

    /// Removes and returns the value. The next [`get_or_init`](Self::get_or_init) creates a new one. `[app thread]`
    pub fn take(&self) -> Option<Rc<T>> {
        let app = thread::app();
        let mut residents = self.residents();
        let place = residents.iter().position(|resident| resident.thread() == app)?;
        let resident = residents.swap_remove(place);
        drop(residents);
        resident.here()
    }
}

/// A set of values, each on its own thread, such as the states of a bdev's channels. Any thread can send calls to all of them.
/// Clones refer to the same set.
pub struct Residents<T: 'static>(Arc<Mutex<Vec<Resident<T>>>>);

impl<T> Default for Residents<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Residents<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Residents<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Residents").field(&self.lock().len()).finish()
    }
}

impl<T: 'static> Residents<T> {
    /// Adds a value on the current thread.
    ///
    /// # Errors
    /// `EPERM` outside of a lightweight thread.
    pub fn add(&self, value: T) -> Result<Member<T>> {
        let value = Rc::new(value);
        let resident = Resident::here_of(Rc::clone(&value))?;
        self.lock().push(resident.clone());
        Ok(Member { value, resident, set: self.clone() })
    }

    /// Runs `call` with every value, on its thread, and waits until all calls have ended. May miss values that are added or removed
    /// meanwhile. `[any lightweight thread]`
    pub async fn on_all(&self, call: impl Fn(&Rc<T>) + Clone + Send + 'static) {
        let all = self.lock().clone();
        let begun: Vec<_> = all
            .iter()
            .map(|resident| {
                let call = call.clone();
                resident.call(async move |value: Rc<T>| call(&value))
            })
            .collect();
        // If the thread has ended, the value has ended as well.
        for call in begun.into_iter().flatten() {
            let _ = call.await;
        }
    }

    /// Sends `call` to every value and does not wait. Misses values that are added later. `[any thread]`
    pub fn send_all(&self, call: impl Fn(&Rc<T>) + Clone + Send + 'static) {
        let all = self.lock().clone();
        all.iter().for_each(|resident| resident.send(call.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Resident<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value of the current thread in [`Residents`]. Dropping it removes the value.
pub struct Member<T: 'static> {
    value: Rc<T>,
    resident: Resident<T>,
    set: Residents<T>,
}

impl<T> std::ops::Deref for Member<T> {
    type Target = Rc<T>;
    fn deref(&self) -> &Rc<T> {
        &self.value
    }
}

impl<T> fmt::Debug for Member<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("resident", &self.resident).finish_non_exhaustive()
    }
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        self.set.lock().retain(|other| !other.is(&self.resident));
        // Drop the value, such as a channel, now, even if a call on all values still holds the resident.
        // SAFETY: a member stays on the value's thread; the reference ends with this expression.
        let value = unsafe { (*self.resident.0.value.get()).take() };
        drop(value);
    }
}
