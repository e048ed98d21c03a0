//! Spans, and where new ones belong.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::HeaderMap;
use opentelemetry::{
    Context as Parent, InstrumentationScope, KeyValue, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
        TraceId, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanProcessor},
};

use crate::clock::Clock;

use super::context;

/// Makes the spans of requests. Cheap to clone.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    tracer: SdkTracer,
    clock: Clock,
}

/// Where in a trace something happens: below which span. The default is nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Context(Option<Arc<Place>>);

struct Place {
    span: SpanContext,
    /// None where nothing is recorded: the trace isn't sampled, or there are no traces here.
    recorder: Option<Arc<Recorder>>,
    /// Whether it is a span of this gateway rather than of the caller.
    is_ours: bool,
}

/// Something that goes on until it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    span: SdkSpan,
    recorder: Arc<Recorder>,
    began: Instant,
    began_wall: SystemTime,
}

impl Tracer {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    pub(super) fn over(
        processor: impl SpanProcessor + 'static,
        sampler: Sampler,
        clock: Clock,
    ) -> Self {
        let provider = SdkTracerProvider::builder()
            // The exporter has it.
            .with_resource(Resource::builder_empty().build())
            .with_sampler(sampler)
            .with_span_processor(processor)
            .build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let tracer = provider.tracer_with_scope(scope);
        Self(Some(Arc::new(Recorder { tracer, clock })))
    }

    /// The span of a request, which goes on with the caller's trace where its headers name one, and
    /// what stands below it. Without traces here, that is the caller's.
    pub fn receive<A>(&self, headers: &HeaderMap, described: impl FnOnce() -> (String, A)) -> Span
    where
        A: IntoIterator<Item = KeyValue>,
    {
        let Some(recorder) = &self.0 else {
            return Span(None);
        };
        let caller = context::extract(headers);
        let (name, attributes) = described();
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        Span::begin(recorder, builder, caller)
    }

    /// Where a request without a span of ours belongs: in the caller's trace, if it names one.
    #[must_use]
    pub fn caller(headers: &HeaderMap) -> Context {
        Context(context::extract(headers).map(|span| {
            Arc::new(Place {
                span,
                recorder: None,
                is_ours: false,
            })
        }))
    }

    /// Whether there are traces here.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Context {
    /// Something that begins now, below this.
    pub fn child(&self, name: &'static str) -> Span {
        self.below(name, SpanKind::Internal)
    }

    /// A request to another machine that begins now, below this.
    pub fn request(&self, name: &'static str) -> Span {
        self.below(name, SpanKind::Client)
    }

    fn below(&self, name: &'static str, kind: SpanKind) -> Span {
        let Some(Place {
            span,
            recorder: Some(recorder),
            ..
        }) = self.0.as_deref()
        else {
            return Span(None);
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        Span::begin(recorder, builder, Some(span.clone()))
    }

    /// The trace, recorded or not.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|place| place.span.trace_id())
    }

    /// The span, where it is one of this gateway.
    #[must_use]
    pub fn span_id(&self) -> Option<SpanId> {
        let place = self.0.as_ref().filter(|place| place.is_ours)?;
        Some(place.span.span_id())
    }

    /// The trace, where it is recorded here and can be looked at.
    #[must_use]
    pub fn recorded(&self) -> Option<TraceId> {
        let place = self.0.as_ref()?;
        place.recorder.as_ref().map(|_| place.span.trace_id())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.trace_id()).finish()
    }
}

impl Span {
    fn begin(recorder: &Arc<Recorder>, builder: SpanBuilder, parent: Option<SpanContext>) -> Self {
        let (began, began_wall) = (recorder.clock.instant(), recorder.clock.wall());
        let parent = match parent {
            Some(parent) => Parent::new().with_remote_span_context(parent),
            None => Parent::new(),
        };
        let builder = builder.with_start_time(began_wall);
        Self(Some(Box::new(Recording {
            span: recorder.tracer.build_with_context(builder, &parent),
            recorder: recorder.clone(),
            began,
            began_wall,
        })))
    }

    /// What happens below it belongs there.
    #[must_use]
    pub fn context(&self) -> Context {
        Context(self.0.as_ref().map(|recording| {
            let recorder = recording.span.is_recording();
            Arc::new(Place {
                span: recording.span.span_context().clone(),
                recorder: recorder.then(|| recording.recorder.clone()),
                is_ours: true,
            })
        }))
    }

    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says how it failed, in a word of ours.
    pub fn fail(&mut self, error: &'static str) {
        self.set("error.type", error);
        if let Some(recording) = &mut self.0 {
            recording.span.set_status(Status::error(""));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recording) = &mut self.0 {
            // The wall clock may have been set meanwhile.
            let now = recording.recorder.clock.instant();
            let took = now.saturating_duration_since(recording.began);
            let ended = recording.began_wall + took;
            recording.span.end_with_timestamp(ended);
        }
    }
}
