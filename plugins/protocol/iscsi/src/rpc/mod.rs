//! The RPC methods, with the reference's names, parameters, results and codes. The reference answers nearly every mistake with
//! -32602.

mod groups;
mod params;
mod targets;
pub(crate) mod view;

use crate::app::{Iscsi, app};
use crate::model::{ChapPolicy, Model};
use drivebay_sdk::rpc::{Call, Method, NoParams, Params, Role, RpcError, State};
use drivebay_sdk::{App, Error, Result, errno};
use serde_json::Value;
use std::rc::Rc;

/// The error code of nearly every refusal.
const INVALID_PARAMS: i64 = -32602;
/// The error code of a second `iscsi_set_options`.
const INTERNAL_ERROR: i64 = -32603;

/// The result of a method that only changes something.
const DONE: &str = "True.";

/// Registers the methods. `[app thread]`
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(app: &App) -> Result<()> {
    let methods = [
        Method::new("iscsi_set_options", "Sets the options of the iSCSI target. Allowed once, before groups and targets exist.", set_options)
            .describe(|description| {
                description
                    .states(&[State::Startup, State::Runtime])
                    .result(DONE)
                    .returns::<bool>()
                    .error(INVALID_PARAMS, "invalid_params", "A value is not allowed, or groups or targets exist.")
                    .error(INTERNAL_ERROR, "internal_error", "The method was called before.")
            }),
        list("iscsi_get_options", "Shows the options of the iSCSI target.", "Object of the options.", |app| {
            view::options(&app.model.borrow().options)
        }),
        list("scsi_get_devices", "Lists the SCSI devices.", "Array of objects: id, device_name.", view::devices),
        change(
            "iscsi_set_discovery_auth",
            "Sets the CHAP requirements of discovery sessions.",
            groups::set_discovery_auth,
        ),
        change("iscsi_create_auth_group", "Creates an authentication group.", groups::create_auth_group),
        change("iscsi_delete_auth_group", "Deletes an authentication group.", groups::delete_auth_group),
        list(
            "iscsi_get_auth_groups",
            "Lists the authentication groups, without their secrets.",
            "Array of objects: tag, secrets.",
            view::auth_groups,
        ),
        change(
            "iscsi_auth_group_add_secret",
            "Adds a user and its secrets to an authentication group.",
            groups::add_secret,
        ),
        change(
            "iscsi_auth_group_remove_secret",
            "Removes a user from an authentication group.",
            groups::remove_secret,
        ),
        list(
            "iscsi_get_initiator_groups",
            "Lists the initiator groups.",
            "Array of objects: tag, initiators, netmasks.",
            view::initiator_groups,
        ),
        change("iscsi_create_initiator_group", "Creates an initiator group.", groups::create_initiator_group),
        change("iscsi_delete_initiator_group", "Deletes an initiator group.", groups::delete_initiator_group),
        change(
            "iscsi_initiator_group_add_initiators",
            "Adds initiator names and netmasks to an initiator group.",
            groups::add_initiators,
        ),
        change(
            "iscsi_initiator_group_remove_initiators",
            "Removes initiator names and netmasks from an initiator group.",
            groups::remove_initiators,
        ),
        list(
            "iscsi_get_target_nodes",
            "Lists the target nodes.",
            "Array of objects: name, alias_name, pg_ig_maps, luns, queue_depth, CHAP and digests.",
            view::targets,
        ),
        change("iscsi_create_target_node", "Creates a target node with its LUNs.", targets::create),
        change(
            "iscsi_target_node_set_auth",
            "Sets the CHAP requirements of a target node.",
            targets::set_auth,
        ),
        change(
            "iscsi_target_node_add_pg_ig_maps",
            "Adds maps that let an initiator group use a portal group.",
            targets::add_maps,
        ),
        change(
            "iscsi_target_node_remove_pg_ig_maps",
            "Removes maps of portal groups and initiator groups. Sessions continue.",
            targets::remove_maps,
        ),
        Method::new(
            "iscsi_delete_target_node",
            "Deletes a target node and ends its sessions. Returns when none of its I/Os is left.",
            targets::delete,
        )
        .describe(|description| {
            description.result(DONE).error(-2, "not_found", "There is no such target node.")
        }),
        list(
            "iscsi_get_portal_groups",
            "Lists the portal groups.",
            "Array of objects: tag, portals, private.",
            view::portal_groups,
        ),
        change(
            "iscsi_create_portal_group",
            "Creates a portal group and listens on its portals.",
            groups::create_portal_group,
        ),
        change(
            "iscsi_start_portal_group",
            "Lets a portal group that was created with `wait` accept connections.",
            groups::start_portal_group,
        ),
        change(
            "iscsi_delete_portal_group",
            "Deletes a portal group. Sessions that came through it continue.",
            groups::delete_portal_group,
        ),
        change(
            "iscsi_portal_group_set_auth",
            "Sets the CHAP requirements of discovery through a portal group.",
            groups::set_portal_group_auth,
        ),
        later("iscsi_get_connections", "Lists the connections.", get_connections).describe(gives(
            "Array of objects: id, cid, tsih, state, login_phase, addresses, target_node_name, thread_name.",
        )),
        later("iscsi_get_stats", "Counts the connections by state.", get_stats)
            .describe(gives("Object: invalid, running, exiting, exited.")),
        change("iscsi_target_node_add_lun", "Adds a LUN to a target node.", targets::add_lun),
        change(
            "iscsi_target_node_set_redirect",
            "Redirects logins through a portal group to another address.",
            targets::set_redirect,
        ),
        change(
            "iscsi_enable_histogram",
            "Starts or stops the latency histogram of a target node.",
            targets::enable_histogram,
        ),
        Method::new("iscsi_get_histogram", "Shows the latency histogram of a target node.", targets::get_histogram).describe(gives(
            "Object: histogram (counters of 8 bytes, little-endian, in base64), granularity, min_range, max_range, tsc_rate.",
        )),
        change(
            "iscsi_target_node_request_logout",
            "Asks the initiators of a target node to log out.",
            targets::request_logout,
        ),
    ];
    methods.into_iter().try_for_each(|method| method.register(app))
}

type Description = drivebay_sdk::rpc::Description;

fn gives(result: &'static str) -> impl FnOnce(Description) -> Description {
    move |description| {
        let mut description = description.result(result);
        description.role = Role::Read;
        description
    }
}

/// A method that changes something and answers `true`.
fn change<P: Params + 'static>(name: &str, doc: &str, run: fn(&Iscsi, P) -> Result<()>) -> Method {
    Method::new(name, doc, move |_, call: Call, params: P| {
        call.answer(this().and_then(|app| run(&app, params)).map(|()| true).map_err(refused));
    })
    .describe(|description| {
        let when = "A parameter has a value that is not allowed, or names an object that does not exist; the message says which.";
        description.result(DONE).returns::<bool>().error(INVALID_PARAMS, "invalid_params", when)
    })
}

/// A method that only shows something.
fn list(name: &str, doc: &str, result: &'static str, run: fn(&Iscsi) -> Value) -> Method {
    Method::new(name, doc, move |_, call: Call, _: NoParams| {
        call.answer(this().map(|app| run(&app)).map_err(refused));
    })
    .describe(gives(result))
}

/// A method that shows something, and asks the poll groups first.
fn later(name: &str, doc: &str, run: fn(Rc<Iscsi>, Call)) -> Method {
    Method::new(name, doc, move |_, call: Call, _: NoParams| match this() {
        Ok(app) => run(app, call),
        Err(error) => call.fail(refused(error)),
    })
}

fn this() -> Result<Rc<Iscsi>> {
    app().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))
}

/// An error with the reference's code.
fn refused(error: Error) -> RpcError {
    RpcError { code: INVALID_PARAMS, ..error.into() }
}

fn missing(what: &str, name: impl std::fmt::Display) -> Error {
    Error::new(errno::ENOENT, format!("there is no {what} {name}"))
}

fn set_options(_: &App, call: Call, params: params::SetOptions) {
    let done = this().map_err(refused).and_then(|app| {
        let model = &mut *app.model.borrow_mut();
        if model.options_are_set {
            let why = "iscsi_set_options was called already; it can be called only once";
            let error = Error::new(errno::EEXIST, why);
            return Err(RpcError { code: INTERNAL_ERROR, ..error.into() });
        }
        change_options(model, params).map_err(refused)
    });
    call.answer(done.map(|()| true));
}

fn change_options(model: &mut Model, params: params::SetOptions) -> Result<()> {
    if !model.targets.is_empty() || !model.portal_groups.is_empty() {
        return Err(Error::new(
            errno::EBUSY,
            "groups or targets exist; call iscsi_set_options before you create them",
        ));
    }
    let (disabled, required) = (params.disable_chap, params.require_chap);
    let discovery_chap =
        ChapPolicy::new(disabled, required, params.mutual_chap, params.chap_group)?;
    model.options = crate::model::Options {
        auth_file: params.auth_file,
        node_base: params.node_base,
        nop_timeout: params.nop_timeout,
        nop_in_interval: params.nop_in_interval,
        discovery_chap,
        max_sessions: params.max_sessions,
        max_queue_depth: params.max_queue_depth,
        max_connections_per_session: params.max_connections_per_session,
        default_time2wait: params.default_time2wait,
        default_time2retain: params.default_time2retain,
        first_burst_length: params.first_burst_length,
        immediate_data: params.immediate_data,
        error_recovery_level: params.error_recovery_level,
        allow_duplicated_isid: params.allow_duplicated_isid,
        max_large_datain_per_connection: params.max_large_datain_per_connection,
        max_r2t_per_connection: params.max_r2t_per_connection,
        pdu_pool_size: params.pdu_pool_size,
        immediate_data_pool_size: params.immediate_data_pool_size,
        data_out_pool_size: params.data_out_pool_size,
    };
    model.options_are_set = true;
    Ok(())
}

fn get_connections(app: Rc<Iscsi>, call: Call) {
    app.connections(move |running, guests| call.reply(view::connections(&running, &guests)));
}

fn get_stats(app: Rc<Iscsi>, call: Call) {
    app.connections(move |running, guests| {
        let running = running.len() + guests.iter().filter(|one| one.session.is_some()).count();
        let invalid = guests.iter().filter(|one| one.session.is_none()).count();
        let stats = serde_json::json!({
            "invalid": invalid, "running": running, "exiting": 0, "exited": 0,
        });
        call.reply(stats);
    });
}
