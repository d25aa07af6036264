//! `cargo xtask verify`: checks a disk that a host serves over NVMe/TCP, with our own initiator.

use crate::{Failure, Outcome, check};

/// Writes the first BYTES of namespace 1, reads them back, and compares.
pub(crate) fn main(args: &[&str]) -> Outcome {
    let wanted = "ADDRESS:PORT NQN BYTES";
    let [address, nqn, len] = args else {
        return Err(Failure::usage("verify", &args.join(" "), wanted));
    };
    let address = address.parse().map_err(|_| Failure::usage("verify", address, wanted))?;
    let len = len.parse().map_err(|_| Failure::usage("verify", len, wanted))?;
    let verified = check::disk(address, nqn, len)?;
    println!("{verified} bytes written over NVMe/TCP, read back and equal");
    Ok(())
}
