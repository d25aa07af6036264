//! The loader.
pub mod error;
pub mod inspect;
pub mod layout;
pub mod manifest;
pub mod search;
pub mod stage;
pub mod trust;
