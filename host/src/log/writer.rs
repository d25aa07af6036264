//! The thread that writes the log, and the queue in front of it.

use super::level::Level;
use super::limit::{Limit, Verdict};
use super::line::timestamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant, SystemTime};

/// The maximum number of lines that may wait for the writer: 16 MiB with lines of at most 4 KiB.
const QUEUE_MAX: usize = 4096;
/// After how long the log reports how often a line was repeated.
const REPEATS_AFTER: Duration = Duration::from_secs(5);

/// Where the log goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Standard error. If it is connected to the journal, lines have journald's format.
    Stderr,
    /// A file, which [`reopen`] opens again.
    File(PathBuf),
}

/// A line before it is converted to text.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) level: Level,
    pub(super) component: String,
    pub(super) message: String,
    pub(super) time: SystemTime,
    /// Whether the operator asked for all lines of this component. Then they are not limited.
    pub(super) is_asked_for: bool,
}

#[derive(Debug)]
enum Message {
    Record(Record),
    /// A line for people, and for scripts that wait for it.
    Print(String),
    Reopen,
    Flush(Sender<()>),
}

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
/// The number of lines that were dropped because the queue was full.
static DROPPED: AtomicU64 = AtomicU64::new(0);

pub(super) fn start(target: Target) -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let output = Output::open(target)?;
    let (sender, messages) = mpsc::sync_channel(QUEUE_MAX);
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || Writer::new(output).run(&messages))?;
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Queues a line, or drops it. Any thread; does not wait.
pub(super) fn send(record: Record) {
    queue(Message::Record(record));
}

/// Writes `text` as a separate line to stderr, after the log lines before it. Any thread; does not
/// wait.
pub fn print(text: String) {
    if QUEUE.get().is_none() {
        // The log could not be started, and this line says why.
        let _ = writeln!(io::stderr(), "{text}");
    }
    queue(Message::Print(text));
}

/// Opens the log file again, after a rotation. Any thread; does not wait.
pub fn reopen() {
    queue(Message::Reopen);
}

/// Waits until the log is written, but at most `limit`, because the reader of stderr may have
/// stopped.
pub fn flush(limit: Duration) {
    let (sender, written) = mpsc::channel();
    queue(Message::Flush(sender));
    let _ = written.recv_timeout(limit);
}

fn queue(message: Message) {
    if let Some(queue) = QUEUE.get()
        && queue.try_send(message).is_err()
    {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the writer's bytes go, and in which format.
#[derive(Debug)]
enum Output {
    Stderr { is_journal: bool },
    File { path: PathBuf, file: File },
}

impl Output {
    fn open(target: Target) -> io::Result<Self> {
        Ok(match target {
            Target::Stderr => Self::Stderr { is_journal: is_journal() },
            Target::File(path) => Self::File { file: open(&path)?, path },
        })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Stderr { .. } => io::stderr().lock().write_all(text.as_bytes()),
            Self::File { file, .. } => file.write_all(text.as_bytes()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

/// Whether stderr is connected to the journal: `JOURNAL_STREAM` (systemd.exec(5)) contains its
/// device and inode.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

struct Writer {
    output: Output,
    limit: Limit,
    /// The last line, and how often it was repeated.
    last: Option<Last>,
}

struct Last {
    level: Level,
    component: String,
    message: String,
    repeats: u64,
    since: Instant,
}

impl Writer {
    fn new(output: Output) -> Self {
        Self { output, limit: Limit::default(), last: None }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            match messages.recv_timeout(REPEATS_AFTER) {
                Ok(Message::Record(record)) => self.take(record),
                Ok(Message::Print(text)) => {
                    self.report_repeats();
                    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
                }
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Flush(done)) => {
                    self.report_repeats();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.report_repeats(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let dropped = DROPPED.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let message = format!(
                    "{dropped} log lines were dropped: the log is not read or written fast enough"
                );
                self.write(Level::Warning, "app", &message, SystemTime::now());
            }
        }
    }

    fn take(&mut self, record: Record) {
        let Record { level, component, message, time, is_asked_for } = record;
        let now = Instant::now();
        if let Some(last) = &mut self.last
            && last.component == component
            && last.message == message
            && last.level == level
        {
            last.repeats += 1;
            if now.saturating_duration_since(last.since) >= REPEATS_AFTER {
                self.report_repeats();
            }
            return;
        }
        let verdict = match is_asked_for {
            true => Verdict::Write { left_out: 0 },
            false => self.limit.judge(&component, now),
        };
        let Verdict::Write { left_out } = verdict else { return };
        self.report_repeats();
        if left_out > 0 {
            let message = format!(
                "{left_out} lines of {component} were left out: it writes too many lines per second"
            );
            self.write(Level::Warning, "app", &message, time);
        }
        self.write(level, &component, &message, time);
        self.last = Some(Last { level, component, message, repeats: 0, since: now });
    }

    /// Writes how often the last line was repeated.
    fn report_repeats(&mut self) {
        let Some(last) = &mut self.last else { return };
        let repeats = std::mem::take(&mut last.repeats);
        if repeats == 0 {
            return;
        }
        last.since = Instant::now();
        let (level, component) = (last.level, last.component.clone());
        let message = format!("the previous line was repeated {repeats} times");
        self.write(level, &component, &message, SystemTime::now());
    }

    fn write(&mut self, level: Level, component: &str, message: &str, time: SystemTime) {
        let text = match self.output {
            // The journal adds the time itself. The level is a prefix (sd-daemon(3)).
            Output::Stderr { is_journal: true } => {
                format!("<{}>{component}: {message}\n", priority(level))
            }
            _ => format!("[{}] {:<7} {component}: {message}\n", timestamp(time), level.as_str()),
        };
        // Ignore errors: there is no other place to report that the log cannot be written.
        let _ = self.output.write(&text);
    }

    fn reopen(&mut self) {
        if let Output::File { path, file } = &mut self.output {
            match open(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    let message =
                        format!("{}: {error}; the old file is still written", path.display());
                    self.write(Level::Error, "app", &message, SystemTime::now());
                }
            }
        }
    }
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Notice => 5,
        Level::Info => 6,
        Level::Debug => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn record(message: &str) -> Record {
        Record {
            level: Level::Warning,
            component: "bdev".into(),
            message: message.into(),
            time: SystemTime::UNIX_EPOCH,
            is_asked_for: false,
        }
    }

    #[test]
    fn a_line_that_comes_again_is_counted_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::new(Output::open(Target::File(path.clone())).unwrap());
        for message in ["a", "b", "b", "b", "c"] {
            writer.take(record(message));
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> =
            text.lines().filter_map(|line| line.split_once(": ").map(|x| x.1)).collect();
        assert_eq!(lines, ["a", "b", "the previous line was repeated 2 times", "c"], "{text}");
        assert!(text.starts_with("[1970-01-01T00:00:00.000000Z] WARNING bdev: a\n"), "{text}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut writer = Writer::new(Output::open(Target::File(path.clone())).unwrap());
        writer.take(record("before"));
        fs::rename(&path, &old).unwrap();
        writer.take(record("between"));
        writer.reopen();
        writer.take(record("after"));
        assert!(fs::read_to_string(&old).unwrap().contains("between"));
        let new = fs::read_to_string(&path).unwrap();
        assert!(new.contains("after") && !new.contains("between"), "{new}");
    }
}
