//! Keeps a core from halting while a value lives.

use std::fs;
use std::path::PathBuf;

/// The wake-up latency that Linux's `cpuidle` may add on a core. Dropping the value restores the earlier setting.
pub(super) struct Awake {
    file: PathBuf,
    before: String,
}

impl Awake {
    /// # Errors
    /// The system has no such file for the core, or only root may write it.
    pub(super) fn core(core: usize) -> Result<Self, String> {
        let file = PathBuf::from(format!(
            "/sys/devices/system/cpu/cpu{core}/power/pm_qos_resume_latency_us"
        ));
        let context = |error| format!("{}: {error}", file.display());
        let before = fs::read_to_string(&file).map_err(context)?;
        // `n/a` allows no latency. `0` would allow any.
        fs::write(&file, "n/a").map_err(context)?;
        Ok(Self { file, before })
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, self.before.trim()) {
            eprintln!("{}: {error}; it was {}", self.file.display(), self.before.trim());
        }
    }
}
