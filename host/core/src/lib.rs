//! Environment, reactors, threads and the bdev bus.
