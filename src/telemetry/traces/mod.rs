//! Traces, as OpenTelemetry has them: each request is a span with its parts below it, sent to a
//! collector by OTLP over HTTP (`http/protobuf`).
//!
//! Nothing of it goes to the ERP, and nothing waits for it: a span that ends is put into a bounded
//! queue or dropped. There is no global provider; whoever makes spans has been given a [`Tracer`] or a
//! [`Context`], and one that records nothing does nothing. Attributes are names, numbers and our own words:
//! no address, header, token, subject or title is among them.

mod context;
mod environment;
mod exporter;
mod span;

pub use environment::{Settings, Unusable};
pub use exporter::{Exporter, StartError, try_collector};
pub use span::{Context, Span, Tracer};

use prometheus_client::registry::Registry as MetricRegistry;

use crate::clock::Clock;

/// What makes spans, and what sends them where the settings say so.
///
/// # Errors
/// The HTTP client can't start.
pub fn start(
    settings: Settings,
    clock: &Clock,
    metrics: &mut MetricRegistry,
) -> Result<(Tracer, Option<Exporter>), StartError> {
    let counts = exporter::Counts::new(metrics);
    for mistake in settings.mistakes {
        tracing::warn!("{mistake}");
    }
    let Some(mut collector) = settings.collector else {
        return Ok((Tracer::off(), None));
    };
    let sampler = std::mem::replace(
        &mut collector.sampler,
        opentelemetry_sdk::trace::Sampler::AlwaysOff,
    );
    let (queue, exporter) = exporter::queue(collector, counts, clock.clone())?;
    Ok((Tracer::over(queue, sampler, clock.clone()), Some(exporter)))
}
