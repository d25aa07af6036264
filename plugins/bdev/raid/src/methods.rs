//! The RPC methods, with the reference's names, parameters, results and error codes.

use crate::array::{Array, State};
use crate::arrays::{self, NewArray, Options};
use crate::{grow, members, scrub};
use drivebay_sdk::App;
use drivebay_sdk::bdev::open;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, ParamType, Params, RpcError, State as When};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value};
use drivebay_spec_raid::{Level, MemberState};
use std::rc::Rc;

params! {
    /// Parameters of `bdev_raid_create`.
    pub struct Create {
        /// Name of the new array: 1 to 63 bytes.
        name: String,
        /// Strip size in KiB, a power of two; 0 for raid1.
        strip_size_kb: u32 = 0,
        /// RAID level.
        raid_level: RaidLevel,
        /// Names of the member bdevs. The array waits for members that do not exist yet.
        #[range(1..=255)]
        base_bdevs: Vec<String>,
        /// UUID of the array. The default is a random UUID.
        uuid: Option<Uuid>,
        /// Whether to write a superblock to every member, so that the array is found after a restart.
        superblock: bool = false,
    }

    /// RAID levels.
    pub enum RaidLevel {
        /// Strips in turn over all members, no redundancy.
        Raid0 = "raid0" | "0",
        /// Every member holds everything.
        Raid1 = "raid1" | "1",
        /// Two copies of each strip, on neighboring members.
        Raid10 = "raid10" | "10",
        /// One parity strip in each row. A log keeps rows consistent; the array needs a superblock.
        Raid5 = "raid5" | "5",
        /// One parity strip in each row. Clients must write whole rows.
        Raid5f = "raid5f" | "5f",
        /// Two parity strips in each row. A log keeps rows consistent; the array needs a superblock.
        Raid6 = "raid6" | "6",
        /// One member after another.
        Concat = "concat",
    }

    /// Parameters of `bdev_raid_delete`.
    pub struct Delete {
        /// Name of the array.
        name: String,
        /// Whether to overwrite the superblocks on the members with zeros.
        clear_sb: bool = false,
    }

    /// Parameters of `bdev_raid_get_bdevs`.
    pub struct Get {
        /// Which arrays to list.
        category: Category,
    }

    /// States of arrays.
    pub enum Category {
        /// Every array.
        All = "all",
        /// On the bus.
        Online = "online",
        /// Waiting for members.
        Configuring = "configuring",
        /// Off the bus, because too many members are missing.
        Offline = "offline",
    }

    /// Parameters of `bdev_raid_add_base_bdev`.
    pub struct Add {
        /// Name of the array.
        raid_bdev: String,
        /// Name of the bdev to add.
        base_bdev: String,
    }

    /// Parameters of `bdev_raid_grow_base_bdev`.
    pub struct Grow {
        /// Name of the raid1 array.
        raid_name: String,
        /// Name of the bdev to add.
        base_name: String,
    }

    /// Parameters of `bdev_raid_remove_base_bdev`.
    pub struct Remove {
        /// Name of the member bdev.
        name: String,
    }

    /// Parameters of `bdev_raid_start_scrub`.
    pub struct StartScrub {
        /// Name of the array.
        name: String,
        /// Whether to rewrite blocks that differ or cannot be read.
        repair: bool = false,
    }

    /// Parameters of `bdev_raid_stop_scrub`.
    pub struct StopScrub {
        /// Name of the array.
        name: String,
    }

    /// Parameters of `bdev_raid_set_options`.
    pub struct SetOptions {
        /// KiB of an array to rebuild at a time, 1 to 65536. I/O to these blocks waits meanwhile. The initial value is 1024.
        process_window_size_kb: Option<u32>,
        /// MiB per second that a rebuild or scrub may process; 0 means no limit. The initial value is 0.
        process_max_bandwidth_mb_sec: Option<u32>,
    }
}

/// JSON-RPC 2.0, section 5.1.
const INTERNAL_ERROR: i64 = -32603;

/// Registers all methods. `[app thread]`
///
/// # Errors
/// `EEXIST` when a method's name is taken.
pub fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_raid_create",
        "Creates an array of bdevs. The array goes online when all of its members exist.",
        create,
    )?;
    method(app, "bdev_raid_delete", "Deletes an array and releases its members.", delete)?;
    Method::immediate(
        "bdev_raid_get_bdevs",
        "Lists arrays with their members, rebuilds and scrubs.",
        |_, params: Get| Ok(get(&params)),
    )
    .describe(|method| method.result("The arrays."))
    .register(app)?;
    method(
        app,
        "bdev_raid_add_base_bdev",
        "Adds a member to an array. An online array rebuilds the member; the method answers when the rebuild has begun.",
        add,
    )?;
    method(
        app,
        "bdev_raid_grow_base_bdev",
        "Adds a slot to a raid1 array and rebuilds a bdev in it; the method answers when the rebuild has begun.",
        grow,
    )?;
    method(
        app,
        "bdev_raid_remove_base_bdev",
        "Removes a member from its array. An array that needs the member goes offline.",
        remove,
    )?;
    Method::immediate(
        "bdev_raid_start_scrub",
        "Starts a scrub: compares all copies of an array, or its data with its parity. Continues a stopped scrub. \
         bdev_raid_get_bdevs shows progress and result.",
        |app, params: StartScrub| {
            scrub::start(app, &by_name(&params.name)?, params.repair)?;
            Ok(true)
        },
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", "There is no such array, or it is not online."))
    .register(app)?;
    method(
        app,
        "bdev_raid_stop_scrub",
        "Stops the scrub of an array and waits until it has stopped.",
        async |_: &App, params: StopScrub| {
            let array = by_name(&params.name)?;
            scrub::stop(&array).await?;
            Ok(true)
        },
    )?;
    Method::immediate(
        "bdev_raid_set_options",
        "Sets the options of all rebuilds and scrubs that start later.",
        |_, params: SetOptions| {
            let now = arrays::options();
            arrays::set_options(Options {
                window_kb: params.process_window_size_kb.unwrap_or(now.window_kb),
                bandwidth_mb: params.process_max_bandwidth_mb_sec.unwrap_or(now.bandwidth_mb),
            })?;
            Ok(true)
        },
    )
    .describe(|method| method.states(&[When::Startup, When::Runtime]).result("true"))
    .register(app)
}

/// Registers a method that runs as a task.
fn method<P: Params + 'static, R: ParamType + 'static>(
    app: &App,
    name: &'static str,
    doc: &str,
    call: impl AsyncFn(&App, P) -> Result<R, RpcError> + 'static,
) -> Result<()> {
    let call = Rc::new(call);
    Method::new(name, doc, move |app, request, params| {
        let call = Rc::clone(&call);
        let run = async move |app: &App| request.answer(call(app, params).await);
        // If the thread has no room for the task, dropping the request answers it with an error.
        if let Ok(task) = task::spawn_app(app, name, run) {
            task.detach();
        }
    })
    .describe(|method| {
        method.result("true").returns::<R>().error(
            -19,
            "no_such_device",
            "There is no such array or bdev.",
        )
    })
    .register(app)
}

/// Puts the reference's words in front of an error. Its code stays.
fn because(what: &str, error: &Error) -> Error {
    let text = std::io::Error::from_raw_os_error(error.errno()).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let message = if error.message() == text {
        format!("{what}: {text}")
    } else {
        format!("{what}: {text}: {}", error.message())
    };
    Error::new(error.errno(), message)
}

async fn create(app: &App, params: Create) -> Result<bool, RpcError> {
    let new = NewArray {
        name: params.name.clone(),
        uuid: params.uuid.map(|uuid| uuid.0).filter(|uuid| *uuid != [0; 16]),
        level: match params.raid_level {
            RaidLevel::Raid0 => Level::Raid0,
            RaidLevel::Raid1 => Level::Raid1,
            RaidLevel::Raid10 => Level::Raid10,
            RaidLevel::Raid5 => Level::Raid5,
            RaidLevel::Raid5f => Level::Raid5f,
            RaidLevel::Raid6 => Level::Raid6,
            RaidLevel::Concat => Level::Concat,
        },
        strip_size_kb: params.strip_size_kb,
        has_superblock: params.superblock,
        base_bdevs: params.base_bdevs,
    };
    let what = format!("Failed to create RAID bdev {}", params.name);
    arrays::create(app, new).await.map_err(|error| because(&what, &error))?;
    Ok(true)
}

fn by_name(name: &str) -> Result<Rc<Array>> {
    arrays::by_name(name)
        .ok_or_else(|| Error::new(errno::ENODEV, format!("raid bdev {name} not found")))
}

async fn delete(app: &App, params: Delete) -> Result<bool, RpcError> {
    let array = by_name(&params.name)?;
    let deleted = arrays::delete(app, &array, params.clear_sb).await;
    deleted.map_err(|error| {
        RpcError::new(INTERNAL_ERROR, "in_progress", error.message().to_owned())
    })?;
    Ok(true)
}

fn get(params: &Get) -> Vec<Map<String, Value>> {
    let state = match params.category {
        Category::All => None,
        Category::Online => Some(State::Online),
        Category::Configuring => Some(State::Configuring),
        Category::Offline => Some(State::Offline),
    };
    let show = |array: &Rc<Array>| {
        let mut shown = Map::new();
        shown.insert("name".into(), array.name.as_str().into());
        shown.extend(array.show());
        shown
    };
    arrays::in_state(state).iter().map(show).collect()
}

async fn add(app: &App, params: Add) -> Result<bool, RpcError> {
    let Add { raid_bdev, base_bdev } = params;
    let array = arrays::by_name(&raid_bdev).ok_or_else(|| {
        Error::new(errno::ENODEV, format!("raid bdev {raid_bdev} is not found in config"))
    })?;
    let what = format!("Failed to add base bdev {base_bdev} to RAID bdev {raid_bdev}");
    members::add(app, &array, &base_bdev).await.map_err(|error| because(&what, &error))?;
    Ok(true)
}

async fn grow(app: &App, params: Grow) -> Result<bool, RpcError> {
    let Grow { raid_name, base_name } = params;
    let array = by_name(&raid_name)?;
    let what = format!("Failed to grow RAID bdev {raid_name} by base bdev {base_name}");
    grow::by_member(app, &array, &base_name).await.map_err(|error| because(&what, &error))?;
    Ok(true)
}

async fn remove(app: &App, params: Remove) -> Result<bool, RpcError> {
    let info = open(app, &params.name, false, |_, _| {})?.info()?;
    let serial_in = |array: &Rc<Array>| {
        let members = array.members();
        members.iter().find(|(_, member)| member.name() == info.name()).map(|(_, m)| m.serial)
    };
    let mut found = arrays::all()
        .into_iter()
        .filter_map(|array| serial_in(&array).map(|serial| (array, serial)));
    let Some((array, serial)) = found.next() else {
        let message = "Failed to remove base bdev from raid bdev: no array has it as a member";
        return Err(Error::new(errno::ENODEV, message).into());
    };
    let what = "Failed to remove base bdev from raid bdev";
    let retired = members::retire(app, &array, serial, MemberState::Missing).await;
    retired.map_err(|error| because(what, &error))?;
    Ok(true)
}
