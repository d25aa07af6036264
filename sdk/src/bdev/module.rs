//! The trait that the author of a bdev module implements.

use super::desc::Space;
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

/// One type of block device. All threads share the device; each thread has its own channel.
///
/// The bus checks every op against [`OPS`](Self::OPS) and its range against the geometry.
pub trait Bdev: Sized + Send + Sync + 'static {
    /// Parameters of the method that creates a device.
    type Params: Params;
    /// One thread's channel. It stays on one OS thread, unless the plugin promises `unsafe(threads_move)`
    /// ([`plugin!`](crate::plugin)).
    type Channel: 'static;

    /// Ops that [`submit`](Self::submit) accepts.
    const OPS: OpSet;
    /// Product name, as `bdev_get_bdevs` shows it.
    const PRODUCT: &'static str;
    /// Whether the SDK calls [`flush`](Self::flush).
    const BURSTS: bool = false;
    /// Whether the SDK calls [`poll`](Self::poll), in every round of a thread with a channel.
    const POLLS: bool = false;
    /// Whether the thread may sleep. If so, [`prepare_sleep`](Self::prepare_sleep) arms the wake-ups.
    const SLEEPS: bool = false;

    /// Whether the SDK calls [`joined`](Self::joined). If not, a parent completes with its children's result.
    const JOINS: bool = false;
    /// The `size_of` of the largest state stored with an I/O ([`BdevIo::set_state`]), in bytes.
    const IO_STATE_LEN: usize = 0;

    /// Creates a device from the parameters. It is not registered yet. A module that creates its bdevs in code and passes
    /// them to [`register`](super::register) leaves this function out. `[app thread]`
    ///
    /// # Errors
    /// The method's caller gets the error.
    fn create(_app: &App, _params: Self::Params) -> Result<Self> {
        Err(Error::new(errno::ENOSYS, "no method creates these bdevs; their module creates them"))
    }

    /// Unique name.
    fn name(&self) -> &str;

    /// Block size and number of blocks at registration.
    fn geometry(&self) -> Geometry;

    /// Changes the registration, for properties that differ from the defaults. `[app thread]`
    fn describe(&self, _registration: &mut Registration) {}

    /// Creates one thread's channel. `[reactor]`
    ///
    /// # Errors
    /// The client that requested the channel gets the error.
    fn open_channel(&self) -> Result<Self::Channel> {
        Err(Error::new(errno::ENOSYS, "the module opens channels later, or not at all"))
    }

    /// As [`open_channel`](Self::open_channel), for a module that answers later. The channel's I/O waits until
    /// then. `[reactor]`
    fn open_channel_later(&self, opening: Opening<Self>) {
        opening.answer(self.open_channel());
    }

    /// Destroys one thread's channel, which has no I/O. The host waits until `closing` is dropped, on this
    /// thread. `[reactor]`
    fn close_channel(&self, channel: Self::Channel, closing: Closing) {
        drop(channel);
        drop(closing);
    }

    /// Handles one I/O and completes it, now or later on this thread. `[reactor]`
    ///
    /// When this function completes an I/O, the client may submit again from its callback. The host passes that
    /// I/O to the module after this call has returned.
    fn submit(&self, channel: &mut Self::Channel, io: BdevIo);

    /// The children of an I/O have completed ([`BdevIo::fan_out`]). Completes the I/O or continues it.
    /// `result` is the first failure, or success. `[reactor]`
    fn joined(&self, _channel: &mut Self::Channel, io: BdevIo, result: IoResult) {
        io.complete_with(result);
    }

    /// The channel is ready. The module may keep `handle`, to kick the channel later. `[reactor]`
    fn opened(&self, _channel: &mut Self::Channel, _handle: ChannelHandle) {}

    /// A burst of submits has ended. The module rings its doorbell here. `[reactor]`
    fn flush(&self, _channel: &mut Self::Channel) {}

    /// Runs one round, which completes finished I/O. Returns whether it did work. `[reactor]`
    fn poll(&self, _channel: &mut Self::Channel) -> bool {
        false
    }

    /// Arms the wake-ups, then checks for work again. Returns whether there is work. `[reactor]`
    fn prepare_sleep(&self, _channel: &mut Self::Channel) -> bool {
        false
    }

    /// The thread has woken up. `[reactor]`
    fn woke(&self, _channel: &mut Self::Channel) {}

    /// A file descriptor that is readable when [`poll`](Self::poll) has work. It must stay open as long as
    /// the channel. `[reactor]`
    fn wake_fd(&self, _channel: &Self::Channel) -> Option<RawFd> {
        None
    }

    /// The bdev is unregistered and has no users left. Dropping `ending`, on this thread, drops the bdev and
    /// answers the call that deletes it. `[app thread]`
    fn end(&self, ending: Ending) {
        drop(ending);
    }

    /// Writes the RPC calls that create the bdev again. The default writes the method that created it, with
    /// its parameters. `[app thread]`
    fn write_config(&self, config: &mut Config<'_>, method: &str, params: &serde_json::Value) {
        config.call(method, params);
    }

    /// The module's own counters, which `bdev_get_iostat` shows under `driver_specific`. `[app thread]`
    fn statistics(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    /// Resets the module's own counters to zero. `[app thread]`
    fn reset_statistics(&self) {}

    /// The space of the pool that the bdev takes its space from; `None` if there is no pool. `[any reactor, also several at once]`
    fn space(&self) -> Option<Space> {
        None
    }

    /// What `bdev_get_bdevs` shows under `driver_specific`. `[app thread]`
    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

/// Goes into an `impl` of [`Bdev`](crate::bdev::Bdev) whose channel does the I/O. It sets `BURSTS`, `POLLS` and `SLEEPS`, and calls
/// the channel's own functions `submit`, `flush`, `poll`, `prepare_sleep` and `wake_fd`, and `woke` after `channel_does_io!(woke)`.
/// The channel's `wake_fd` returns a descriptor or an `Option` of one.
#[macro_export]
macro_rules! channel_does_io {
    ($($woke:ident)?) => {
        const BURSTS: bool = true;
        const POLLS: bool = true;
        const SLEEPS: bool = true;

        fn submit(&self, channel: &mut Self::Channel, io: $crate::bdev::BdevIo) {
            channel.submit(io);
        }

        fn flush(&self, channel: &mut Self::Channel) {
            channel.flush();
        }

        fn poll(&self, channel: &mut Self::Channel) -> bool {
            channel.poll()
        }

        fn prepare_sleep(&self, channel: &mut Self::Channel) -> bool {
            channel.prepare_sleep()
        }

        fn wake_fd(&self, channel: &Self::Channel) -> ::core::option::Option<::std::os::fd::RawFd> {
            channel.wake_fd().into()
        }

        $(fn $woke(&self, channel: &mut Self::Channel) {
            channel.$woke();
        })?
    };
}
