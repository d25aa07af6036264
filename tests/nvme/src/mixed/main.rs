//! A long run of everything at once: a host that clients use and change while they verify its data, and whose memory
//! must not grow.
//!
//! [`scene`] has the disks, the threads that work during the whole run, and the end. The threads: [`clients`] read and
//! write ([`lanes`], [`stamp`]) on connections that stay, and on connections that come and go; [`changes`] adds and
//! removes namespaces and disks; [`plugins`] loads and unloads plugins; [`calls`] makes RPC calls. [`memory`] samples
//! the host's memory meanwhile.
//!
//! The run takes ten seconds, or half an hour if `DRIVEBAY_SOAK` is set. `DRIVEBAY_MIXED_SECONDS` sets another length,
//! in seconds.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod calls;
mod changes;
mod clients;
mod counts;
#[allow(dead_code, reason = "the other tests use all of it")]
#[path = "../host.rs"]
mod host;
mod lanes;
mod memory;
mod plugins;
mod random;
mod scene;
mod stamp;
#[allow(dead_code, reason = "the other tests use all of it")]
#[path = "../target.rs"]
mod target;

use scene::Scene;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

fn length() -> Duration {
    let asked = std::env::var("DRIVEBAY_MIXED_SECONDS").ok().map(|text| text.parse().unwrap());
    let whole = std::env::var_os("DRIVEBAY_SOAK").is_some();
    Duration::from_secs(asked.unwrap_or(if whole { 1800 } else { 10 }))
}

#[test]
fn a_mixed_load_meets_no_error_and_leaves_memory_flat() {
    let mut scene = Scene::start();
    let noticed = scene.play(length(), |_, _| ());
    noticed.unwrap();
    scene.end();
}

/// Shows that the test above can fail: it finds within seconds that the file of a disk was changed.
#[test]
fn a_block_that_changes_behind_the_disk_is_noticed() {
    let mut scene = Scene::start();
    let noticed = scene.play(Duration::from_secs(20), |scene, at| {
        if at > Duration::from_secs(2) {
            change_every_block(&scene.file("file"));
        }
    });
    let noticed = noticed.unwrap_err();
    // A read or a compare finds it first. Recent writes may be lost, too.
    let signs = ["of namespace 2 holds", "namespace 2: Compare("];
    assert!(signs.iter().any(|sign| noticed.contains(sign)), "{noticed}");
}

/// Writes past the page cache, like the disk. Cached pages under direct writes would be an error of the file.
fn change_every_block(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    let file = options.open(path).unwrap();
    let mut memory = vec![0; 2 * 4096];
    let aligned = memory.as_ptr().align_offset(4096);
    let block = &mut memory[aligned..][..target::BLOCK];
    for lba in 0..scene::DISK_BLOCKS {
        let at = lba * target::BLOCK as u64;
        file.read_exact_at(block, at).unwrap();
        block[300] = 0xdb;
        file.write_all_at(block, at).unwrap();
    }
}
