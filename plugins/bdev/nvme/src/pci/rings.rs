//! The queues of one channel to controllers on PCIe.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use drivebay_nvme_driver::pcie::{Refused, Ring};
use drivebay_nvme_driver::qpair::Completed;
use drivebay_nvme_driver::spec::Command;
use drivebay_sdk::buf;
use drivebay_sdk::pci::Interrupts;
use drivebay_sdk::prelude::*;

use super::Memory;
use super::queue::{IoQueue, RingGuard};
use crate::io::Request;
use crate::path::Ticket;

/// The queues. A queue whose leg no longer uses it stays until its commands have ended or its controller is stopped.
#[derive(Debug)]
pub(crate) struct Rings {
    all: Vec<Option<IoRing>>,
    interrupts: Interrupts,
}

#[derive(Debug)]
struct IoRing {
    leg: u64,
    /// Declared before the ring, so that it is dropped first: its drop stops a controller that may still access the ring's memory.
    guard: RingGuard,
    ring: Ring<Memory, Request>,
    /// No leg uses the queue any more.
    is_orphan: bool,
    /// Its controller is at fault, which the channel has reported.
    is_lost: bool,
}

impl Rings {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { all: Vec::new(), interrupts: Interrupts::new()? })
    }

    /// Adds a queue, and returns its key.
    ///
    /// # Errors
    /// The thread cannot wait for the queue's interrupt. The queue is deleted and reported as lost.
    pub(crate) fn add(&mut self, leg: u64, queue: IoQueue) -> Result<usize> {
        let (ring, guard) = queue.into_ring().ok_or_else(Error::no_such_device)?;
        let vector = guard.function.vector(guard.ticket.qid);
        if let Some(Err(error)) = vector.map(|(_, vector)| self.interrupts.add(vector)) {
            guard.ticket.report_lost(format!("interrupt of an I/O queue: {}", error.message()));
            let (memory, _) = ring.into_parts();
            guard.discard(memory);
            return Err(error);
        }
        let ring = IoRing { leg, guard, ring, is_orphan: false, is_lost: false };
        let key = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        self.all.resize_with(self.all.len().max(key + 1), || None);
        if let Some(free) = self.all.get_mut(key) {
            *free = Some(ring);
        }
        Ok(key)
    }

    fn get(&self, key: usize) -> Option<&IoRing> {
        self.all.get(key)?.as_ref()
    }

    /// A queue's leg and ticket.
    pub(crate) fn ticket(&self, key: usize) -> Option<(u64, &Ticket)> {
        self.get(key).map(|ring| (ring.leg, &ring.guard.ticket))
    }

    /// How many commands a queue has outstanding.
    pub(crate) fn outstanding(&self, key: usize) -> usize {
        self.get(key).map_or(0, |ring| ring.ring.outstanding())
    }

    /// The commands outstanding on every queue, with the queue's ticket and their identifiers.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (&Ticket, u16, &Request)> {
        self.all.iter().flatten().flat_map(|ring| {
            ring.ring.iter().map(move |(cid, request)| (&ring.guard.ticket, cid, request))
        })
    }

    /// Puts a command into a queue. If the controller cannot access the client's buffers, copies the data to a buffer of the pools.
    ///
    /// # Errors
    /// Returns the request when it has to wait for room in the queue (`false`) or for a buffer (`true`).
    #[inline]
    pub(crate) fn submit(
        &mut self,
        key: usize,
        command: &Command,
        request: Request,
    ) -> Result<(), (Request, bool)> {
        let ring = self.all.get_mut(key).and_then(Option::as_mut).filter(|ring| !ring.is_orphan);
        let Some(IoRing { ring, .. }) = ring else { return Err((request, false)) };
        if !ring.has_room() {
            return Err((request, false));
        }
        request.io.lend_to_device();
        let refused = match ring.submit(command, request) {
            Ok(_) => None,
            Err(Refused::Full(request)) => return Err((request, false)),
            Err(Refused::Data(request)) => Some(request),
        };
        if let Some(mut request) = refused {
            if !request.copy_for_device() {
                let len = request.data_len();
                if buf::pool_for(len).is_some() {
                    return Err((request, true));
                }
                warn!("no pool has buffers of {len} bytes for data that a device cannot access");
                request.io.complete(Status::errno(errno::ENOMEM));
                return Ok(());
            }
            match ring.submit(command, request) {
                Ok(_) => {}
                Err(Refused::Full(request)) => return Err((request, false)),
                Err(Refused::Data(request)) => {
                    warn!("{} bytes do not fit a command", request.io.buffers().len());
                    request.io.complete(Status::IO_ERROR);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes completions if `receives` is true, and rings the doorbells. Commands that have ended go to `done` with their legs. Commands
    /// that a stopped controller has not completed go to `back`. Returns whether there were any of either.
    #[inline]
    pub(crate) fn round(
        &mut self,
        receives: bool,
        done: &mut Vec<(u64, Completed<Request>)>,
        back: &mut VecDeque<Request>,
    ) -> bool {
        let mut count = 0;
        for place in &mut self.all {
            let Some(IoRing { leg, ring, guard, is_orphan, is_lost }) = place else { continue };
            if receives && !*is_lost {
                let injections = &guard.ticket.path().io_injections;
                let reaped = ring.reap(|mut request, mut completion| {
                    if let Some(status) = injections.after(request.opcode()) {
                        completion.status = status;
                    }
                    request.take_from_device(completion.status.is_success());
                    let received = request.data_len();
                    done.push((*leg, Completed { request, completion, received }));
                    count += 1;
                });
                if let Err(fault) = reaped {
                    *is_lost = true;
                    guard.ticket.report_lost(fault.to_string());
                }
            }
            guard.function.ring(ring);
            if *is_orphan && (ring.outstanding() == 0 || guard.function.is_stopped()) {
                let Some(IoRing { ring, guard, .. }) = place.take() else { continue };
                let (memory, requests) = ring.into_parts();
                count += requests.len();
                back.extend(requests.into_iter().map(Request::taken_back));
                guard.discard(memory);
            }
        }
        count > 0
    }

    /// The leg no longer uses the queue.
    pub(crate) fn abandon(&mut self, key: usize) {
        if let Some(Some(ring)) = self.all.get_mut(key) {
            ring.is_orphan = true;
        }
    }

    /// Clears the interrupts, then checks for completions, so that a completion in between is not missed.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.interrupts.clear();
        self.all.iter().flatten().any(|ring| {
            let has_ended = ring.is_orphan
                && (ring.ring.outstanding() == 0 || ring.guard.function.is_stopped());
            has_ended || ring.ring.has_completions()
        })
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.interrupts.wake_fd()
    }
}

impl Drop for Rings {
    /// The channel has ended, so no command should be outstanding. If one is, the controller is stopped before its memory is freed.
    fn drop(&mut self) {
        for ring in self.all.drain(..).flatten() {
            if ring.ring.outstanding() > 0 && !ring.guard.function.is_stopped() {
                ring.guard.function.cut_off();
                ring.guard.ticket.report_lost("a channel ended with commands outstanding".into());
            }
            let (memory, requests) = ring.ring.into_parts();
            requests.into_iter().for_each(|request| request.io.complete(Status::IO_ERROR));
            ring.guard.discard(memory);
        }
    }
}
