//! `drivebay pci`: lists PCI devices, gives them to vfio-pci, and returns them to the kernel.
//!
//! ```text
//! list   the devices as text and JSON
//! bind   changes a device's driver
//! usage  what uses a device: file systems, swap, other block devices, processes
//! ```

mod bind;
mod list;
mod usage;

use crate::cli::{Pci, PciDevices};
use drivebay_core::env::pci::Address;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command.
pub fn pci(command: &Pci, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let is_good = run(&Kernel::of_this_machine(), command, out, err);
    u8::from(!is_good).into()
}

/// Runs the command, and returns whether it succeeded.
fn run(kernel: &Kernel, command: &Pci, out: &mut dyn Write, err: &mut dyn Write) -> bool {
    let (shown, json, is_good) = match command {
        Pci::List { all, json } => (list::entries(kernel, *all), *json, true),
        Pci::Bind(devices) => change(kernel, devices, err, bind::bind),
        Pci::Unbind(devices) => change(kernel, devices, err, bind::unbind),
    };
    let text = if json { list::json(&shown) } else { list::text(&shown) };
    // The reader may close the pipe.
    let _ = out.write_all(text.as_bytes());
    is_good
}

/// Changes the driver of each device, and returns the changed devices, whether to print JSON, and whether all were changed.
fn change(
    kernel: &Kernel,
    devices: &PciDevices,
    err: &mut dyn Write,
    change: impl Fn(&Kernel, Address, bool) -> Result<(), String>,
) -> (Vec<list::Entry>, bool, bool) {
    let mut changed = Vec::new();
    for address in &devices.addresses {
        match change(kernel, *address, devices.force) {
            Ok(()) => changed.extend(list::entry(kernel, *address)),
            Err(why) => {
                let _ = writeln!(err, "drivebay pci: {why}");
            }
        }
    }
    let is_good = changed.len() == devices.addresses.len();
    (changed, devices.json, is_good)
}

/// The kernel's files: `/sys`, `/proc` and `/dev`. A test keeps them in a folder and does the kernel's part of a write.
struct Kernel {
    root: PathBuf,
    write: fn(&Kernel, &Path, &str) -> io::Result<()>,
}

impl Kernel {
    fn of_this_machine() -> Self {
        Self { root: "/".into(), write: |_, path, text| fs::write(path, text) }
    }

    /// The path of a file of the kernel. `path` has no slash at its start.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The folder with the devices.
    fn devices(&self) -> PathBuf {
        self.path("sys/bus/pci/devices")
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), String> {
        (self.write)(self, path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests;
