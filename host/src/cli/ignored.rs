//! Flags of SPDK that have no effect here. They are accepted, so that scripts need no changes.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeSet;

/// The short and the long name of each flag, and whether a value follows.
const FLAGS: [(Option<char>, &str, bool); 18] = [
    (Some('R'), "huge-unlink", false),
    (Some('d'), "limit-coredump", false),
    (Some('e'), "tpoint-group", true),
    (Some('g'), "single-file-segments", false),
    (Some('i'), "shm-id", true),
    (Some('n'), "mem-channels", true),
    (Some('p'), "main-core", true),
    (None, "base-virtaddr", true),
    (None, "disable-cpumask-locks", false),
    (None, "enforce-numa", false),
    (None, "env-context", true),
    (None, "huge-dir", true),
    (None, "interrupt-mode", false),
    (None, "iova-mode", true),
    (None, "lcores", true),
    (None, "msg-mempool-size", true),
    (None, "num-trace-entries", true),
    (None, "vfio-vf-token", true),
];

/// The long names of the flags that were given.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// The names, without dashes.
    pub given: BTreeSet<String>,
}

impl Args for Ignored {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (short, long, takes_value)| {
            let action = if takes_value { ArgAction::Append } else { ArgAction::Count };
            let arg = Arg::new(long).long(long).action(action).hide(true);
            command.arg(match short {
                Some(short) => arg.short(short),
                None => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Ignored {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut ignored = Self::default();
        ignored.update_from_arg_matches(matches)?;
        Ok(ignored)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (_, long, _) in FLAGS {
            // A flag that was not given has the default count 0, so check the source.
            if matches.value_source(long) == Some(clap::parser::ValueSource::CommandLine) {
                self.given.insert(long.to_owned());
            }
        }
        Ok(())
    }
}
