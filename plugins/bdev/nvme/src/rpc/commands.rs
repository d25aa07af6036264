//! `bdev_nvme_send_cmd`: any command, as the caller gives it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::URL_SAFE;
use drivebay_nvme_driver::spec::Command;
use drivebay_nvme_driver::spec::command::Fuse;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};

use super::{INVALID_PARAMS, task_with_code};
use crate::admin::{Admin, Answer, Data, OF_QUEUES};
use crate::app;
use crate::controller::Controller;
use crate::path::{State, Ticket};
use crate::reach::Opened;

/// Maximum amount of data of a command, in bytes.
const DATA_LEN_MAX: u32 = 1 << 20;
/// The alphabet of the reference.
const BASE64: GeneralPurpose = URL_SAFE;

params! {
    /// Parameters of `bdev_nvme_send_cmd`.
    pub struct SendCmd {
        /// Name of the controller.
        pub name: String,
        /// Queue of the command.
        pub cmd_type: CommandType,
        /// Which way the data goes.
        pub data_direction: Direction,
        /// The command: 64 bytes in base64 with `-` and `_`. Its identifier and data pointer are filled in.
        pub cmdbuf: String,
        /// Data for the controller, in the same form.
        pub data: Option<String>,
        /// Metadata. Must be absent: not supported yet.
        pub metadata: Option<String>,
        /// Length of the data, in bytes; the length of `data` when absent.
        #[range(0..=1_048_576)]
        pub data_len: Option<u32>,
        /// Length of the metadata. Must be absent or 0: not supported yet.
        pub metadata_len: Option<u32>,
        /// How long the command may take, in milliseconds; the limit of admin commands when absent or 0.
        pub timeout_ms: u32 = 0,
    }

    /// Queue of a command.
    pub enum CommandType {
        /// The admin queue.
        Admin = "admin",
        /// An I/O queue.
        Io = "io",
    }

    /// Which way data goes.
    pub enum Direction {
        /// From the controller to the host.
        FromController = "c2h",
        /// From the host to the controller.
        ToController = "h2c",
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    task_with_code(
        INVALID_PARAMS,
        "bdev_nvme_send_cmd",
        "Sends a command to a controller and answers with its completion.\n\n\
         A failed command does not fail the call: `cpl` has its status.",
        send,
    )
    .describe(|mut method| {
        method.role = drivebay_sdk::rpc::Role::Admin;
        method
            .result("`cpl`: the 16 bytes of the completion in base64; `data`: what the controller sent.")
            .error(
                INVALID_PARAMS,
                "invalid_value",
                "A parameter is not allowed, no controller has that name, or it did not answer.",
            )
    })
    .register(app)
}

async fn send(_: &App, params: SendCmd) -> Result<Value> {
    let controller = app::get()?
        .find_controller(&params.name)
        .ok_or_else(|| Error::new(errno::EINVAL, format!("no controller named {}", params.name)))?;
    let (command, data) = prepare(&params)?;
    let is_admin = matches!(params.cmd_type, CommandType::Admin);
    if is_admin && controller.is_pci() && OF_QUEUES.contains(&command.opcode()) {
        let given = format!("admin opcode {:02x}h", command.opcode());
        let allowed = "other commands: the plugin itself creates and deletes the queues of a controller on PCIe";
        return Err(Error::invalid("cmdbuf", given, allowed));
    }
    let limit = match params.timeout_ms {
        0 => controller.settings.timeouts.admin,
        ms => Duration::from_millis(ms.into()),
    };
    let run = async {
        match params.cmd_type {
            CommandType::Admin => controller.connected()?.send("command", command, data).await,
            CommandType::Io => on_own_queue(&controller, command, data).await,
        }
    };
    let answer = task::timeout(limit, run).await??;
    let cpl = BASE64.encode(answer.completion.encode());
    if params.data_direction == Direction::ToController || answer.data.is_empty() {
        return Ok(json!({ "cpl": cpl }));
    }
    Ok(json!({ "cpl": cpl, "data": BASE64.encode(&answer.data) }))
}

/// The command and its data, checked.
fn prepare(params: &SendCmd) -> Result<(Command, Data)> {
    drivebay_sdk::bdev::only("metadata_len", params.metadata_len.unwrap_or(0), 0)?;
    if params.metadata.is_some() {
        return Err(Error::invalid("metadata", "given", "absent: it is not supported yet"));
    }
    let decode = |field: &str, text: &str| {
        BASE64
            .decode(text)
            .map_err(|error| Error::invalid(field, error, "base64 with - and _ instead of + and /"))
    };
    let bytes = decode("cmdbuf", &params.cmdbuf)?;
    let bytes: &[u8; 64] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| Error::invalid("cmdbuf", format!("of {} bytes", bytes.len()), "64 bytes"))?;
    let mut command = Command::parse(bytes);
    // PSDT, bits 15:14. Set it to SGL in any case, because fabrics allow no other data pointer.
    command.dw[0] = command.dw[0] & !(3 << 14) | 1 << 14;
    if command.fuse() != Fuse::Normal {
        return Err(Error::invalid("cmdbuf", "half of a fused command", "a command of its own"));
    }
    let data = params.data.as_deref().map(|text| decode("data", text)).transpose()?;
    let given = data.as_ref().map_or(0, Vec::len);
    let len = params.data_len.map_or(given, |len| len as usize);
    if given > 0 && given != len {
        return Err(Error::invalid("data_len", len, format!("{given}, the length of data")));
    }
    let len = u32::try_from(len).ok().filter(|len| *len <= DATA_LEN_MAX).ok_or_else(|| {
        Error::invalid("data", format!("of {len} bytes"), format!("at most {DATA_LEN_MAX} bytes"))
    })?;
    // Bits 1:0 of an opcode say which way its data goes. NVMe Base 2.0, figure 87.
    let bits = command.opcode() & 3;
    let data = match params.data_direction {
        _ if len == 0 => Data::None,
        Direction::FromController if bits & 2 != 0 => Data::In(len),
        Direction::ToController if bits & 1 != 0 => {
            Data::Out(data.unwrap_or_else(|| vec![0; len as usize]))
        }
        _ => {
            let opcode = command.opcode();
            let given = format!("against opcode {opcode:02x}h");
            return Err(Error::invalid("data_direction", given, "the direction of the opcode"));
        }
    };
    Ok((command, data))
}

/// Sends a command on an I/O queue that exists only for it.
async fn on_own_queue(controller: &Controller, command: Command, data: Data) -> Result<Answer> {
    let unsupported = || {
        let why = "cmd_type io is not supported yet for controllers on PCIe";
        Error::new(errno::EOPNOTSUPP, why)
    };
    if controller.is_pci() {
        return Err(unsupported());
    }
    let path = &controller.path;
    let (_, State::Live(live)) = path.state() else { return Err(Controller::is_away()) };
    let ticket = Ticket::take(path, &live)?;
    let run = async {
        // The socket comes first, so that it is closed before the ticket is dropped.
        let (stream, agreed, _ticket) = match ticket.open().await? {
            Opened::Socket(stream, agreed, ticket) => (stream, agreed, ticket),
            Opened::Ring(_) => return Err(unsupported()),
        };
        let queue = Admin::new(stream, agreed, controller.settings.timeouts)?;
        queue.send("command", command, data).await
    };
    match task::select(run, path.generation_is_over(live.generation)).await {
        task::Either::Left(answer) => answer,
        task::Either::Right(()) => Err(Controller::is_away()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(opcode: u8, direction: Direction, data_len: Option<u32>) -> SendCmd {
        SendCmd {
            name: "Nvme0".into(),
            cmd_type: CommandType::Admin,
            data_direction: direction,
            cmdbuf: BASE64.encode(Command::new(opcode).encode()),
            data: None,
            metadata: None,
            data_len,
            metadata_len: None,
            timeout_ms: 0,
        }
    }

    #[test]
    fn the_direction_has_to_be_the_opcode_s_where_there_is_data() {
        assert!(matches!(
            prepare(&params(6, Direction::FromController, Some(4096))),
            Ok((_, Data::In(4096)))
        ));
        assert!(matches!(
            prepare(&params(1, Direction::ToController, Some(8))),
            Ok((_, Data::Out(data))) if data.len() == 8
        ));
        assert!(matches!(prepare(&params(0, Direction::ToController, None)), Ok((_, Data::None))));
        for (opcode, direction) in [(6, Direction::ToController), (1, Direction::FromController)] {
            let error = prepare(&params(opcode, direction, Some(8))).unwrap_err();
            assert!(error.message().contains("data_direction"), "{}", error.message());
        }
    }

    #[test]
    fn a_command_that_is_not_64_bytes_and_a_length_that_is_not_the_data_s_are_refused() {
        for cmdbuf in ["", "AAAA", "+/+/"] {
            let params =
                SendCmd { cmdbuf: cmdbuf.into(), ..params(6, Direction::FromController, None) };
            assert!(prepare(&params).unwrap_err().message().contains("cmdbuf"));
        }
        let data = Some(BASE64.encode([1; 8]));
        let params = SendCmd { data, ..params(1, Direction::ToController, Some(9)) };
        assert!(prepare(&params).unwrap_err().message().contains("data_len"));
    }
}
