//! System calls that a storage server never makes. They change the kernel, other processes, or the
//! machine's clock and swap space; nothing that a plugin loaded later may need is among them.

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;

/// They answer EPERM.
const DENIED: &[c_long] = &[
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Puts the filter in force for this thread and those that it starts, which also get no new privileges
/// by programs that they execute.
///
/// # Errors
/// What the kernel says.
pub(super) fn apply() -> Result<String, String> {
    let filter = filter().map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    let count = DENIED.len();
    Ok(format!(
        "seccomp: {count} system calls answer EPERM (kexec, modules, ptrace and the like); no new privileges"
    ))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<c_long, _> = DENIED.iter().map(|number| (*number, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_answers_eperm_and_the_rest_goes_on() {
        // A filter holds for the thread that applies it.
        let confined = std::thread::spawn(|| {
            let told = apply().unwrap();
            assert!(told.starts_with("seccomp: "), "{told}");
            assert_eq!(nix::sys::ptrace::traceme(), Err(nix::Error::EPERM));
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        });
        confined.join().unwrap();
    }
}
