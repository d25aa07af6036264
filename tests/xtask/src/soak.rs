//! `cargo xtask soak`.

use crate::{Failure, Outcome};

pub(crate) fn main(args: &[&str]) -> Outcome {
    match args {
        [] => Err("no test has a longer form yet".to_owned().into()),
        [other, ..] => Err(Failure::usage("soak", other, "no argument")),
    }
}
