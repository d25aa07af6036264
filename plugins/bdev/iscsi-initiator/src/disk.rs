//! What all threads share of a unit.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use drivebay_sdk::prelude::*;

use crate::probe::Unit;
use crate::url::Url;

/// Where a unit is, and who connects.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: Url,
    /// The initiator's name.
    pub(crate) initiator: String,
    /// How long a login or a command may take; `None` = forever.
    pub(crate) timeout: Option<Duration>,
}

/// A unit, as it was when its bdev was made.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) unit: Unit,
    pub(crate) isids: Isids,
}

/// Gives each session an ISID of its own. A session that comes again has the one that it had: the target then ends what is left of the
/// old one. RFC 7143, section 6.3.5.
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
