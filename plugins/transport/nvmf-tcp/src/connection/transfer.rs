//! Finds the data of a command from its opcode and its SGL. NVMe/TCP Transport 1.0, section 3.3.2.

use drivebay_spec_nvme::command::Psdt;
use drivebay_spec_nvme::sgl::CapsuleData;
use drivebay_spec_nvme::{Command, Status};

/// Opcode of the Fabrics commands.
pub(crate) const FABRICS: u8 = 0x7f;

/// The data of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// None.
    None,
    /// From the host, in the capsule at `offset`.
    InCapsule { offset: u32, len: u32 },
    /// From the host, by R2T.
    FromHost { len: u32 },
    /// To the host.
    ToHost { len: u32 },
}

/// Reads the SGL of `command`, whose capsule has `in_capsule` bytes of data. Data longer than `len_max` is refused.
pub(crate) fn transfer(
    command: &Command,
    in_capsule: u32,
    len_max: u32,
) -> Result<Transfer, Status> {
    // Opcode bits 1:0 have the direction. For a Fabrics command, the bits of its type have it.
    let code = if command.opcode() == FABRICS {
        command.nsid().to_le_bytes()[0]
    } else {
        command.opcode()
    };
    let (from_host, to_host) = (code & 1 != 0, code & 2 != 0);
    if from_host && to_host {
        return Err(Status::INVALID_OPCODE.with_dnr());
    }
    if !from_host && !to_host {
        return if in_capsule == 0 {
            Ok(Transfer::None)
        } else {
            Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr())
        };
    }
    if matches!(command.psdt(), Psdt::Prp | Psdt::Reserved) && command.opcode() != FABRICS {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    match command.sgl1().capsule_data().map_err(Status::with_dnr)? {
        data if data.length() == 0 && in_capsule == 0 => Ok(Transfer::None),
        data if data.length() > len_max => Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
        CapsuleData::InCapsule { .. } if to_host => {
            Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr())
        }
        CapsuleData::InCapsule { offset, length } => {
            let offset = u32::try_from(offset)
                .ok()
                .filter(|offset| *offset <= in_capsule)
                .ok_or(Status::SGL_OFFSET_INVALID.with_dnr())?;
            if length == 0 || length > in_capsule - offset {
                return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
            }
            Ok(Transfer::InCapsule { offset, len: length })
        }
        CapsuleData::Transport { .. } if in_capsule > 0 => {
            Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr())
        }
        CapsuleData::Transport { length } if to_host => Ok(Transfer::ToHost { len: length }),
        CapsuleData::Transport { length } => Ok(Transfer::FromHost { len: length }),
    }
}
