//! The file or block device of the I/O: opening it, and its geometry.
#![expect(unsafe_code, reason = "ioctl(2) and statx(2) have no safe wrapper in std")]

use std::borrow::Cow;
use std::ffi::c_int;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{error, fmt, ptr};

use crate::Errno;

/// Block size if the system does not report one, in bytes.
const DEFAULT_BLOCK_SIZE: u32 = 512;

/// `STATX_DIOALIGN` of linux/stat.h, since Linux 6.1.
const STATX_DIOALIGN: u32 = 0x2000;

/// An open regular file or block device, for I/O at byte offsets. Any number of rings may share
/// it.
#[derive(Debug)]
pub struct BackingFile {
    file: File,
    path: PathBuf,
    read_only: bool,
    direct: bool,
    is_block_device: bool,
    logical_block_size: u32,
    physical_block_size: u32,
    memory_alignment: u32,
}

/// Why a file cannot be used: its path, what failed, and the kernel's error.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    what: Cow<'static, str>,
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(path: &Path, what: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self { path: path.to_owned(), what: what.into(), source }
    }

    /// The kernel's error number, or the closest one.
    pub fn errno(&self) -> Errno {
        Errno::of(&self.source)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.path.display(), self.what, self.source)
    }
}

impl error::Error for FileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens an existing regular file or block device. `direct` bypasses the page cache (`O_DIRECT`).
/// Offsets and lengths must then be multiples of the logical block size, and memory must be aligned to
/// [`BackingFile::memory_alignment`].
///
/// # Errors
///
/// When the path does not exist, cannot be opened in this mode, is another kind of file, or is on a file
/// system without direct I/O.
pub fn open_file(
    path: impl AsRef<Path>,
    read_only: bool,
    direct: bool,
) -> Result<BackingFile, FileError> {
    let path = path.as_ref();
    let refused = |what: &'static str| move |source| FileError::new(path, what, source);
    metadata_of_storage(path)?;

    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) if direct => {
                refused("its file system lacks direct I/O; open the file without it")(source)
            }
            _ if read_only => refused("cannot be opened for reading")(source),
            _ => refused("cannot be opened for reading and writing")(source),
        })?;
    let metadata = file.metadata().map_err(refused("cannot be examined (fstat)"))?;
    require_storage(&metadata).map_err(refused("must be a regular file or a block device"))?;

    let is_block_device = metadata.file_type().is_block_device();
    let align = Alignment::of(&file, &metadata).map_err(refused("has an unknown block size"))?;
    Ok(BackingFile {
        file,
        path: path.to_owned(),
        read_only,
        direct,
        is_block_device,
        logical_block_size: align.logical,
        physical_block_size: align.physical,
        memory_alignment: if direct { align.memory } else { 1 },
    })
}

impl BackingFile {
    /// The path used to open the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the file was opened with `O_DIRECT`.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device; otherwise it is a regular file.
    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// The current size, in bytes. The file may be resized while it is open.
    ///
    /// # Errors
    ///
    /// The errors of `lseek(2)`, such as for a device that was removed.
    pub fn size_bytes(&self) -> io::Result<u64> {
        // This is the only way that works for both files and devices. No other code uses the position.
        (&self.file).seek(SeekFrom::End(0))
    }

    /// The smallest unit of I/O, in bytes: the logical block of a block device, or for a regular file the
    /// alignment that direct I/O requires (512 if unknown).
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_size
    }

    /// The unit that can be written without reading first, in bytes: the physical block of a block device, or
    /// the file system's block for a regular file. At least the logical block size.
    pub fn physical_block_size(&self) -> u32 {
        self.physical_block_size
    }

    /// Required alignment of each segment's address, in bytes; 1 without direct I/O.
    pub fn memory_alignment(&self) -> u32 {
        self.memory_alignment
    }

    /// A short transfer can continue only after a multiple of this many bytes.
    pub(crate) fn progress_unit(&self) -> u32 {
        if self.direct { self.logical_block_size } else { 1 }
    }
}

impl AsFd for BackingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Checks a path before it is opened, because opening a FIFO would block, and opening a tape would rewind it.
///
/// # Errors
///
/// When the path does not exist, or is neither a regular file nor a block device.
pub(crate) fn metadata_of_storage(path: &Path) -> Result<Metadata, FileError> {
    let found = std::fs::metadata(path)
        .map_err(|source| FileError::new(path, "cannot be found", source))?;
    require_storage(&found).map_err(|source| {
        FileError::new(path, "must be a regular file or a block device", source)
    })?;
    Ok(found)
}

/// Accepts regular files and block devices only.
fn require_storage(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() || metadata.file_type().is_block_device() {
        Ok(())
    } else if metadata.is_dir() {
        Err(io::Error::from_raw_os_error(libc::EISDIR))
    } else {
        Err(Errno::INVALID.into())
    }
}

/// The alignments and units of a file, in bytes.
struct Alignment {
    logical: u32,
    physical: u32,
    memory: u32,
}

impl Alignment {
    fn of(file: &File, metadata: &Metadata) -> io::Result<Self> {
        let direct = direct_alignment(file);
        let (logical, physical) = if metadata.file_type().is_block_device() {
            (block_ioctl(file, libc::BLKSSZGET)?, block_ioctl(file, libc::BLKPBSZGET)?)
        } else {
            let offset = direct.map_or(DEFAULT_BLOCK_SIZE, |(_, offset)| offset);
            (offset, u32::try_from(metadata.blksize()).unwrap_or(DEFAULT_BLOCK_SIZE))
        };
        let logical = logical.max(1);
        let memory = direct.map_or(logical, |(memory, _)| memory);
        Ok(Self { logical, physical: physical.max(logical), memory })
    }
}

/// The alignment of memory and of offsets that direct I/O needs, if the kernel reports it.
fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: all fields are integers, for which zero is valid.
    let mut answer: libc::statx = unsafe { zeroed() };
    let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a C string and `answer` is writable.
    let result =
        unsafe { libc::statx(fd, c"".as_ptr(), flags, STATX_DIOALIGN, ptr::from_mut(&mut answer)) };
    let reported = result == 0 && answer.stx_mask & STATX_DIOALIGN != 0;
    let (memory, offset) = (answer.stx_dio_mem_align, answer.stx_dio_offset_align);
    (reported && memory > 0 && offset > 0).then_some((memory, offset))
}

/// Calls an ioctl that returns a block size in an int.
fn block_ioctl(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let mut size: c_int = 0;
    // SAFETY: both requests write one int (BLKPBSZGET an unsigned one), and `size` has room for it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, ptr::from_mut(&mut size)) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(size).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn disk() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, vec![0; 10_000]).unwrap();
        (dir, path)
    }

    #[test]
    fn a_regular_file_tells_its_size_also_after_it_has_grown() {
        let (_dir, path) = disk();
        let file = open_file(&path, false, false).unwrap();
        assert_eq!(file.size_bytes().unwrap(), 10_000);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(20_480).unwrap();
        assert_eq!(file.size_bytes().unwrap(), 20_480);
        assert!(!file.is_block_device());
        assert!(file.logical_block_size().is_power_of_two());
        assert!(file.physical_block_size() >= file.logical_block_size());
        assert_eq!(file.memory_alignment(), 1);
    }

    #[test]
    fn only_regular_files_and_block_devices_are_opened() {
        let (dir, path) = disk();
        let error = open_file(dir.path(), true, false).unwrap_err();
        assert!(error.to_string().contains("must be a regular file or a block device"));
        assert_eq!(open_file("/dev/null", true, false).unwrap_err().errno(), Errno::INVALID);
        let missing = open_file(path.with_extension("no"), true, false).unwrap_err();
        assert_eq!(missing.errno().number(), libc::ENOENT);
        assert!(missing.to_string().contains("disk.no: cannot be found"));
    }

    #[test]
    fn a_block_device_tells_what_the_kernel_knows_of_it() {
        let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let opened = disks.filter_map(|disk| {
            let device = Path::new("/dev").join(disk.file_name());
            open_file(device, true, false).ok().map(|file| (disk.path(), file))
        });
        let Some((sys, file)) = opened.into_iter().next() else {
            eprintln!("skipped: no block device may be opened here");
            return;
        };
        let number = |name: &str| -> u64 {
            fs::read_to_string(sys.join(name)).unwrap().trim().parse().unwrap()
        };
        assert!(file.is_block_device());
        assert_eq!(file.size_bytes().unwrap(), number("size") * 512);
        assert_eq!(u64::from(file.logical_block_size()), number("queue/logical_block_size"));
        assert_eq!(u64::from(file.physical_block_size()), number("queue/physical_block_size"));
    }
}
