//! Uploads that were ended before they were whole, counted by why.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};

/// Why an upload was ended before it was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was no room for it.
    Overloaded,
    /// It came more slowly than `images.min_rate`.
    TooSlow,
    /// Nothing came for `images.idle_timeout`.
    Idle,
    /// The client left, or its body ended early.
    Incomplete,
    /// It was larger than it may be.
    TooLarge,
    /// What came is no upload.
    Malformed,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Overloaded,
        Self::TooSlow,
        Self::Idle,
        Self::Incomplete,
        Self::TooLarge,
        Self::Malformed,
    ];

    const fn label(self) -> ReasonLabel {
        let reason = self.as_str();
        ReasonLabel { reason }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::TooSlow => "too-slow",
            Self::Idle => "idle",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// How many there were, of each reason.
pub(super) struct Refused(Family<ReasonLabel, Counter>);

impl Refused {
    pub(super) fn new(metrics: &mut MetricRegistry) -> Self {
        let all = Family::<ReasonLabel, Counter>::default();
        // Every series is there from the start, so that a first refusal is an increase.
        for reason in Reason::ALL {
            let _ = all.get_or_create(&reason.label());
        }
        metrics.register(
            "llavero_uploads_refused",
            "Uploads that were ended before they were whole",
            all.clone(),
        );
        Self(all)
    }

    pub(super) fn count(&self, reason: Reason) {
        self.0.get_or_create(&reason.label()).inc();
    }
}
