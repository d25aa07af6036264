//! Which PCI devices the operator lets this host open. The default is all of them.

use super::Address;
use crate::{Error, Result};
use std::sync::OnceLock;

/// The operator's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Permit {
    /// Every device.
    #[default]
    All,
    /// Only these devices.
    Only(Vec<Address>),
    /// Every device except these.
    Except(Vec<Address>),
}

static PERMIT: OnceLock<Permit> = OnceLock::new();

/// Sets the choice. The first call counts, which the host makes before it loads plugins. `[any thread]`
pub fn set(permit: Permit) {
    // An error means that a choice was made before.
    let _ = PERMIT.set(permit);
}

/// The choice in force. `[any thread]`
pub fn get() -> &'static Permit {
    PERMIT.get().unwrap_or(&Permit::All)
}

impl Permit {
    /// Whether the host may open the device.
    #[must_use]
    pub fn allows(&self, address: Address) -> bool {
        match self {
            Self::All => true,
            Self::Only(list) => list.contains(&address),
            Self::Except(list) => !list.contains(&address),
        }
    }

    /// Checks whether the host may open the device.
    ///
    /// # Errors
    /// `EACCES` when the operator does not allow it. The text names the flag.
    pub(super) fn check(&self, address: Address) -> Result<()> {
        let why = match self {
            _ if self.allows(address) => return Ok(()),
            Self::Only(list) if list.is_empty() => "the host runs with --no-pci".to_owned(),
            Self::Except(_) => format!("--pci-blocked names {address}"),
            _ => format!("--pci-allowed names other devices, and not {address}"),
        };
        Err(Error::new(libc::EACCES, format!("PCI device {address} must not be opened: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allow_list_and_a_block_list_name_their_flag_when_they_refuse_a_device() {
        let [one, two] = ["0000:01:00.0", "0000:02:00.0"].map(|text| text.parse().unwrap());
        assert!(Permit::All.check(one).is_ok());
        for (permit, part) in [
            (Permit::Only(vec![two]), "--pci-allowed"),
            (Permit::Only(vec![]), "--no-pci"),
            (Permit::Except(vec![one]), "--pci-blocked"),
        ] {
            let error = permit.check(one).unwrap_err();
            assert_eq!(error.errno(), libc::EACCES);
            assert!(error.message().contains(part), "{error}");
        }
        assert!(Permit::Only(vec![one]).allows(one));
        assert!(Permit::Except(vec![one]).allows(two));
    }
}
