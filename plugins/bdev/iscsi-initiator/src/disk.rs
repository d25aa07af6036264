//! A unit as all threads share it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use drivebay_scsi::initiator::Unit;
use drivebay_sdk::prelude::*;

use crate::url::Url;

/// Where a unit is, and the initiator that connects.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: Url,
    /// The initiator's name.
    pub(crate) initiator: String,
    /// Time limit of a login or a command; `None` = no limit.
    pub(crate) timeout: Option<Duration>,
}

/// A unit, as it was when its bdev was created.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) unit: Unit,
    pub(crate) isids: Isids,
    /// The bdev is being deleted, so I/O no longer waits for a session.
    is_ending: AtomicBool,
}

impl Disk {
    pub(crate) fn new(name: String, place: Place, unit: Unit, isids: Isids) -> Self {
        Self { name, place, unit, isids, is_ending: AtomicBool::new(false) }
    }

    /// Lets the channels fail I/O that cannot end soon. `[any thread]`
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Time limit of a command, and of the wait for a session; `None` = no limit.
    pub(crate) fn io_limit(&self) -> Option<Duration> {
        if !self.is_ending() {
            return self.place.timeout;
        }
        Some(self.place.timeout.map_or(END_LIMIT, |limit| limit.min(END_LIMIT)))
    }
}

/// Longest time limit of a command while its bdev is being deleted.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Gives each channel and each probe its own ISID. A channel uses the same ISID for each of its sessions, so the target ends the previous session at
/// the login. RFC 7143, section 6.3.5.
#[derive(Debug)]
pub(crate) struct Isids {
    random: [u8; 3],
    last: AtomicU32,
}

impl Isids {
    pub(crate) fn new() -> Result<Self> {
        let mut random = [0; 3];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(errno::EIO, format!("random numbers: {error}")))?;
        Ok(Self { random, last: AtomicU32::new(0) })
    }

    /// An ISID of the random type: RFC 7143, section 11.12.5.
    pub(crate) fn next(&self) -> [u8; 6] {
        let [a, b, c] = self.random;
        let [_, _, high, low] = self.last.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        [0x80, a, b, c, high, low]
    }
}
