//! The way of records to their output: a bounded queue and one thread that writes. A
//! request only ever puts a record into the queue; where there is no room it is lost,
//! counted and said.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio::{sync::watch, time::timeout};

use crate::config::audit::{Audit, Output};

use super::record::Record;

/// Records that may wait for a slow output: some megabytes.
const QUEUE: usize = 8192;

/// How long the end may take: an output that is stuck must not hold the process.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Brings records to their output. Cheap to clone; its thread ends with the last clone.
#[derive(Clone)]
pub struct AuditLog(Arc<Sending>);

struct Sending {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    /// Records that came out of the queue.
    handled: watch::Receiver<u64>,
}

enum Message {
    Record(Box<Record>),
    /// Something to do stands in [`Shared`].
    Wake,
}

struct Shared {
    /// Records that went into the queue.
    queued: AtomicU64,
    /// Records lost since the last that was written.
    losing: AtomicU64,
    reopen: AtomicBool,
    written: Counter,
    lost: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The audit's output can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be opened to be added to.
    #[error(
        "audit.output.file: {} can't be written: {error}; check the directory and its permissions",
        path.display()
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The thread that writes can't start.
    #[error("the thread that writes audit records can't start: {0}")]
    Thread(io::Error),
}

impl AuditLog {
    /// Opens the output and starts the thread that writes to it.
    ///
    /// # Errors
    /// The file can't be opened, or no thread be had.
    pub fn open(audit: &Audit, metrics: &mut MetricRegistry) -> Result<Self, OpenError> {
        let output = match &audit.output {
            Output::Stdout => return Self::over(Box::new(io::stdout()), QUEUE, metrics),
            Output::File(path) => Destination::File {
                file: append(path).map_err(|error| OpenError::File {
                    path: path.clone(),
                    error,
                })?,
                path: path.clone(),
            },
        };
        Self::start(output, QUEUE, metrics)
    }

    /// Starts the thread that writes to any output, before which so many records may wait.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn over(
        output: Box<dyn Write + Send>,
        queue: usize,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, OpenError> {
        Self::start(Destination::Other(output), queue, metrics)
    }

    fn start(
        output: Destination,
        queue: usize,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, OpenError> {
        let results = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_audit_records",
            "Audit records by what became of them",
            results.clone(),
        );
        let count = |result| results.get_or_create_owned(&ResultLabel { result });
        let shared = Arc::new(Shared {
            queued: AtomicU64::new(0),
            losing: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            written: count("written"),
            lost: count("lost"),
        });
        let (sender, receiver) = sync_channel(queue);
        let (progress, handled) = watch::channel(0);
        let writer = Writer {
            output,
            shared: shared.clone(),
            progress,
            broken_line: false,
        };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(OpenError::Thread)?;
        Ok(Self(Arc::new(Sending {
            queue: sender,
            shared,
            handled,
        })))
    }

    /// Puts a record on its way. Never waits.
    pub(super) fn write(&self, record: Record) {
        let Sending { queue, shared, .. } = &*self.0;
        match queue.try_send(Message::Record(Box::new(record))) {
            Ok(()) => _ = shared.queued.fetch_add(1, Ordering::AcqRel),
            Err(_) => shared.lose("the output is too slow: the queue is full"),
        }
    }

    /// Goes on with the file that is at the path now, which is made where there is none:
    /// for what rotates files.
    pub fn reopen(&self) {
        self.0.shared.reopen.store(true, Ordering::Release);
        // Where there is no room the thread is awake.
        let _ = self.0.queue.try_send(Message::Wake);
    }

    /// Waits until what was recorded so far is written or lost, and at most a few seconds;
    /// what isn't written by then is said to be lost.
    pub async fn finish(&self) {
        let Sending {
            shared, handled, ..
        } = &*self.0;
        let queued = shared.queued.load(Ordering::Acquire);
        let mut handled = handled.clone();
        let all = handled.wait_for(|handled| *handled >= queued);
        let done = matches!(timeout(LAST_WORDS, all).await, Ok(Ok(_)));
        if !done {
            let left = queued.saturating_sub(*handled.borrow());
            shared.lost.inc_by(left);
            shared.losing.fetch_add(left, Ordering::AcqRel);
        }
        let lost = shared.losing.load(Ordering::Acquire);
        if lost > 0 {
            tracing::error!(
                records = lost,
                "audit records were lost: the gateway ends and their output takes no more"
            );
        }
    }
}

impl Shared {
    fn lose(&self, why: &str) {
        self.lost.inc();
        if self.losing.fetch_add(1, Ordering::AcqRel) == 0 {
            tracing::error!(
                why,
                "audit records are being lost: make room at the audit's output"
            );
        }
    }
}

/// Where records go.
enum Destination {
    File { file: File, path: PathBuf },
    Other(Box<dyn Write + Send>),
}

impl Destination {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(line),
            Self::Other(output) => {
                output.write_all(line)?;
                output.flush()
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        // It says who did what.
        .mode(0o600)
        .open(path)
}

struct Writer {
    output: Destination,
    shared: Arc<Shared>,
    progress: watch::Sender<u64>,
    /// A write that failed may have left half a line.
    broken_line: bool,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Message>) {
        loop {
            let message = match queue.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.caught_up();
                    match queue.recv() {
                        Ok(message) => message,
                        Err(_) => return,
                    }
                }
            };
            self.reopen_if_asked();
            if let Message::Record(record) = message {
                self.write(&record);
                self.progress.send_modify(|handled| *handled += 1);
            }
        }
    }

    fn write(&mut self, record: &Record) {
        let mut line = record.line();
        if self.broken_line {
            line.insert(0, b'\n');
        }
        match self.output.write(&line) {
            Ok(()) => {
                self.broken_line = false;
                self.shared.written.inc();
            }
            Err(error) => {
                self.broken_line = true;
                self.shared.lose(&format!("{}", error.kind()));
            }
        }
    }

    /// Nothing waits. If the last record was written, whatever was wrong is over.
    fn caught_up(&self) {
        if self.broken_line {
            return;
        }
        let lost = self.shared.losing.swap(0, Ordering::AcqRel);
        if lost > 0 {
            tracing::error!(
                records = lost,
                "audit records were lost; they are written again"
            );
        }
    }

    fn reopen_if_asked(&mut self) {
        if !self.shared.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        let Destination::File { file, path } = &mut self.output else {
            return;
        };
        match append(path) {
            Ok(opened) => {
                *file = opened;
                self.broken_line = false;
            }
            Err(error) => tracing::error!(
                path = %path.display(),
                %error,
                "the audit's file can't be opened anew, so records go on to the old one"
            ),
        }
    }
}
