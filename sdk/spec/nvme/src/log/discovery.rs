//! The discovery log. NVMe over Fabrics 1.1, section 5.3.

use crate::layout::layout;
use crate::nqn;
use crate::text::{NulText, SpaceText};

layout! {
    /// The start of the discovery log. `numrec` entries ([`DiscoveryEntry`]) follow it.
    pub struct DiscoveryHeader[1024] {
        /// Generation counter. It changes whenever the log changes.
        0 => genctr: u64,
        /// Number of entries.
        8 => numrec: u64,
        /// Record format: 0.
        16 => recfmt: u16,
    }
}

layout! {
    /// One path to a subsystem.
    pub struct DiscoveryEntry[1024] {
        /// Transport, one of [`trtype`].
        0 => trtype: u8,
        /// Address family, one of [`adrfam`].
        1 => adrfam: u8,
        /// Type of the subsystem, one of [`subtype`].
        2 => subtype: u8,
        /// Requirements, bits of [`treq`].
        3 => treq: u8,
        /// Port.
        4 => portid: u16,
        /// Controller: FFFFh for dynamic, FFFEh for static, or a certain controller.
        6 => cntlid: u16,
        /// Maximum size of the admin queue, in entries: at least 32.
        8 => asqsz: u16,
        /// Flags: bit 0 duplicate information, bit 1 explicit persistent connections.
        10 => eflags: u16,
        /// Service: the TCP port, as decimal text.
        32 => trsvcid: SpaceText<32>,
        /// NQN of the subsystem.
        256 => subnqn: NulText<{ nqn::FIELD_LEN }>,
        /// Address, as text.
        512 => traddr: SpaceText<256>,
        /// Transport specific. For TCP, byte 0 is the security: 0 none, 1 TLS 1.2, 2 TLS 1.3.
        768 => tsas: [u8; 256],
    }
}

/// Transports.
pub mod trtype {
    /// RDMA.
    pub const RDMA: u8 = 1;
    /// Fibre Channel.
    pub const FC: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 3;
    /// Inside the host.
    pub const INTRA_HOST: u8 = 254;
}

/// Address families.
pub mod adrfam {
    /// IPv4.
    pub const IPV4: u8 = 1;
    /// IPv6.
    pub const IPV6: u8 = 2;
    /// InfiniBand.
    pub const IB: u8 = 3;
    /// Fibre Channel.
    pub const FC: u8 = 4;
    /// Inside the host.
    pub const INTRA_HOST: u8 = 254;
}

/// Type of the subsystem of an entry.
pub mod subtype {
    /// Another discovery service.
    pub const REFERRAL: u8 = 1;
    /// A subsystem with namespaces.
    pub const NVM: u8 = 2;
    /// The discovery service that returned the log.
    pub const CURRENT_DISCOVERY: u8 = 3;
}

/// Transport requirements.
pub mod treq {
    /// A secure channel is required.
    pub const SECURE_REQUIRED: u8 = 1;
    /// A secure channel is not required.
    pub const SECURE_NOT_REQUIRED: u8 = 2;
    /// Submission queue flow control may be disabled.
    pub const NO_SQ_FLOW_CONTROL: u8 = 1 << 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_address_where_the_specification_puts_it() {
        let entry = DiscoveryEntry {
            trtype: trtype::TCP,
            adrfam: adrfam::IPV4,
            subtype: subtype::NVM,
            portid: 1,
            cntlid: 0xffff,
            asqsz: 128,
            trsvcid: SpaceText::new("4420"),
            subnqn: NulText::new("nqn.2016-06.io.spdk:cnode1").unwrap(),
            traddr: SpaceText::new("127.0.0.1"),
            ..DiscoveryEntry::default()
        };
        let bytes = entry.encode();
        assert_eq!(bytes[..10], [3, 1, 2, 0, 1, 0, 0xff, 0xff, 128, 0]);
        assert!(bytes[32..].starts_with(b"4420 "));
        assert!(bytes[512..].starts_with(b"127.0.0.1 "));
        assert_eq!(DiscoveryEntry::parse(&bytes), entry);
    }
}
