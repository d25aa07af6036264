//! Identify Controller (CNS 01h). NVMe Base 2.0, figure 275.

use crate::layout::layout;
use crate::nqn;
use crate::text::{NulText, SpaceText};

layout! {
    /// Identify Controller. Fields marked "less one" contain the number minus one.
    pub struct Controller[4096] {
        /// PCI vendor.
        0 => vid: u16,
        /// PCI subsystem vendor.
        2 => ssvid: u16,
        /// Serial number.
        4 => sn: SpaceText<20>,
        /// Model number.
        24 => mn: SpaceText<40>,
        /// Firmware revision.
        64 => fr: SpaceText<8>,
        /// Recommended arbitration burst, a power of two.
        72 => rab: u8,
        /// IEEE OUI.
        73 => ieee: [u8; 3],
        /// Multi-path and sharing, bits of [`cmic`].
        76 => cmic: u8,
        /// Maximum data transfer: 2 ^ mdts memory pages of CAP.MPSMIN; 0 = no limit.
        77 => mdts: u8,
        /// Controller identifier.
        78 => cntlid: u16,
        /// Version, in the format of [`crate::property::Version`].
        80 => ver: u32,
        /// RTD3 resume latency, in microseconds.
        84 => rtd3r: u32,
        /// RTD3 entry latency, in microseconds.
        88 => rtd3e: u32,
        /// Asynchronous events supported, bits of [`crate::feature::async_event`].
        92 => oaes: u32,
        /// Attributes, bits of [`ctratt`].
        96 => ctratt: u32,
        /// Read recovery levels.
        100 => rrls: u16,
        /// Controller type, one of [`cntrltype`].
        111 => cntrltype: u8,
        /// FRU globally unique identifier.
        112 => fguid: [u8; 16],
        /// Command retry delays 1 to 3, in 100 ms.
        128 => crdt: [u16; 3],
        /// NVM subsystem report.
        253 => nvmsr: u8,
        /// VPD write cycles.
        254 => vwci: u8,
        /// Management endpoints.
        255 => mec: u8,
        /// Optional admin commands, bits of [`oacs`].
        256 => oacs: u16,
        /// Maximum number of concurrent Abort commands, less one.
        258 => acl: u8,
        /// Maximum number of outstanding Asynchronous Event Requests, less one.
        259 => aerl: u8,
        /// Firmware updates.
        260 => frmw: u8,
        /// Log pages, bits of [`lpa`].
        261 => lpa: u8,
        /// Error log entries, less one.
        262 => elpe: u8,
        /// Power states, less one.
        263 => npss: u8,
        /// Vendor specific admin commands.
        264 => avscc: u8,
        /// Autonomous power state transitions.
        265 => apsta: u8,
        /// Warning temperature, in kelvins.
        266 => wctemp: u16,
        /// Critical temperature, in kelvins.
        268 => cctemp: u16,
        /// Maximum time of a firmware activation, in 100 ms.
        270 => mtfa: u16,
        /// Host memory buffer preferred, in 4 KiB.
        272 => hmpre: u32,
        /// Host memory buffer minimum, in 4 KiB.
        276 => hmmin: u32,
        /// Total NVM capacity, in bytes.
        280 => tnvmcap: u128,
        /// Unallocated NVM capacity, in bytes.
        296 => unvmcap: u128,
        /// Replay protected memory blocks.
        312 => rpmbs: u32,
        /// Extended device self-test time, in minutes.
        316 => edstt: u16,
        /// Device self-test options.
        318 => dsto: u8,
        /// Firmware update granularity, in 4 KiB.
        319 => fwug: u8,
        /// Keep alive granularity, in 100 ms; 0 = no keep alive.
        320 => kas: u16,
        /// Host controlled thermal management.
        322 => hctma: u16,
        /// Minimum thermal management temperature, in kelvins.
        324 => mntmt: u16,
        /// Maximum thermal management temperature, in kelvins.
        326 => mxtmt: u16,
        /// Sanitize capabilities.
        328 => sanicap: u32,
        /// Host memory buffer: minimum descriptor size, in 4 KiB.
        332 => hmminds: u32,
        /// Host memory buffer: maximum number of descriptors.
        336 => hmmaxd: u16,
        /// Largest NVM set identifier.
        338 => nsetidmax: u16,
        /// Largest endurance group identifier.
        340 => endgidmax: u16,
        /// ANA transition time, in seconds.
        342 => anatt: u8,
        /// ANA capabilities, bits of [`anacap`].
        343 => anacap: u8,
        /// Largest ANA group identifier.
        344 => anagrpmax: u32,
        /// Number of ANA groups.
        348 => nanagrpid: u32,
        /// Persistent event log size, in 64 KiB.
        352 => pels: u32,
        /// Domain.
        356 => domain: u16,
        /// Largest endurance group capacity, in bytes.
        368 => megcap: u128,
        /// Submission queue entry size, as powers of two: required in bits 3:0, maximum in 7:4. 66h = 64 bytes.
        512 => sqes: u8,
        /// Completion queue entry size, as powers of two: required in bits 3:0, maximum in 7:4. 44h = 16 bytes.
        513 => cqes: u8,
        /// Maximum number of outstanding commands per queue; mandatory over fabrics.
        514 => maxcmd: u16,
        /// Largest namespace identifier.
        516 => nn: u32,
        /// Optional NVM commands, bits of [`oncs`].
        520 => oncs: u16,
        /// Fused operations, bits of [`fuses`].
        522 => fuses: u16,
        /// Format NVM, bits of [`fna`].
        524 => fna: u8,
        /// Volatile write cache, bits of [`vwc`].
        525 => vwc: u8,
        /// Atomic write unit, in blocks, less one.
        526 => awun: u16,
        /// Atomic write unit at power fail, in blocks, less one.
        528 => awupf: u16,
        /// Vendor specific NVM commands.
        530 => icsvscc: u8,
        /// Namespace write protection.
        531 => nwpc: u8,
        /// Atomic compare and write unit, in blocks, less one.
        532 => acwu: u16,
        /// Copy descriptor formats.
        534 => ocfs: u16,
        /// SGL support, bits of [`sgls`].
        536 => sgls: u32,
        /// Maximum number of namespaces; 0 = as `nn`.
        540 => mnan: u32,
        /// Maximum number of domain namespace attachments.
        544 => maxdna: u128,
        /// Maximum number of namespace attachments of an I/O controller.
        560 => maxcna: u32,
        /// NQN of the subsystem.
        768 => subnqn: NulText<{ nqn::FIELD_LEN }>,
        /// I/O queue command capsule size, in 16 bytes: 4, plus 1 for each 16 bytes of in-capsule data.
        1792 => ioccsz: u32,
        /// I/O queue response capsule size, in 16 bytes: 1.
        1796 => iorcsz: u32,
        /// In-capsule data offset, in 16 bytes from the end of the command.
        1800 => icdoff: u16,
        /// Fabrics attributes: bit 0 is the static controller model.
        1802 => fcatt: u8,
        /// Maximum number of SGL data blocks; 0 = no limit.
        1803 => msdbd: u8,
        /// Optional Fabrics commands, bits of [`ofcs`].
        1804 => ofcs: u16,
        /// Power states.
        2048 => psd: [PowerState; 32],
    }
}

layout! {
    /// A power state descriptor. NVMe Base 2.0, figure 276.
    pub struct PowerState[32] {
        /// Maximum power, in 10 mW (or 0.1 mW if bit 0 of `flags` is set).
        0 => mp: u16,
        /// Bit 0: scale of `mp`. Bit 1: not operational.
        3 => flags: u8,
        /// Entry latency, in microseconds.
        4 => enlat: u32,
        /// Exit latency, in microseconds.
        8 => exlat: u32,
    }
}

layout! {
    /// Identify Controller for the NVM command set (CNS 06h, CSI 00h). NVM Command Set 1.0, figure 102.
    pub struct NvmController[4096] {
        /// Verify size limit, as a power of two of memory pages; 0 = no limit.
        0 => vsl: u8,
        /// Write Zeroes size limit, in the same format.
        1 => wzsl: u8,
        /// Write Uncorrectable size limit, in the same format.
        2 => wusl: u8,
        /// Maximum number of ranges of one Dataset Management; 0 = no limit.
        3 => dmrl: u8,
        /// Maximum number of blocks of one range of Dataset Management; 0 = no limit.
        4 => dmrsl: u32,
        /// Maximum number of blocks of one Dataset Management; 0 = no limit.
        8 => dmsl: u64,
    }
}

macro_rules! bits {
    ($( $(#[$meta:meta])* $mod:ident: $ty:ty { $( $value:expr, $name:ident $doc:literal; )* } )*) => {$(
        $(#[$meta])*
        pub mod $mod {
            $( #[doc = $doc] pub const $name: $ty = $value; )*
        }
    )*};
}
pub(super) use bits;

bits! {
    /// Bits of CMIC.
    cmic: u8 {
        1, MULTI_PORT "More than one port.";
        1 << 1, MULTI_CONTROLLER "More than one controller.";
        1 << 3, ANA "Reports ANA.";
    }
    /// Bits of CTRATT.
    ctratt: u32 {
        1, HOST_ID_128 "128-bit host identifiers.";
        1 << 6, TRAFFIC_BASED_KEEP_ALIVE "Any command restarts the keep alive timer.";
    }
    /// Values of CNTRLTYPE.
    cntrltype: u8 {
        1, IO "I/O controller.";
        2, DISCOVERY "Discovery controller.";
        3, ADMINISTRATIVE "Administrative controller.";
    }
    /// Bits of OACS.
    oacs: u16 {
        1 << 1, FORMAT_NVM "Format NVM.";
        1 << 2, FIRMWARE "Firmware download and commit.";
        1 << 3, NAMESPACE_MANAGEMENT "Namespace management and attachment.";
        1 << 8, DOORBELL_BUFFER_CONFIG "Doorbell Buffer Config.";
    }
    /// Bits of LPA.
    lpa: u8 {
        1, SMART_PER_NAMESPACE "The health log per namespace.";
        1 << 1, COMMANDS_SUPPORTED "The commands supported and effects log.";
        1 << 2, EXTENDED_DATA "Extended Get Log Page: offset and 32-bit length.";
    }
    /// Bits of ANACAP.
    anacap: u8 {
        1, OPTIMIZED "Reports the optimized state.";
        1 << 1, NON_OPTIMIZED "Reports the non-optimized state.";
        1 << 2, INACCESSIBLE "Reports the inaccessible state.";
        1 << 3, PERSISTENT_LOSS "Reports the persistent loss state.";
        1 << 4, CHANGE "Reports the change state.";
        1 << 6, GROUP_CONSTANT "A namespace's group does not change while attached.";
    }
    /// Bits of ONCS.
    oncs: u16 {
        1, COMPARE "Compare.";
        1 << 1, WRITE_UNCORRECTABLE "Write Uncorrectable.";
        1 << 2, DATASET_MANAGEMENT "Dataset Management.";
        1 << 3, WRITE_ZEROES "Write Zeroes.";
        1 << 4, SAVE_SELECT "Save and select of features.";
        1 << 5, RESERVATIONS "Reservations.";
        1 << 6, TIMESTAMP "Timestamp.";
        1 << 7, VERIFY "Verify.";
        1 << 8, COPY "Copy.";
    }
    /// Bits of FUSES.
    fuses: u16 {
        1, COMPARE_AND_WRITE "Fused Compare and Write.";
    }
    /// Bits of FNA.
    fna: u8 {
        1, FORMAT_ALL "Format is for all namespaces.";
    }
    /// Bits of VWC.
    vwc: u8 {
        1, PRESENT "There is a volatile write cache.";
        2 << 1, FLUSH_ALL_NOT_SUPPORTED "Flush of all namespaces is refused.";
        3 << 1, FLUSH_ALL "Flush of all namespaces works.";
    }
    /// Bits of SGLS.
    sgls: u32 {
        1, SUPPORTED "SGLs, at any alignment.";
        2, SUPPORTED_DWORD "SGLs, dword aligned.";
        1 << 2, KEYED "Keyed data blocks.";
        1 << 20, OFFSET "Offsets into the capsule.";
        1 << 21, TRANSPORT "Transport data blocks.";
    }
    /// Bits of OFCS.
    ofcs: u16 {
        1, DISCONNECT "Disconnect.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_at_the_bytes_of_the_specification() {
        let controller = Controller {
            vid: 0x1234,
            sn: SpaceText::new("SN1"),
            mn: SpaceText::new("Model"),
            mdts: 5,
            cntlid: 0x0102,
            kas: 100,
            cntrltype: cntrltype::IO,
            sqes: 0x66,
            cqes: 0x44,
            maxcmd: 128,
            nn: 32,
            oncs: oncs::COMPARE | oncs::WRITE_ZEROES,
            sgls: sgls::SUPPORTED | sgls::OFFSET | sgls::TRANSPORT,
            subnqn: NulText::new("nqn.2016-06.io.spdk:cnode1").unwrap(),
            ioccsz: 260,
            iorcsz: 1,
            msdbd: 1,
            ..Controller::default()
        };
        let bytes = controller.encode();
        assert_eq!(bytes[..2], [0x34, 0x12]);
        assert_eq!(&bytes[4..24], b"SN1                 ");
        assert_eq!(bytes[77..80], [5, 2, 1]);
        assert_eq!(bytes[111], 1);
        assert_eq!(bytes[320..322], [100, 0]);
        assert_eq!(bytes[512..522], [0x66, 0x44, 128, 0, 32, 0, 0, 0, 9, 0]);
        assert_eq!(bytes[536..540], [1, 0, 0x30, 0]);
        assert!(bytes[768..].starts_with(b"nqn.2016-06.io.spdk:cnode1\0"));
        assert_eq!(bytes[1792..1804], [4, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Controller::parse(&bytes), controller);
    }
}
