//! `drivebay pci`.

use super::environment::pci_address;
use clap::{Args, Subcommand};
use drivebay_core::env::pci::Address;

/// List PCI devices, and give them to a server or back to the kernel.
#[derive(Debug, Subcommand)]
#[command(after_help = "exit code: 0 done, 1 refused or failed, 2 wrong usage")]
pub enum Pci {
    /// List storage controllers: driver, NUMA node, IOMMU group, and what uses their disks
    List {
        /// List all PCI devices
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bind devices to vfio-pci, so that a server can open them
    Bind(Devices),
    /// Return devices from vfio-pci to the kernel's own drivers
    Unbind(Devices),
}

/// Devices, and how to treat those in use.
#[derive(Args, Clone, Debug)]
pub struct Devices {
    /// PCI addresses, such as 0000:5e:00.0
    #[arg(required = true, value_parser = pci_address)]
    pub addresses: Vec<Address>,
    /// Do it even if the device is in use; a disk in use may lose data
    #[arg(long)]
    pub force: bool,
    /// Print the devices as JSON
    #[arg(long)]
    pub json: bool,
}
