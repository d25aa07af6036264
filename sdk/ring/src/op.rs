//! What a ring can be asked to do.

/// One operation on a file. Offsets and lengths are in bytes; an operation that would reach past
/// `i64::MAX` completes with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads into the request's segments. Completes with fewer bytes only at the end of the file.
    Read {
        /// Where in the file.
        offset: u64,
    },
    /// Writes the request's segments, all of them or an error.
    Write {
        /// Where in the file.
        offset: u64,
        /// On stable storage before it completes (`RWF_DSYNC`), as a forced unit access is.
        durable: bool,
    },
    /// Brings what was written to stable storage (`fdatasync`, which includes the file's size).
    ///
    /// By libaio on a kernel before 4.18 it completes with [`NOT_SUPPORTED`]: the caller must sync
    /// in another way, such as on a worker thread.
    ///
    /// [`NOT_SUPPORTED`]: crate::Errno::NOT_SUPPORTED
    Fdatasync,
    /// As [`Fdatasync`](Self::Fdatasync), and the file's other metadata (`fsync`).
    Fsync,
    /// Gives the range back to the file system or device; it then reads as zeroes. The size stays.
    ///
    /// libaio has no such operation: the ring's thread makes the call, and what is flushed later
    /// reaches the kernel after it.
    PunchHole {
        /// First byte.
        offset: u64,
        /// Length of the range; not 0.
        len: u64,
    },
    /// Makes the range read as zeroes without giving it back. The size stays. By libaio as
    /// [`PunchHole`](Self::PunchHole).
    ZeroRange {
        /// First byte.
        offset: u64,
        /// Length of the range; not 0.
        len: u64,
    },
}

impl Op {
    /// First byte and, where the operation itself has one, length of the range it touches.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            Self::Read { offset } | Self::Write { offset, .. } => (offset, 0),
            Self::Fdatasync | Self::Fsync => (0, 0),
            Self::PunchHole { offset, len } | Self::ZeroRange { offset, len } => (offset, len),
        }
    }

    /// Whether bytes move between the file and the request's segments.
    pub(crate) fn moves_data(self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }

    /// The mode of `fallocate(2)` for an operation on a range, 0 for any other.
    pub(crate) fn fallocate_mode(self) -> i32 {
        match self {
            Self::PunchHole { .. } => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Self::ZeroRange { .. } => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            Self::Read { .. } | Self::Write { .. } | Self::Fdatasync | Self::Fsync => 0,
        }
    }
}
