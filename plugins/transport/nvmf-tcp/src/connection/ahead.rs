//! Data of capsules, received where it stays.
//!
//! A host that writes sends one capsule after the other, each with as much data as the last. So memory is got for about as
//! many as came with the last receive, and the next one is scattered: a header to the inbox, its data to the memory of
//! a request, the next header behind the first, and so on; what is left goes to the inbox. Data that comes as it was
//! foreseen is not copied again. What comes otherwise is put into the inbox, in line, as if it had been received there, and
//! for a while nothing is foreseen.
//!
//! Requests are here only from [`Connection::receive_slices`] until [`Connection::received`] has returned.

use super::inbox::{self, Inbox};
use super::receive::Stage;
use super::{Carrier, Connection, Phase, Target};
use drivebay_spec_nvme_tcp::{CapsuleCmd, Frame};
use std::collections::VecDeque;

/// Capsules that are foreseen at most: as many with 4 KiB as the inbox holds.
pub(super) const CAPSULES: usize = 38;
/// Shorter data is not worth the pieces that it makes of a receive, in bytes.
const SHORT: u32 = 2048;
/// Fewer capsules are not either: their data is still in the cache when it is copied again.
const FEW: usize = 4;
/// Receives after one that came otherwise for which nothing is foreseen.
const PAUSE: u32 = 64;

/// What is foreseen.
#[derive(Debug)]
pub(super) struct Ahead<R> {
    /// Length of the data of the last capsule, in bytes.
    len: u32,
    /// How many such came one after the other with the last receive, up to its end.
    came: usize,
    /// Receives for which nothing is foreseen.
    pause: u32,
    /// With memory for the data of the next capsules, in their order.
    requests: VecDeque<R>,
    /// Data that lies in them, in bytes: all but the last that has some are full.
    bytes: usize,
}

impl<R> Default for Ahead<R> {
    fn default() -> Self {
        Self { len: 0, came: 0, pause: 0, requests: VecDeque::new(), bytes: 0 }
    }
}

impl<R: Carrier> Ahead<R> {
    /// A capsule with `len` bytes of data has come.
    #[inline]
    pub(super) fn saw(&mut self, len: u32) {
        self.came = if len == self.len { self.came + 1 } else { usize::from(len > 0) };
        self.len = len;
    }

    /// How many capsules to foresee.
    fn wanted(&mut self) -> usize {
        let came = std::mem::take(&mut self.came);
        if self.len < SHORT || came < FEW {
            return 0;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        let each = CapsuleCmd::LEN + self.len as usize;
        // One in four more, since bursts grow.
        (came + came / 4).min(CAPSULES).min(inbox::LEN / each - 1)
    }

    /// Length of the capsules that are foreseen, in bytes.
    #[inline]
    pub(super) fn capsules_len(&self) -> usize {
        self.requests.len() * (CapsuleCmd::LEN + self.len as usize)
    }

    /// Where their headers, to `space` whose first `begun` bytes came before, and their data go; what is left of `space`.
    pub(super) fn scatter<'a>(
        &'a mut self,
        mut space: &'a mut [u8],
        begun: usize,
        mut put: impl FnMut(&'a mut [u8]),
    ) -> &'a mut [u8] {
        let (len, mut header_len) = (self.len as usize, CapsuleCmd::LEN.saturating_sub(begun));
        for request in &mut self.requests {
            let (header, rest) = space.split_at_mut(header_len);
            put(header);
            put(request.data_mut(0).get_mut(..len).unwrap_or_default());
            (space, header_len) = (rest, CapsuleCmd::LEN);
        }
        space
    }

    /// `n` bytes came, the first of them behind the `begun` first ones of a header; how many of them are in the inbox.
    #[inline]
    pub(super) fn came(&mut self, n: usize, begun: usize) -> usize {
        let (mut left, mut header_len) = (n, CapsuleCmd::LEN.saturating_sub(begun));
        for _ in &self.requests {
            left -= left.min(header_len);
            let data = left.min(self.len as usize);
            (self.bytes, left, header_len) = (self.bytes + data, left - data, CapsuleCmd::LEN);
            if left == 0 {
                break;
            }
        }
        n - self.bytes
    }

    /// Whether a capsule is foreseen, with this `frame` or another.
    #[inline]
    pub(super) fn foresees(&self, frame: &Frame) -> Option<bool> {
        let is_this = frame.data_len == self.len && frame.data_offset == CapsuleCmd::LEN;
        (!self.requests.is_empty()).then_some(is_this)
    }

    /// The request of the next capsule, and how much of its data has come.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(R, u32)> {
        let request = self.requests.pop_front()?;
        let come = self.bytes.min(self.len as usize);
        self.bytes -= come;
        Some((request, u32::try_from(come).unwrap_or(0)))
    }

    /// Puts the data into the inbox, each behind its header.
    fn line_up(&mut self, inbox: &mut Inbox) {
        if self.bytes == 0 {
            return;
        }
        let mut left = self.bytes;
        let data = self.requests.iter_mut().map_while(|request| {
            let n = left.min(self.len as usize);
            left -= n;
            (n > 0).then(|| &*request.data_mut(0)).and_then(|data| data.get(..n))
        });
        let data: Vec<&[u8]> = data.collect();
        inbox.spread(CapsuleCmd::LEN, &data);
        self.bytes = 0;
    }
}

impl<R: Carrier> Connection<R> {
    /// Gets memory for the capsules that are foreseen, as far as there is some.
    pub(super) fn look_ahead(&mut self, target: &mut impl Target<R>) {
        let wanted = self.ahead.wanted();
        if wanted == 0 || !self.is_between_capsules() {
            return;
        }
        let len = self.ahead.len;
        for _ in 0..wanted {
            let Some(mut request) = self.commands.take_out(|slot| target.make(slot)) else {
                return;
            };
            let in_one_piece = request.obtain(len) && request.data_mut(0).len() >= len as usize;
            if !in_one_piece {
                request.release();
                return self.commands.put_back(request);
            }
            self.ahead.requests.push_back(request);
        }
    }

    /// Whether the next byte that comes, or the one behind the data that goes to its command, is of a capsule's header.
    fn is_between_capsules(&mut self) -> bool {
        let is_next = match &self.stage {
            Stage::Header => self.inbox.filled().len() < CapsuleCmd::LEN,
            Stage::Data(data) => {
                let left = data.left();
                self.inbox.is_empty() && self.stage.direct(&mut self.commands).len() == left
            }
            Stage::Digest(_) => false,
        };
        is_next
            && self.queue.is_some()
            && self.phase == Phase::Open
            && self.awaited == 0
            && self.waiting.is_empty()
            && !self.stalled
            && !self.accepts.digests.header
            && !self.accepts.digests.data
    }

    /// It came otherwise: what lies in requests goes to the inbox, and the requests go back.
    pub(super) fn line_up(&mut self) {
        if !self.ahead.requests.is_empty() {
            self.ahead.line_up(&mut self.inbox);
            self.ahead.pause = PAUSE;
            self.nothing_came();
        }
    }

    /// What was received is taken as far as it can be now: what is left is lined up.
    #[inline]
    pub(super) fn end_ahead(&mut self) {
        self.ahead.line_up(&mut self.inbox);
        self.nothing_came();
    }

    /// Requests for which nothing came go back.
    #[inline]
    pub(crate) fn nothing_came(&mut self) {
        self.ahead.bytes = 0;
        while let Some(mut request) = self.ahead.requests.pop_front() {
            request.release();
            self.commands.put_back(request);
        }
    }
}
