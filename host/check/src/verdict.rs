//! The result of a check.

use serde::{Deserialize, Serialize};

/// The result of a check function: nothing when all is well.
pub type Verdict = Result<(), Stop>;

/// Why a check stopped early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The plugin is wrong.
    Failed {
        /// What the check expected.
        expected: String,
        /// What the check saw.
        seen: String,
    },
    /// The plugin cannot be checked; contains the reason.
    Skipped(String),
}

impl Stop {
    /// The plugin is wrong.
    pub fn failed(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Failed { expected: expected.into(), seen: seen.into() }
    }
}

/// Stops the check: the plugin is wrong.
///
/// # Errors
/// Always.
pub fn failed<T>(expected: impl Into<String>, seen: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::failed(expected, seen))
}

/// Stops the check: the plugin cannot be checked.
///
/// # Errors
/// Always.
pub fn skipped<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.into()))
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// The plugin is wrong.
    Failed {
        /// What the check expected.
        expected: String,
        /// What the check saw.
        seen: String,
    },
    /// The plugin was not checked.
    Skipped {
        /// The reason.
        reason: String,
    },
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Ok(()) => Self::Ok,
            Err(Stop::Failed { expected, seen }) => Self::Failed { expected, seen },
            Err(Stop::Skipped(reason)) => Self::Skipped { reason },
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The name of the check.
    pub name: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub ms: u64,
}
