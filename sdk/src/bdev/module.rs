//! What the author of a bdev module writes.

use super::home::ChannelHandle;
use super::io::{BdevIo, IoResult};
use super::lifecycle::{Closing, Ending, Opening};
use super::op::{Geometry, OpSet};
use super::registration::Registration;
use crate::app::App;
use crate::error::{Error, Result, errno};
use crate::notify::Config;
use crate::rpc::Params;
use std::os::fd::RawFd;

/// One kind of block device. Its channels are one thread's state each; the device is shared by all.
///
/// The bus has checked every op against [`OPS`](Self::OPS) and its range against the geometry.
pub trait Bdev: Sized + Send + Sync + 'static {
    /// Parameters of the method that makes one.
    type Params: Params;
    /// One thread's state. It moves with its lightweight thread, so it must not refer to
    /// `thread_local!`s.
    type Channel: 'static;

    /// Ops that [`submit`](Self::submit) takes.
    const OPS: OpSet;
    /// Product name, as `bdev_get_bdevs` shows it.
    const PRODUCT: &'static str;
    /// Whether [`flush`](Self::flush) is to be called.
    const BURSTS: bool = false;
    /// Whether [`poll`](Self::poll) is to be called, in every round of a thread with a channel.
    const POLLS: bool = false;
    /// Whether a thread may sleep: [`prepare_sleep`](Self::prepare_sleep) arms what wakes it.
    const SLEEPS: bool = false;

    /// Whether [`joined`](Self::joined) is to be called. If not, an I/O ends as its children did.
    const JOINS: bool = false;
    /// Bytes of the largest state that is kept with an I/O ([`BdevIo::set_state`]): its `size_of`.
    const IO_STATE_LEN: usize = 0;

    /// Makes a device from the parameters; it is not on the bus yet. `[app thread]`
    ///
    /// # Errors
    /// What goes back to the caller of the method.
    fn create(app: &App, params: Self::Params) -> Result<Self>;

    /// Unique name.
    fn name(&self) -> &str;

    /// Block size and number of blocks when it comes on the bus.
    fn geometry(&self) -> Geometry;

    /// Says what else the bus must know. `[app thread]`
    fn describe(&self, _registration: &mut Registration) {}

    /// Makes one thread's state. `[reactor]`
    ///
    /// # Errors
    /// What the client that asked for a channel gets.
    fn open_channel(&self) -> Result<Self::Channel> {
        Err(Error::new(errno::ENOSYS, "the module opens channels later, or not at all"))
    }

    /// As [`open_channel`](Self::open_channel), for a module that answers later: I/O waits until
    /// then. `[reactor]`
    fn open_channel_later(&self, opening: Opening<Self>) {
        opening.answer(self.open_channel());
    }

    /// Ends one thread's state, which has no I/O. The host waits until `closing` is dropped, on this
    /// thread. `[reactor]`
    fn close_channel(&self, channel: Self::Channel, closing: Closing) {
        drop(channel);
        drop(closing);
    }

    /// Takes one I/O and completes it, now or later on this thread. `[reactor]`
    ///
    /// A client that is called by the completion may submit again: that I/O comes when this call has
    /// returned.
    fn submit(&self, channel: &mut Self::Channel, io: BdevIo);

    /// The children of an I/O have ended ([`BdevIo::fan_out`]): completes it, or goes on with it.
    /// `result` is the first failure, or success. `[reactor]`
    fn joined(&self, _channel: &mut Self::Channel, io: BdevIo, result: IoResult) {
        io.complete_with(result);
    }

    /// The channel is on the bus: keeps the handle by which the module kicks it. `[reactor]`
    fn opened(&self, _channel: &mut Self::Channel, _handle: ChannelHandle) {}

    /// A burst of submits has ended: ring the doorbell. `[reactor]`
    fn flush(&self, _channel: &mut Self::Channel) {}

    /// One round: completes what has ended; whether it did something. `[reactor]`
    fn poll(&self, _channel: &mut Self::Channel) -> bool {
        false
    }

    /// Arms the wake-ups, then looks again: whether there is work after all. `[reactor]`
    fn prepare_sleep(&self, _channel: &mut Self::Channel) -> bool {
        false
    }

    /// The sleep is over. `[reactor]`
    fn woke(&self, _channel: &mut Self::Channel) {}

    /// A file descriptor that is readable when [`poll`](Self::poll) has something to do. It lives as
    /// long as the channel. `[reactor]`
    fn wake_fd(&self, _channel: &Self::Channel) -> Option<RawFd> {
        None
    }

    /// The bdev is off the bus and nobody uses it any more. It is dropped, and the call that deletes
    /// it is answered, when `ending` is dropped, on this thread. `[app thread]`
    fn end(&self, ending: Ending) {
        drop(ending);
    }

    /// Writes the calls that make the bdev again: by default the method that made it, with its
    /// parameters. `[app thread]`
    fn write_config(&self, config: &mut Config<'_>, method: &str, params: &serde_json::Value) {
        config.call(method, params);
    }

    /// The module's own counters, which `bdev_get_iostat` shows under `driver_specific`. `[app thread]`
    fn statistics(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    /// Sets the module's own counters to zero. `[app thread]`
    fn reset_statistics(&self) {}

    /// What `bdev_get_bdevs` shows under `driver_specific`. `[app thread]`
    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}
