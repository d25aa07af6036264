//! `iobuf_*`: the pools of buffers.

use super::entry::{Entry, on_app, refused, unsupported};
use drivebay_core::env::buf::{self, DEFAULTS, Options};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, State, params};
use serde_json::{Value, json};

params! {
    /// Parameters of `iobuf_set_options`.
    pub(crate) struct SetOptions {
        /// Number of small buffers.
        small_pool_count: u64 = DEFAULTS.small_count,
        /// Number of large buffers.
        large_pool_count: u64 = DEFAULTS.large_count,
        /// Size of a small buffer, in bytes.
        small_bufsize: u32 = DEFAULTS.small_size,
        /// Size of a large buffer, in bytes.
        large_bufsize: u32 = DEFAULTS.large_size,
        /// Separate pools for each NUMA node. Only false is supported yet.
        enable_numa: bool = false,
    }
}

params! {
    /// One row of the result of `iobuf_get_stats`.
    struct ModuleStats {
        /// Who uses the pools.
        module: String,
        /// The pool of small buffers.
        small_pool: PoolStats,
        /// The pool of large buffers.
        large_pool: PoolStats,
    }
    struct PoolStats {
        /// Always 0: the pools do not count buffers from caches.
        cache: u64,
        /// Number of buffers that have ever left the pool.
        main: u64,
        /// How often a client had to wait for a buffer.
        retry: u64,
    }
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        (
            Method::new::<SetOptions>(
                "iobuf_set_options",
                Role::Admin,
                "Sets the number and the size of the buffers that bdevs and transports share.",
            )
            .states(&[State::Startup])
            .result("True.")
            .returns::<bool>(),
            on_app(set_options),
        ),
        (
            Method::new::<NoParams>(
                "iobuf_get_stats",
                Role::Read,
                "Returns the statistics of the buffer pools.",
            )
            .returns::<Vec<ModuleStats>>(),
            on_app(|NoParams {}| Ok(stats())),
        ),
    ]
}

fn set_options(given: SetOptions) -> Result<bool, RpcError> {
    if given.enable_numa {
        return Err(unsupported("enable_numa", true, false));
    }
    buf::configure(Options {
        small_count: given.small_pool_count,
        large_count: given.large_pool_count,
        small_size: given.small_bufsize,
        large_size: given.large_bufsize,
    })
    .map_err(refused)?;
    Ok(true)
}

/// The call that sets the present options.
pub(super) fn config() -> Value {
    let options = buf::options();
    let params = SetOptions {
        small_pool_count: options.small_count,
        large_pool_count: options.large_count,
        small_bufsize: options.small_size,
        large_bufsize: options.large_size,
        enable_numa: false,
    };
    json!({"method": "iobuf_set_options", "params": params})
}

/// All users share the pools, so the result has one row.
fn stats() -> Vec<ModuleStats> {
    let ([small, large], [small_retries, large_retries]) = (buf::carved(), buf::retries());
    let pool = |main: u64, retry: u64| PoolStats { cache: 0, main, retry };
    vec![ModuleStats {
        module: "bdev".to_owned(),
        small_pool: pool(small, small_retries),
        large_pool: pool(large, large_retries),
    }]
}
