//! Log pages. NVMe Base 2.0, section 5.16.1.

mod ana;
mod discovery;
mod effects;
mod health;

pub use ana::{AnaGroup, AnaHeader, AnaState};
pub use discovery::{DiscoveryEntry, DiscoveryHeader, adrfam, subtype, treq, trtype};
pub use effects::{CommandEffects, CommandsSupported, supported_log_pages};
pub use health::{ErrorEntry, FirmwareSlots, Health, changed_namespaces};

/// Log page identifiers.
pub mod lid {
    /// Supported log pages; [`super::supported_log_pages`].
    pub const SUPPORTED_LOG_PAGES: u8 = 0x00;
    /// Error information; entries of [`super::ErrorEntry`].
    pub const ERROR: u8 = 0x01;
    /// SMART and health; [`super::Health`].
    pub const HEALTH: u8 = 0x02;
    /// Firmware slots; [`super::FirmwareSlots`].
    pub const FIRMWARE_SLOTS: u8 = 0x03;
    /// Changed namespaces; [`super::changed_namespaces`].
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects; [`super::CommandsSupported`].
    pub const COMMANDS_SUPPORTED: u8 = 0x05;
    /// Asymmetric namespace access; [`super::AnaHeader`] and its groups.
    pub const ANA: u8 = 0x0c;
    /// Discovery; [`super::DiscoveryHeader`] and its entries.
    pub const DISCOVERY: u8 = 0x70;
    /// Reservation notification.
    pub const RESERVATION_NOTIFICATION: u8 = 0x80;
}
