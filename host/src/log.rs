//! The host's log: lines on stderr, with levels and flags as SPDK's methods name them.
//!
//! A line is written when its level is at most the print level, or when the flag of its component is
//! on. A component is a module of the host (`bdev`, `loader`, …) or a plugin by its name. INFO of
//! `tracing` with the field `notice` is NOTICE.

use drivebay_spec_jsonrpc::params;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Components of the host itself, which have a flag each.
pub const COMPONENTS: [&str; 8] =
    ["app", "bdev", "config", "env", "loader", "reactor", "rpc", "services"];
/// The flag that stands for all others.
pub const ALL: &str = "all";

params! {
    /// Levels, the most important first, numbered as `BAY_LOG_*`.
    pub enum Level {
        /// Something failed.
        Error = "ERROR",
        /// Something is not as it should be.
        Warning = "WARNING",
        /// What an operator wants to know.
        Notice = "NOTICE",
        /// What helps to understand.
        Info = "INFO",
        /// What helps to find faults.
        Debug = "DEBUG",
    }
}

const LEVELS: [Level; 5] = [Level::Error, Level::Warning, Level::Notice, Level::Info, Level::Debug];

/// Up to which level lines are written.
static PRINT: AtomicU32 = AtomicU32::new(Level::Notice as u32);
/// The level of `log_set_level`; see [`set_level`].
static LEVEL: AtomicU32 = AtomicU32::new(Level::Notice as u32);
/// Up to which level plugins hand over their lines: all of them once a flag is on.
static PLUGINS: AtomicU32 = AtomicU32::new(Level::Notice as u32);
static ANY_FLAG: AtomicBool = AtomicBool::new(false);
static FLAGS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Has every event of `tracing` written to stderr. The first call counts.
pub fn init() {
    let _ = tracing::subscriber::set_global_default(Stderr);
}

/// Where plugins read up to which level lines are wanted.
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

/// Sets the level of the system's log. This host writes none, so the value is only kept.
pub fn set_level(level: Level) {
    LEVEL.store(level as u32, Ordering::Relaxed);
}

/// Turns the flag of a component, or [`ALL`], on or off. Whether there is such a component is for
/// the caller to know.
pub fn set_flag(component: &str, on: bool) {
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
    let flags = FLAGS.read().unwrap_or_else(PoisonError::into_inner);
    flags.contains(component) || flags.contains(ALL)
}

/// Tells plugins and `tracing` what is wanted now.
fn refresh() {
    let any_flag = ANY_FLAG.load(Ordering::Relaxed);
    let wanted = if any_flag { Level::Debug } else { print_level() };
    PLUGINS.store(wanted as u32, Ordering::Relaxed);
    tracing_core::callsite::rebuild_interest_cache();
}

fn level_of(number: u32) -> Level {
    let known = LEVELS.into_iter().find(|level| *level as u32 == number);
    known.unwrap_or(Level::Debug)
}

/// The subscriber. It knows no spans.
struct Stderr;

impl Subscriber for Stderr {
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
        // Levels change at run time.
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
        if level as u32 > PRINT.load(Ordering::Relaxed) && !flag(component) {
            return;
        }
        let time = timestamp(SystemTime::now());
        let word = level.as_str();
        let (message, fields) = (&line.message, &line.fields);
        let text = format!("[{time}] {word:<7} {component}: {message}{fields}\n");
        // In one piece, so that lines of several threads do not mix. Without stderr, no log.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
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

/// `loader` of `drivebay::loader::manager`.
fn component_of(target: &str) -> &str {
    target.split("::").nth(1).unwrap_or("app")
}

/// The parts of a line.
#[derive(Default)]
struct Line {
    plugin: String,
    message: String,
    /// The other fields, each behind a space.
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: &dyn fmt::Display) {
        match field.name() {
            "message" => {
                let _ = write!(OneLine(&mut self.message), "{value}");
            }
            "plugin" => {
                let _ = write!(OneLine(&mut self.plugin), "{value}");
            }
            "notice" => {}
            name => {
                let _ = write!(OneLine(&mut self.fields), " {name}={value}");
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value);
    }
}

/// Keeps what is written on one line: a text from outside cannot look like a line of its own.
struct OneLine<'a>(&'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// UTC, as RFC 3339 writes it, with microseconds.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of its year; day 0 is 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month =
        if months_since_march < 10 { months_since_march + 3 } else { months_since_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_of_the_gregorian_calendar() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn what_comes_from_outside_stays_on_its_line() {
        let mut text = String::new();
        write!(OneLine(&mut text), "a\nb\x1b[1m").unwrap();
        assert_eq!(text, "a\\nb\\u{1b}[1m");
    }

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
