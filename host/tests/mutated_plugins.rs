//! Golden plugins with changed bytes, as from a bad disk or an attacker. The host must read all of
//! them and survive. Files that it would load are loaded in child processes, which may die.
//!
//! It uses 500 files, or 100,000 with `DRIVEBAY_SOAK=1`. `DRIVEBAY_PART=K/N` selects every Nth of
//! the same files, from number K on, and loads them on core K, so several processes can share the
//! work. `K/N/FROM` continues a run that was interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a child reports to its parent by its output")]

use drivebay::loader::inspect::inspect;
use drivebay::loader::trust::Policy;
use drivebay::loader::trust::key::{KeyFolder, PrivateKey, public_file};
use drivebay::loader::trust::signature::{Verdict, sidecar_path, sign, verify};
use drivebay::loader::{ConfigWriter, Events, Manager, Outside, ProcessCore, Settings};
use drivebay::rpc::Registry;
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Tells a child the folder of its files.
const FOLDER: &str = "DRIVEBAY_MUTATED_PLUGINS";
/// Tells a child the folder that it may write to.
const RUNTIME: &str = "DRIVEBAY_MUTATED_RUNTIME";
/// The number of files that one child loads, one after another, as long as it lives.
const BATCH: usize = 25;
/// How long the load of a file may take. After that the child counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for a case that is not a failure but ends the child: some changed files loop forever.
const PATIENCE_OF_PARENT: Duration = Duration::from_secs(10);

struct NoEvents;

impl Events for NoEvents {
    fn notify(&self, _: &str, _: &str) {}
    fn add_subsystem(&self, _: u64, _: &str, _: Option<ConfigWriter>) {}
    fn remove_subsystems(&self, _: u64) {}
}

fn golden() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/abi/golden");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "so")).collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    files
}

/// The folder of the target that transports require. `cargo build --workspace` puts it beside the
/// tests.
fn plugins_of_ours() -> PathBuf {
    let built = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    std::env::var_os("DRIVEBAY_PLUGIN_DIR").map_or_else(built, PathBuf::from)
}

// ---- the child ----------------------------------------------------------------------------------

/// Loads a file in its own host and unloads it. Returns the result.
fn load(file: &Path) -> String {
    static LOG_LEVEL: AtomicU32 = AtomicU32::new(0);
    let file = file.to_owned();
    // A child may die. Then its parent, if there is one, removes what it left behind.
    let runtime =
        std::env::var_os(RUNTIME).map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let settings = Settings {
        folders: vec![plugins_of_ours()],
        runtime: runtime.path().to_owned(),
        policy: Policy::default(),
    };
    let outside = Outside {
        core: Arc::new(ProcessCore),
        rpc: Arc::new(Registry::new()),
        events: Arc::new(NoEvents),
        log_level: &LOG_LEVEL,
    };
    let (sender, ended) = mpsc::channel();
    thread::send_app(move || {
        let manager = Manager::new(settings, outside).unwrap();
        let result = match manager.load(file.to_str().unwrap()) {
            Ok(()) => "loaded".to_owned(),
            Err(error) => format!("refused: {error}"),
        };
        let kept = Arc::clone(&manager);
        manager.shutdown(Box::new(move || {
            drop(kept);
            sender.send(result).unwrap();
        }));
    });
    ended.recv_timeout(PATIENCE).unwrap_or_else(|_| "did not end".to_owned())
}

/// The test below starts this as its child, with a folder in the environment. Without a folder, this
/// loads the good files, which must all succeed.
#[test]
fn a_child_loads_what_it_is_given() {
    let core = CpuSet::parse(&format!("[{}]", part().0)).unwrap();
    let reactors = reactor::start(&core, Mode::Adaptive).unwrap();
    let Ok(folder) = std::env::var(FOLDER) else {
        for file in golden() {
            assert_eq!(load(&file), "loaded", "{}", file.display());
        }
        return reactors.stop();
    };
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        println!("\nat {}", file.display());
        println!("\nsaid {}", load(&file).replace('\n', " "));
        fs::remove_file(file).unwrap();
    }
    std::process::exit(0); // ignore errors: a broken plugin may fail to stop
}

// ---- the parent ---------------------------------------------------------------------------------

/// Returns which files this process checks: every Nth file, beginning with number K; it skips those
/// before FROM.
fn part() -> (usize, usize, usize) {
    let Ok(part) = std::env::var("DRIVEBAY_PART") else { return (0, 1, 0) };
    let mut numbers =
        part.split('/').map(|number| number.parse().expect("DRIVEBAY_PART is K/N or K/N/FROM"));
    (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap_or(0))
}

#[derive(Debug, Default)]
struct Tally {
    unread: usize,
    refused: usize,
    loaded: usize,
    died: usize,
}

#[test]
fn whatever_became_of_a_file_the_host_lives() {
    let soak = std::env::var("DRIVEBAY_SOAK").is_ok_and(|value| value == "1");
    let count = if soak { 100_000 } else { 500 };
    let originals: Vec<Vec<u8>> = golden().iter().map(|file| fs::read(file).unwrap()).collect();
    let work = tempfile::tempdir().unwrap();
    let keys = trusting(work.path(), &originals[0]);
    let mut random = Random(20);
    let mut tally = Tally::default();
    let batch = work.path().join("batch");
    fs::create_dir(&batch).unwrap();
    let (mut waiting, mut done) = (0, 0);
    let (first, step, from) = part();
    for number in 0..count {
        let original = &originals[number % originals.len()];
        let bytes = mutant(original, &mut random);
        if number % step != first || number < from {
            continue;
        }
        done += 1;
        if number % originals.len() == 0 && bytes != originals[0] {
            assert_not_good(work.path(), &bytes, &keys);
        }
        if inspect(bytes.as_slice()).is_ok_and(|found| found.allowed().is_ok()) {
            let file = batch.join(format!("{number:06}.so"));
            fs::write(&file, bytes).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
            waiting += 1;
        } else {
            tally.unread += 1;
        }
        if waiting == BATCH || number + step >= count {
            load_in_children(&batch, &mut tally);
            waiting = 0;
            println!("{done} changed files: {tally:?}");
        }
    }
    assert_eq!(tally.unread + tally.refused + tally.loaded + tally.died, done);
    assert!(tally.unread > 0 && tally.loaded > 0, "nothing was tried: {tally:?}");
}

/// Lets children load the files in the folder until none is left. A child removes each file that it
/// has loaded; the parent removes a file that killed a child.
fn load_in_children(folder: &Path, tally: &mut Tally) {
    while fs::read_dir(folder).unwrap().next().is_some() {
        let runtime = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_loads_what_it_is_given", "--nocapture"])
            .env(FOLDER, folder)
            .env(RUNTIME, runtime.path())
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        // The file that is being loaded, and the one before.
        let (mut at, mut last) = (None, None);
        while let Ok(line) = lines.recv_timeout(PATIENCE_OF_PARENT) {
            if let Some(file) = line.strip_prefix("at ") {
                at = Some(PathBuf::from(file));
            } else if let Some(said) = line.strip_prefix("said ") {
                last = at.take();
                if said == "loaded" { tally.loaded += 1 } else { tally.refused += 1 }
            }
        }
        // The child has ended, or it hangs and must be killed.
        let _ = child.kill();
        let status = child.wait().unwrap();
        reader.join().unwrap();
        match at {
            Some(file) => {
                tally.died += 1;
                fs::remove_file(file).unwrap();
            }
            // The child died later because of a file that it had loaded before. That file is
            // already counted.
            None if !status.success() => {
                let file = last.expect("a child died before it had a file");
                let _ = fs::remove_file(file);
            }
            None => {}
        }
    }
}

/// A copy of the file with some bytes changed, or cut off, or with one part copied to another
/// place.
fn mutant(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    match random.below(10) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let len = 1 + random.below(64);
            let (from, to) = (random.below(bytes.len() - len), random.below(bytes.len() - len));
            bytes.copy_within(from..from + len, to);
        }
        // The headers and notes are at the beginning.
        kind => {
            let span = if kind < 6 { bytes.len().min(8192) } else { bytes.len() };
            for _ in 0..=random.below(8) {
                bytes[random.below(span)] = random.next().to_le_bytes()[0];
            }
        }
    }
    bytes
}

/// Signs the first golden file. Returns a folder that trusts the key.
fn trusting(work: &Path, original: &[u8]) -> KeyFolder {
    let keys = work.join("keys");
    fs::create_dir(&keys).unwrap();
    let key = PrivateKey::generate(&work.join("key")).unwrap();
    fs::copy(public_file(&work.join("key")), keys.join("vendor.pub")).unwrap();
    let file = work.join("signed.so");
    fs::write(&file, original).unwrap();
    sign(&file, &key).unwrap();
    let keys = KeyFolder(keys);
    assert!(matches!(verify(&file, &sidecar_path(&file), &keys).unwrap(), Verdict::Good { .. }));
    keys
}

fn assert_not_good(work: &Path, bytes: &[u8], keys: &KeyFolder) {
    let file = work.join("signed.so");
    fs::write(&file, bytes).unwrap();
    let verdict = verify(&file, &sidecar_path(&file), keys).unwrap();
    assert_eq!(verdict, Verdict::Wrong("vendor".into()));
}

/// xorshift64*: the same files every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from((self.next() >> 11) % bound.max(1) as u64).unwrap_or(0)
    }
}
