//! PCI devices behind an IOMMU, for the plugins that the operator grants them (`bay.pci/1`).
//!
//! ```text
//! sysfs    lists the devices of the machine; changes nothing
//! permit   which of them the operator lets this host open
//! device   an open device: BARs, configuration space, bus mastering, interrupts
//! ledger   which memory of the host devices can access, and at which addresses
//! events   tells plugins that devices have come or gone
//! refusal  errors for a device that cannot be opened; each says what to do
//! ```
//!
//! `docs/pci.md` explains the terms and the rules.

mod bars;
pub mod device;
pub mod events;
pub mod ledger;
pub mod permit;
pub mod refusal;
pub mod sysfs;

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

pub(super) use bars::gone as bar_is_gone;

/// The address of a device: domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = Error;

    /// Reads `DDDD:BB:DD.F` or `BB:DD.F`, all in hexadecimal; a dot may stand for each colon.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.rsplit([':', '.']);
            let hex = |part: Option<&str>, max: u32| {
                let part = part.filter(|part| {
                    !part.is_empty() && part.chars().all(|digit| digit.is_ascii_hexdigit())
                })?;
                u32::from_str_radix(part, 16).ok().filter(|number| *number <= max)
            };
            let function = u8::try_from(hex(parts.next(), 7)?).ok()?;
            let device = u8::try_from(hex(parts.next(), 31)?).ok()?;
            let bus = u8::try_from(hex(parts.next(), 255)?).ok()?;
            let domain = match parts.next() {
                None => 0,
                part => hex(part, u32::MAX)?,
            };
            parts.next().is_none().then_some(Self { domain, bus, device, function })
        };
        parse().ok_or_else(|| {
            Error::invalid("PCI address", format!("'{text}'"), "DDDD:BB:DD.F, such as 0000:5e:00.0")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_its_domain() {
        for (given, read) in [
            ("0000:5e:00.0", "0000:5e:00.0"),
            ("5e:1F.7", "0000:5e:1f.7"),
            ("0001.5e.00.1", "0001:5e:00.1"),
            ("10000:01:00.0", "10000:01:00.0"),
        ] {
            assert_eq!(given.parse::<Address>().unwrap().to_string(), read, "{given}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for given in [
            "",
            "0",
            "00.0",
            "00:20.0",
            "00:00.8",
            "x:00:00.0",
            "0:0:0:0.0",
            "00:00.+1",
            "../0:0.0",
        ] {
            let error = given.parse::<Address>().unwrap_err();
            assert_eq!(error.errno(), libc::EINVAL, "{given}");
            assert!(error.message().contains("DDDD:BB:DD.F"), "{given}");
        }
    }
}
