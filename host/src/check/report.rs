//! What child and supervisor say to each other, and what the user is told.

use drivebay_check::verdict::{Line, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;

/// The first check: it comes up.
pub(super) const LOADS: &str = "plugin::loads";

/// What a child tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub(super) enum Event {
    /// A check begins.
    Begin {
        /// Its name.
        name: String,
    },
    /// A check has ended.
    End(Line),
    /// A callback does not return; the child ends itself.
    Hang {
        /// Which.
        seen: String,
    },
    /// The child crashes.
    Crash {
        /// What of the plugin runs.
        seen: String,
    },
    /// The checks cannot run.
    Broken {
        /// Why.
        why: String,
    },
}

/// All checks of one plugin.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the plugin.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// Where everything random began.
    pub seed: u64,
    /// The checks in order.
    pub lines: Vec<Line>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// Checks that failed.
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

    /// The first line for people.
    pub(super) fn opening(&self) -> String {
        let Self { name, version, kind, seed, .. } = self;
        format!("checking {name} {version} ({kind}), seed {seed}\n")
    }

    /// The last lines for people.
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

    /// For programs.
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

/// One check for people.
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
