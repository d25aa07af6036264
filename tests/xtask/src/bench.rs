//! `cargo xtask bench`.

use crate::{Failure, Outcome};

pub(crate) fn main(args: &[&str]) -> Outcome {
    match args {
        [] => Err("the data path's speed is not measured yet".to_owned().into()),
        [other, ..] => Err(Failure::usage("bench", other, "no argument")),
    }
}
