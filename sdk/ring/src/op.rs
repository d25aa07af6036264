//! The operations of a ring.

/// One operation on a file. Offsets and lengths are in bytes. An operation that would reach past
/// `i64::MAX` completes with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads into the request's segments. Completes with fewer bytes only at the end of the file.
    Read {
        /// Byte offset in the file.
        offset: u64,
    },
    /// Writes all of the request's segments, or fails.
    Write {
        /// Byte offset in the file.
        offset: u64,
        /// Whether the data is on stable storage before completion (`RWF_DSYNC`), as for a forced unit access.
        durable: bool,
    },
    /// Makes written data durable (`fdatasync`, which includes the file's size).
    ///
    /// With libaio on a kernel before 4.18 it completes with [`NOT_SUPPORTED`]; the caller must then sync
    /// in another way, such as on a worker thread.
    ///
    /// [`NOT_SUPPORTED`]: crate::Errno::NOT_SUPPORTED
    Fdatasync,
    /// As [`Fdatasync`](Self::Fdatasync), and also makes the file's other metadata durable (`fsync`).
    Fsync,
    /// Deallocates the range in the file system or device. The range then reads as zeroes. The size does not
    /// change.
    ///
    /// libaio has no such operation. The ring's thread makes the call, and later flushed operations reach the
    /// kernel after it.
    PunchHole {
        /// First byte.
        offset: u64,
        /// Length of the range; not 0.
        len: u64,
    },
    /// Makes the range read as zeroes without deallocating it. The size does not change. With libaio it works
    /// as [`PunchHole`](Self::PunchHole).
    ZeroRange {
        /// First byte.
        offset: u64,
        /// Length of the range; not 0.
        len: u64,
    },
}

impl Op {
    /// First byte, and length of the range if the operation has one.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            Self::Read { offset } | Self::Write { offset, .. } => (offset, 0),
            Self::Fdatasync | Self::Fsync => (0, 0),
            Self::PunchHole { offset, len } | Self::ZeroRange { offset, len } => (offset, len),
        }
    }

    /// Whether the operation transfers data between the file and the request's segments.
    pub(crate) fn moves_data(self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }

    /// The mode of `fallocate(2)` for an operation on a range; 0 for any other.
    pub(crate) fn fallocate_mode(self) -> i32 {
        match self {
            Self::PunchHole { .. } => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Self::ZeroRange { .. } => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            Self::Read { .. } | Self::Write { .. } | Self::Fdatasync | Self::Fsync => 0,
        }
    }
}
