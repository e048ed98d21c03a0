//! Where log lines go and which may pass.

use std::io::{self, IsTerminal};

use tracing::{Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt, layer::SubscriberExt as _,
    registry::LookupSpan, util::SubscriberInitExt as _,
};

use super::audit;

/// The levels when `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info";

/// Whether a line may be written at all, at any level. Only this program's own
/// words may: libraries log addresses, headers and bodies when asked for detail,
/// and `RUST_LOG` can ask.
#[must_use]
pub fn may_pass(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == audit::TARGET || target == "llavero" || target.starts_with("llavero::")
}

/// Log lines as this program writes them: text for people on a terminal, JSON otherwise.
pub fn lines<S, W>(json: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
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

/// Starts logging to stderr for the whole process. A second call changes nothing.
pub fn init(filter: Option<String>) {
    let filter = filter.filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let parsed = EnvFilter::try_new(&filter);
    let is_good = parsed.is_ok();
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // An audit record isn't chatter that a filter may turn off.
    let filter = match format!("{}=info", audit::TARGET).parse() {
        Ok(always) => filter.add_directive(always),
        Err(_) => filter,
    };
    let terminal = io::stderr().is_terminal();
    let _ = Registry::default()
        .with(filter)
        .with(filter_fn(may_pass))
        .with(lines(!terminal, io::stderr))
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
}
