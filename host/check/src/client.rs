//! The suite as a client of the bus. It opens a bdev, gets channels on its own lightweight threads,
//! and runs lists of I/O on them, or directly on a module without the bus.
//!
//! Checks run on an ordinary OS thread and wait with a deadline. Work on the bus is sent to the
//! thread that owns it.
#![expect(unsafe_code, reason = "uses the ABI as a client does")]

use crate::batch::{Batch, Completed, Io, Via};
use crate::guard::bdev::{GuardedChannel, OF_SUITE, close_channel, open_channel};
use crate::guard::{Guarded, core};
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, thread};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a check waits for something that should take a moment.
pub const DEADLINE: Duration = Duration::from_secs(5);

struct Own(bay_host);

// SAFETY: it is constant. Only its address is used, as the owner of what the suite creates.
unsafe impl Sync for Own {}

static OWN: Own = Own(bay_host {
    size: 0,
    abi_major: BAY_ABI_MAJOR,
    abi_minor: BAY_ABI_MINOR,
    ctx: ptr::null_mut(),
    get_iface: None,
    log_level: ptr::null(),
    log: None,
});

/// The suite, as the owner of bdevs and descriptors.
pub(crate) fn own_host() -> *const bay_host {
    &raw const OWN.0
}

/// Something did not finish in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

/// Waits for an answer from another thread.
pub(crate) fn wait<T>(answer: &Receiver<T>, deadline: Duration) -> Result<T, Late> {
    match answer.recv_timeout(deadline) {
        Ok(answer) => Ok(answer),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Late),
    }
}

/// A lightweight thread on which the suite does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(u64);

impl Lane {
    /// Creates one on the reactor of `core`.
    ///
    /// # Errors
    /// The core's error.
    pub fn new(number: usize, core: usize) -> Result<Self, String> {
        let made = thread::create(&format!("check_{number}"), &CpuSet::one(core));
        made.map(Self).map_err(|error| error.message().to_owned())
    }

    /// The app thread.
    #[must_use]
    pub fn app() -> Self {
        Self(thread::app())
    }

    /// Runs `work` on this thread and waits for its result.
    ///
    /// # Errors
    /// The work did not finish in time.
    pub fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let (sender, answer) = mpsc::channel();
        thread::send_boxed(self.0, move || {
            // An error means that the deadline has passed, so nobody waits.
            let _ = sender.send(work());
        });
        wait(&answer, DEADLINE)
    }

    /// Sends `work` to this thread without waiting.
    pub(crate) fn send(self, work: impl FnOnce() + Send + 'static) {
        thread::send_boxed(self.0, work);
    }
}

/// The cores that have a reactor.
#[must_use]
pub fn cores() -> Vec<usize> {
    reactor::all().iter().map(|reactor| reactor.core).collect()
}

/// The events that a descriptor's callback got.
#[derive(Debug, Default)]
pub struct Events {
    removes: AtomicU32,
    resizes: AtomicU32,
}

impl Events {
    /// How often the removal of the bdev was reported.
    #[must_use]
    pub fn removes(&self) -> u32 {
        self.removes.load(Ordering::Acquire)
    }
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, _value: u64) {
    // SAFETY: `open` holds a count of the events as long as the descriptor is open.
    let events = unsafe { &*arg.cast_const().cast::<Events>() };
    match event {
        BAY_EVENT_REMOVE => events.removes.fetch_add(1, Ordering::AcqRel),
        _ => events.resizes.fetch_add(1, Ordering::AcqRel),
    };
}

/// An open bdev.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The name of the bdev.
    pub name: String,
    desc: u64,
    /// The events of the bdev.
    pub events: Arc<Events>,
}

impl Disk {
    /// Opens a bdev: for writing if `is_writable`, otherwise read-only.
    ///
    /// # Errors
    /// The host's errno, or a timeout.
    pub fn open(name: &str, is_writable: bool) -> Result<Self, String> {
        let events = Arc::new(Events::default());
        let (named, context) = (name.to_owned(), Arc::clone(&events));
        let opened = Lane::app().run(move || {
            let open = core::client().open.ok_or(-libc::ENOSYS)?;
            let mut desc = 0;
            let flags = if is_writable { BAY_OPEN_WRITE } else { 0 };
            let text = bay_str::new(&named);
            // `close` takes it back; after that no event arrives.
            let arg = Arc::into_raw(context).cast_mut().cast();
            // SAFETY: the texts and the pointers are valid for the call, and the callback's
            // argument stays valid until the close.
            let status =
                unsafe { open(own_host(), text, flags, Some(on_event), arg, &raw mut desc) };
            if status == 0 { Ok(desc) } else { Err(status) }
        });
        match opened {
            Ok(Ok(desc)) => Ok(Self { name: name.to_owned(), desc, events }),
            Ok(Err(status)) => Err(format!("open of {name}: {}", status_name(status))),
            Err(Late) => Err(format!("open of {name} did not return")),
        }
    }

    /// Closes the bdev.
    ///
    /// # Errors
    /// The host's errno, or a timeout.
    pub fn close(self) -> Result<(), String> {
        let desc = self.desc;
        let closed = Lane::app().run(move || {
            // SAFETY: the descriptor belongs to the suite.
            core::client().close.map_or(0, |close| unsafe { close(own_host(), desc) })
        });
        match closed {
            Ok(0) => {
                // SAFETY: `open` made this count, and a closed descriptor gets no event.
                unsafe { Arc::decrement_strong_count(Arc::as_ptr(&self.events)) };
                Ok(())
            }
            Ok(status) => Err(format!("close of {}: {}", self.name, status_name(status))),
            Err(Late) => Err(format!("close of {} did not return", self.name)),
        }
    }

    /// Gets the channel of a lane.
    ///
    /// # Errors
    /// The host's errno, or a timeout.
    pub fn channel(&self, lane: Lane) -> Result<Channel, String> {
        let desc = self.desc;
        let got = lane.run(move || {
            let get = core::client().chan_get.ok_or(-libc::ENOSYS)?;
            let mut chan = 0;
            // SAFETY: the descriptor belongs to the suite, and the pointer for the result is valid.
            let status = unsafe { get(own_host(), desc, &raw mut chan) };
            if status == 0 { Ok(chan) } else { Err(status) }
        });
        match got {
            Ok(Ok(handle)) => Ok(Channel { lane, handle }),
            Ok(Err(status)) => Err(format!("channel of {}: {}", self.name, status_name(status))),
            Err(Late) => Err(format!("channel of {}: chan_get did not return", self.name)),
        }
    }
}

/// The channel of one lane.
#[derive(Debug)]
pub struct Channel {
    lane: Lane,
    handle: u64,
}

impl Channel {
    /// The lane of the channel.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Starts a list of I/O with up to `depth` in flight. The receiver gets the results.
    #[must_use]
    pub fn begin(&self, ios: Vec<Io>, depth: usize) -> Receiver<Vec<Completed>> {
        let (sender, answer) = mpsc::channel();
        let via = Via::Bus(self.handle);
        self.lane.send(move || {
            Batch::begin(via, ios, depth, move |ended| {
                let _ = sender.send(ended);
            })
        });
        answer
    }

    /// Runs a list of I/O with up to `depth` in flight.
    ///
    /// # Errors
    /// Some I/O did not complete in time.
    pub fn run(&self, ios: Vec<Io>, depth: usize) -> Result<Vec<Completed>, Late> {
        wait(&self.begin(ios, depth), DEADLINE)
    }

    /// Releases the channel.
    ///
    /// # Errors
    /// The host's errno, or a timeout.
    pub fn close(self) -> Result<(), String> {
        let handle = self.handle;
        let put = self.lane.run(move || {
            // SAFETY: it is a channel of this thread.
            core::client().chan_put.map_or(0, |put| unsafe { put(own_host(), handle) })
        });
        match put {
            Ok(0) => Ok(()),
            Ok(status) => Err(format!("chan_put: {}", status_name(status))),
            Err(Late) => Err("chan_put did not return".to_owned()),
        }
    }
}

/// Runs I/O directly on a module, which the bus would not send.
///
/// # Errors
/// The module's error for the channel, or what did not finish in time.
pub fn run_at_module(
    bdev: &Arc<Guarded>,
    lane: Lane,
    ios: Vec<Io>,
) -> Result<Vec<Completed>, String> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let host_chan = OF_SUITE | NEXT.fetch_add(1, Ordering::Relaxed);
    let bdev = Arc::clone(bdev);
    let (sender, answer) = mpsc::channel();
    lane.send(move || {
        let args = bay_chan_args {
            size: u32::try_from(size_of::<bay_chan_args>()).unwrap_or(0),
            numa: -1,
            thread: thread::current_id(),
            host_chan,
            handover: ptr::null(),
        };
        let (status, channel) = open_channel(bdev, &args);
        let job = Job { ios, sender };
        match status {
            0 => job.run(channel),
            1 => {
                let mut jobs = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
                jobs.push((channel as usize, job));
                // SAFETY: a pending channel is alive.
                unsafe { (*channel).on_done.set(Some(opened)) };
            }
            status => job.refuse(status),
        }
    });
    match wait(&answer, DEADLINE) {
        Ok(result) => result,
        Err(Late) => Err(format!("not all I/O completed within {} s", DEADLINE.as_secs())),
    }
}

/// The I/O to run on a module's channel.
struct Job {
    ios: Vec<Io>,
    sender: mpsc::Sender<Result<Vec<Completed>, String>>,
}

static PENDING: Mutex<Vec<(usize, Job)>> = Mutex::new(Vec::new());

/// A pending `chan_create` has finished.
fn opened(channel: *const GuardedChannel, status: i32) {
    let mut jobs = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let at = jobs.iter().position(|(waits_for, _)| *waits_for == channel as usize);
    let Some((_, job)) = at.map(|at| jobs.remove(at)) else { return };
    drop(jobs);
    if status == 0 { job.run(channel) } else { job.refuse(status) }
}

impl Job {
    fn run(self, channel: *const GuardedChannel) {
        let (ios, sender) = (self.ios, self.sender);
        let depth = ios.len();
        let address = channel as usize;
        let close = move |ended: Vec<Completed>| {
            let _ = sender.send(Ok(ended));
            // Close the channel in a later message. The module may still use it while its completion runs.
            thread::send_boxed(thread::current_id(), move || {
                close_channel(address as *const GuardedChannel);
            });
        };
        Batch::begin(Via::Module(channel), ios, depth, close);
    }

    fn refuse(self, status: i32) {
        let _ = self.sender.send(Err(format!("chan_create: {}", status_name(status))));
    }
}

/// A status, as text for people.
#[must_use]
pub fn status_name(status: i32) -> String {
    let known = [
        (BAY_ST_NOMEM, "BAY_ST_NOMEM"),
        (BAY_ST_REQUEUE, "BAY_ST_REQUEUE"),
        (BAY_ST_ABORTED, "BAY_ST_ABORTED"),
        (BAY_ST_MISCOMPARE, "BAY_ST_MISCOMPARE"),
        (BAY_ST_MEDIA, "BAY_ST_MEDIA"),
    ];
    let name = known.iter().find(|(known, _)| *known == status).map(|(_, name)| *name);
    match (name, status.checked_neg()) {
        _ if status == 0 => "success".to_owned(),
        (Some(name), _) => name.to_owned(),
        (None, Some(errno)) if errno > 0 && status > BAY_ST_NOMEM => {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            format!("{status} ({text})")
        }
        _ => status.to_string(),
    }
}
