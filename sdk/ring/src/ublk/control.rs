//! The control device: makes, starts, stops and removes devices. The calls block, so they run on a worker.
#![expect(unsafe_code, reason = "the kernel reads and writes the payload of a command")]

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
        Ok(Self { device, ring })
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

    /// Stops the disk: waits for its I/O and removes `/dev/ublkbN`. The queues end.
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
        let mut submission = self.ring.submission();
        // SAFETY: the command refers to `shared` only, which is not freed before the command ends.
        let pushed = unsafe { submission.push(&entry) };
        drop(submission);
        pushed.map_err(|_full| io::Error::from_raw_os_error(libc::EBUSY))?;
        let result = self.wait()?; // on an error, `shared` is leaked
        let bytes = *ManuallyDrop::into_inner(shared);
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(bytes) }
    }

    /// Submits, and waits for the result of the only command in flight.
    fn wait(&mut self) -> io::Result<i32> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(event) = self.ring.completion().next() {
                return Ok(event.result());
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
