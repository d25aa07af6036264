//! `drivebay lvol`: checks and repairs a store of logical volumes in a file, on a device, or on a
//! bdev of a server.

mod disk;

use crate::cli::{Lvol, LvolStore};
use crate::rpc::{Client, default_socket};
use disk::FileDisk;
use drivebay_blobstore::{Report, check, repair};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long a server may take to read a store.
const SERVER_LIMIT: Duration = Duration::from_secs(3600);

/// Exit code: the disk cannot be read or repaired, or the server does not answer.
const NO_ANSWER: u8 = 3;

/// Checks or repairs a store and prints the findings.
pub fn lvol(command: &Lvol, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let (store, write) = match command {
        Lvol::Check(store) => (store, false),
        Lvol::Repair { store, write } => (store, *write),
    };
    let report = match judge(store, write) {
        Ok(report) => report,
        Err(why) => {
            let _ = writeln!(err, "drivebay lvol: {}: {why}", store.disk);
            return NO_ANSWER.into();
        }
    };
    let text = if store.json { format!("{:#}\n", json!(report)) } else { report.to_string() };
    // If the reader has closed the pipe, the rest of the text is not needed.
    let _ = out.write_all(text.as_bytes());
    u8::from(!report.is_sound()).into()
}

/// Repairs the store if `write` is set, then checks it.
fn judge(store: &LvolStore, write: bool) -> Result<Report, String> {
    let path = Path::new(&store.disk);
    if !path.exists() {
        return judge_bdev(store, write);
    }
    let disk = FileDisk::open(path, write).map_err(|error| error.to_string())?;
    let disk = if write { now(repair(disk)).map_err(|error| error.to_string())? } else { disk };
    now(check(&disk)).map_err(|error| error.to_string())
}

fn judge_bdev(store: &LvolStore, write: bool) -> Result<Report, String> {
    let socket = store.rpc_socket.clone().map_or_else(default_socket, Ok);
    let socket = socket.map_err(|error| error.to_string())?;
    let no_server =
        |error| format!("there is no such file, and no server: {}: {error}", socket.display());
    let mut client = Client::connect(&socket, SERVER_LIMIT).map_err(no_server)?;
    let mut params = json!({"bdev_name": store.disk});
    let method = if write { "bdev_lvol_repair_lvstore" } else { "bdev_lvol_check_lvstore" };
    if write && let Some(params) = params.as_object_mut() {
        params.insert("write".into(), Value::Bool(true));
    }
    let answer = client.call(method, &params).map_err(|error| error.to_string())?;
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

/// The result of a future that never waits.
fn now<T>(
    future: impl Future<Output = drivebay_blobstore::Result<T>>,
) -> drivebay_blobstore::Result<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        // I/O on a file is synchronous, so the future is always ready at the first poll.
        Poll::Pending => {
            Err(drivebay_blobstore::Error::from(drivebay_blobstore::DiskError(libc::EIO)))
        }
    }
}
