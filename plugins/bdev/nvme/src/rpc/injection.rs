//! The methods that inject errors into a controller's commands, for tests.

use std::time::Duration;

use drivebay_nvme_driver::spec::Status as NvmeStatus;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Description, Method, Role};

use super::commands::CommandType;
use crate::app;
use crate::group::Group;
use crate::inject::{Injection, Injections};

params! {
    /// Parameters of `bdev_nvme_add_error_injection`.
    pub struct AddErrorInjection {
        /// Name of the controller.
        pub name: String,
        /// Queue of the commands.
        pub cmd_type: CommandType,
        /// Opcode of the commands.
        pub opc: u8,
        /// Whether the commands are not sent to the controller.
        pub do_not_submit: bool = false,
        /// How long a command waits before it ends, in microseconds; a reset of the controller ends it earlier. Only with `do_not_submit`.
        pub timeout_in_us: u64 = 0,
        /// How many commands fail.
        #[range(1..=4_294_967_295)]
        pub err_count: u32 = 1,
        /// Status code type of the answer, 0 to 7.
        #[range(0..=7)]
        pub sct: u8 = 0,
        /// Status code of the answer.
        pub sc: u8 = 0,
    }

    /// Parameters of `bdev_nvme_remove_error_injection`.
    pub struct RemoveErrorInjection {
        /// Name of the controller.
        pub name: String,
        /// Queue of the commands.
        pub cmd_type: CommandType,
        /// Opcode of the commands.
        pub opc: u8,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    Method::immediate(
        "bdev_nvme_add_error_injection",
        "Makes the next commands with an opcode end with a status, for tests.\n\n\
         `err_count` applies to each path of the controller. A second call for the opcode replaces the first.",
        |_, params: AddErrorInjection| add(&params),
    )
    .describe(changes)
    .register(app)?;
    Method::immediate(
        "bdev_nvme_remove_error_injection",
        "Removes the error that `bdev_nvme_add_error_injection` injected into the commands with an opcode.",
        |_, params: RemoveErrorInjection| {
            each(&params.name, params.cmd_type, |injections| injections.remove(params.opc))
        },
    )
    .describe(changes)
    .register(app)
}

fn changes(mut method: Description) -> Description {
    method.role = Role::Admin;
    method.result("true").error(-22, "invalid_value", "No controller has that name.")
}

fn add(params: &AddErrorInjection) -> Result<bool> {
    if params.timeout_in_us > 0 && !params.do_not_submit {
        let given = params.timeout_in_us;
        return Err(Error::invalid("timeout_in_us", given, "0 unless do_not_submit is true"));
    }
    let injection = Injection {
        opcode: params.opc,
        status: NvmeStatus::new(params.sct, params.sc),
        count: params.err_count,
        instead: params.do_not_submit.then_some(Duration::from_micros(params.timeout_in_us)),
    };
    each(&params.name, params.cmd_type, |injections| injections.add(injection))
}

/// Changes the injections of all paths of a controller.
fn each(name: &str, kind: CommandType, change: impl Fn(&Injections)) -> Result<bool> {
    let group = app::get()?.find(name);
    let members = group.as_deref().map(Group::members).ok_or_else(|| {
        Error::new(errno::EINVAL, format!("name '{name}': no controller has that name"))
    })?;
    for controller in members {
        match kind {
            CommandType::Admin => change(&controller.path.admin_injections),
            CommandType::Io => change(&controller.path.io_injections),
        }
    }
    Ok(true)
}
