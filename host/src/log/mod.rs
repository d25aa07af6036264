//! The host's log: lines on stderr or in a file, with SPDK's levels and flags.
//!
//! A line is written when its level is at or below the print level, or when the flag of its
//! component is on. A component is a module of the host (`bdev`, `loader`, …) or a plugin's name. A
//! `tracing` INFO event with the field `notice` is a NOTICE.
//!
//! ```text
//! any thread ── Record ──> bounded queue ──> writer thread ──> limit, repeats ──> stderr or file
//! ```
//!
//! The thread that logs never waits. If the queue is full, its line is dropped and counted.

mod level;
mod limit;
mod line;
mod writer;

pub use level::Level;
pub use writer::{Target, flush, print, reopen};

use level::level_of;
use line::Line;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Metadata, Subscriber};

/// The components of the host itself. Each has a flag.
pub const COMPONENTS: [&str; 8] =
    ["app", "bdev", "config", "env", "loader", "reactor", "rpc", "services"];
/// The flag that means all components.
pub const ALL: &str = "all";

/// The names of SPDK's log flags, and the component or plugin here that each one means.
pub const OF_SPDK: [(&str, &str); 14] = [
    ("app_config", "config"),
    ("app_rpc", "app"),
    ("bdev_malloc", "malloc"),
    ("bdev_null", "null"),
    ("json_util", "rpc"),
    ("log_rpc", "rpc"),
    ("lvol_rpc", "lvol"),
    ("notify_rpc", "rpc"),
    ("nvmf_auth", "nvmf"),
    ("nvmf_tcp", "nvmf-tcp"),
    ("thread", "reactor"),
    ("uring", "aio"),
    ("vbdev_lvol", "lvol"),
    ("vbdev_passthru", "passthru"),
];

/// The component or plugin that a flag means.
fn component_of_flag(flag: &str) -> &str {
    OF_SPDK.iter().find(|(name, _)| *name == flag).map_or(flag, |(_, component)| component)
}

/// The level up to which lines are written.
static PRINT: AtomicU32 = AtomicU32::new(Level::Notice as u32);
/// The level of `log_set_level`; see [`set_level`].
static LEVEL: AtomicU32 = AtomicU32::new(Level::Notice as u32);
/// The level up to which plugins send their lines. It is the highest once any flag is on.
static PLUGINS: AtomicU32 = AtomicU32::new(Level::Notice as u32);
static ANY_FLAG: AtomicBool = AtomicBool::new(false);
static FLAGS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Starts the writer and sends every `tracing` event to `target`. Calls after the first one have no
/// effect.
///
/// # Errors
/// The file cannot be opened, or the writer's thread cannot be started.
pub fn init(target: Target) -> std::io::Result<()> {
    writer::start(target)?;
    let _ = tracing::subscriber::set_global_default(ToWriter);
    Ok(())
}

/// The level up to which plugins should send lines. Plugins read it directly.
pub fn plugin_level() -> &'static AtomicU32 {
    &PLUGINS
}

/// The level up to which lines are written.
pub fn print_level() -> Level {
    level_of(PRINT.load(Ordering::Relaxed))
}

/// Sets the level up to which lines are written.
pub fn set_print_level(level: Level) {
    PRINT.store(level as u32, Ordering::Relaxed);
    refresh();
}

/// The level of the system's log.
pub fn level() -> Level {
    level_of(LEVEL.load(Ordering::Relaxed))
}

/// Sets the level of the system's log. This host does not write to that log, so it only keeps the
/// value.
pub fn set_level(level: Level) {
    LEVEL.store(level as u32, Ordering::Relaxed);
}

/// Turns the flag of a component, or [`ALL`], on or off. Names of [`OF_SPDK`] work, too. The caller
/// checks that the component exists.
pub fn set_flag(component: &str, on: bool) {
    let component = component_of_flag(component);
    let mut flags = FLAGS.write().unwrap_or_else(PoisonError::into_inner);
    if on {
        flags.insert(component.to_owned());
    } else if component == ALL {
        flags.clear();
    } else {
        flags.remove(component);
    }
    ANY_FLAG.store(!flags.is_empty(), Ordering::Relaxed);
    drop(flags);
    refresh();
}

/// Whether a component's flag is on.
pub fn flag(component: &str) -> bool {
    if !ANY_FLAG.load(Ordering::Relaxed) {
        return false;
    }
    let component = component_of_flag(component);
    let flags = FLAGS.read().unwrap_or_else(PoisonError::into_inner);
    flags.contains(component) || flags.contains(ALL)
}

/// Updates the levels for plugins and for `tracing`.
fn refresh() {
    let any_flag = ANY_FLAG.load(Ordering::Relaxed);
    let wanted = if any_flag { Level::Debug } else { print_level() };
    PLUGINS.store(wanted as u32, Ordering::Relaxed);
    tracing_core::callsite::rebuild_interest_cache();
}

/// The subscriber. It does not support spans.
struct ToWriter;

impl Subscriber for ToWriter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = level_in(metadata);
        let is_of_plugin = || metadata.fields().field("plugin").is_some();
        level as u32 <= PRINT.load(Ordering::Relaxed)
            || ANY_FLAG.load(Ordering::Relaxed)
                && (is_of_plugin() || flag(component_of(metadata.target())))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match level_of(PLUGINS.load(Ordering::Relaxed)) {
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Notice | Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        })
    }

    fn register_callsite(
        &self,
        _metadata: &'static Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        // `tracing` must not cache the answer, because levels change at run time.
        tracing::subscriber::Interest::sometimes()
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = level_in(metadata);
        let mut line = Line::default();
        event.record(&mut line);
        let component = match line.plugin.as_str() {
            "" => component_of(metadata.target()),
            plugin => plugin,
        };
        let is_asked_for = flag(component);
        if level as u32 > PRINT.load(Ordering::Relaxed) && !is_asked_for {
            return;
        }
        let component = component.to_owned();
        let Line { mut message, fields, .. } = line;
        message.push_str(&fields);
        let time = SystemTime::now();
        writer::send(writer::Record { level, component, message, time, is_asked_for });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// NOTICE is INFO with the field `notice`.
fn level_in(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO if metadata.fields().field("notice").is_some() => Level::Notice,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

/// `loader` from `drivebay::loader::manager`.
fn component_of(target: &str) -> &str {
    target.split("::").nth(1).unwrap_or("app")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_has_its_component_written_and_all_stands_for_all() {
        assert!(!flag("bdev"));
        set_flag("bdev", true);
        assert!(flag("bdev") && !flag("rpc"));
        assert_eq!(PLUGINS.load(Ordering::Relaxed), Level::Debug as u32);
        set_flag(ALL, true);
        assert!(flag("rpc"));
        set_flag(ALL, false);
        assert!(!flag("bdev") && !flag("rpc"));
        assert_eq!(PLUGINS.load(Ordering::Relaxed), Level::Notice as u32);
    }

    #[test]
    fn a_component_is_the_module_below_the_crate() {
        assert_eq!(component_of("drivebay::loader::manager"), "loader");
        assert_eq!(component_of("drivebay_core::bdev"), "bdev");
        assert_eq!(component_of("drivebay"), "app");
    }
}
