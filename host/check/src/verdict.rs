//! How a check ends.

use serde::{Deserialize, Serialize};

/// What a check says: nothing, when all is well.
pub type Verdict = Result<(), Stop>;

/// Why a check ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The plugin is wrong.
    Failed {
        /// What must be.
        expected: String,
        /// What was.
        seen: String,
    },
    /// It cannot be judged, and why.
    Skipped(String),
}

impl Stop {
    /// The plugin is wrong.
    pub fn failed(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Failed { expected: expected.into(), seen: seen.into() }
    }
}

/// Ends the check: the plugin is wrong.
///
/// # Errors
/// Always.
pub fn failed<T>(expected: impl Into<String>, seen: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::failed(expected, seen))
}

/// Ends the check: it cannot be judged.
///
/// # Errors
/// Always.
pub fn skipped<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.into()))
}

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// The plugin is wrong.
    Failed {
        /// What must be.
        expected: String,
        /// What was.
        seen: String,
    },
    /// It was not judged.
    Skipped {
        /// Why.
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
    /// Name of the check.
    pub name: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub ms: u64,
}
