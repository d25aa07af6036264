//! Between `submit` and `dispatch`: if the module cannot take an I/O unchanged, the bus replaces the I/O with parts that the
//! module can take. Each part is an I/O on the same channel and goes through `submit` again.
//!
//! | work | when | parts |
//! |---|---|---|
//! | split | a limit of the module, an optimal boundary | all at once, over slices of the list |
//! | bounce | unaligned memory, or pieces that are too small or too many | one after another, through a buffer |
//! | zeroes | write zeroes is not declared | writes from a buffer of zeroes |
//! | compare | compare is not declared, or the module cannot take this one whole | reads into a buffer, which the bus compares |
//! | write through | FUA is not declared and there is a cache | the write, then a flush |

mod buffer;
mod need;
mod part;
mod size;
mod split;
mod write_through;
mod zeroes;

pub(super) use need::{Work, needed};
pub(super) use part::slice;

use super::complete;
use crate::bdev::state::Io;

/// Starts the work. If there is none, completes the I/O.
pub(super) fn begin(io: Io, work: Work) {
    io.progress.set(0);
    io.pending.set(0);
    io.failure.set(0);
    match work {
        Work::Nothing => complete::finish(io, 0),
        Work::Split => split::begin(io),
        Work::Bounce | Work::Compare => buffer::begin(io, work),
        Work::Zeroes => zeroes::next(io),
        Work::WriteThrough => write_through::begin(io),
    }
}
