//! What uses a PCI device: file systems, swap space and other block devices on its disks, processes that opened a disk, and processes that
//! opened the device through VFIO.

use super::Kernel;
use drivebay_core::env::pci::{Address, sysfs::Found};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A disk of a device, or a partition of such a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Disk {
    pub(super) name: String,
    /// What uses it, in words; empty when nothing is known to use it.
    pub(super) used_by: Vec<String>,
    #[serde(skip)]
    is_partition: bool,
}

/// The disks and partitions of a device, sorted by name.
pub(super) fn disks(kernel: &Kernel, address: Address) -> Vec<Disk> {
    let class = kernel.path("sys/class/block");
    let Ok(device) = fs::canonicalize(kernel.devices().join(address.to_string())) else {
        return Vec::new();
    };
    let all: Vec<(String, PathBuf)> = fs::read_dir(&class)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            Some((name, fs::canonicalize(entry.path()).ok()?))
        })
        .collect();
    let is_hidden = |path: &Path| read(&path.join("hidden")).trim() == "1";
    let mut tops = vec![device];
    for (name, path) in &all {
        // The kernel's NVMe multipath hides the disk of a path. The disk that programs use is elsewhere in sysfs.
        if tops.first().is_some_and(|device| path.starts_with(device)) && is_hidden(path) {
            let head = multipath_head(name);
            let head = all.iter().find(|(name, _)| Some(name) == head.as_ref());
            tops.extend(head.map(|(_, path)| path.clone()));
        }
    }
    let is_ours = |path: &Path| tops.iter().any(|top| path.starts_with(top)) && !is_hidden(path);
    let ours = all.into_iter().filter(|(_, path)| is_ours(path));
    let mut disks: Vec<Disk> = ours
        .map(|(name, path)| Disk {
            used_by: users(kernel, &name, &path),
            is_partition: path.join("partition").exists(),
            name,
        })
        .collect();
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    disks
}

/// The disk for programs of a hidden disk: `nvme0n1` for `nvme0c1n1`.
fn multipath_head(hidden: &str) -> Option<String> {
    let (subsystem, rest) = hidden.strip_prefix("nvme")?.split_once('c')?;
    let (_, namespace) = rest.split_once('n')?;
    Some(format!("nvme{subsystem}n{namespace}"))
}

/// The path of a disk's node below `/dev`. A slash in this path is an exclamation mark in the name, as in `cciss!c0d0`.
fn node_of(name: &str) -> String {
    name.replace('!', "/")
}

fn users(kernel: &Kernel, name: &str, path: &Path) -> Vec<String> {
    let (number, node) = (read(&path.join("dev")), format!("/dev/{}", node_of(name)));
    let mut users = Vec::new();
    // Linux, Documentation/filesystems/proc.rst, "mountinfo": device number, mount point, and the source after the dash.
    for mount in read(&kernel.path("proc/self/mountinfo")).lines() {
        let (before, after) = mount.split_once(" - ").unwrap_or((mount, ""));
        let device = before.split(' ').nth(2).unwrap_or_default();
        let source = after.split(' ').nth(1).unwrap_or_default();
        if device == number.trim() || source == node {
            users.push(format!("mounted at {}", before.split(' ').nth(4).unwrap_or("?")));
        }
    }
    if read(&kernel.path("proc/swaps")).lines().any(|line| line.split(' ').next() == Some(&node)) {
        users.push("swap space".to_owned());
    }
    let holders = fs::read_dir(path.join("holders")).into_iter().flatten().flatten();
    users.extend(holders.map(|holder| format!("part of {}", holder.file_name().to_string_lossy())));
    users
}

/// Claims the disks, so that nobody begins to use them while the result lives.
///
/// # Errors
/// What uses a disk, or why this cannot be found out, and what to do. The text continues a sentence that begins with the device.
pub(super) fn claim(kernel: &Kernel, disks: &[Disk]) -> Result<Vec<File>, String> {
    let in_use = |why: &str| Err(format!("is in use: {why}; stop that use first"));
    let used = disks.iter().filter(|disk| !disk.used_by.is_empty());
    let used: Vec<String> =
        used.map(|disk| format!("{} is {}", disk.name, disk.used_by.join(" and "))).collect();
    if !used.is_empty() {
        return in_use(&used.join(", "));
    }
    // A program that writes to the disk itself, such as a virtual machine, need not have claimed it.
    for disk in disks {
        let node = Path::new("/dev").join(node_of(&disk.name));
        let openers = processes(kernel, &node);
        if !openers.is_empty() {
            return in_use(&format!("{} has opened {}", openers.join(", "), node.display()));
        }
    }
    let mut claims = Vec::new();
    // The claim of a whole disk fails when a partition is claimed.
    for disk in disks.iter().filter(|disk| !disk.is_partition) {
        let (name, node) = (&disk.name, kernel.path("dev").join(node_of(&disk.name)));
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&node) {
            Ok(file) => claims.push(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return in_use(&format!(
                    "another mount namespace, file system or program has claimed {name}"
                ));
            }
            Err(error) => {
                return Err(format!(
                    "may be in use: {} cannot be opened: {error}; run the command as root",
                    node.display()
                ));
            }
        }
    }
    Ok(claims)
}

/// The processes that have opened a device or its IOMMU group through VFIO, in words. A caller that is not root sees only its own
/// processes.
pub(super) fn openers(kernel: &Kernel, found: &Found) -> Vec<String> {
    let group = found.iommu_group.map(|group| Path::new("/dev/vfio").join(group.to_string()));
    // Linux, Documentation/driver-api/vfio.rst, "VFIO Device cdev": a process may open the device without the group.
    let folder = kernel.devices().join(found.address.to_string()).join("vfio-dev");
    let devices = fs::read_dir(folder).into_iter().flatten().flatten();
    let devices = devices.map(|device| Path::new("/dev/vfio/devices").join(device.file_name()));
    group.into_iter().chain(devices).flat_map(|node| processes(kernel, &node)).collect()
}

/// The processes that have opened a file, in words.
fn processes(kernel: &Kernel, node: &Path) -> Vec<String> {
    let processes = fs::read_dir(kernel.path("proc")).into_iter().flatten().flatten();
    let mut openers: Vec<(u32, String)> = processes
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let fds = fs::read_dir(process.path().join("fd")).ok()?;
            let is_opener =
                fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|file| file == node));
            let name = read(&process.path().join("comm"));
            is_opener.then(|| (pid, format!("process {pid} ({})", name.trim())))
        })
        .collect();
    openers.sort();
    openers.into_iter().map(|(_, text)| text).collect()
}

/// The text of a file; empty when it cannot be read.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
