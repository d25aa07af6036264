//! Filters: bdevs on top of a base bdev.

use super::client::Channel;
use super::desc::{Claim, Desc, Event, Info, Space, open};
use super::io::{BdevIo, IoResult};
use super::module::Bdev;
use super::op::{Geometry, OpSet};
use super::params::Uuid;
use super::registration::Registration;
use super::registry::{Registered, create, find, release, reserve, serve_with};
use crate::app::App;
use crate::error::{Error, Result, errno};
use crate::notify::Config;
use crate::rpc::{Call, Params};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A bdev on top of a base bdev. Geometry, ops and I/O are those of the base, unless the filter overrides them.
///
/// A filter that is created before its base exists waits for it. It also waits when its base is removed.
pub trait Filter: Sized + Send + Sync + 'static {
    /// Parameters of the method that creates a filter.
    type Params: Params;

    /// Product name, as `bdev_get_bdevs` shows it.
    const PRODUCT: &'static str;

    /// Creates a filter from the parameters. Its base may not exist yet. `[app thread]`
    ///
    /// # Errors
    /// The method's caller gets the error.
    fn create(app: &App, params: Self::Params) -> Result<Self>;

    /// Unique name.
    fn name(&self) -> &str;

    /// Name of the base.
    fn base_name(&self) -> &str;

    /// Changes the registration where the filter differs from its base. `[app thread]`
    fn describe(&self, _base: &Info, _registration: &mut Registration) {}

    /// Handles one I/O: passes it on or completes it. `[reactor]`
    fn submit(&self, base: &Channel, io: BdevIo) {
        base.pass(io);
    }

    /// What `bdev_get_bdevs` shows under `driver_specific`, in a member with the module's name.
    /// `[app thread]`
    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut members = serde_json::Map::new();
        members.insert("name".into(), self.name().into());
        members.insert("base_bdev_name".into(), self.base_name().into());
        members
    }
}

/// A [`Filter`] with a state on each thread. It may keep I/O, and sees the base's result before an I/O completes.
pub trait StatefulFilter: Sized + Send + Sync + 'static {
    /// Parameters of the method that creates a filter.
    type Params: Params;
    /// One thread's state. It contains the base's channel.
    type State: 'static;

    /// Product name, as `bdev_get_bdevs` shows it.
    const PRODUCT: &'static str;
    /// As [`Bdev::JOINS`].
    const JOINS: bool = false;
    /// As [`Bdev::IO_STATE_LEN`].
    const IO_STATE_LEN: usize = 0;
    /// Whether the filter gets the new size when its base is resized.
    const FOLLOWS_SIZE: bool = true;

    /// As [`Filter::create`].
    ///
    /// # Errors
    /// The method's caller gets the error.
    fn create(app: &App, params: Self::Params) -> Result<Self>;

    /// Unique name.
    fn name(&self) -> &str;

    /// Name of the base.
    fn base_name(&self) -> &str;

    /// Checks the base, which is open and claimed, and prepares the filter for it. `[app thread]`
    ///
    /// # Errors
    /// The filter cannot use this base. The method's caller gets the error.
    fn check_base(&mut self, _base: &Info) -> Result<()> {
        Ok(())
    }

    /// Changes the registration where the filter differs from its base. `[app thread]`
    fn describe(&self, _base: &Info, _registration: &mut Registration) {}

    /// Creates one thread's state. `[reactor]`
    ///
    /// # Errors
    /// The client that requested the channel gets the error.
    fn open_channel(&self, base: Channel) -> Result<Self::State>;

    /// Handles one I/O, as [`Bdev::submit`] does. `[reactor]`
    fn submit(&self, state: &mut Self::State, io: BdevIo);

    /// The children of an I/O have completed, as in [`Bdev::joined`]. `[reactor]`
    fn joined(&self, _state: &mut Self::State, io: BdevIo, result: IoResult) {
        io.complete_with(result);
    }

    /// A burst of submits has ended. The filter flushes the base's channel. `[reactor]`
    fn flush(&self, state: &mut Self::State);

    /// The filter will be removed as soon as all its I/O has completed. A filter that keeps I/O completes it now and
    /// keeps no more. `[app thread]`
    fn removing(&self, _app: &App) {}

    /// The parameters that create the filter again. `made_with` are those it was created with. `[app thread]`
    fn saved_params(&self, made_with: serde_json::Value) -> serde_json::Value {
        made_with
    }

    /// What `bdev_get_bdevs` shows under `driver_specific`. `[app thread]`
    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value>;
}

impl<F: Filter> StatefulFilter for F {
    type Params = F::Params;
    type State = Channel;
    const PRODUCT: &'static str = F::PRODUCT;

    fn create(app: &App, params: F::Params) -> Result<Self> {
        F::create(app, params)
    }

    fn name(&self) -> &str {
        Filter::name(self)
    }

    fn base_name(&self) -> &str {
        Filter::base_name(self)
    }

    fn describe(&self, base: &Info, registration: &mut Registration) {
        Filter::describe(self, base, registration);
    }

    fn open_channel(&self, base: Channel) -> Result<Channel> {
        Ok(base)
    }

    #[inline]
    fn submit(&self, base: &mut Channel, io: BdevIo) {
        Filter::submit(self, base, io);
    }

    #[inline]
    fn flush(&self, base: &mut Channel) {
        base.flush();
    }

    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        std::iter::once((module(), Filter::driver_specific(self).into())).collect()
    }
}

/// A filter and its open base.
struct OverBase<F> {
    filter: F,
    base: Desc,
    info: Info,
}

impl<F: StatefulFilter> Bdev for OverBase<F> {
    type Params = F::Params;
    type Channel = F::State;
    const OPS: OpSet = OpSet::from_bits(0);
    const PRODUCT: &'static str = F::PRODUCT;
    const BURSTS: bool = true;
    const JOINS: bool = F::JOINS;
    const IO_STATE_LEN: usize = F::IO_STATE_LEN;

    fn create(app: &App, params: F::Params) -> Result<Self> {
        let mut filter = F::create(app, params)?;
        let name = filter.name().to_owned();
        let base = open(app, filter.base_name(), true, move |app, event| {
            follow::<F>(app, &name, event);
        })?;
        base.claim(app, Claim::ExclusiveWrite)?;
        let info = base.info()?;
        filter.check_base(&info)?;
        Ok(Self { filter, base, info })
    }

    fn name(&self) -> &str {
        self.filter.name()
    }

    fn geometry(&self) -> Geometry {
        self.info.geometry()
    }

    fn describe(&self, registration: &mut Registration) {
        registration.inherit(&self.info);
        self.filter.describe(&self.info, registration);
    }

    fn open_channel(&self) -> Result<F::State> {
        self.filter.open_channel(self.base.channel()?)
    }

    fn submit(&self, state: &mut F::State, io: BdevIo) {
        self.filter.submit(state, io);
    }

    fn joined(&self, state: &mut F::State, io: BdevIo, result: IoResult) {
        self.filter.joined(state, io, result);
    }

    fn flush(&self, state: &mut F::State) {
        self.filter.flush(state);
    }

    fn write_config(&self, config: &mut Config<'_>, method: &str, params: &serde_json::Value) {
        config.call(method, &self.filter.saved_params(params.clone()));
    }

    fn space(&self) -> Option<Space> {
        self.base.info().ok()?.space()
    }

    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        self.filter.driver_specific()
    }
}

/// Handles an event of the base of the filter `name`.
fn follow<F: StatefulFilter>(app: &App, name: &str, event: Event) {
    let Ok(filter) = find::<OverBase<F>>(name) else { return };
    match event {
        Event::Remove => {
            let params = filter.filter.saved_params(filter.saved_params());
            if let Err(error) = await_base(app, Waiting::of(&filter.filter, params)) {
                tracing::error!("filter {name} cannot wait for its base: {error}");
            }
            remove(app, filter, |_, _| {});
        }
        Event::Resize { num_blocks } if F::FOLLOWS_SIZE => {
            if let Err(error) = filter.resize(app, num_blocks) {
                tracing::warn!(
                    "filter {name} keeps its old size after its base was resized: {error}"
                );
            }
        }
        Event::Resize { .. } | Event::Media => {}
    }
}

/// Unregisters a filter and calls `done` when that has finished. `[app thread]`
fn remove<F: StatefulFilter>(
    app: &App,
    filter: Registered<OverBase<F>>,
    done: impl FnOnce(&App, Result<()>) + 'static,
) {
    filter.filter.removing(app);
    filter.unregister(app, done);
}

/// Filters that wait because their base does not exist. `[app thread]`
static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

/// Maximum number of waiting filters.
const WAITING_MAX: usize = 4096;

struct Waiting {
    name: String,
    base: String,
    params: serde_json::Value,
    make: fn(&App, &serde_json::Value) -> Result<String>,
}

fn waiting() -> MutexGuard<'static, Vec<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The module's name. A library has one filter module.
static MODULE: Mutex<String> = Mutex::new(String::new());

fn module() -> String {
    MODULE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The name of the method that creates a filter.
fn method() -> String {
    format!("bdev_{}_create", module())
}

impl Waiting {
    fn of<F: StatefulFilter>(filter: &F, params: serde_json::Value) -> Self {
        Self {
            name: filter.name().to_owned(),
            base: filter.base_name().to_owned(),
            params,
            make: |app, params| create::<OverBase<F>>(app, &method(), decode::<F::Params>(params)?),
        }
    }
}

fn decode<P: Params>(params: &serde_json::Value) -> Result<P> {
    serde_json::from_value(params.clone())
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))
}

/// Lets the filter wait for its base. Reserves the filter's name and UUID.
fn await_base(app: &App, filter: Waiting) -> Result<()> {
    let uuid = filter.params.get("uuid").and_then(serde_json::Value::as_str);
    let uuid = uuid.map(str::parse::<Uuid>).transpose()?.map_or([0; 16], |uuid| uuid.0);
    if waiting().len() >= WAITING_MAX {
        return Err(Error::new(
            errno::ENOSPC,
            format!("{WAITING_MAX} filters wait for their base; no more are allowed"),
        ));
    }
    reserve(app, &filter.name, uuid)?;
    let mut all = waiting();
    all.retain(|other| other.name != filter.name);
    all.push(filter);
    Ok(())
}

/// Creates the filters that wait for the new bdev `base`. `[app thread]`
pub(crate) fn base_appears(app: &App, base: &str) {
    let mut all = waiting();
    let (filters, others) =
        std::mem::take(&mut *all).into_iter().partition::<Vec<_>, _>(|filter| filter.base == base);
    *all = others;
    drop(all); // release the lock, because creating a filter takes it again
    for filter in filters {
        match (filter.make)(app, &filter.params) {
            Ok(name) => {
                release(app, &name);
                tracing::info!("filter {name} now uses base {base}");
            }
            Err(error) => {
                tracing::warn!("filter {} cannot use base {base}: {error}", filter.name);
                waiting().push(filter);
            }
        }
    }
}

/// Writes the calls that create the waiting filters. `[app thread]`
pub(crate) fn write_config(config: &mut Config<'_>) {
    for filter in waiting().iter() {
        config.call(&method(), &filter.params);
    }
}

/// Registers `bdev_<module>_create` and `bdev_<module>_delete` of a filter. `[app thread]`
///
/// # Errors
/// `EEXIST` when a method's name is taken.
pub fn serve_filter<F: StatefulFilter>(app: &App, module: &str) -> Result<()> {
    name_filters(app, module);
    serve_with(app, module, |app, _, params| make_filter::<F>(app, params), delete_filter::<F>)
}

/// Sets the module name of the library's filters. For a library that registers their methods itself. `[app thread]`
pub fn name_filters(_app: &App, module: &str) {
    module.clone_into(&mut MODULE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Creates a filter, or lets it wait for its base. Returns its name. `[app thread]`
///
/// # Errors
/// `EEXIST` when the name is taken, or the errors of [`StatefulFilter::create`].
pub fn make_filter<F: StatefulFilter>(app: &App, params: F::Params) -> Result<String> {
    let saved = serde_json::to_value(&params)
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))?;
    let filter = F::create(app, decode::<F::Params>(&saved)?)?;
    let name = filter.name().to_owned();
    if waiting().iter().any(|other| other.name == name) || find::<OverBase<F>>(&name).is_ok() {
        return Err(Error::new(errno::EEXIST, format!("bdev {name}: File exists")));
    }
    match create::<OverBase<F>>(app, &method(), params) {
        Err(error) if error.errno() == errno::ENODEV => {
            await_base(app, Waiting::of(&filter, saved))?;
            tracing::info!("filter {name} waits for base {}", filter.base_name());
            Ok(name)
        }
        result => result,
    }
}

/// Deletes a filter, also one that waits for its base. Answers the call when the filter is gone. `[app thread]`
pub fn delete_filter<F: StatefulFilter>(app: &App, name: &str, call: Call) {
    let waited = {
        let mut all = waiting();
        let before = all.len();
        all.retain(|filter| filter.name != name);
        all.len() < before
    };
    if waited {
        release(app, name);
    }
    match find::<OverBase<F>>(name) {
        Ok(filter) => remove(app, filter, |_, gone| call.answer(gone.map(|()| true))),
        Err(_) if waited => call.reply(true),
        Err(error) => call.fail(error),
    }
}

/// Calls `see` with the filter `name`. `[any thread]`
///
/// # Errors
/// `ENODEV` when there is no such filter, or when it waits for its base.
pub fn with_filter<F: StatefulFilter, R>(name: &str, see: impl FnOnce(&F) -> R) -> Result<R> {
    let filter: Registered<OverBase<F>> = find(name)?;
    Ok(see(&filter.filter))
}
