//! The lock of a file, and the search for the holder of a file that is in use.
#![expect(unsafe_code, reason = "open file description locks have no safe wrapper in std")]

use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use crate::FileError;
use crate::file::metadata_of_storage;

/// Maximum number of other processes' descriptors that the search for a holder examines.
const DESCRIPTORS_MAX: usize = 20_000;
/// Maximum number of holders that an error names.
const NAMED_MAX: usize = 3;

/// A locked file or block device. Dropping it, or the end of the process, releases the lock.
///
/// It has its own descriptor, which no I/O uses, because io_uring releases its files only some time
/// after a ring was closed or the process was killed.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Locks a whole file with an "open file description" lock, as QEMU does. A writer excludes everyone
/// else who takes this lock; a reader excludes writers. The writer of a block device also claims it
/// from the kernel (`O_EXCL`). That fails while the device or one of its partitions is mounted, or
/// belongs to a volume group, an array or the swap space.
///
/// # Errors
///
/// When the file does not exist, cannot be opened, or is in use. In the last case the error names the
/// holders, as far as this process can see them.
pub fn lock_file(path: impl AsRef<Path>, read_only: bool) -> Result<FileLock, FileError> {
    let path = path.as_ref();
    let metadata = metadata_of_storage(path)?;
    let claims = metadata.file_type().is_block_device() && !read_only;
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(if claims { libc::O_EXCL } else { 0 })
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => in_use(path, None, source),
            _ if read_only => FileError::new(path, "cannot be opened for reading", source),
            _ => FileError::new(path, "cannot be opened for reading and writing", source),
        })?;
    match set_lock(&file, read_only) {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(source) => match source.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => {
                let busy = io::Error::from_raw_os_error(libc::EBUSY);
                Err(in_use(path, Some(&file), busy))
            }
            _ => Err(FileError::new(path, "cannot be locked", source)),
        },
    }
}

fn set_lock(file: &File, read_only: bool) -> io::Result<()> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: all fields are integers, for which zero is valid.
    let mut whole: libc::flock = unsafe { zeroed() };
    // Start 0 and length 0 mean the whole file, even if it grows.
    whole.l_type = i16::try_from(kind).unwrap_or(i16::MAX);
    whole.l_whence = i16::try_from(libc::SEEK_SET).unwrap_or(i16::MAX);
    // SAFETY: the descriptor is open and the lock valid for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, ptr::from_ref(&whole)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the error for a file that is in use. `own` is this process's new descriptor of it.
fn in_use(path: &Path, own: Option<&File>, source: io::Error) -> FileError {
    let mut holders = fs::metadata(path).map(|file| holders(&Identity::of(&file), own));
    let holders = holders.as_mut().map(std::mem::take).unwrap_or_default();
    let mut what = "in use".to_owned();
    if holders.is_empty() {
        what.push_str(": another process has locked it, but it is not visible from here");
    }
    for (n, holder) in holders.iter().take(NAMED_MAX).enumerate() {
        // Writing to a `String` does not fail.
        let _ = write!(what, "{} {holder}", if n == 0 { ":" } else { "," });
    }
    if holders.len() > NAMED_MAX {
        let _ = write!(what, " and {} more", holders.len() - NAMED_MAX);
    }
    FileError::new(path, what, source)
}

/// Identifies a file, or the device behind a device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// Device number of the file system, and inode number.
    File(u64, u64),
    /// Device number.
    Device(u64),
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File(metadata.dev(), metadata.ino())
        }
    }
}

/// Returns who uses the file: the kernel (for a mount, a volume or the swap space), and processes.
fn holders(file: &Identity, own: Option<&File>) -> Vec<String> {
    let mut holders = Vec::new();
    if let Identity::Device(number) = *file {
        let parts = partitions(number);
        let is_ours = |path: &str| {
            fs::metadata(path).is_ok_and(|found| {
                found.file_type().is_block_device() && parts.contains(&found.rdev())
            })
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines() {
            let (front, back) = line.split_once(" - ").unwrap_or((line, ""));
            let device = front.split(' ').nth(2).and_then(device_number);
            let (place, source) = (front.split(' ').nth(4), back.split(' ').nth(1));
            // Some file systems have their own device numbers, so compare the source as well.
            if device.is_some_and(|device| parts.contains(&device)) || source.is_some_and(is_ours) {
                holders.push(format!("mounted on {}", place.unwrap_or("?")));
            }
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        holders.extend(swaps.filter(|path| is_ours(path)).map(|path| format!("swap on {path}")));
        for part in &parts {
            let names = entries(&sysfs(*part).join("holders"));
            let names = names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
            holders.extend(names.map(|name| format!("part of {name}")));
        }
    }
    holders.extend(processes(file, own));
    holders
}

/// Returns the device number of a block device and those of its partitions.
fn partitions(number: u64) -> Vec<u64> {
    let inside = entries(&sysfs(number)).filter(|path| path.join("partition").exists());
    let number_of = |path: PathBuf| {
        fs::read_to_string(path.join("dev")).ok().and_then(|text| device_number(text.trim()))
    };
    std::iter::once(number).chain(inside.filter_map(number_of)).collect()
}

fn sysfs(number: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number)).into()
}

/// Parses `MAJOR:MINOR`.
fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Returns the processes that have the file open, as far as this user may see them.
fn processes(file: &Identity, own: Option<&File>) -> Vec<String> {
    let own_fd = own.map(|own| own.as_raw_fd().to_string());
    let mut looked_at = 0;
    let mut found = Vec::new();
    for process in entries(Path::new("/proc")) {
        let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        let is_self = pid == std::process::id();
        let has_it = entries(&process.join("fd")).any(|fd| {
            looked_at += 1;
            let is_own = is_self && fd.file_name().and_then(|n| n.to_str()) == own_fd.as_deref();
            !is_own && fs::metadata(&fd).is_ok_and(|open| Identity::of(&open) == *file)
        });
        if has_it {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let this = if is_self { ", this one" } else { "" };
            found.push(format!("process {pid} ({}{this})", name.trim_end()));
        }
        if looked_at > DESCRIPTORS_MAX {
            break;
        }
    }
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_locked_out_and_learns_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, "data").unwrap();
        let first = lock_file(&path, false).unwrap();
        for read_only in [false, true] {
            let error = lock_file(&path, read_only).unwrap_err();
            assert_eq!(error.errno().number(), libc::EBUSY);
            let holder = format!("process {} (", std::process::id());
            assert!(error.to_string().contains(&holder), "{error}");
        }
        drop(first);
        let (reader, _second) = (lock_file(&path, true).unwrap(), lock_file(&path, true).unwrap());
        lock_file(&path, false).unwrap_err();
        drop((reader, _second));
        lock_file(&path, false).unwrap();
    }

    #[test]
    fn the_holder_of_a_mounted_device_is_its_mount() {
        // Use any mounted block device of this machine.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts.lines().find_map(|line| {
            let device = line.split(' ').nth(2).and_then(device_number)?;
            sysfs(device).exists().then(|| (device, line.split(' ').nth(4).unwrap_or_default()))
        });
        let Some((device, place)) = mounted else {
            // A machine without a disk cannot run this test; the guest tests cover mounted disks.
            return;
        };
        let holders = holders(&Identity::Device(device), None);
        assert!(holders.contains(&format!("mounted on {place}")), "{holders:?}");
    }

    #[test]
    fn device_numbers_are_read() {
        assert_eq!(device_number("8:1"), Some(libc::makedev(8, 1)));
        for wrong in ["", "8", "8:", ":1", "a:b", "8:1:2"] {
            assert_eq!(device_number(wrong), None, "{wrong}");
        }
    }
}
