//! Sends `tracing` events to the host's log.
//!
//! The host's levels are SPDK's: `error!` becomes error, `warn!` warning, `info!` notice, `debug!` info,
//! `trace!` debug.
#![expect(unsafe_code, reason = "reads the host's log level and calls its log function")]

use crate::host::{host, try_host};
use drivebay_plugin_api::{self as api, bay_str};
use std::cell::RefCell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::Interest};

/// Writes one line to the host's log, or nothing when there is no host. `[any thread]`
pub(crate) fn write(level: u32, target: &str, text: &str) {
    if let Some(host) = try_host() {
        // SAFETY: the texts outlive the call.
        unsafe { (host.log)(host.raw, level, bay_str::new(target), bay_str::new(text)) };
    }
}

thread_local! {
    /// Place and message of this thread's last panic.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sends the library's `tracing` events and panics to the host.
pub(crate) fn install() {
    // This fails when the host initialises the library again: then the bridge is already installed.
    let _ = tracing::subscriber::set_global_default(Bridge);
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (None, Some(text)) => text.as_str(),
            (None, None) => "a panic without text",
        };
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let line = format!("{place}: {text}");
        write(api::BAY_LOG_ERROR, "panicked", &line);
        let _ = LAST_PANIC.try_with(|last| last.replace(line));
    }));
}

/// Tells the host that a panic on this thread poisoned the library.
pub(crate) fn poisoned() {
    let last = LAST_PANIC.try_with(RefCell::take).unwrap_or_default();
    write(api::BAY_LOG_ERROR, api::LOG_TARGET_POISONED, &last);
}

/// Takes over a changed log level of the host.
pub(crate) fn level_changed() {
    tracing::callsite::rebuild_interest_cache();
}

#[derive(Debug)]
struct Bridge;

fn host_level(level: Level) -> u32 {
    match level {
        Level::ERROR => api::BAY_LOG_ERROR,
        Level::WARN => api::BAY_LOG_WARN,
        Level::INFO => api::BAY_LOG_NOTICE,
        Level::DEBUG => api::BAY_LOG_INFO,
        Level::TRACE => api::BAY_LOG_DEBUG,
    }
}

fn wanted() -> u32 {
    // SAFETY: the host's level stays readable until `fini`, and the host changes it atomically.
    let level = unsafe { AtomicU32::from_ptr(host().log_level.cast_mut()) };
    level.load(Ordering::Relaxed)
}

impl Subscriber for Bridge {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && host_level(*metadata.level()) <= wanted()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match wanted() {
            api::BAY_LOG_ERROR => LevelFilter::ERROR,
            api::BAY_LOG_WARN => LevelFilter::WARN,
            api::BAY_LOG_NOTICE => LevelFilter::INFO,
            api::BAY_LOG_INFO => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        write(host_level(*event.metadata().level()), event.metadata().target(), &line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A log line: the message, then ` field=value` for each field.
struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a `String` does not fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
