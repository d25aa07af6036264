//! Commands and parameter lists of SCSI.

use crate::look;
use drivebay_spec_scsi::copy::{Limits, Parameters};
use drivebay_spec_scsi::reservation::{self, OutAction, OutParameters};
use drivebay_spec_scsi::{Command, Sense, lun, mode, unmap};

/// A CDB, then a LUN.
pub(crate) fn command(data: &[u8]) {
    let Some((cdb, rest)) = data.split_first_chunk::<16>() else { return };
    if let Err(sense) = Command::parse(cdb) {
        assert_eq!(Sense::parse(&sense.encode(true)), Some(sense));
        assert_eq!(Sense::parse(&sense.encode(false)), Some(sense));
    }
    let Some(address) = rest.first_chunk::<8>() else { return };
    if let Some(unit) = lun::decode(u64::from_be_bytes(*address)) {
        assert_eq!(lun::decode(lun::encode(unit)), Some(unit));
    }
}

/// A byte that selects the command, then a parameter list or sense data.
pub(crate) fn parameters(data: &[u8]) {
    let Some((&kind, list)) = data.split_first() else { return };
    match kind % 12 {
        0 => look(mode::parse_select(list, kind & 0x80 != 0)),
        1 => {
            let Ok(descriptors) = unmap::parse(list) else { return };
            let all: Vec<_> = descriptors.collect();
            let again: Vec<_> = unmap::parse(&unmap::encode(&all)).unwrap().collect();
            assert_eq!(again, all);
        }
        2 => {
            look(Sense::parse(list));
            let limits = Limits { devices: 8, segments: 64, segment_len: 1 << 29, copies: 64 };
            let Ok(read) = Parameters::parse(list, &limits) else { return };
            assert_eq!(Parameters::parse(&read.encode(), &limits), Ok(read));
        }
        3 => {
            let mut rest = list;
            while let Ok((_, later)) = reservation::split_transport_id(rest) {
                assert!(later.len() < rest.len());
                rest = later;
            }
        }
        action => {
            let Some(action) = OutAction::from_bits(action - 4) else { return };
            let Ok(read) = OutParameters::parse(action, list) else { return };
            if action != OutAction::RegisterAndMove {
                assert_eq!(OutParameters::parse(action, &read.encode()), Ok(read));
            }
        }
    }
}
