//! The events that the child sends to the supervisor, and the report for the user.

use drivebay_check::verdict::{Line, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;

/// The first check: the plugin loads, inits and starts.
pub(super) const LOADS: &str = "plugin::loads";

/// An event from the child.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub(super) enum Event {
    /// A check starts.
    Begin {
        /// The name of the check.
        name: String,
    },
    /// A check has ended.
    End(Line),
    /// A callback does not return. The child exits by itself.
    Hang {
        /// The callback.
        seen: String,
    },
    /// The child crashes.
    Crash {
        /// The plugin's callback that was running.
        seen: String,
    },
    /// The checks cannot run.
    Broken {
        /// The reason.
        why: String,
    },
}

/// The results of all checks of one plugin.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of the plugin.
    pub name: String,
    /// The version of the plugin.
    pub version: String,
    /// The kind of the plugin.
    pub kind: String,
    /// The seed of all random choices.
    pub seed: u64,
    /// The checks in order.
    pub lines: Vec<Line>,
    /// How long all checks took.
    pub took: Duration,
}

impl Report {
    /// The number of checks that failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed { .. }))
    }

    fn count(&self, is_it: impl Fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|line| is_it(&line.outcome)).count()
    }

    fn counts(&self) -> (usize, usize, usize) {
        let passed = self.count(|outcome| matches!(outcome, Outcome::Ok));
        (passed, self.failed(), self.count(|outcome| matches!(outcome, Outcome::Skipped { .. })))
    }

    /// The first line of the text report.
    pub(super) fn opening(&self) -> String {
        let Self { name, version, kind, seed, .. } = self;
        format!("checking {name} {version} ({kind}), seed {seed}\n")
    }

    /// The last lines of the text report.
    pub(super) fn closing(&self) -> String {
        let (passed, failed, skipped) = self.counts();
        let seconds = self.took.as_secs_f64();
        let again = if failed > 0 {
            "one check alone: --only NAME; the same I/O again: --seed N\n"
        } else {
            ""
        };
        format!("\n{again}in {seconds:.1} s\n{passed} passed, {failed} failed, {skipped} skipped\n")
    }

    /// The report as JSON.
    pub(super) fn json(&self) -> String {
        let (passed, failed, skipped) = self.counts();
        let report = json!({
            "name": self.name,
            "version": self.version,
            "kind": self.kind,
            "seed": self.seed,
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "seconds": self.took.as_secs_f64(),
            "checks": self.lines,
        });
        format!("{report:#}\n")
    }
}

/// The result of one check, as text.
pub(super) fn text(line: &Line) -> String {
    let mut text = String::new();
    let name = &line.name;
    let _ = match &line.outcome {
        Outcome::Ok => writeln!(text, "{name} ... ok"),
        Outcome::Skipped { reason } => writeln!(text, "{name} ... skipped: {reason}"),
        Outcome::Failed { expected, seen } => {
            let seen = seen.replace('\n', "\n              ");
            writeln!(text, "{name} ... FAILED\n    expected  {expected}\n    seen      {seen}")
        }
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_what_was_expected_and_seen() {
        let outcome = Outcome::Failed { expected: "a".to_owned(), seen: "b\nc".to_owned() };
        let line = Line { name: "ops::x".to_owned(), outcome, ms: 1 };
        let wanted = "ops::x ... FAILED\n    expected  a\n    seen      b\n              c\n";
        assert_eq!(text(&line), wanted);
    }

    #[test]
    fn events_survive_the_way_to_the_supervisor() {
        let line = Line { name: "x".to_owned(), outcome: Outcome::Ok, ms: 3 };
        let text = serde_json::to_string(&Event::End(line.clone())).unwrap();
        let back: Event = serde_json::from_str(&text).unwrap();
        assert!(matches!(back, Event::End(same) if same == line), "{text}");
    }
}
