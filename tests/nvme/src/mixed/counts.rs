//! The totals of all clients.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters, each with the text to print.
macro_rules! counts {
    ($($name:ident: $word:literal,)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counts { $(pub(crate) $name: AtomicU64,)* }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = [$(($word, &self.$name)),*];
                for (i, (word, count)) in all.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {word}", count.load(Ordering::Relaxed))?;
                }
                Ok(())
            }
        }
    };
}

counts! {
    reads: "reads",
    writes: "writes",
    compares: "compares",
    zeroings: "write zeroes",
    unmaps: "deallocates",
    flushes: "flushes",
    bytes_read: "bytes read",
    bytes_written: "bytes written",
    blocks_verified: "blocks verified",
    refused: "I/O refused because the namespace was absent",
    connections: "connections",
    drops: "dropped with I/O on their way",
    resets: "controllers reset",
    additions: "namespaces added",
    removals: "namespaces removed",
    disk_removals: "disks deleted under I/O",
    loads: "plugin loads",
    unloads: "plugin unloads",
    calls: "RPC calls",
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
