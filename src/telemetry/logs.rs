//! Where log lines go and which may pass.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry as MetricRegistry,
};
use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt as format, layer::SubscriberExt as _,
    registry::LookupSpan, util::SubscriberInitExt as _,
};

/// The levels when `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info";

/// Whether a line may be written at all, at any level. Only this program's own
/// words may: libraries log addresses, headers and bodies when asked for detail,
/// and `RUST_LOG` can ask.
#[must_use]
pub fn may_pass(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == "llavero" || target.starts_with("llavero::")
}

/// Log lines as this program writes them: text for people on a terminal, JSON otherwise.
pub fn lines<S, W>(json: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> format::MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = format::layer().with_writer(writer);
    if json {
        lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed()
    } else {
        lines.boxed()
    }
}

/// Lines that wait to be written at most; beyond them lines are lost rather than requests held up.
const MOST_WAITING: usize = 16 * 1024;

/// How many log lines were lost, since nobody read those before them fast enough.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Option<ErrorCounter>);

impl LostLines {
    /// Declares the metric.
    pub fn register(self, metrics: &mut MetricRegistry) {
        metrics.register_collector(Box::new(self));
    }
}

impl Collector for LostLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lost = self.0.as_ref().map_or(0, ErrorCounter::dropped_lines);
        let lost = ConstCounter::new(u64::try_from(lost).unwrap_or(u64::MAX));
        let metric = encoder.encode_descriptor(
            "llavero_log_lines_lost",
            "Log lines that nobody read fast enough",
            None,
            lost.metric_type(),
        )?;
        lost.encode(metric)
    }
}

/// Starts logging to stderr for the whole process. A second call changes nothing. A thread
/// of its own writes: whoever doesn't read the lines holds up nobody, and what is lost is counted. Dropped,
/// the guard waits a moment for what isn't written yet.
pub fn init(filter: Option<String>) -> (WorkerGuard, LostLines) {
    let filter = filter.filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let parsed = EnvFilter::try_new(&filter);
    let is_good = parsed.is_ok();
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MOST_WAITING)
        .finish(io::stderr());
    let lost = LostLines(Some(writer.error_counter()));
    let _ = Registry::default()
        .with(filter)
        .with(filter_fn(may_pass))
        .with(lines(!terminal, writer))
        .try_init();
    if !is_good {
        tracing::warn!(
            "RUST_LOG can't be read and is taken as {DEFAULT_FILTER}; write levels such as debug, or llavero::upstream=debug"
        );
    }
    std::panic::set_hook(Box::new(|panic| {
        // A panic's message may hold whatever was being worked on; its place can't.
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(target: "llavero::panic", place, "a task panicked");
    }));
    (guard, lost)
}
