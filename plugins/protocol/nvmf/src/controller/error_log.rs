//! The error information log of a controller. NVMe Base 2.0, section 5.16.1.2.

use drivebay_spec_nvme::log::ErrorEntry;
use drivebay_spec_nvme::{Command, Status};
use std::collections::VecDeque;

/// Maximum number of entries. Further ones replace the oldest.
pub const ENTRIES_MAX: usize = 64;
/// Parameter error location that means: no single field was wrong.
const NO_LOCATION: u16 = 0xffff;

/// The failed commands, the newest first.
#[derive(Debug, Default)]
pub struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Adds a failed admin command.
    pub fn add(&mut self, sqid: u16, command: &Command, status: Status) {
        self.count += 1;
        self.entries.truncate(ENTRIES_MAX - 1);
        self.entries.push_front(ErrorEntry {
            error_count: self.count,
            sqid,
            cid: command.cid(),
            status: status.bits() << 1,
            parameter_error_location: NO_LOCATION,
            nsid: command.nsid(),
            ..ErrorEntry::default()
        });
    }

    /// Number of errors since the controller was created.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The log page, with [`ENTRIES_MAX`] entries.
    pub fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self.entries.iter().flat_map(ErrorEntry::encode).collect();
        page.resize(ENTRIES_MAX * ErrorEntry::LEN, 0);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_error_comes_first_and_the_oldest_is_forgotten() {
        let mut log = ErrorLog::default();
        for cid in 0..=64 {
            log.add(0, &Command::new(0x55).with_cid(cid), Status::INVALID_OPCODE.with_dnr());
        }
        let page = log.page();
        assert_eq!(page.len(), 64 * 64);
        assert_eq!((page[0], page[10]), (65, 64));
        assert_eq!(page[12..14], [0x02, 0x80]);
        assert_eq!(page[63 * 64], 2);
        assert_eq!(log.count(), 65);
    }
}
