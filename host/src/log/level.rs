//! The levels of log lines.

use drivebay_spec_jsonrpc::params;

params! {
    /// Levels, the most important first, numbered as `BAY_LOG_*`.
    pub enum Level {
        /// An operation failed.
        Error = "ERROR",
        /// A condition that the operator should check.
        Warning = "WARNING",
        /// Normal events that an operator needs to know.
        Notice = "NOTICE",
        /// Details that help to understand what the host does.
        Info = "INFO",
        /// Details that help to find faults.
        Debug = "DEBUG",
    }
}

const LEVELS: [Level; 5] = [Level::Error, Level::Warning, Level::Notice, Level::Info, Level::Debug];

pub(super) fn level_of(number: u32) -> Level {
    let known = LEVELS.into_iter().find(|level| *level as u32 == number);
    known.unwrap_or(Level::Debug)
}
