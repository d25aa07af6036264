//! The Drivebay plugin ABI: tables, layout text, notes.
