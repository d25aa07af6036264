//! The control device: makes, starts, stops and removes devices. The calls block, so they run on a worker.
#![expect(
    unsafe_code,
    reason = "submits commands to the kernel, which reads and writes their payload"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::abi::{self, DeviceInfo, PAYLOAD_LEN, Params, control, control_command};

const CONTROL: &str = "/dev/ublk-control";
/// How long the kernel may take for a command. Starting a disk reads its partitions, and stopping it waits for its I/O.
const LIMIT: Duration = Duration::from_secs(30);

/// The control device of `ublk_drv`.
pub struct Control {
    device: File,
    ring: IoUring<squeue::Entry128>,
    /// Number of the last command. An earlier command may have taken too long. Its event must not count as the end of this one.
    last: u64,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens the control device.
    ///
    /// # Errors
    /// `ENOENT` when the kernel has no ublk or its module is not loaded, `EACCES` without the right to use it, or why there is
    /// no io_uring.
    pub fn open() -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let ring = IoUring::<squeue::Entry128>::builder().build(2)?;
        Ok(Self { device, ring, last: 0 })
    }

    /// The features of the driver: flags of [`feature`](super::feature).
    ///
    /// # Errors
    /// `EOPNOTSUPP` before Linux 6.5.
    pub fn features(&mut self) -> io::Result<u64> {
        let payload = self.call(control::GET_FEATURES, u32::MAX, Some(([0; PAYLOAD_LEN], 8)), 0)?;
        Ok(abi::parse_features(&payload))
    }

    /// Makes a device. Returns it as the kernel made it, which may have other limits.
    ///
    /// # Errors
    /// `EEXIST` when there is a device with that number, `EPERM` without CAP_SYS_ADMIN.
    pub fn add(&mut self, info: &DeviceInfo) -> io::Result<DeviceInfo> {
        let payload = Some((info.to_bytes(), PAYLOAD_LEN));
        self.call(control::ADD, info.id, payload, 0).map(|payload| DeviceInfo::parse(&payload))
    }

    /// Describes a device.
    ///
    /// # Errors
    /// `ENODEV` when there is no such device.
    pub fn info(&mut self, id: u32) -> io::Result<DeviceInfo> {
        let payload = Some(([0; PAYLOAD_LEN], PAYLOAD_LEN));
        self.call(control::GET_INFO, id, payload, 0).map(|payload| DeviceInfo::parse(&payload))
    }

    /// Sets the properties of the disk, before it starts.
    ///
    /// # Errors
    /// `EINVAL` when the kernel does not accept them.
    pub fn set_params(&mut self, id: u32, params: &Params) -> io::Result<()> {
        let payload = Some((params.to_bytes(), PAYLOAD_LEN));
        self.call(control::SET_PARAMS, id, payload, 0).map(drop)
    }

    /// The block size in bytes, and the size in sectors of 512 bytes.
    ///
    /// # Errors
    /// `ENODEV` when there is no such device.
    pub fn size(&mut self, id: u32) -> io::Result<(u32, u64)> {
        let asked = Params::default().to_bytes(); // the kernel reads the length in it
        let payload = self.call(control::GET_PARAMS, id, Some((asked, PAYLOAD_LEN)), 0)?;
        Params::parse_size(&payload).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Starts the disk. Returns when `/dev/ublkbN` exists. All queues must have fetched before, or do so meanwhile.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn start(&mut self, id: u32) -> io::Result<()> {
        self.call(control::START, id, None, std::process::id().into()).map(drop)
    }

    /// Writes the cached data of a disk back. Does nothing when there is no `/dev/ublkbN`. Call it before [`stop`](Self::stop), because
    /// the kernel fails all writes from then on.
    ///
    /// # Errors
    /// `ETIMEDOUT`, or the error of a write.
    pub fn sync(&mut self, id: u32) -> io::Result<()> {
        let disk = match File::open(format!("/dev/ublkb{id}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let entry = opcode::Fsync::new(Fd(disk.as_raw_fd())).build();
        // SAFETY: the command refers to no memory.
        let result = unsafe { self.execute(entry.into()) }?;
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }

    /// Stops the disk: waits for its I/O and removes `/dev/ublkbN`. Later writes of cached data fail. The queues end.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn stop(&mut self, id: u32) -> io::Result<()> {
        self.call(control::STOP, id, None, 0).map(drop)
    }

    /// Removes a device. Waits until nobody has `/dev/ublkcN` open.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn delete(&mut self, id: u32) -> io::Result<()> {
        self.call(control::DELETE, id, None, 0).map(drop)
    }

    /// Begins to serve a device whose server is gone.
    ///
    /// # Errors
    /// `EBUSY` while the device is not quiesced.
    pub fn start_recovery(&mut self, id: u32) -> io::Result<()> {
        self.call(control::START_RECOVERY, id, None, 0).map(drop)
    }

    /// Lets a device go on, whose queues have fetched.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn end_recovery(&mut self, id: u32) -> io::Result<()> {
        self.call(control::END_RECOVERY, id, None, std::process::id().into()).map(drop)
    }

    /// Executes a command. `payload`: its bytes and how many of them count. Returns the payload after the command.
    fn call(
        &mut self,
        number: u32,
        id: u32,
        payload: Option<([u8; PAYLOAD_LEN], usize)>,
        data: u64,
    ) -> io::Result<[u8; PAYLOAD_LEN]> {
        let (bytes, len) = payload.unwrap_or(([0; PAYLOAD_LEN], 0));
        // The kernel may use the payload until the command ends, which may be after this call.
        let mut shared = ManuallyDrop::new(Box::new(bytes));
        let addr = if len > 0 { shared.as_mut_ptr().expose_provenance() as u64 } else { 0 };
        let command = control_command(id, addr, u16::try_from(len).unwrap_or(u16::MAX), data);
        let fd = Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, number).cmd(command).build();
        // SAFETY: the command refers to `shared` only. It is freed after the command has ended, or leaked when this call fails.
        let result = unsafe { self.execute(entry) }?;
        let bytes = *ManuallyDrop::into_inner(shared);
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(bytes) }
    }

    /// Submits a command and waits for its result. When this fails, the kernel may still execute the command.
    ///
    /// # Safety
    /// The memory that the command refers to stays valid until the command has ended, also if this call fails.
    unsafe fn execute(&mut self, entry: squeue::Entry128) -> io::Result<i32> {
        self.last += 1;
        let entry = entry.user_data(self.last);
        let mut submission = self.ring.submission();
        // SAFETY: the caller's promise.
        let pushed = unsafe { submission.push(&entry) };
        drop(submission);
        pushed.map_err(|_full| io::Error::from_raw_os_error(libc::EBUSY))?;
        self.wait()
    }

    /// Submits, and waits for the result of the last command.
    fn wait(&mut self) -> io::Result<i32> {
        let end = Instant::now() + LIMIT;
        loop {
            for event in self.ring.completion() {
                if event.user_data() == self.last {
                    return Ok(event.result());
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            let limit = Timespec::from(left);
            let waited =
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit));
            match waited.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR)) => {}
                Err(errno) => return Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
            }
        }
    }
}

/// `/dev/ublkcN`, through which the queues of a device are served.
#[derive(Debug)]
pub struct Device {
    file: File,
    info: DeviceInfo,
}

impl Device {
    /// Opens the character device of a device that exists.
    ///
    /// # Errors
    /// `EBUSY` when another process serves it, or the error of open(2).
    pub fn open(info: DeviceInfo) -> io::Result<Self> {
        let path = format!("/dev/ublkc{}", info.id);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, info })
    }

    /// The device, as the kernel made it.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub(super) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
