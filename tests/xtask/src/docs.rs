//! `cargo xtask docs`.

use crate::{Failure, Outcome};

pub(crate) fn main(args: &[&str]) -> Outcome {
    match args {
        [] => Err("nothing of the documentation is generated yet".to_owned().into()),
        [other, ..] => Err(Failure::usage("docs", other, "no argument")),
    }
}
