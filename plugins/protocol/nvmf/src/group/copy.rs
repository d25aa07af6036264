//! Copy: source ranges are read into a buffer and written to their destination, range after range. NVM Command Set 1.0, section 3.2.2.
//!
//! A poll group has one buffer and executes one Copy at a time; the others wait in their order. The next range begins in a later round, so
//! a long Copy holds up nobody.

use super::namespace::Chores;
use super::path::{GONE, end};
use super::{LocalNamespace, Nvmf, Phase, finish};
use crate::io::{self, CopyPlan};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::nvmf::protocol::Request;
use drivebay_spec_nvme::Status;
use std::collections::VecDeque;
use std::rc::Rc;

/// The Copy commands of a poll group.
#[derive(Debug, Default)]
pub(super) struct Copies {
    waiting: VecDeque<Waiting>,
    /// The one that executes, between two of its ranges.
    ready: Option<Box<Job>>,
    is_busy: bool,
    /// Kept from one Copy to the next.
    buf: Option<Buf>,
}

#[derive(Debug)]
struct Waiting {
    request: Request<Nvmf>,
    namespace: Rc<LocalNamespace>,
    plan: CopyPlan,
}

/// The Copy that executes. It owns its buffer while one of its I/Os is in the bdev.
#[derive(Debug)]
struct Job {
    buf: Buf,
    request: Request<Nvmf>,
    /// As in [`super::pieces`], it stays with the namespace that it began on.
    namespace: Rc<LocalNamespace>,
    sources: VecDeque<Range>,
    /// Where the next source goes.
    to: u64,
    flags: IoFlags,
}

impl AsMut<Buf> for Job {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl Copies {
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_none() && (self.is_busy || self.waiting.is_empty())
    }
}

/// Begins a Copy, or has it wait for its turn.
pub(super) fn begin(request: Request<Nvmf>, namespace: &Rc<LocalNamespace>, plan: CopyPlan) {
    let chores = Rc::clone(&request.qpair().group().chores);
    let namespace = Rc::clone(namespace);
    chores.copies.borrow_mut().waiting.push_back(Waiting { request, namespace, plan });
}

/// Does one step of a round; whether there was one.
pub(super) fn step(chores: &Rc<Chores>) -> bool {
    let ready = chores.copies.borrow_mut().ready.take();
    if let Some(job) = ready {
        next_range(job);
        return true;
    }
    let mut copies = chores.copies.borrow_mut();
    if copies.is_busy {
        return false;
    }
    let Some(Waiting { request, namespace, plan }) = copies.waiting.pop_front() else {
        return false;
    };
    let buf = copies.buf.take().map_or_else(|| buf::alloc(io::COPY_RANGE_BYTES), Ok);
    copies.is_busy = buf.is_ok();
    drop(copies);
    match buf {
        Ok(buf) => {
            let CopyPlan { sources, to, is_durable } = plan;
            let flags = if is_durable { IoFlags::FUA } else { IoFlags::NONE };
            next_range(Box::new(Job {
                buf,
                request,
                namespace,
                sources: sources.into(),
                to,
                flags,
            }));
        }
        // No memory now: the host may try again.
        Err(_) => finish(request, Status::NAMESPACE_NOT_READY, 0),
    }
    true
}

/// Reads the next source, or ends the Copy.
fn next_range(mut job: Box<Job>) {
    let Some(source) = job.sources.front().copied() else {
        return over(*job, |request| end(request, IoResult::new(drivebay_sdk::Status::SUCCESS)));
    };
    if job.request.qpair().state().phase.get() == Phase::Ended {
        return over(*job, |request| finish(request, Status::ABORTED_SQ_DELETION, 0));
    }
    if job.namespace.is_ending() {
        return over(*job, |request| finish(request, GONE, 0));
    }
    let namespace = Rc::clone(&job.namespace);
    let block_size = u64::from(namespace.geometry.get().block_size);
    let len = u32::try_from(source.nblocks * block_size).unwrap_or(u32::MAX);
    job.buf.set_len(len.min(io::COPY_RANGE_BYTES));
    namespace.submit(Op::Read(source), IoFlags::NONE, job, was_read);
}

/// A source is in the buffer.
fn was_read(job: Box<Job>, result: IoResult) {
    let (namespace, flags) = (Rc::clone(&job.namespace), job.flags);
    match job.sources.front().copied() {
        Some(source) if result.status.is_success() => {
            let to = Range::new(job.to, source.nblocks);
            namespace.submit(Op::Write(to), flags, job, was_written);
        }
        _ => over(*job, |request| end(request, result)),
    }
    // Only now: a namespace that ends gives its channel back when nothing is in flight.
    namespace.leave();
}

/// A source is where it belongs.
fn was_written(mut job: Box<Job>, result: IoResult) {
    job.namespace.leave();
    if !result.status.is_success() {
        return over(*job, |request| end(request, result));
    }
    if let Some(done) = job.sources.pop_front() {
        job.to += done.nblocks;
    }
    let chores = Rc::clone(&job.request.qpair().group().chores);
    chores.copies.borrow_mut().ready = Some(job);
}

/// Ends a Copy: the next one may begin.
fn over(job: Job, end: impl FnOnce(Request<Nvmf>)) {
    let Job { buf, request, .. } = job;
    let chores = Rc::clone(&request.qpair().group().chores);
    {
        let mut copies = chores.copies.borrow_mut();
        copies.is_busy = false;
        copies.buf = Some(buf);
    }
    end(request);
}
