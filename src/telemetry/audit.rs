//! One record for each write, on the log target `audit`.

use crate::caller::Permit;

/// The log target of audit records.
pub const TARGET: &str = "audit";

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The ERP made the change.
    Done,
    /// The ERP didn't make the change.
    Refused,
    /// The ERP may have made the change: the answer didn't come or wasn't readable.
    Unknown,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// What an upload's image was.
#[derive(Debug, Clone)]
pub struct Image {
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: usize,
}

/// Leaves the record. The time and the form are the subscriber's.
pub fn write(
    permit: &Permit,
    orden: u64,
    outcome: Outcome,
    upstream_status: Option<u16>,
    image: Option<&Image>,
) {
    tracing::info!(
        target: "audit",
        request_id = &**permit.request_id(),
        issuer = &**permit.claims().issuer(),
        sub = &**permit.claims().subject(),
        tenant = permit.tenant().id().as_str(),
        credential = &**permit.credential_id().name(),
        operation = permit.operation().name,
        orden,
        outcome = outcome.as_str(),
        upstream_status,
        image_sha256 = image.map(|image| image.sha256.as_str()),
        image_bytes = image.map(|image| image.bytes),
        "write"
    );
}
