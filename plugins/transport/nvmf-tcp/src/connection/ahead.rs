//! Receives the data of capsules directly into its final place.
//!
//! A host that writes sends one capsule after another, each with as much data as the last one. So the connection gets
//! memory for about as many capsules as the last receive brought. The next receive is scattered: a header goes to the
//! inbox, its data to the memory of a request, the next header behind the first, and so on. The rest goes to the inbox.
//! Data of predicted capsules is not copied again. If something else arrives, all of it is put into the inbox in order,
//! as if it had been received there, and for a while nothing is predicted.
//!
//! Requests are here only from [`Connection::receive_slices`] until [`Connection::received`] has returned.

use super::inbox::{self, Inbox};
use super::receive::Stage;
use super::{Carrier, Connection, Phase, Target};
use drivebay_spec_nvme_tcp::{CapsuleCmd, Frame};
use std::collections::VecDeque;

/// The maximum number of capsules to predict: as many with 4 KiB as the inbox holds.
pub(super) const CAPSULES: usize = 38;
/// Minimum length of the data of a predicted capsule, in bytes. For shorter data, the extra pieces of a receive cost
/// more than the copy.
const SHORT: u32 = 2048;
/// Minimum number of such capsules. The copy of fewer ones is cheap, because their data is still in the cache.
const FEW: usize = 4;
/// Number of receives without a prediction after a wrong one.
const PAUSE: u32 = 64;

/// The prediction.
#[derive(Debug)]
pub(super) struct Ahead<R> {
    /// Length of the data of the last capsule, in bytes.
    len: u32,
    /// How many such capsules came one after another at the end of the last receive.
    came: usize,
    /// Remaining receives without a prediction.
    pause: u32,
    /// Requests with memory for the data of the next capsules, in order.
    requests: VecDeque<R>,
    /// Bytes of data in these requests. All are full except the last one that has data.
    bytes: usize,
}

impl<R> Default for Ahead<R> {
    fn default() -> Self {
        Self { len: 0, came: 0, pause: 0, requests: VecDeque::new(), bytes: 0 }
    }
}

impl<R: Carrier> Ahead<R> {
    /// Notes a capsule with `len` bytes of data.
    #[inline]
    pub(super) fn saw(&mut self, len: u32) {
        self.came = if len == self.len { self.came + 1 } else { usize::from(len > 0) };
        self.len = len;
    }

    /// The number of capsules to predict.
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
        // Predicts a quarter more, because bursts grow.
        (came + came / 4).min(CAPSULES).min(inbox::LEN / each - 1)
    }

    /// Length of each predicted capsule, in bytes.
    #[inline]
    pub(super) fn capsules_len(&self) -> usize {
        self.requests.len() * (CapsuleCmd::LEN + self.len as usize)
    }

    /// Fills the places of a receive: headers go to `space`, which already has the first `begun` bytes of a header, and
    /// data goes to the requests. Returns the rest of `space`.
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

    /// Accounts for `n` received bytes, which continue a header with `begun` bytes. Returns how many of them are in the
    /// inbox.
    #[inline]
    pub(super) fn received(&mut self, n: usize, begun: usize) -> usize {
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

    /// Whether a capsule is predicted, with this `frame` or another.
    #[inline]
    pub(super) fn foresees(&self, frame: &Frame) -> Option<bool> {
        let is_this = frame.data_len == self.len && frame.data_offset == CapsuleCmd::LEN;
        (!self.requests.is_empty()).then_some(is_this)
    }

    /// The request of the next capsule, and how much of its data has arrived.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(R, u32)> {
        let request = self.requests.pop_front()?;
        let come = self.bytes.min(self.len as usize);
        self.bytes -= come;
        Some((request, u32::try_from(come).unwrap_or(0)))
    }

    /// Moves the data into the inbox, each behind its header.
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
    /// Gets memory for the predicted capsules, as much as there is.
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
                return self.commands.insert_free(request);
            }
            self.ahead.requests.push_back(request);
        }
    }

    /// Whether the next byte belongs to the header of a capsule: either the next byte to arrive, or the one behind the
    /// data that goes to its command.
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

    /// The prediction was wrong: moves data from requests to the inbox, and gives the requests back.
    pub(super) fn line_up(&mut self) {
        if !self.ahead.requests.is_empty() {
            self.ahead.line_up(&mut self.inbox);
            self.ahead.pause = PAUSE;
            self.release_unused();
        }
    }

    /// All received bytes that can be processed now were processed. Moves the rest to the inbox.
    #[inline]
    pub(super) fn end_ahead(&mut self) {
        self.ahead.line_up(&mut self.inbox);
        self.release_unused();
    }

    /// Gives requests back for which no data arrived.
    #[inline]
    pub(crate) fn release_unused(&mut self) {
        self.ahead.bytes = 0;
        while let Some(mut request) = self.ahead.requests.pop_front() {
            request.release();
            self.commands.insert_free(request);
        }
    }
}
