//! The command on a machine in a folder, whose kernel is a function.

use super::*;
use serde_json::Value;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const DISK: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";

/// A machine with an NVMe disk that has a partition, and another device in another group. Its kernel knows `nvme` and vfio-pci.
fn machine() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for path in ["sys/bus/pci/devices", "sys/bus/pci/drivers/nvme", "sys/bus/pci/drivers/vfio-pci"]
    {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["sys/class/block", "sys/kernel/iommu_groups", "proc/self", "dev"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join("proc/self/mountinfo"), "").unwrap();
    device(root, DISK, "0x010802", Some(7));
    device(root, OTHER, "0x020000", Some(8));
    block(root, "nvme0/nvme0n1", "259:0");
    block(root, "nvme0/nvme0n1/nvme0n1p1", "259:1");
    fs::write(root.join("sys/class/block/nvme0n1p1/partition"), "1\n").unwrap();
    set_driver(root, DISK, "nvme");
    folder
}

fn device(root: &Path, address: &str, class: &str, group: Option<u32>) {
    let folder = root.join("sys/devices/pci0000:00").join(address);
    fs::create_dir_all(&folder).unwrap();
    let files =
        [("vendor", "0x1b36\n"), ("device", "0x0010\n"), ("class", class), ("numa_node", "1\n")];
    for (file, text) in files {
        fs::write(folder.join(file), text).unwrap();
    }
    if let Some(group) = group {
        let of_group = root.join("sys/kernel/iommu_groups").join(group.to_string());
        fs::create_dir_all(&of_group).unwrap();
        symlink(of_group, folder.join("iommu_group")).unwrap();
    }
    symlink(&folder, root.join("sys/bus/pci/devices").join(address)).unwrap();
}

/// A block device of the disk, and its node.
fn block(root: &Path, path: &str, number: &str) {
    let folder = root.join("sys/devices/pci0000:00").join(DISK).join("nvme").join(path);
    fs::create_dir_all(folder.join("holders")).unwrap();
    fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
    let name = folder.file_name().unwrap();
    symlink(&folder, root.join("sys/class/block").join(name)).unwrap();
    fs::write(root.join("dev").join(name), "").unwrap();
}

fn set_driver(root: &Path, address: &str, driver: &str) {
    let link = root.join("sys/bus/pci/devices").join(address).join("driver");
    symlink(root.join("sys/bus/pci/drivers").join(driver), link).unwrap();
}

/// The kernel's part of a write: a device leaves its driver, and gets the driver that `driver_override` names, or else `nvme`.
fn kernel_writes(kernel: &Kernel, path: &Path, text: &str) -> io::Result<()> {
    let device = |address: &str| kernel.devices().join(address);
    match path.file_name().and_then(|name| name.to_str()) {
        Some("unbind") => fs::remove_file(device(text).join("driver")),
        Some("drivers_probe") => {
            let wanted = fs::read_to_string(device(text).join("driver_override"))?;
            let wanted = if wanted.trim().is_empty() { "nvme" } else { wanted.trim() };
            // The file `refuses` names a driver that refuses every device.
            let refuses = fs::read_to_string(kernel.path("refuses")).unwrap_or_default();
            if wanted != refuses {
                set_driver(&kernel.root, text, wanted);
            }
            Ok(())
        }
        _ => fs::write(path, text),
    }
}

/// Runs the command. Returns its output, its errors, and whether it succeeded.
fn run_on(root: &Path, command: &Pci) -> (String, String, bool) {
    let kernel = Kernel { root: root.to_owned(), write: kernel_writes };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let is_good = run(&kernel, command, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(err), is_good)
}

fn of(address: &str, force: bool) -> PciDevices {
    PciDevices { addresses: vec![address.parse().unwrap()], force, json: true }
}

fn bind(root: &Path, force: bool) -> (String, String, bool) {
    run_on(root, &Pci::Bind(of(DISK, force)))
}

fn driver(root: &Path, address: &str) -> Option<String> {
    let link = fs::read_link(root.join("sys/bus/pci/devices").join(address).join("driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

#[test]
fn the_list_has_storage_controllers_with_their_disks_or_all_devices() {
    let machine = machine();
    let list = |all, json| run_on(machine.path(), &Pci::List { all, json }).0;
    let shown: Value = serde_json::from_str(&list(false, true)).unwrap();
    let [disk] = shown.as_array().unwrap().as_slice() else { panic!("{shown}") };
    assert_eq!(disk["address"], DISK);
    assert_eq!((&disk["numa_id"], &disk["iommu_group"]), (&1.into(), &7.into()));
    assert_eq!((&disk["driver"], &disk["class"]), (&"nvme".into(), &"010802".into()));
    let names: Vec<&str> = disk["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["nvme0n1", "nvme0n1p1"]);
    assert_eq!(
        serde_json::from_str::<Value>(&list(true, true)).unwrap().as_array().unwrap().len(),
        2
    );
    let text = list(false, false);
    assert!(text.contains("nvme0n1p1") && text.contains("1b36:0010"), "{text}");
}

#[test]
fn a_device_goes_to_vfio_and_back_to_its_driver() {
    let machine = machine();
    let (out, err, is_good) = bind(machine.path(), false);
    assert!(is_good, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()[0]["driver"], "vfio-pci");
    // A second call changes nothing.
    assert!(bind(machine.path(), false).2);
    let (_, err, is_good) = run_on(machine.path(), &Pci::Unbind(of(DISK, false)));
    assert!(is_good, "{err}");
    assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));
}

#[test]
fn a_device_that_the_kernel_gives_to_vfio_again_is_reported() {
    let machine = machine();
    assert!(bind(machine.path(), false).2);
    let kernel = Kernel {
        root: machine.path().to_owned(),
        write: |kernel, path, text| {
            if path.ends_with("drivers_probe") {
                set_driver(&kernel.root, text, "vfio-pci");
                return Ok(());
            }
            kernel_writes(kernel, path, text)
        },
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert!(!run(&kernel, &Pci::Unbind(of(DISK, false)), &mut out, &mut err));
    let err = String::from_utf8(err).unwrap();
    assert!(err.contains("'1b36 0010'") && err.contains("remove_id"), "{err}");
}

#[test]
fn a_disk_in_use_is_refused_with_what_uses_it_unless_forced() {
    let mounted = |root: &Path| {
        let line = "36 35 259:1 / /srv/data rw - ext4 /dev/nvme0n1p1 rw\n";
        fs::write(root.join("proc/self/mountinfo"), line).unwrap();
    };
    let of_several_disks = |root: &Path| {
        // Such file systems have a device number of their own.
        let line = "36 35 0:41 / /srv/data rw - btrfs /dev/nvme0n1 rw\n";
        fs::write(root.join("proc/self/mountinfo"), line).unwrap();
    };
    let swap = |root: &Path| {
        fs::write(root.join("proc/swaps"), "/dev/nvme0n1p1 partition 1 0 -2\n").unwrap();
    };
    let held = |root: &Path| {
        fs::create_dir(root.join("sys/class/block/nvme0n1p1/holders/md0")).unwrap();
    };
    type Case = (fn(&Path), &'static str);
    let cases: [Case; 4] = [
        (mounted, "nvme0n1p1 is mounted at /srv/data"),
        (of_several_disks, "nvme0n1 is mounted at /srv/data"),
        (swap, "nvme0n1p1 is swap space"),
        (held, "nvme0n1p1 is part of md0"),
    ];
    for (make, part) in cases {
        let machine = machine();
        make(machine.path());
        let (_, err, is_good) = bind(machine.path(), false);
        assert!(!is_good && err.contains(part) && err.contains("--force"), "{err}");
        assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));
        assert!(bind(machine.path(), true).2);
    }
}

#[test]
fn a_disk_that_a_process_has_open_is_refused_with_the_process_unless_forced() {
    let machine = machine();
    let process = machine.path().join("proc/43");
    fs::create_dir_all(process.join("fd")).unwrap();
    fs::write(process.join("comm"), "qemu\n").unwrap();
    symlink("/dev/nvme0n1p1", process.join("fd/7")).unwrap();
    let (_, err, is_good) = bind(machine.path(), false);
    assert!(!is_good && err.contains("process 43 (qemu) has opened /dev/nvme0n1p1"), "{err}");
    assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));
    assert!(bind(machine.path(), true).2);
}

#[test]
fn a_disk_that_cannot_be_opened_is_refused_with_the_error_unless_forced() {
    let machine = machine();
    let node = machine.path().join("dev/nvme0n1");
    fs::remove_file(&node).unwrap();
    // A link to itself cannot be opened, not even by root.
    symlink("nvme0n1", &node).unwrap();
    let (_, err, is_good) = bind(machine.path(), false);
    assert!(!is_good && err.contains("cannot be opened") && !err.contains("is in use"), "{err}");
    assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));
    assert!(bind(machine.path(), true).2);
}

#[test]
fn a_file_system_on_the_kernels_multipath_disk_counts() {
    let machine = machine();
    let root = machine.path();
    // The path of the controller is hidden, and the disk for programs is below a virtual device.
    for name in ["nvme0n1", "nvme0n1p1"] {
        fs::remove_file(root.join("sys/class/block").join(name)).unwrap();
    }
    block(root, "nvme0/nvme0c0n1", "0:0");
    fs::write(root.join("sys/class/block/nvme0c0n1/hidden"), "1\n").unwrap();
    let head = root.join("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
    fs::create_dir_all(&head).unwrap();
    fs::write(head.join("dev"), "259:4\n").unwrap();
    symlink(&head, root.join("sys/class/block/nvme0n1")).unwrap();
    fs::write(root.join("proc/self/mountinfo"), "36 35 259:4 / /srv rw - xfs /dev/x rw\n").unwrap();
    let (_, err, is_good) = bind(root, false);
    assert!(!is_good && err.contains("nvme0n1 is mounted at /srv"), "{err}");
}

#[test]
fn without_an_iommu_the_text_says_how_to_get_one() {
    let machine = machine();
    device(machine.path(), "0000:03:00.0", "0x010802", None);
    let (_, err, is_good) = run_on(machine.path(), &Pci::Bind(of("0000:03:00.0", true)));
    assert!(!is_good && err.contains("intel_iommu=on"), "{err}");
}

#[test]
fn a_device_keeps_its_driver_when_the_kernel_refuses_another_choice() {
    let machine = machine();
    let kernel = Kernel {
        root: machine.path().to_owned(),
        write: |kernel, path, text| {
            if path.ends_with("driver_override") {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            kernel_writes(kernel, path, text)
        },
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert!(!run(&kernel, &Pci::Bind(of(DISK, false)), &mut out, &mut err));
    assert!(String::from_utf8(err).unwrap().contains("driver_override"));
    assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));
}

#[test]
fn a_device_that_vfio_does_not_take_returns_to_its_driver() {
    let machine = machine();
    fs::write(machine.path().join("refuses"), "vfio-pci").unwrap();
    let (_, err, is_good) = bind(machine.path(), false);
    assert!(!is_good && err.contains("no driver"), "{err}");
    assert_eq!(driver(machine.path(), DISK).as_deref(), Some("nvme"));

    fs::remove_dir(machine.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let (_, err, _) = bind(machine.path(), false);
    assert!(err.contains("modprobe vfio-pci"), "{err}");
}

#[test]
fn a_device_that_a_process_has_open_is_not_returned_unless_forced() {
    let machine = machine();
    assert!(bind(machine.path(), false).2);
    let process = machine.path().join("proc/42");
    fs::create_dir_all(process.join("fd")).unwrap();
    fs::write(process.join("comm"), "drivebay\n").unwrap();
    symlink("/dev/vfio/7", process.join("fd/9")).unwrap();
    let unbind = |force| run_on(machine.path(), &Pci::Unbind(of(DISK, force)));
    let (_, err, is_good) = unbind(false);
    assert!(!is_good && err.contains("process 42 (drivebay)"), "{err}");
    assert!(unbind(true).2);
    // A device with another driver is refused, even with --force.
    let (_, err, is_good) = unbind(true);
    assert!(!is_good && err.contains("has the driver nvme"), "{err}");
}

#[test]
fn a_device_that_a_process_has_open_without_its_group_is_not_returned_either() {
    let machine = machine();
    assert!(bind(machine.path(), false).2);
    let device = machine.path().join("sys/bus/pci/devices").join(DISK);
    fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
    let process = machine.path().join("proc/42");
    fs::create_dir_all(process.join("fd")).unwrap();
    fs::write(process.join("comm"), "qemu\n").unwrap();
    symlink("/dev/vfio/devices/vfio3", process.join("fd/9")).unwrap();
    let (_, err, is_good) = run_on(machine.path(), &Pci::Unbind(of(DISK, false)));
    assert!(!is_good && err.contains("process 42 (qemu)"), "{err}");
}

#[test]
fn bridges_and_unknown_devices_are_refused() {
    let machine = machine();
    device(machine.path(), "0000:00:1c.0", "0x060400", Some(9));
    for (address, part) in [("0000:00:1c.0", "bridge"), ("0000:77:00.0", "there is no PCI device")]
    {
        let (_, err, is_good) = run_on(machine.path(), &Pci::Bind(of(address, true)));
        assert!(!is_good && err.contains(part), "{err}");
    }
}
