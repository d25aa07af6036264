//! The requests of a block device as I/O.

use super::{Disk, Plan, STATUS_LEN};
use crate::device::{Taken, finish};
use drivebay_sdk::bdev::{Channel, Desc, IoFlags, IoResult, Op};
use drivebay_sdk::{Error, tracing};
use drivebay_spec_vhost::blk::{HEADER_LEN, Status};
use std::cell::RefCell;
use std::sync::Arc;

/// A disk on a device's thread.
#[derive(Debug)]
pub struct Service {
    disk: RefCell<Disk>,
    /// `None` when the bdev gave none. Then every request fails.
    // Fields drop in this order, so the channel closes before its descriptor.
    channel: Option<Channel>,
    _desc: Arc<Desc>,
}

impl Service {
    /// Opens the bdev on this thread. When it gives no channel, every request of the guest fails.
    #[must_use]
    pub fn new(desc: Arc<Desc>, disk: Disk) -> Self {
        let failed =
            |error: &Error| tracing::error!("vhost over {}: no channel: {error}", disk.name);
        let channel = desc.channel().inspect_err(failed).ok();
        Self { disk: RefCell::new(disk), channel, _desc: desc }
    }

    /// Takes the new size of the bdev.
    pub fn resized(&self, disk: Disk) {
        *self.disk.borrow_mut() = disk;
    }

    /// Turns a request into I/O, or ends it.
    pub fn submit(&self, mut request: Taken, writes_through: bool) {
        let disk = self.disk.borrow();
        // Without room for a status, the chain goes back with nothing written.
        let Some(plan) = disk.plan(&request.chain) else { return finish(request, 0) };
        let Some(channel) = &self.channel else { return end(request, Status::IoErr, 0) };
        request.state.written = 0;
        let durable = if writes_through { IoFlags::FUA } else { IoFlags::NONE };
        match plan {
            Plan::Read(range) => {
                let len = request.chain.writable_len() - STATUS_LEN;
                request.lend_writable(0, len);
                request.state.written = len;
                channel.submit(Op::Read(range), IoFlags::NONE, request, ended);
            }
            Plan::Write(range) => {
                let len = request.chain.readable_len() - HEADER_LEN as u64;
                request.lend_readable(HEADER_LEN as u64, len);
                channel.submit(Op::Write(range), durable, request, ended);
            }
            Plan::Other(op) => {
                request.lend_nothing();
                let flags = if matches!(op, Op::WriteZeroes(_)) { durable } else { IoFlags::NONE };
                channel.submit(op, flags, request, ended);
            }
            Plan::Id => {
                let len = (request.chain.writable_len() - STATUS_LEN).min(disk.id().len() as u64);
                let id = disk.id();
                let id = id.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
                let _ = request.chain.write(0, id); // it is no longer than the buffers
                end(request, Status::Ok, id.len() as u64);
            }
            Plan::Done(status) => end(request, status, 0),
        }
    }

    /// Rings the bdev's doorbell.
    pub fn flush(&self) {
        if let Some(channel) = &self.channel {
            channel.flush();
        }
    }
}

/// The bdev has ended a request.
fn ended(request: Taken, result: IoResult) {
    let written = request.state.written;
    match result.status.is_success() {
        true => end(request, Status::Ok, written),
        false => end(request, Status::IoErr, 0),
    }
}

/// Writes the status behind the data, of which `written` bytes were written.
fn end(request: Taken, status: Status, written: u64) {
    let place = request.chain.writable_len().checked_sub(STATUS_LEN);
    let Some(place) = place.filter(|&place| request.chain.write(place, &[status as u8])) else {
        return finish(request, 0);
    };
    // Linux reads only the status. The length includes the status only when all of the data was written.
    let written = if written == place { place + STATUS_LEN } else { written };
    finish(request, written.max(STATUS_LEN));
}
