//! Errors of the methods. The codes are the reference's, because its clients test for them; the error's data has the name of the errno.

use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::{Error, errno};

/// The request was wrong.
const INVALID_PARAMS: i64 = -32602;
/// The target could not execute the request.
const INTERNAL_ERROR: i64 = -32603;

/// An error of a method: code, name, cause.
pub(super) type Failure = (i64, &'static str, &'static str);

pub(super) const IN_USE: Failure =
    (INVALID_PARAMS, "not_permitted", "Something else has claimed the bdev.");
pub(super) const NO_SUBSYSTEM: Failure =
    (INVALID_PARAMS, "no_such_device", "There is no such subsystem or bdev.");
pub(super) const MISSING: Failure =
    (INVALID_PARAMS, "not_found", "The subsystem has no such listener or namespace.");
pub(super) const HOST_OR_REFERRAL_MISSING: Failure =
    (INTERNAL_ERROR, "not_found", "There is no such host or referral.");
pub(super) const EXISTS: Failure = (INTERNAL_ERROR, "exists", "It already exists.");
pub(super) const IN_SUBSYSTEM: Failure =
    (INVALID_PARAMS, "exists", "The subsystem already has it.");
pub(super) const FULL: Failure = (INTERNAL_ERROR, "no_space", "Its limit is reached.");
pub(super) const NO_NUMBER_LEFT: Failure =
    (INVALID_PARAMS, "no_space", "The subsystem has as many namespaces as allowed.");
pub(super) const NO_TRANSPORT: Failure =
    (-(errno::ENODEV as i64), "no_such_device", "There is no such transport.");
pub(super) const ADDRESS_IN_USE: Failure =
    (INVALID_PARAMS, "address_in_use", "Another process listens at this address.");
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
