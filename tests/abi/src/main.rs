//! Writes the C header, `sdk/c/bay_abi.h`: `cargo run -p drivebay-abi-tests`.
#![forbid(unsafe_code)]

use drivebay_abi_tests::header;

fn main() -> Result<(), String> {
    let text = header::generate()?;
    std::fs::write(header::path(), text).map_err(|e| e.to_string())
}
