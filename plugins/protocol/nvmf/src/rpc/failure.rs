//! How methods fail: the reference's codes, since its clients test for them, with the errno's name in the error's data.

use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::{Error, errno};

/// The caller asked for what cannot be had.
const INVALID_PARAMS: i64 = -32602;
/// The target could not do it.
const INTERNAL_ERROR: i64 = -32603;

/// A way in which methods fail: code, name, when.
pub(super) type Failure = (i64, &'static str, &'static str);

pub(super) const IN_USE: Failure =
    (INVALID_PARAMS, "not_permitted", "Something else writes the bdev.");
pub(super) const NO_SUBSYSTEM: Failure =
    (INVALID_PARAMS, "no_such_device", "There is no such subsystem or bdev.");
pub(super) const MISSING: Failure =
    (INVALID_PARAMS, "not_found", "There is no such thing to remove.");
pub(super) const HOST_OR_REFERRAL_MISSING: Failure =
    (INTERNAL_ERROR, "not_found", "There is no such thing to remove.");
pub(super) const EXISTS: Failure = (INTERNAL_ERROR, "exists", "It is there already.");
pub(super) const IN_SUBSYSTEM: Failure =
    (INVALID_PARAMS, "exists", "The subsystem has it already.");
pub(super) const FULL: Failure = (INTERNAL_ERROR, "no_space", "Its limit is reached.");
pub(super) const NO_NUMBER_LEFT: Failure =
    (INVALID_PARAMS, "no_space", "The subsystem has all the namespaces that it may have.");
pub(super) const NO_TRANSPORT: Failure =
    (-(errno::ENODEV as i64), "no_such_device", "There is no such transport.");
pub(super) const ADDRESS_IN_USE: Failure =
    (INVALID_PARAMS, "address_in_use", "Another listens there.");
pub(super) const NO_ADDRESS: Failure =
    (INVALID_PARAMS, "address_not_available", "This machine has no such address.");

/// The answer of `method` for an operation that failed.
pub(super) fn of(method: &str, error: Error) -> RpcError {
    let code = code(method, error.errno());
    RpcError { code, ..error.into() }
}

fn code(method: &str, errno: i32) -> i64 {
    match (method, errno) {
        ("nvmf_get_transports", errno::ENODEV) => -i64::from(errno::ENODEV),
        ("nvmf_create_transport" | "nvmf_create_subsystem", errno::EEXIST | errno::ENOSPC)
        | ("nvmf_subsystem_add_host" | "nvmf_discovery_add_referral", errno::EEXIST)
        | ("nvmf_subsystem_remove_host" | "nvmf_discovery_remove_referral", errno::ENOENT)
        | (_, errno::EIO | errno::EAGAIN | errno::ENOMEM) => INTERNAL_ERROR,
        _ => INVALID_PARAMS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_exists_have_the_reference_s_codes_and_the_errno_s_name() {
        for (method, errno, code, name) in [
            ("nvmf_delete_subsystem", errno::ENODEV, -32602, "no_such_device"),
            ("nvmf_create_subsystem", errno::EEXIST, -32603, "exists"),
            ("nvmf_create_transport", errno::EEXIST, -32603, "exists"),
            ("nvmf_subsystem_add_ns", errno::EEXIST, -32602, "exists"),
            ("nvmf_subsystem_remove_ns", errno::ENOENT, -32602, "not_found"),
            ("nvmf_subsystem_remove_host", errno::ENOENT, -32603, "not_found"),
            ("nvmf_get_transports", errno::ENODEV, -19, "no_such_device"),
            ("nvmf_subsystem_add_ns", errno::EIO, -32603, "io_error"),
        ] {
            let error = of(method, Error::new(errno, "text"));
            assert_eq!((error.code, error.message.as_str()), (code, "text"), "{method}");
            assert_eq!(error.data.unwrap()["name"], name, "{method}");
        }
    }
}
