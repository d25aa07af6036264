//! The cases that the bench measures.

use crate::run;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// A disk, and the pattern of its I/O.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) disk: Disk,
    pub(super) pattern: &'static str,
}

#[derive(Clone, Copy)]
pub(super) enum Disk {
    /// The generator alone.
    Nothing,
    /// The generator with a copy in place of the bus.
    Copy,
    Null,
    Malloc,
    /// This many passthru on a malloc.
    Passthru(usize),
    /// A logical volume on a malloc, with this many snapshots behind it.
    Volume {
        thin: bool,
        snapshots: usize,
    },
    /// An array of malloc bdevs, with its second member removed if it is degraded.
    Array {
        level: &'static str,
        is_degraded: bool,
    },
}

pub(super) const CASES: [Case; 7] = [
    Case { name: "generator alone", disk: Disk::Nothing, pattern: "randread" },
    Case { name: "null, read", disk: Disk::Null, pattern: "randread" },
    Case { name: "memcpy in place of the bus", disk: Disk::Copy, pattern: "randread" },
    Case { name: "malloc, read", disk: Disk::Malloc, pattern: "randread" },
    Case { name: "malloc, write", disk: Disk::Malloc, pattern: "randwrite" },
    Case { name: "passthru on malloc, read", disk: Disk::Passthru(1), pattern: "randread" },
    Case { name: "two passthru on malloc, read", disk: Disk::Passthru(2), pattern: "randread" },
];

impl Case {
    /// Whether the reference can run the case, too.
    pub(super) fn is_of_both(&self) -> bool {
        !matches!(self.disk, Disk::Nothing | Disk::Copy)
    }

    /// The depths at which the bench measures its rate. A RAM disk has several, because its speed depends on whether the buffers are
    /// in a cache.
    pub(super) fn depths(&self) -> &'static [u32] {
        match self.disk {
            Disk::Malloc | Disk::Volume { .. } | Disk::Array { .. } => &[1, 32, 128],
            Disk::Null => &[1, 128],
            Disk::Nothing | Disk::Passthru(_) => &[128],
            // It is measured together with each case of a RAM disk: see `copy`.
            Disk::Copy => &[],
        }
    }

    /// The limit for a RAM disk: a copy over the same addresses. `None` for other cases.
    pub(super) fn copy(&self) -> Option<Self> {
        matches!(self.disk, Disk::Malloc).then_some(Self { disk: Disk::Copy, ..*self })
    }

    /// The measured bdev and the calls that make it, the same for the reference: 32 MiB, which no
    /// cache near the core holds.
    pub(super) fn calls(&self) -> (String, Vec<(&'static str, Value)>) {
        let base = json!({"name": "base", "num_blocks": 65536, "block_size": 512});
        match self.disk {
            Disk::Nothing | Disk::Null => ("base".into(), vec![("bdev_null_create", base)]),
            Disk::Copy | Disk::Malloc => ("base".into(), vec![("bdev_malloc_create", base)]),
            Disk::Passthru(layers) => {
                let mut calls = vec![("bdev_malloc_create", base)];
                let mut top = "base".to_owned();
                for layer in 0..layers {
                    let name = format!("layer{layer}");
                    let params = json!({"base_bdev_name": top, "name": name});
                    calls.push(("bdev_passthru_create", params));
                    top = name;
                }
                (top, calls)
            }
            Disk::Volume { thin, snapshots } => {
                let base = json!({"name": "base", "num_blocks": 131_072, "block_size": 512});
                let store = json!({"bdev_name": "base", "lvs_name": "lvs", "cluster_sz": 1 << 20});
                let volume = json!({"lvs_name": "lvs", "lvol_name": "volume", "size_in_mib": 32,
                    "thin_provision": thin});
                let mut calls = vec![
                    ("bdev_malloc_create", base),
                    ("bdev_lvol_create_lvstore", store),
                    ("bdev_lvol_create", volume),
                ];
                calls.extend((0..snapshots).map(|number| {
                    let name = format!("snapshot{number}");
                    let params = json!({"lvol_name": "lvs/volume", "snapshot_name": name});
                    ("bdev_lvol_snapshot", params)
                }));
                ("lvs/volume".into(), calls)
            }
            Disk::Array { level, is_degraded } => {
                let mut calls = array_calls(level, 16);
                if is_degraded {
                    calls.push(("bdev_raid_remove_base_bdev", json!({"name": "member1"})));
                }
                ("array".into(), calls)
            }
        }
    }

    /// The arguments of `drivebay perf` for this case. The caller adds those that say when the run ends.
    pub(super) fn arguments(&self, depth: u32) -> Vec<String> {
        let (bdev, calls) = self.calls();
        let mut arguments = perf_arguments(self.pattern, depth, &bdev, &calls);
        match self.disk {
            Disk::Nothing => arguments.push("--null-loop".into()),
            Disk::Copy => arguments.push("--copy-loop".into()),
            Disk::Null
            | Disk::Malloc
            | Disk::Passthru(_)
            | Disk::Volume { .. }
            | Disk::Array { .. } => {}
        }
        arguments
    }
}

/// The calls that create `array` from `member0`, `member1`, …: raid1 has two members, raid0 four, and raid5f five, with stripes of 128
/// KiB. Each member has `mib` MiB.
pub(super) fn array_calls(level: &str, mib: u64) -> Vec<(&'static str, Value)> {
    let (count, strip_size_kb) = match level {
        "raid1" => (2, 0),
        "raid0" => (4, 64),
        _ => (5, 32),
    };
    let names: Vec<String> = (0..count).map(|number| format!("member{number}")).collect();
    let member = |name: &String| {
        let params = json!({"name": name, "num_blocks": mib << 11, "block_size": 512});
        ("bdev_malloc_create", params)
    };
    let array = json!({"name": "array", "raid_level": level, "strip_size_kb": strip_size_kb, "base_bdevs": names});
    names.iter().map(member).chain([("bdev_raid_create", array)]).collect()
}

/// The arguments of `drivebay perf` for a bdev that these calls create. The caller adds those that say when the run ends.
pub(super) fn perf_arguments(
    pattern: &str,
    depth: u32,
    bdev: &str,
    calls: &[(&str, Value)],
) -> Vec<String> {
    let folder = folder().display().to_string();
    let depth = depth.to_string();
    let arguments = ["perf", "--json", "--plugin-dir", &folder, "-w", pattern, "-q", &depth, bdev];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    for (method, params) in calls {
        arguments.extend(["--rpc".to_owned(), format!("{method} {params}")]);
    }
    arguments
}

/// The folder where the program and the plugins were built.
pub(super) fn folder() -> PathBuf {
    run::target().join("release")
}

pub(super) fn program() -> PathBuf {
    folder().join("drivebay")
}

/// A command's standard output. If it fails, the error is its first line on stderr.
pub(super) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let reported = String::from_utf8_lossy(&output.stderr);
        let first = reported.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(format!("{program}: {}: {first}", output.status))
    }
}
