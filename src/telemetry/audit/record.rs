//! What a record says.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, macros::format_description};

use crate::tenants::{CredentialId, TenantId};

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The ERP made the change.
    Done,
    /// The change wasn't made.
    Refused,
    /// The ERP may have made the change: the answer didn't come or wasn't readable.
    Unknown,
    /// The ERP had made it for an earlier request, whose answer was given again.
    Replayed,
    /// The caller may not do it.
    Denied,
}

/// What an upload's image was, as it is sent to the ERP.
#[derive(Debug, Clone)]
pub struct Image {
    /// Which step of the job it shows, by the API's name.
    pub proceso: &'static str,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// That of what arrived, where the gateway changed it.
    pub received_sha256: Option<String>,
    /// Its size in bytes.
    pub bytes: usize,
}

/// One record, a line of JSON. What isn't known is absent.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    /// In UTC.
    #[serde(serialize_with = "rfc_3339")]
    pub(super) time: SystemTime,
    pub(super) target: &'static str,
    pub(super) request_id: Arc<str>,
    pub(super) client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sub: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "tenant")]
    pub(super) tenant: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "name")]
    pub(super) credential: Option<CredentialId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) orden: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proceso: Option<&'static str>,
    pub(super) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream_status: Option<u16>,
    /// Whether the outcome was learnt by looking at the order, not from an answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) found: bool,
    /// The ERP's id of the file that the photo became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) archivo: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_bytes: Option<usize>,
}

impl Record {
    pub(super) fn show(&mut self, image: Option<&Image>) {
        self.proceso = image.map(|image| image.proceso);
        self.received_sha256 = image.and_then(|image| image.received_sha256.clone());
        self.image_sha256 = image.map(|image| image.sha256.clone());
        self.image_bytes = image.map(|image| image.bytes);
    }

    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        // Its members are texts and numbers, which can all be written.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn rfc_3339<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let form =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let text = OffsetDateTime::from(*time).format(form);
    to.serialize_str(&text.map_err(serde::ser::Error::custom)?)
}

// Each is present where it is asked for: absence is skipped.
fn tenant<S: Serializer>(id: &Option<TenantId>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(id.as_ref().map_or("", TenantId::as_str))
}

fn name<S: Serializer>(id: &Option<CredentialId>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(id.as_ref().map_or("", |id| id.name()))
}
