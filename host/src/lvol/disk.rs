//! A file or a device as the disk of a store.

use drivebay_blobstore::{Disk, DiskError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Zeros are written in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// A file or a device, locked. The lock keeps out only programs that take the same lock.
pub(super) struct FileDisk {
    file: File,
    size: u64,
}

impl FileDisk {
    /// Opens and locks the file, as the plugins that serve files do.
    pub(super) fn open(path: &Path, write: bool) -> io::Result<Self> {
        let is_device = path.metadata()?.file_type().is_block_device();
        let flags = if is_device && write { libc::O_EXCL } else { 0 };
        let mut file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
        let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
        let whole = libc::flock {
            l_type: i16::try_from(kind).unwrap_or(i16::MAX),
            l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(i16::MAX),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).map_err(|error| match error {
            Errno::EAGAIN | Errno::EACCES => {
                io::Error::other("in use: another process has it open and locked")
            }
            other => other.into(),
        })?;
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size })
    }
}

fn failed(error: &io::Error) -> DiskError {
    DiskError(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Disk for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        512
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let mut data = vec![0; len];
        self.file.read_exact_at(&mut data, offset).map_err(|error| failed(&error))?;
        Ok(data)
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), DiskError> {
        self.file.write_all_at(&data, offset).map_err(|error| failed(&error))
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let zeros = vec![0; PIECE_BYTES];
        let mut done = 0;
        while done < len {
            let now = usize::try_from(len - done).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let piece = zeros.get(..now).unwrap_or_default();
            self.file.write_all_at(piece, offset + done).map_err(|error| failed(&error))?;
            done += now as u64;
        }
        Ok(())
    }

    /// Does nothing, because a repair works the same whether or not an unused range keeps its old bytes.
    async fn unmap(&self, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| failed(&error))
    }

    /// Fails, because no repair reads a parent outside of the store.
    async fn read_external(&self, _: &[u8], _: u64, _: usize) -> Result<Vec<u8>, DiskError> {
        Err(DiskError(libc::ENODEV))
    }
}
