//! What the tests and the demo need beyond Rust. As root on Debian or Ubuntu, `prepare` installs it and
//! says so. Otherwise it lists what is missing, and what is skipped because of that.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, run};

/// What a package is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Building, and the unit tests.
    Build,
    /// End-to-end tests.
    EndToEnd,
    /// Tests with a Linux kernel in an emulated machine.
    Guest,
}

/// How to see that a package is installed.
enum Sign {
    /// A program on the search path.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A module that the system's Python can import.
    PythonModule(&'static str),
}

/// Debian's packages.
const PACKAGES: &[(&str, Sign, Need)] = &[
    ("gcc", Sign::Program("cc"), Need::Build),
    ("g++", Sign::Program("c++"), Need::Build),
    ("libc6-dev", Sign::File("/usr/include/stdio.h"), Need::Build),
    ("clang", Sign::Program("clang"), Need::Build),
    ("make", Sign::Program("make"), Need::EndToEnd),
    ("pkg-config", Sign::Program("pkg-config"), Need::EndToEnd),
    ("libiscsi-bin", Sign::Program("iscsi-test-cu"), Need::EndToEnd),
    ("libnbd-bin", Sign::Program("nbdcopy"), Need::EndToEnd),
    ("qemu-utils", Sign::Program("qemu-img"), Need::EndToEnd),
    ("python3", Sign::Program("python3"), Need::EndToEnd),
    ("python3-venv", Sign::PythonModule("ensurepip"), Need::EndToEnd),
    ("qemu-system-x86", Sign::Program("qemu-system-x86_64"), Need::Guest),
    ("seabios", Sign::File("/usr/share/seabios/bios-256k.bin"), Need::Guest),
    ("ipxe-qemu", Sign::File("/usr/lib/ipxe/qemu/efi-virtio.rom"), Need::Guest),
    ("kmod", Sign::Program("depmod"), Need::Guest),
    ("zstd", Sign::Program("zstd"), Need::Guest),
    ("xz-utils", Sign::Program("xz"), Need::Guest),
    ("nvme-cli", Sign::Program("nvme"), Need::Guest),
    ("fio", Sign::Program("fio"), Need::Guest),
    ("iproute2", Sign::Program("ip"), Need::Guest),
    ("e2fsprogs", Sign::Program("mkfs.ext4"), Need::Guest),
    ("xfsprogs", Sign::Program("mkfs.xfs"), Need::Guest),
    ("dmsetup", Sign::Program("dmsetup"), Need::Guest),
    ("mount", Sign::Program("losetup"), Need::Guest),
];

/// What is still missing after [`prepare`].
#[derive(Debug, Default)]
pub(crate) struct Missing(Vec<(String, Need)>);

impl Missing {
    /// The reason why tests of this kind cannot run; `None` if they can. Everything that the build needs, all
    /// tests need. Everything that end-to-end tests need, guest tests need, too.
    pub(crate) fn reason(&self, need: Need) -> Option<String> {
        let weight = |need| match need {
            Need::Build => 0,
            Need::EndToEnd => 1,
            Need::Guest => 2,
        };
        let names: Vec<&str> = self
            .0
            .iter()
            .filter(|(_, wanted_by)| weight(*wanted_by) <= weight(need))
            .map(|(name, _)| name.as_str())
            .collect();
        (!names.is_empty()).then(|| format!("missing: {}", names.join(", ")))
    }
}

/// `cargo xtask prepare`.
pub(crate) fn main() -> Outcome {
    let missing = prepare(&[Need::Build, Need::EndToEnd, Need::Guest]);
    match missing.reason(Need::Guest) {
        None => {
            println!("prepare: nothing is missing");
            Ok(())
        }
        Some(reason) => Err(reason.into()),
    }
}

/// Installs what is missing for these needs, if that is possible. Reports what is still missing.
pub(crate) fn prepare(needs: &[Need]) -> Missing {
    let wanted = |need: &Need| needs.contains(need);
    let mut missing = Missing::default();

    let absent = || -> Vec<(&str, Need)> {
        let absent = PACKAGES.iter().filter(|(_, sign, need)| wanted(need) && !is_there(sign));
        absent.map(|(name, _, need)| (*name, *need)).collect()
    };
    if !absent().is_empty() {
        install(&absent().iter().map(|(name, _)| *name).collect::<Vec<_>>());
        missing.0.extend(absent().into_iter().map(|(name, need)| (name.to_owned(), need)));
    }
    if wanted(&Need::EndToEnd) && !client_venv() {
        missing.0.push(("PyPI's spdk client (pip install spdk)".to_owned(), Need::EndToEnd));
    }
    if wanted(&Need::Guest) && !guest_kernel() {
        missing.0.push(("a Debian kernel for the guest".to_owned(), Need::Guest));
    }
    if wanted(&Need::Guest) && !static_busybox() {
        missing.0.push(("a static busybox for the guest".to_owned(), Need::Guest));
    }
    if wanted(&Need::Guest) && !open_iscsi() {
        missing.0.push(("open-iscsi for the guest".to_owned(), Need::Guest));
    }
    for (name, need) in &missing.0 {
        println!("prepare: missing: {name} ({need:?})");
    }
    missing
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => is_on_path(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::PythonModule(name) => {
            run::succeeds(Command::new("python3").args(["-c", &format!("import {name}")]))
        }
    }
}

/// Looks in the administrator's folders, too, because a user's path rarely has them.
fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let folders = folders.chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.into_iter().any(|folder| folder.join(program).exists())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs packages by apt-get, if it exists and may be used. A later check shows what is still
/// missing. apt-get may remove no package: if Debian's own versions would replace newer ones, those of
/// backports are installed.
fn install(packages: &[&str]) {
    if !is_on_path("apt-get") || !is_root() {
        println!(
            "prepare: not root on Debian or Ubuntu, so not installed; by hand: \
             apt-get install {}",
            packages.join(" ")
        );
        return;
    }
    println!("prepare: installing {}", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut command = run::command("apt-get", args);
        if let Err(error) = run::must(command.env("DEBIAN_FRONTEND", "noninteractive")) {
            println!("prepare: {error}");
        }
    };
    apt(&["-q", "update"]);
    let backports = backports();
    let mut would_go = Vec::new();
    for from in [&[][..], &["-t", &backports]] {
        let install =
            [&["-q", "-y", "--no-install-recommends"], from, &["install"], packages].concat();
        let simulated = run::command("apt-get", &[&["-s"], install.as_slice()].concat()).output();
        let Ok(simulated) = simulated else { break };
        let removed = removed(&simulated.stdout);
        if simulated.status.success() && removed.is_empty() {
            return apt(&[&["--no-remove"], install.as_slice()].concat());
        }
        would_go.extend(removed);
    }
    would_go.sort();
    would_go.dedup();
    println!(
        "prepare: not installed: {}; by hand: apt-get install {}",
        if would_go.is_empty() {
            "apt-get cannot find them".to_owned()
        } else {
            format!("apt-get would remove {}", would_go.join(", "))
        },
        packages.join(" ")
    );
}

/// The packages that a simulated run of apt-get removes.
fn removed(simulation: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(simulation);
    let lines = text.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The suite of this release that has newer packages: `CODENAME-backports`.
fn backports() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    format!("{}-backports", name.unwrap_or("stable").trim_matches('"'))
}

/// The folder of the Python environment with PyPI's `spdk` client.
pub(crate) fn venv() -> PathBuf {
    run::target().join("spdk-client")
}

/// Creates the Python environment if it does not exist.
fn client_venv() -> bool {
    let venv = venv();
    let client = venv.join("bin/spdk-rpc");
    if !client.exists() {
        println!("prepare: installing PyPI's spdk client into {}", venv.display());
        let path = venv.to_string_lossy();
        let made = run::must(&mut run::command("python3", &["-m", "venv", &path])).and_then(|()| {
            let pip = venv.join("bin/pip");
            run::must(&mut run::command(
                pip,
                &["install", "--quiet", "--disable-pip-version-check", "spdk"],
            ))
        });
        if let Err(error) = made {
            println!("prepare: {error}");
        }
    }
    client.exists()
}

/// The folder of the guest's kernel and its busybox.
fn guest_cache() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_default();
    std::env::var_os("GUEST_CACHE")
        .map_or_else(|| Path::new(&home).join(".cache/guest-kernels"), PathBuf::from)
}

/// Unpacks the guest's kernel into its cache if it is not there.
fn guest_kernel() -> bool {
    guest_cache().join("current/.complete").exists()
        || fetch("a Debian kernel for the guest (107 MB)", "tests/guest/fetch-kernel.sh")
}

/// Unpacks a busybox that needs no libraries into the cache, if neither the cache nor the machine has
/// one.
fn static_busybox() -> bool {
    let find = ["-c", "import guest; guest.find_busybox(guest.CACHE)"];
    let mut find = run::command("python3", &find);
    run::succeeds(find.env("PYTHONPATH", run::top().join("tests/guest")))
        || fetch("Debian's static busybox for the guest", "tests/guest/fetch-busybox.sh")
}

/// Unpacks the guest's iSCSI initiator into the cache if it is not there.
fn open_iscsi() -> bool {
    guest_cache().join("open-iscsi").exists()
        || fetch("open-iscsi for the guest", "tests/guest/fetch-open-iscsi.sh")
}

fn fetch(what: &str, script: &str) -> bool {
    println!("prepare: downloading {what}; it is unpacked, not installed");
    if is_root() && is_on_path("apt-get") {
        // apt-get finds nothing without package lists.
        let _ = run::must(&mut run::command("apt-get", &["-q", "update"]));
    }
    match run::must(&mut run::command(script, &[])) {
        Ok(()) => true,
        Err(error) => {
            println!("prepare: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_lacks_stops_no_end_to_end_test_but_the_other_way_round() {
        let missing = Missing(vec![("qemu".to_owned(), Need::Guest)]);
        assert_eq!(missing.reason(Need::EndToEnd), None);
        assert_eq!(missing.reason(Need::Guest).as_deref(), Some("missing: qemu"));

        let missing = Missing(vec![("python3".to_owned(), Need::EndToEnd)]);
        assert_eq!(missing.reason(Need::Build), None);
        assert_eq!(missing.reason(Need::Guest).as_deref(), Some("missing: python3"));
    }

    #[test]
    fn what_apt_get_would_remove_is_read_from_its_simulation() {
        let simulation = b"Reading package lists...\nThe following packages will be REMOVED:\n  qemu-utils\n\
            Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\nInst qemu-system-x86 (1:7.2 Debian:12 [amd64])\n";
        assert_eq!(removed(simulation), ["qemu-utils"]);
        assert!(removed(b"Inst seabios (1.16 Debian:12 [all])\n").is_empty());
    }

    #[test]
    fn programs_of_the_administrator_are_found() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("no-such-program-at-all"));
    }
}
