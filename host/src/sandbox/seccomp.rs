//! System calls that a storage server never needs. They change the kernel, other processes, or the
//! machine's clock and swap space. A plugin that is loaded later needs none of them, either.

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;

/// These calls return EPERM.
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

/// Activates the filter for this thread and the threads that it starts. They also get no new
/// privileges from programs that they execute.
///
/// # Errors
/// The kernel's error.
pub(super) fn apply() -> Result<String, String> {
    let filter = filter().map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    let count = DENIED.len();
    Ok(format!(
        "seccomp: {count} system calls return EPERM (kexec, modules, ptrace and others); no new privileges"
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
        // A filter applies to the thread that activates it.
        let confined = std::thread::spawn(|| {
            let reported = apply().unwrap();
            assert!(reported.starts_with("seccomp: "), "{reported}");
            assert_eq!(nix::sys::ptrace::traceme(), Err(nix::Error::EPERM));
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        });
        confined.join().unwrap();
    }
}
