//! Reads callgrind's output: costs by source file, and calls by function.
//!
//! Only the cost of a file's own code counts, not that of the code it calls. Code of Rust's library
//! that was inlined counts for the function that contains it.

use std::collections::BTreeMap;

/// Event counts by name, such as `Ir` (instructions), `Ge` (locked instructions), `sysCount`.
pub(super) type Events = BTreeMap<String, f64>;

/// One run, or the difference of two runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Profile {
    /// Costs by source file, or by shared object if there is no source file.
    pub(super) files: BTreeMap<String, Events>,
    /// Calls by function.
    pub(super) calls: BTreeMap<String, f64>,
}

impl Profile {
    pub(super) fn parse(text: &str) -> Self {
        Parser::default().parse(text)
    }

    /// The difference from a shorter run, divided by the number of I/Os.
    pub(super) fn per_io(&self, shorter: &Self, ios: f64) -> Self {
        let mut result = Self::default();
        for (file, events) in &self.files {
            let before = shorter.files.get(file);
            let events = events.iter().map(|(event, count)| {
                let before = before.and_then(|events| events.get(event)).copied();
                (event.clone(), (count - before.unwrap_or_default()) / ios)
            });
            result.files.insert(file.clone(), events.collect());
        }
        for (function, calls) in &self.calls {
            let before = shorter.calls.get(function).copied().unwrap_or_default();
            result.calls.insert(function.clone(), (calls - before) / ios);
        }
        result
    }

    /// The total of an event.
    pub(super) fn total(&self, event: &str) -> f64 {
        self.files.values().filter_map(|events| events.get(event)).sum()
    }

    /// Calls of functions with one of these names.
    pub(super) fn calls_of(&self, names: &[&str]) -> f64 {
        let wanted = |function: &str| {
            names.contains(&function.split(['\'', '@']).next().unwrap_or_default())
        };
        self.calls.iter().filter(|(function, _)| wanted(function)).map(|(_, calls)| calls).sum()
    }
}

#[derive(Default)]
struct Parser {
    events: Vec<String>,
    /// The names of objects, files and functions, by the numbers that stand for them.
    names: [BTreeMap<String, String>; 3],
    object: String,
    /// The file of the function, and the file of the code inlined into it.
    file: String,
    inlined: String,
    callee: String,
    /// Whether the next line of costs belongs to a call.
    is_call: bool,
    profile: Profile,
}

const OBJECT: usize = 0;
const FILE: usize = 1;
const FUNCTION: usize = 2;

impl Parser {
    fn parse(mut self, text: &str) -> Profile {
        for line in text.lines() {
            self.line(line);
        }
        self.profile
    }

    fn line(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(['=', ':']) else { return self.costs(line) };
        match key {
            "events" => self.events = value.split_whitespace().map(str::to_owned).collect(),
            "ob" => self.object = self.name(OBJECT, value),
            "cob" => drop(self.name(OBJECT, value)),
            "fl" => {
                self.file = self.name(FILE, value);
                self.inlined.clone_from(&self.file);
            }
            "fi" | "fe" => self.inlined = self.name(FILE, value),
            "cfi" | "cfl" => drop(self.name(FILE, value)),
            "fn" => drop(self.name(FUNCTION, value)),
            "cfn" => self.callee = self.name(FUNCTION, value),
            "calls" => {
                let count = value.split(' ').next().and_then(|count| count.parse::<f64>().ok());
                let calls = self.profile.calls.entry(self.callee.clone()).or_default();
                *calls += count.unwrap_or_default();
                self.is_call = true;
            }
            _ => self.costs(line),
        }
    }

    /// `(3) name` defines the name of 3, `(3)` uses it.
    fn name(&mut self, kind: usize, value: &str) -> String {
        let (number, name) = value.split_once(' ').unwrap_or((value, ""));
        let Some(names) = self.names.get_mut(kind) else { return value.to_owned() };
        if !number.starts_with('(') {
            return value.to_owned();
        }
        if !name.is_empty() {
            names.insert(number.to_owned(), name.to_owned());
        }
        names.get(number).cloned().unwrap_or_default()
    }

    /// A line has a position and its costs. Missing costs at the end of a line are 0.
    fn costs(&mut self, line: &str) {
        if !line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            return;
        }
        if std::mem::take(&mut self.is_call) {
            return;
        }
        let is_library = self.inlined.contains("/library/") || self.inlined.contains("/rustc/");
        let file = if is_library { &self.file } else { &self.inlined };
        let file = if file.is_empty() || file == "???" { &self.object } else { file };
        let events = self.profile.files.entry(file.clone()).or_default();
        for (event, count) in self.events.iter().zip(line.split(' ').skip(1)) {
            *events.entry(event.clone()).or_default() += count.parse::<f64>().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
version: 1
events: Ir sysCount Ge
ob=(1) /bin/drivebay
fl=(1) host/core/src/bdev/submit.rs
fn=(1) submit
10 5 0 1
+2 7
cob=(2) /lib/libc.so.6
cfi=(2) ???
cfn=(2) malloc
calls=3 0
+1 90
fi=(3) /rustc/abc/library/core/src/cell.rs
40 2
fe=(1)
12 1
ob=(2)
fl=(2)
fn=(2)
0 30
";

    #[test]
    fn costs_go_to_the_file_that_they_are_of_and_not_to_its_callers() {
        let profile = Profile::parse(TEXT);
        let ir = |file: &str| profile.files.get(file).and_then(|events| events.get("Ir")).copied();
        assert_eq!(ir("host/core/src/bdev/submit.rs"), Some(15.0));
        assert_eq!(ir("/lib/libc.so.6"), Some(30.0));
        assert_eq!((profile.total("Ir"), profile.total("Ge")), (45.0, 1.0));
    }

    #[test]
    fn the_difference_of_two_runs_is_what_the_io_cost() {
        let profile = Profile::parse(TEXT);
        let per_io = Profile::parse(&TEXT.replace("calls=3", "calls=13")).per_io(&profile, 10.0);
        assert_eq!((per_io.total("Ir"), per_io.calls_of(&["malloc"])), (0.0, 1.0));
    }
}
