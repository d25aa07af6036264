//! `bdev_set_options`.

use super::entry::{Entry, on_app};
use drivebay_core::bdev::{examine, set_most_io};
use drivebay_spec_jsonrpc::{Method, Role, RpcError, State, params};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

params! {
    /// Parameters of `bdev_set_options`. An option that is absent keeps its value.
    pub(crate) struct SetOptions {
        /// Maximum number of I/O that clients on one thread may have in flight to one bdev.
        bdev_io_pool_size: Option<u32>,
        /// I/O structures that each thread caches in SPDK. Drivebay only stores the value.
        bdev_io_cache_size: Option<u32>,
        /// If true, the host shows each new bdev to all modules. If false, only `bdev_examine` does.
        bdev_auto_examine: Option<bool>,
        /// Small buffers that each thread caches in SPDK. Drivebay only stores the value.
        iobuf_small_cache_size: Option<u32>,
        /// Large buffers that each thread caches in SPDK. Drivebay only stores the value.
        iobuf_large_cache_size: Option<u32>,
    }
}

/// The present options. The defaults are SPDK's.
static OPTIONS: Mutex<SetOptions> = Mutex::new(SetOptions {
    bdev_io_pool_size: Some(65_535),
    bdev_io_cache_size: Some(256),
    bdev_auto_examine: Some(true),
    iobuf_small_cache_size: Some(128),
    iobuf_large_cache_size: Some(16),
});

pub(super) fn entries() -> Vec<Entry> {
    let method = Method::new::<SetOptions>(
        "bdev_set_options",
        Role::Admin,
        "Sets options that apply to all bdevs.",
    )
    .states(&[State::Startup])
    .result("True.")
    .returns::<bool>();
    vec![(method, on_app(set_options))]
}

fn set_options(given: SetOptions) -> Result<bool, RpcError> {
    let mut options = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let new = SetOptions {
        bdev_io_pool_size: given.bdev_io_pool_size.or(options.bdev_io_pool_size),
        bdev_io_cache_size: given.bdev_io_cache_size.or(options.bdev_io_cache_size),
        bdev_auto_examine: given.bdev_auto_examine.or(options.bdev_auto_examine),
        iobuf_small_cache_size: given.iobuf_small_cache_size.or(options.iobuf_small_cache_size),
        iobuf_large_cache_size: given.iobuf_large_cache_size.or(options.iobuf_large_cache_size),
    };
    let (pool, cache) =
        (new.bdev_io_pool_size.unwrap_or_default(), new.bdev_io_cache_size.unwrap_or_default());
    if pool < cache {
        let allowed = format!("at least bdev_io_cache_size, {cache}");
        return Err(RpcError::invalid_value("bdev_io_pool_size", pool, allowed));
    }
    set_most_io(pool);
    examine::set_auto(new.bdev_auto_examine.unwrap_or(true));
    *options = new;
    Ok(true)
}

/// The call that sets the present options.
pub(super) fn config() -> Value {
    let options = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    json!({"method": "bdev_set_options", "params": *options})
}
