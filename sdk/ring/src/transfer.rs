//! The progress of one operation.

use crate::{Errno, IoBuffers, Op, Segment};

/// Maximum number of segments of one vectored call (the kernel's `UIO_MAXIOV`).
const MAX_SEGMENTS: usize = 1024;

/// How often one operation is submitted again after `EINTR` or `EAGAIN`.
const MAX_RETRIES: u8 = 16;

/// One operation, and the part of it that is not done yet.
#[derive(Debug)]
pub(crate) struct Transfer {
    op: Op,
    /// Index of the file in the ring's table.
    pub(crate) file: usize,
    /// The operation can continue only after a multiple of this many bytes: the block size of O_DIRECT.
    alignment: u32,
    segments: Vec<Segment>,
    /// First segment that is not used up. It is already shortened by the bytes done.
    first: usize,
    done_bytes: u32,
    retries: u8,
}

/// What to do after a result from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Complete with this result.
    Done(Result<u32, Errno>),
    /// Submit the rest to the kernel.
    Again,
}

impl Transfer {
    pub(crate) fn idle() -> Self {
        Self {
            op: Op::Fdatasync,
            file: 0,
            alignment: 1,
            segments: Vec::with_capacity(4),
            first: 0,
            done_bytes: 0,
            retries: 0,
        }
    }

    /// Starts a new operation. Reuses the segment list's memory.
    ///
    /// Fails if the kernel could not execute the request.
    pub(crate) fn start<T: IoBuffers>(
        &mut self,
        op: Op,
        file: usize,
        alignment: u32,
        request: &T,
    ) -> Result<(), Errno> {
        self.op = op;
        self.file = file;
        self.alignment = alignment.max(1);
        self.first = 0;
        self.done_bytes = 0;
        self.retries = 0;
        self.segments.clear();

        let mut segments_bytes: u64 = 0;
        if op.moves_data() {
            self.segments.extend(request.segments().take(MAX_SEGMENTS + 1));
            segments_bytes =
                self.segments.iter().fold(0, |sum: u64, s| sum.saturating_add(s.len as u64));
        }
        if matches!(op, Op::Read { .. }) && !request.writable() {
            return Err(Errno::FAULT);
        }
        let (offset, op_bytes) = op.range();
        let end = offset.checked_add(op_bytes).and_then(|end| end.checked_add(segments_bytes));
        let in_file = end.is_some_and(|end| i64::try_from(end).is_ok());
        let in_one_call =
            self.segments.len() <= MAX_SEGMENTS && u32::try_from(segments_bytes).is_ok();
        if in_file && in_one_call { Ok(()) } else { Err(Errno::INVALID) }
    }

    pub(crate) fn op(&self) -> Op {
        self.op
    }

    /// Byte offset in the file of the rest of the data.
    pub(crate) fn offset(&self) -> u64 {
        self.op.range().0 + u64::from(self.done_bytes)
    }

    /// The memory that is not read or written yet.
    pub(crate) fn rest(&self) -> &[Segment] {
        self.segments.get(self.first..).unwrap_or_default()
    }

    /// Handles a result from the kernel: the number of bytes, or a negative errno.
    pub(crate) fn advance(&mut self, result: i32) -> Next {
        let Ok(moved) = u32::try_from(result) else {
            let again = matches!(-result, libc::EINTR | libc::EAGAIN) && self.retries < MAX_RETRIES;
            self.retries += u8::from(again);
            return if again { Next::Again } else { Next::Done(Err(Errno::from_result(result))) };
        };
        if !self.op.moves_data() {
            return Next::Done(Ok(0));
        }
        self.done_bytes = self.done_bytes.saturating_add(moved);
        self.consume(moved as usize);
        let finished = self.rest().is_empty();
        // No progress means the end of the file. An end inside a block is also the end of the file, and
        // O_DIRECT could not continue from there.
        let at_end = moved == 0 || !self.done_bytes.is_multiple_of(self.alignment);
        match self.op {
            _ if finished => Next::Done(Ok(self.done_bytes)),
            Op::Write { .. } if at_end => Next::Done(Err(Errno::SHORT_WRITE)),
            _ if at_end => Next::Done(Ok(self.done_bytes)),
            _ => Next::Again,
        }
    }

    /// Removes `bytes` from the front of the segments.
    fn consume(&mut self, mut bytes: usize) {
        while let Some(segment) = self.segments.get_mut(self.first) {
            if bytes < segment.len {
                segment.ptr = segment.ptr.wrapping_add(bytes);
                segment.len -= bytes;
                return;
            }
            bytes -= segment.len;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::without_provenance_mut;

    struct Memory(Vec<Segment>, bool);

    // SAFETY: these tests submit nothing to the kernel.
    #[expect(unsafe_code, reason = "a request without real memory")]
    unsafe impl IoBuffers for Memory {
        fn segments(&self) -> impl Iterator<Item = Segment> {
            self.0.iter().copied()
        }
        fn writable(&self) -> bool {
            self.1
        }
    }

    fn memory(lens: &[usize]) -> Memory {
        let mut at = 0x1000;
        let segments = lens.iter().map(|&len| {
            let segment = Segment { ptr: without_provenance_mut(at), len };
            at += 0x1000;
            segment
        });
        Memory(segments.collect(), true)
    }

    fn read_of(lens: &[usize], alignment: u32) -> Transfer {
        let mut transfer = Transfer::idle();
        transfer.start(Op::Read { offset: 4096 }, 0, alignment, &memory(lens)).unwrap();
        transfer
    }

    #[test]
    fn a_short_result_leaves_the_rest_of_the_segment_it_ended_in() {
        let mut transfer = read_of(&[10, 20, 30], 1);
        assert_eq!(transfer.advance(15), Next::Again);
        let rest: Vec<_> = transfer.rest().iter().map(|s| (s.ptr.addr(), s.len)).collect();
        assert_eq!(rest, [(0x2005, 15), (0x3000, 30)]);
        assert_eq!(transfer.offset(), 4096 + 15);
        assert_eq!(transfer.advance(45), Next::Done(Ok(60)));
    }

    #[test]
    fn no_progress_is_the_end_of_the_file_and_reported_as_short() {
        let mut transfer = read_of(&[10, 20], 1);
        assert_eq!(transfer.advance(10), Next::Again);
        assert_eq!(transfer.advance(0), Next::Done(Ok(10)));
    }

    #[test]
    fn a_write_is_whole_or_an_error() {
        let mut transfer = Transfer::idle();
        let op = Op::Write { offset: 0, durable: false };
        transfer.start(op, 0, 1, &memory(&[10])).unwrap();
        assert_eq!(transfer.advance(4), Next::Again);
        assert_eq!(transfer.advance(0), Next::Done(Err(Errno::SHORT_WRITE)));
    }

    #[test]
    fn direct_io_that_ends_inside_a_block_is_not_continued() {
        let mut transfer = read_of(&[1024], 512);
        assert_eq!(transfer.advance(700), Next::Done(Ok(700)));
        let mut transfer = read_of(&[1024], 512);
        assert_eq!(transfer.advance(512), Next::Again);
    }

    #[test]
    fn an_interrupted_operation_is_retried_but_not_for_ever() {
        let mut transfer = read_of(&[10], 1);
        for _ in 0..MAX_RETRIES {
            assert_eq!(transfer.advance(-libc::EINTR), Next::Again);
        }
        assert_eq!(
            transfer.advance(-libc::EINTR),
            Next::Done(Err(Errno::from_result(-libc::EINTR)))
        );
    }

    #[test]
    fn an_error_after_progress_is_the_error() {
        let mut transfer = read_of(&[1024], 1);
        assert_eq!(transfer.advance(512), Next::Again);
        assert_eq!(transfer.advance(-libc::EIO), Next::Done(Err(Errno::from_result(-libc::EIO))));
    }

    #[test]
    fn what_no_kernel_call_can_carry_is_refused() {
        let start = |op, request: &Memory| Transfer::idle().start(op, 0, 1, request);
        let max = i64::MAX as u64;
        assert_eq!(start(Op::Read { offset: max - 10 }, &memory(&[10])), Ok(()));
        assert_eq!(start(Op::Read { offset: max - 9 }, &memory(&[10])), Err(Errno::INVALID));
        assert_eq!(start(Op::Read { offset: u64::MAX }, &memory(&[])), Err(Errno::INVALID));
        assert_eq!(
            start(Op::PunchHole { offset: 1, len: u64::MAX }, &memory(&[])),
            Err(Errno::INVALID)
        );
        assert_eq!(start(Op::Read { offset: 0 }, &memory(&[1; 1024])), Ok(()));
        assert_eq!(start(Op::Read { offset: 0 }, &memory(&[1; 1025])), Err(Errno::INVALID));
        assert_eq!(
            start(Op::Read { offset: 0 }, &memory(&[u32::MAX as usize, 1])),
            Err(Errno::INVALID)
        );
    }

    #[test]
    fn memory_that_is_only_readable_is_never_read_into() {
        let request = Memory(memory(&[8]).0, false);
        let start = |op| Transfer::idle().start(op, 0, 1, &request);
        assert_eq!(start(Op::Read { offset: 0 }), Err(Errno::FAULT));
        assert_eq!(start(Op::Write { offset: 0, durable: false }), Ok(()));
    }
}
