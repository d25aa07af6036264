//! Transport addresses.

use drivebay_plugin_api::bay_nvmf_addr;

/// A transport address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// `TCP`, …
    pub trtype: String,
    /// `IPv4`, `IPv6`, …
    pub adrfam: String,
    /// Address, such as an IP address.
    pub traddr: String,
    /// Service, such as a port number.
    pub trsvcid: String,
}

impl Address {
    /// Reads the NUL-padded texts. Replaces bytes that are not UTF-8.
    #[must_use]
    pub fn from_raw(raw: &bay_nvmf_addr) -> Self {
        Self {
            trtype: text(&raw.trtype),
            adrfam: text(&raw.adrfam),
            traddr: text(&raw.traddr),
            trsvcid: text(&raw.trsvcid),
        }
    }

    /// Writes the NUL-padded texts. Truncates texts that are too long.
    #[must_use]
    pub fn to_raw(&self) -> bay_nvmf_addr {
        bay_nvmf_addr {
            trtype: padded(&self.trtype),
            adrfam: padded(&self.adrfam),
            traddr: padded(&self.traddr),
            trsvcid: padded(&self.trsvcid),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    // The last byte stays NUL.
    for (place, byte) in bytes.iter_mut().zip(text.bytes().take(N - 1)) {
        *place = byte;
    }
    bytes
}
