//! The loader: it finds, judges, stages, maps and stops plugins.
//!
//! ```text
//! search ─> inspect (manifest, layout) ─> trust ─> stage ─> open ─> init, start
//!                                                             │
//!            life: each plugin from there to its stop         └─ services: the tables that it gets
//! ```
//!
//! - [`Manager`] is the loader's interface for the program: load, unload, list, load on demand.
//! - [`methods`] are its RPC methods; [`report`] prints for its command lines.
//! - No code of a plugin runs before [`inspect`] has read its notes and [`trust`] has checked its
//!   owner.
//! - The files use each other in one direction only: `manager` uses `load`, which uses `life`, which
//!   uses `open` and `services`. When a plugin acquires an interface that nobody provides yet, its
//!   call must get back to `manager`. For this the broker has a function (`LoadProvider`).
//! - `open`, `services`, `app_only` and `core_tables` are the modules with unsafe code.

mod announce;
mod app_only;
mod background;
mod broker;
mod calls;
mod core_tables;
mod error;
mod files;
pub mod inspect;
pub mod layout;
mod life;
mod listing;
mod load;
mod manager;
pub mod manifest;
pub mod methods;
mod open;
mod outside;
pub mod report;
pub mod search;
mod services;
pub mod stage;
pub mod trust;

pub use core_tables::ProcessCore;
pub use error::{Error, Result};
pub use files::Settings;
pub use listing::{Listing, State};
pub use manager::Manager;
pub use outside::{ConfigWriter, Core, Done, Events, Job, Outside};
