//! The methods, with SPDK's names, parameters and results.

use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, State};
use drivebay_sdk::serde_json::json;

use crate::app;

/// JSON-RPC's code for invalid parameters.
const INVALID_PARAMS: i64 = -32602;

params! {
    /// Parameters of `bdev_iscsi_create`.
    pub struct Create {
        /// Name of the bdev.
        #[range(1..=255)]
        pub name: String,
        /// Name of this initiator, such as iqn.2026-01.com.example:host1.
        #[range(1..=223)]
        pub initiator_iqn: String,
        /// The unit: iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN. These options may follow, after a ? and with & between them:
        /// target_user=USER and target_password=SECRET for mutual CHAP, header_digest=crc32c, data_digest=crc32c.
        #[range(1..=2048)]
        pub url: String,
    }

    /// Parameters of `bdev_iscsi_delete`.
    pub struct Delete {
        /// Name of the bdev.
        pub name: String,
    }

    /// Parameters of `bdev_iscsi_set_options`.
    pub struct SetOptions {
        /// How long a command or a login may take, in seconds; 0 = no limit. I/O also fails when there is no session for
        /// this time. Disks keep the value that held when they were made.
        #[range(0..=86400)]
        pub timeout_sec: u64 = 30,
    }
}

/// Registers the methods. `[app thread]`
pub(crate) fn register(app: &App) -> Result<()> {
    Method::task("bdev_iscsi_create", "Connects a unit of an iSCSI target as a bdev.", create)
        .describe(|method| {
            method
                .result("Name of the bdev.")
                .error(INVALID_PARAMS, "invalid_params", "A parameter is not allowed.")
                .error(-17, "exists", "A bdev has that name.")
                .error(
                    -1,
                    "not_permitted",
                    "The target refuses the user, the secret or the initiator.",
                )
                .error(-2, "not_found", "The portal has no such target.")
                .error(-5, "io", "The target cannot be reached, or refuses. The text says why.")
                .error(-110, "timed_out", "The target did not answer within `timeout_sec`.")
        })
        .register(app)?;
    Method::task("bdev_iscsi_delete", "Deletes an iSCSI bdev.", delete)
        .describe(|method| {
            method.result("true").error(-19, "no_such_device", "No iSCSI bdev has that name.")
        })
        .register(app)?;
    Method::immediate("bdev_iscsi_set_options", "Sets options for new iSCSI bdevs.", set_options)
        .describe(|method| method.result("true").states(&[State::Startup, State::Runtime]))
        .register(app)
}

async fn create(_: &App, params: Create) -> Result<String> {
    let checked = drivebay_spec_iscsi::name::check(&params.initiator_iqn);
    let refused = |allowed: &str| Error::invalid("initiator_iqn", &params.initiator_iqn, allowed);
    checked.map_err(refused)?;
    let known = app::get()?;
    known.create(params.name, params.initiator_iqn, params.url).await
}

async fn delete(_: &App, params: Delete) -> Result<bool> {
    app::get()?.delete(&params.name).await?;
    Ok(true)
}

fn set_options(_: &App, params: SetOptions) -> Result<bool> {
    app::get()?.timeout_sec.set(params.timeout_sec);
    Ok(true)
}

/// Writes the options. The bus writes the bdevs.
pub(crate) fn save_config(config: &mut Config<'_>) {
    if let Ok(known) = app::get() {
        let params = json!({"timeout_sec": known.timeout_sec.get()});
        config.call("bdev_iscsi_set_options", &params);
    }
}
