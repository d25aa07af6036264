//! What a bdev declares, and its ops.

use crate::batch::Io;
use crate::client::{run_at_module, status_name};
use crate::guard::op_name;
use crate::rig::{Made, Rig, Wanted, channel, close_all, expect};
use crate::verdict::{Stop, Verdict, failed};
use drivebay_plugin_api::*;
use serde_json::Value;

pub(super) fn declares(rig: &mut Rig<'_>) -> Verdict {
    // The guard checked the record when the bdev was registered.
    let made = rig.make()?;
    if !made.bdev.declares(BAY_OP_READ) {
        return failed("a bdev can be read", format!("ops_mask {:#x}", made.bdev.record.ops_mask));
    }
    if made.num_blocks() < 64 {
        let seen = format!("{} blocks; --params changes its size", made.num_blocks());
        return failed("the bdev has at least 64 blocks, so that it can be checked", seen);
    }
    rig.delete(made)
}

pub(super) fn texts(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let name = made.bdev.name.clone();
    let texts = crate::client::Lane::app().run(move || {
        let bdev = drivebay_core::bdev::find(&name)?;
        Some([
            ("dump_info", bdev.dump_info()),
            ("write_config", bdev.config()),
            ("dump_stats", bdev.dump_stats()),
        ])
    });
    let late = |_| {
        Stop::failed(
            "the module writes the texts of a bdev at once",
            "it did not write them in time",
        )
    };
    for (what, text) in texts.map_err(late)?.into_iter().flatten() {
        let Some(text) = text else { continue };
        let parsed: Result<Value, _> = serde_json::from_str(&text);
        match parsed {
            Ok(Value::Object(object)) if what == "write_config" => check_config(rig, &object)?,
            Ok(Value::Object(_)) => {}
            Ok(_) => return failed(format!("{what} writes one JSON object"), text),
            Err(error) => return failed(format!("{what} writes JSON"), format!("{error}: {text}")),
        }
    }
    rig.delete(made)
}

fn check_config(rig: &Rig<'_>, config: &serde_json::Map<String, Value>) -> Verdict {
    let method = config.get("method").and_then(Value::as_str).unwrap_or_default();
    if !rig.host.methods().iter().any(|own| own.name == method) {
        let seen = format!("{method:?}");
        return failed("write_config names a method of the plugin", seen);
    }
    match config.get("params") {
        Some(Value::Object(_)) => Ok(()),
        other => failed("write_config has params, an object", format!("{other:?}")),
    }
}

/// Each declared op once, in an order in which a compare finds known data.
pub(super) fn declared_ops(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let unit = made.write_unit();
    let order = [
        BAY_OP_WRITE,
        BAY_OP_READ,
        BAY_OP_COMPARE,
        BAY_OP_FLUSH,
        BAY_OP_WRITE_ZEROES,
        BAY_OP_UNMAP,
        BAY_OP_RESET,
    ];
    for op in order.into_iter().filter(|op| made.bdev.declares(*op)) {
        let has_range = !matches!(op, BAY_OP_FLUSH | BAY_OP_RESET);
        let io = if has_range { made.io(op, 0, unit, 0x5a) } else { Io::new(op, 0, 0) };
        // If a bdev keeps no data, the result of a compare is unknown.
        let wanted = if op == BAY_OP_COMPARE && !made.keeps_data() { None } else { Some(()) };
        if wanted.is_some() {
            expect(&channel, io, "a declared op", Wanted::SUCCESS)?;
        }
    }
    if made.is_writable() && made.bdev.record.must_flags & BAY_IO_FUA != 0 {
        let mut io = made.io(BAY_OP_WRITE, 0, unit, 0x5b);
        io.flags = BAY_IO_FUA;
        expect(&channel, io, "a write with FUA, which is declared", Wanted::SUCCESS)?;
    }
    if made.bdev.declares(BAY_OP_ABORT) {
        let io = Io::new(BAY_OP_ABORT, 0, 0);
        let ended = crate::rig::run(&channel, vec![io], 1)?;
        let status = ended.first().map_or(0, |ended| ended.status);
        if status != 0 && status != -libc::ENOENT {
            return failed(
                "an abort of an unknown I/O completes with success or -ENOENT",
                status_name(status),
            );
        }
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

/// The bus refuses undeclared ops itself, so this submits them directly to the module.
pub(super) fn undeclared_ops(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    for op in undeclared(&made).filter(|op| *op > BAY_OP_COPY) {
        expect(&channel, made.io(op, 0, 1, 0), "an unknown op", Wanted::Status(-libc::ENOTSUP))?;
    }
    close_all(vec![channel])?;
    let ios: Vec<Io> = undeclared(&made).map(|op| made.io(op, 0, made.write_unit(), 0)).collect();
    let ended = run_at_module(&made.bdev, rig.lane(), ios)
        .map_err(|why| Stop::failed("the module completes every I/O", why))?;
    for ended in ended {
        if ended.status >= 0 {
            return failed(
                format!("the module refuses {}, which it did not declare", op_name(ended.io.op)),
                format!("it ended with {}", status_name(ended.status)),
            );
        }
    }
    rig.delete(made)
}

/// Ops that the bdev did not declare, including unknown ones. Flush, reset and abort are left out:
/// a module that does not declare them has nothing to do for them, and may complete them with
/// success.
fn undeclared(made: &Made) -> impl Iterator<Item = u16> + '_ {
    let harmless = [BAY_OP_FLUSH, BAY_OP_RESET, BAY_OP_ABORT];
    let ops = (1..=BAY_OP_COPY + 1).chain([63, 64, u16::MAX]);
    ops.filter(move |op| !made.bdev.declares(*op) && !harmless.contains(op))
}
