//! The methods, with the names, parameters and results of the reference.

mod ana;
mod failure;
mod former;
mod params;
mod unsupported;
mod view;

pub(crate) use ana::ana_word;
pub use params::SetConfig;
pub(crate) use view::address as address_view;

use crate::app::{AppState, app};
use crate::model::{AnaState, Options, Referral, address_of, parse_hex};
use crate::ops::{self, NewNamespace};
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_sdk::rpc::{Call, Description, Method, NoParams, ParamType, Params, Role, State};
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_nvme::nqn;
use failure::{
    ADDRESS_IN_USE, EXISTS, FULL, Failure, HOST_OR_REFERRAL_MISSING, IN_SUBSYSTEM, IN_USE, MISSING,
    NO_ADDRESS, NO_NUMBER_LEFT, NO_SUBSYSTEM, NO_TRANSPORT,
};
use params::{
    AddHost, AddListener, AddNs, AddReferral, AllowAnyHost, CreateSubsystem, CreateTransport,
    GetSubsystems, GetTransports, ListenAddress, OneSubsystem, OneTarget, RemoveHost,
    RemoveListener, RemoveNs, RemoveReferral, SetAnaState, SetCrdt, SetMaxSubsystems,
    SetNsAnaGroup,
};
use serde_json::Value;
use std::future::Future;
use std::rc::Rc;

/// Registers the methods. `[app thread]`
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(here: &drivebay_sdk::App) -> Result<()> {
    let methods = [
        later(
            "nvmf_create_transport",
            "Creates a transport. Loads the plugin of its type if necessary.",
            create_transport,
        )
        .describe(gives(DONE, &[EXISTS])),
        at_once("nvmf_get_transports", "Lists the transports with their options.", get_transports)
            .describe(gives("Array of objects: trtype and the options in force.", &[NO_TRANSPORT]))
            .describe(reads),
        at_once("nvmf_create_subsystem", "Creates a subsystem.", create_subsystem)
            .describe(gives(DONE, &[EXISTS, FULL])),
        later(
            "nvmf_delete_subsystem",
            "Deletes a subsystem with its listeners and namespaces, and ends its controllers.",
            delete_subsystem,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM])),
        at_once("nvmf_get_subsystems", "Lists the subsystems.", get_subsystems)
            .describe(gives(
                "Array of objects: nqn, subtype, listeners, hosts, limits, namespaces.",
                &[NO_SUBSYSTEM],
            ))
            .describe(reads),
        later(
            "nvmf_subsystem_add_listener",
            "Lets a subsystem listen at an address.",
            add_listener,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM, IN_SUBSYSTEM, ADDRESS_IN_USE, NO_ADDRESS])),
        later(
            "nvmf_subsystem_remove_listener",
            "Stops listening at an address, and ends the connections that were accepted there.",
            remove_listener,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM, MISSING])),
        at_once(
            "nvmf_subsystem_get_listeners",
            "Lists the listeners of a subsystem.",
            get_listeners,
        )
        .describe(gives(
            "Array of objects: address; with ana_reporting also ana_states, the state of each ANA group.",
            &[NO_SUBSYSTEM],
        ))
        .describe(reads),
        later(
            "nvmf_subsystem_listener_set_ana_state",
            "Sets how a listener serves one ANA group, or all groups.",
            set_ana_state,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM, MISSING])),
        later(
            "nvmf_subsystem_set_ns_ana_group",
            "Moves a namespace to another ANA group.",
            set_ns_ana_group,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM, MISSING])),
        later("nvmf_subsystem_add_ns", "Adds a bdev to a subsystem as a namespace.", add_ns).describe(
            gives(
                "Number of the namespace.",
                &[NO_SUBSYSTEM, IN_USE, IN_SUBSYSTEM, NO_NUMBER_LEFT],
            ),
        ),
        later("nvmf_subsystem_remove_ns", "Removes a namespace.", remove_ns)
            .describe(gives(DONE, &[NO_SUBSYSTEM, MISSING])),
        at_once("nvmf_subsystem_add_host", "Allows a host to connect.", add_host)
            .describe(gives(DONE, &[NO_SUBSYSTEM, EXISTS])),
        later(
            "nvmf_subsystem_remove_host",
            "Forbids a host to connect, and ends its controllers.",
            remove_host,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM, HOST_OR_REFERRAL_MISSING])),
        at_once(
            "nvmf_subsystem_allow_any_host",
            "Sets whether hosts may connect that are not listed.",
            allow_any_host,
        )
        .describe(gives(DONE, &[NO_SUBSYSTEM])),
        at_once(
            "nvmf_subsystem_get_controllers",
            "Lists the controllers of a subsystem.",
            get_controllers,
        )
        .describe(gives(
            "Array of objects: cntlid, hostnqn, hostid, num_io_qpairs.",
            &[NO_SUBSYSTEM],
        ))
        .describe(reads),
        at_once("nvmf_subsystem_get_qpairs", "Lists the queues of a subsystem.", get_qpairs)
            .describe(gives(
                "Array of objects: cntlid, qid, state, thread, listen_address.",
                &[NO_SUBSYSTEM],
            ))
            .describe(reads),
        later("nvmf_get_stats", "Returns counters of queues and I/O for each poll group.", get_stats)
            .describe(gives(
                "Object of tick_rate and poll_groups: queues and I/O of each, by transport.",
                &[],
            ))
            .describe(reads),
        at_once("nvmf_get_targets", "Lists the targets. There is always one.", get_targets)
            .describe(gives("Array of the names of the targets.", &[]))
            .describe(reads),
        at_once("nvmf_set_config", "Sets options of the whole target.", set_config)
            .describe(gives(DONE, &[]))
            .describe(at_any_time),
        at_once("nvmf_set_max_subsystems", "Sets the maximum number of subsystems.", set_max_subsystems)
            .describe(gives(DONE, &[]))
            .describe(at_any_time),
        at_once("nvmf_set_crdt", "Sets the command retry delays.", set_crdt)
            .describe(gives(DONE, &[]))
            .describe(at_any_time),
        at_once(
            "nvmf_discovery_add_referral",
            "Adds a referral to the discovery log.",
            add_referral,
        )
        .describe(gives(DONE, &[EXISTS])),
        at_once("nvmf_discovery_remove_referral", "Removes a referral from the discovery log.", remove_referral)
            .describe(gives(DONE, &[HOST_OR_REFERRAL_MISSING])),
        at_once("nvmf_discovery_get_referrals", "Lists the referrals of the discovery log.", get_referrals)
            .describe(gives("Array of objects: address, secure_channel, subnqn.", &[]))
            .describe(reads),
    ];
    methods.into_iter().try_for_each(|method| method.register(here))
}

/// The result of a method that returns nothing else.
const DONE: &str = "True.";

fn gives(
    result: &'static str,
    failures: &'static [Failure],
) -> impl FnOnce(Description) -> Description {
    move |description| {
        failures.iter().fold(description.result(result), |description, (code, name, doc)| {
            description.error(*code, *name, *doc)
        })
    }
}

fn reads(mut description: Description) -> Description {
    description.role = Role::Read;
    description
}

/// The reference accepts these methods only before it has started. Here the plugin may be loaded long after that.
fn at_any_time(description: Description) -> Description {
    description.states(&[State::Startup, State::Runtime])
}

fn this() -> Result<Rc<AppState>> {
    app().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))
}

/// A method that answers immediately.
fn at_once<P: Params + 'static, V: ParamType + 'static>(
    name: &str,
    doc: &str,
    run: impl Fn(&AppState, P) -> Result<V> + 'static,
) -> Method {
    let method = name.to_owned();
    Method::new(name, doc, move |_, call: Call, params: P| {
        let result = this().and_then(|app| run(&app, params));
        call.answer(result.map_err(|error| failure::of(&method, error)));
    })
    .describe(Description::returns::<V>)
}

/// A method that answers when its operation is complete.
fn later<P, V, F>(name: &str, doc: &str, run: fn(Rc<AppState>, P) -> F) -> Method
where
    P: Params + 'static,
    V: ParamType,
    F: Future<Output = Result<V>> + 'static,
{
    let method: Rc<str> = name.into();
    Method::new(name, doc, move |_, call: Call, params: P| match this() {
        Ok(app) if app.tasks.is_full() => {
            let busy = Error::new(errno::EAGAIN, "too many operations are in progress; try again");
            call.fail(failure::of(&method, busy));
        }
        Ok(app) => {
            let (task, method) = (run(Rc::clone(&app), params), Rc::clone(&method));
            app.tasks.spawn(async move {
                call.answer(task.await.map_err(|error| failure::of(&method, error)));
            });
        }
        Err(error) => call.fail(failure::of(&method, error)),
    })
    .describe(Description::returns::<V>)
}

fn address(given: &ListenAddress) -> Address {
    let trsvcid = given.trsvcid.as_deref().unwrap_or_default();
    address_of(&given.trtype, given.adrfam.as_deref(), &given.traddr, trsvcid)
}

async fn create_transport(app: Rc<AppState>, params: CreateTransport) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    let trtype = params.trtype.to_ascii_uppercase();
    let params = CreateTransport { trtype: trtype.clone(), tgt_name: None, ..params };
    let options = serde_json::to_string(&params)
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))?;
    ops::create_transport(&app, &trtype, &options).await?;
    Ok(true)
}

fn get_transports(app: &AppState, params: GetTransports) -> Result<Vec<Value>> {
    unsupported::target(params.tgt_name.as_deref())?;
    let wanted = params.trtype.map(|trtype| trtype.to_ascii_uppercase());
    let transports = app.transports.borrow();
    if let Some(wanted) = &wanted
        && !transports.contains_key(wanted)
    {
        return Err(Error::no_such_device());
    }
    let listed =
        transports.iter().filter(|(trtype, _)| wanted.as_ref().is_none_or(|w| w == *trtype));
    Ok(listed.map(|(trtype, entry)| transport_options(trtype, &entry.transport.dump())).collect())
}

/// The options of a fabric, with its type first.
pub(crate) fn transport_options(trtype: &str, dumped: &str) -> Value {
    let mut view = serde_json::Map::new();
    view.insert("trtype".into(), trtype.into());
    if let Ok(Value::Object(options)) = serde_json::from_str(dumped) {
        view.extend(options.into_iter().filter(|(name, _)| name != "trtype"));
    }
    Value::Object(view)
}

fn create_subsystem(app: &AppState, params: CreateSubsystem) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    unsupported::create_subsystem(&params)?;
    let defaults = Options::default();
    let options = Options {
        serial_number: params.serial_number.unwrap_or(defaults.serial_number),
        model_number: params.model_number.unwrap_or(defaults.model_number),
        admin_label: params.admin_label.unwrap_or_default(),
        max_namespaces: params.max_namespaces.unwrap_or_default(),
        cntlids: params.min_cntlid..=params.max_cntlid,
        dmrsl: params.max_discard_size_kib.map_or(Ok(params.dmrsl), former::dmrsl)?,
        wzsl: params.max_write_zeroes_size_kib.map_or(Ok(params.wzsl), former::wzsl)?,
        ana_reporting: params.ana_reporting,
    };
    ops::create_subsystem(app, &params.nqn, options, params.allow_any_host)?;
    Ok(true)
}

async fn delete_subsystem(app: Rc<AppState>, params: OneSubsystem) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::delete_subsystem(&app, &params.nqn).await?;
    Ok(true)
}

fn get_subsystems(app: &AppState, params: GetSubsystems) -> Result<Vec<view::SubsystemView>> {
    unsupported::target(params.tgt_name.as_deref())?;
    let model = app.model.borrow();
    match &params.nqn {
        Some(nqn) => {
            let subsystem = model.subsystems.get(nqn).ok_or_else(|| ops::no_subsystem(nqn))?;
            Ok(vec![view::subsystem(subsystem)])
        }
        None => Ok(model.subsystems.values().map(view::subsystem).collect()),
    }
}

async fn add_listener(app: Rc<AppState>, params: AddListener) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    unsupported::add_listener(&params)?;
    let state = params.ana_state.map_or(AnaState::Optimized, AnaState::from);
    ops::add_listener(&app, &params.nqn, address(&params.listen_address), state).await?;
    Ok(true)
}

async fn remove_listener(app: Rc<AppState>, params: RemoveListener) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::remove_listener(&app, &params.nqn, &address(&params.listen_address)).await?;
    Ok(true)
}

async fn set_ana_state(app: Rc<AppState>, params: SetAnaState) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    let (address, state) = (address(&params.listen_address), params.ana_state.into());
    let group = params.anagrpid.filter(|group| *group != 0);
    ops::set_ana_state(&app, &params.nqn, &address, state, group).await?;
    Ok(true)
}

async fn set_ns_ana_group(app: Rc<AppState>, params: SetNsAnaGroup) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::set_ns_ana_group(&app, &params.nqn, params.nsid, params.anagrpid).await?;
    Ok(true)
}

fn get_listeners(app: &AppState, params: OneSubsystem) -> Result<Vec<view::ListenerView>> {
    unsupported::target(params.tgt_name.as_deref())?;
    with_subsystem(app, &params.nqn, |subsystem| Ok(view::listeners(subsystem)))
}

fn with_subsystem<V>(
    app: &AppState,
    nqn: &str,
    body: impl FnOnce(&mut crate::model::Subsystem) -> Result<V>,
) -> Result<V> {
    let mut model = app.model.borrow_mut();
    body(model.subsystems.get_mut(nqn).ok_or_else(|| ops::no_subsystem(nqn))?)
}

async fn add_ns(app: Rc<AppState>, params: AddNs) -> Result<u32> {
    unsupported::target(params.tgt_name.as_deref())?;
    let given = params.namespace;
    unsupported::namespace(&given)?;
    let new = NewNamespace {
        nsid: given.nsid.unwrap_or_default(),
        nguid: identifier("namespace.nguid", given.nguid.as_deref())?,
        eui64: identifier("namespace.eui64", given.eui64.as_deref())?,
        uuid: identifier("namespace.uuid", given.uuid.as_deref())?,
        anagrpid: given.anagrpid,
        bdev_name: given.bdev_name,
        ptpl_file: given.ptpl_file.filter(|path| !path.is_empty()),
    };
    ops::add_namespace(&app, &params.nqn, new).await
}

fn identifier<const N: usize>(field: &str, given: Option<&str>) -> Result<Option<[u8; N]>> {
    let allowed = || format!("{} hexadecimal digits", N * 2);
    let parse = |text: &str| parse_hex(text).ok_or_else(|| Error::invalid(field, text, allowed()));
    given.map(parse).transpose()
}

async fn remove_ns(app: Rc<AppState>, params: RemoveNs) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::remove_namespace(&app, &params.nqn, params.nsid).await?;
    Ok(true)
}

fn add_host(app: &AppState, params: AddHost) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    unsupported::add_host(&params)?;
    let (name, host) = (&params.nqn, params.host);
    nqn::check_host(&host).map_err(|why| Error::invalid("host", &host, why))?;
    with_subsystem(app, name, |subsystem| {
        if subsystem.hosts.insert(host.clone()) {
            return Ok(true);
        }
        Err(Error::new(errno::EEXIST, format!("host {host} is already listed in {name}")))
    })?;
    app.discovery_changed();
    Ok(true)
}

async fn remove_host(app: Rc<AppState>, params: RemoveHost) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::remove_host(&app, &params.nqn, &params.host).await?;
    Ok(true)
}

fn allow_any_host(app: &AppState, params: AllowAnyHost) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    with_subsystem(app, &params.nqn, |subsystem| {
        subsystem.allow_any_host = params.allow_any_host;
        Ok(())
    })?;
    app.discovery_changed();
    Ok(true)
}

fn get_controllers(app: &AppState, params: OneSubsystem) -> Result<Vec<view::ControllerView>> {
    unsupported::target(params.tgt_name.as_deref())?;
    with_subsystem(app, &params.nqn, |subsystem| {
        Ok(subsystem.controllers.values().map(view::controller).collect())
    })
}

fn get_qpairs(app: &AppState, params: OneSubsystem) -> Result<Vec<view::QpairView>> {
    unsupported::target(params.tgt_name.as_deref())?;
    with_subsystem(app, &params.nqn, |_| Ok(()))?;
    let queues = app.queues.borrow();
    let of_subsystem = queues.iter().filter_map(|(id, connection)| {
        let queue = connection.queue.as_ref().filter(|queue| queue.nqn == params.nqn)?;
        Some(view::qpair(queue, id.group, connection.is_ending))
    });
    Ok(of_subsystem.collect())
}

fn get_targets(_app: &AppState, _params: NoParams) -> Result<Vec<String>> {
    Ok(vec![unsupported::TARGET.to_owned()])
}

async fn get_stats(app: Rc<AppState>, params: OneTarget) -> Result<view::StatsView> {
    unsupported::target(params.tgt_name.as_deref())?;
    ops::ensure_groups(&app)?;
    let mut stats = ops::collect_stats(&app).await?;
    let trtypes: Vec<String> = app.transports.borrow().keys().cloned().collect();
    Ok(view::stats(&mut stats, &trtypes))
}

fn set_config(app: &AppState, params: SetConfig) -> Result<bool> {
    unsupported::set_config(&params)?;
    let filter = unsupported::discovery_filter(&params)?;
    let mask = |config: Option<&SetConfig>| config.and_then(|c| c.poll_groups_mask.clone());
    let is_same = mask(Some(&params)) == mask(app.config.borrow().as_ref());
    if !is_same && !app.groups().is_empty() {
        let given = mask(Some(&params)).unwrap_or_default();
        let allowed = "the present value, because the poll groups are already running";
        return Err(Error::invalid("poll_groups_mask", given, allowed));
    }
    app.model.borrow_mut().discovery_filter = filter;
    app.config.replace(Some(params));
    app.discovery_changed();
    Ok(true)
}

fn set_max_subsystems(app: &AppState, params: SetMaxSubsystems) -> Result<bool> {
    let mut model = app.model.borrow_mut();
    let have = model.subsystems.len();
    if (params.max_subsystems as usize) < have {
        let allowed = format!("at least {have}, the number of subsystems now");
        return Err(Error::invalid("max_subsystems", params.max_subsystems, allowed));
    }
    model.max_subsystems = params.max_subsystems;
    Ok(true)
}

fn set_crdt(app: &AppState, params: SetCrdt) -> Result<bool> {
    app.model.borrow_mut().crdt = [params.crdt1, params.crdt2, params.crdt3];
    Ok(true)
}

fn add_referral(app: &AppState, params: AddReferral) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    let subnqn = params.subnqn.filter(|name| !name.is_empty());
    let subnqn = subnqn.unwrap_or_else(|| nqn::DISCOVERY.to_owned());
    nqn::check(&subnqn).map_err(|why| Error::invalid("subnqn", &subnqn, why))?;
    let address = address(&params.address);
    let mut model = app.model.borrow_mut();
    if model.referrals.iter().any(|r| r.address == address && r.subnqn == subnqn) {
        return Err(Error::new(errno::EEXIST, "the referral already exists"));
    }
    model.referrals.push(Referral { address, subnqn, secure_channel: params.secure_channel });
    drop(model);
    app.discovery_changed();
    Ok(true)
}

fn remove_referral(app: &AppState, params: RemoveReferral) -> Result<bool> {
    unsupported::target(params.tgt_name.as_deref())?;
    let subnqn = params.subnqn.filter(|name| !name.is_empty());
    let subnqn = subnqn.unwrap_or_else(|| nqn::DISCOVERY.to_owned());
    let address = address(&params.address);
    let mut model = app.model.borrow_mut();
    let place = model.referrals.iter().position(|r| r.address == address && r.subnqn == subnqn);
    let place = place.ok_or_else(|| Error::new(errno::ENOENT, "no such referral"))?;
    model.referrals.remove(place);
    drop(model);
    app.discovery_changed();
    Ok(true)
}

fn get_referrals(app: &AppState, params: OneTarget) -> Result<Vec<view::ReferralView>> {
    unsupported::target(params.tgt_name.as_deref())?;
    Ok(app.model.borrow().referrals.iter().map(view::referral).collect())
}
