//! The path of an I/O, one file for each stage, and what acts on a channel's I/O. This room uses the
//! state, and not the registry.
//!
//! ```text
//! client ─ submit ─┬──────────────────────────────────┬─ dispatch ─ module ─┬─ complete ─▶ client
//!             ▲    └ parts (split, bounce, emulate) ──┘                     │
//!             └─────────────── pass (a filter, to its base) ◀───────────────┘
//! ```
//!
//! The stages call each other in a circle, because an I/O does: a completion submits what waited, a
//! part goes through `submit` again, and a module may complete inside `submit`. Of the rest,
//! `reset` and `quiesce` hold I/O back and release it, `starved` is the queue for buffers,
//! `channel_life` opens and closes channels, `quarantine` ends the I/O of a failed module, and
//! `round` is what a thread does at the end of a round.

pub(crate) mod channel_life;
mod complete;
mod dispatch;
mod parts;
mod pass;
pub(super) mod quarantine;
pub(crate) mod quiesce;
mod reset;
pub(crate) mod round;
mod starved;
mod submit;
mod zones;

pub(crate) use pass::{complete_from, derive, derive_part, pass};
pub(crate) use submit::submit;
