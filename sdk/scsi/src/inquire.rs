//! The INQUIRY data of a unit.

use crate::device::Device;
use crate::parameters::UNMAP_DESCRIPTORS_MAX;
use crate::unit::Unit;
use crate::{Disk, NexusId, PIECE_LEN};
use drivebay_spec_scsi::inquiry::{
    self, Association, BlockLimits, Designator, DesignatorKind, Standard, page,
};
use drivebay_spec_scsi::sense::{Sense, asc};

const VENDOR: &str = "Drivebay";
const PAGES: [u8; 10] = [
    page::SUPPORTED,
    page::UNIT_SERIAL_NUMBER,
    page::DEVICE_IDENTIFICATION,
    page::EXTENDED_INQUIRY,
    page::MODE_PAGE_POLICY,
    page::SCSI_PORTS,
    page::THIRD_PARTY_COPY,
    page::BLOCK_LIMITS,
    page::BLOCK_DEVICE_CHARACTERISTICS,
    page::LOGICAL_BLOCK_PROVISIONING,
];

/// The data of INQUIRY for a LUN without a unit.
pub(crate) fn without_unit() -> Vec<u8> {
    standard(inquiry::NO_UNIT, "")
}

/// The data of INQUIRY: standard data, or a page.
pub(crate) fn inquiry(
    device: &Device,
    unit: u16,
    nexus: NexusId,
    code: Option<u8>,
) -> Result<Vec<u8>, Sense> {
    let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    let found = device.unit(unit).ok_or(missing)?;
    let Some(code) = code else { return Ok(standard(inquiry::DISK, &found.disk.name)) };
    let body = match code {
        page::SUPPORTED => PAGES.to_vec(),
        page::UNIT_SERIAL_NUMBER => serial(&found.disk).into_bytes(),
        page::DEVICE_IDENTIFICATION => identification(device, found, nexus),
        page::EXTENDED_INQUIRY => inquiry::extended_inquiry(),
        page::MODE_PAGE_POLICY => inquiry::mode_page_policy(),
        page::SCSI_PORTS => {
            let ports = device.ports().iter().map(|port| (port.relative, port.name.clone()));
            inquiry::scsi_ports(&ports.collect::<Vec<_>>())
        }
        page::THIRD_PARTY_COPY => crate::copy::LIMITS.encode_page(),
        page::BLOCK_LIMITS => limits(&found.disk).encode(),
        page::BLOCK_DEVICE_CHARACTERISTICS => inquiry::block_device_characteristics(),
        page::LOGICAL_BLOCK_PROVISIONING => inquiry::provisioning(
            found.disk.can_unmap,
            found.disk.can_unmap && found.disk.reads_zeros,
            found.provisioning.threshold_exponent(),
        ),
        _ => return Err(Sense::invalid_cdb(2, None)),
    };
    Ok(inquiry::vpd(inquiry::DISK, code, &body))
}

fn standard(peripheral: u8, product: &str) -> Vec<u8> {
    let revision = env!("CARGO_PKG_VERSION");
    let standard = Standard {
        peripheral,
        vendor: VENDOR,
        product,
        revision,
        third_party_copy: peripheral == inquiry::DISK,
    };
    standard.encode().to_vec()
}

/// The serial number: the bdev's UUID, which stays with it wherever it is exported.
fn serial(disk: &Disk) -> String {
    disk.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// NAA 3, locally assigned: 60 bits of a hash (FNV-1a) of the bdev's UUID.
fn naa(disk: &Disk) -> Vec<u8> {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = disk.uuid.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    (0x3 << 60 | hash >> 4).to_be_bytes().to_vec()
}

/// The designator by which EXTENDED COPY finds a unit.
pub(crate) fn designator(disk: &Disk) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = DesignatorKind::Naa(naa(disk));
    Designator { association: Association::Unit, kind }.encode(&mut bytes);
    bytes
}

fn identification(device: &Device, unit: &Unit, nexus: NexusId) -> Vec<u8> {
    let of = |association, kind| Designator { association, kind };
    let mut all = vec![
        of(Association::Unit, DesignatorKind::Naa(naa(&unit.disk))),
        of(Association::Unit, DesignatorKind::T10Vendor(VENDOR.into(), serial(&unit.disk))),
        of(Association::Device, DesignatorKind::Name(device.name().to_owned())),
    ];
    let relative = device.nexuses.get(&nexus).map(|identity| identity.port);
    if let Some(port) = device.ports().iter().find(|port| Some(port.relative) == relative) {
        all.push(of(Association::Port, DesignatorKind::Name(port.name.clone())));
        all.push(of(Association::Port, DesignatorKind::RelativePort(port.relative)));
    }
    inquiry::device_identification(&all)
}

fn limits(disk: &Disk) -> BlockLimits {
    let unmaps = |value| if disk.can_unmap { value } else { 0 };
    BlockLimits {
        write_same_nonzero: true,
        compare_and_write: disk.compare_and_write_max(),
        optimal_granularity: 1,
        transfer_max: disk.transfer_max(),
        transfer_optimal: (PIECE_LEN / disk.block_len).max(1),
        unmap_blocks: unmaps(disk.cover_max()),
        unmap_descriptors: unmaps(UNMAP_DESCRIPTORS_MAX),
        unmap_granularity: unmaps(1),
        write_same: disk.cover_max().into(),
    }
}
