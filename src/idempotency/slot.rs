//! Where an outcome is kept, and what was asked. Neither can be made without the tenant, and neither
//! holds anything of what was sent but its digest.

use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

use crate::tenants::{Clave, CredentialId, TenantId};

use super::{Attempt, IdempotencyKey};

/// Where the outcome of one request is kept.
#[derive(Debug, Clone)]
pub struct Slot {
    tenant: TenantId,
    digest: [u8; 32],
    holder: Holder,
}

/// A subject, as a digest: whose share of the store an outcome takes. Not where it is kept, which others may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder([u8; 16]);

impl Holder {
    fn of(asked: Asked<'_>) -> Self {
        let parts = [asked.issuer.as_bytes(), asked.subject.as_bytes()];
        let mut holder = [0; 16];
        holder.copy_from_slice(&digest(b"holder", &parts)[..16]);
        Self(holder)
    }
}

/// Who asks for what, beside the key.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// For which tenant, and as whom at its ERP.
    pub credential: &'a CredentialId,
    /// Which account that is: its records are no other's.
    pub clave: &'a Clave,
    /// Who vouches for the subject.
    pub issuer: &'a str,
    /// Who asks, whichever token says so.
    pub subject: &'a str,
    /// The operation.
    pub operation: &'a str,
    /// The record that it is done to.
    pub record: u64,
}

impl Slot {
    /// Of a request that its caller gave a key: the tenant's, the subject's and the route's own.
    #[must_use]
    pub fn of_key(asked: Asked<'_>, key: &IdempotencyKey) -> Self {
        let digest = digest(
            b"key",
            &[
                asked.clave.as_str().as_bytes(),
                asked.issuer.as_bytes(),
                asked.subject.as_bytes(),
                asked.operation.as_bytes(),
                &asked.record.to_be_bytes(),
                key.as_str().as_bytes(),
            ],
        );
        Self::held(asked, digest)
    }

    /// Of a request that is known by its content, whoever of the credential's callers sends it.
    #[must_use]
    pub fn of_content(asked: Asked<'_>, content: Fingerprint) -> Self {
        Self::of_route(b"content", asked, &content.0)
    }

    /// Where requests for that leave word of each other while nobody knows what became of one, whatever their keys are.
    #[must_use]
    pub fn of_doubt(asked: Asked<'_>, content: Fingerprint) -> Self {
        Self::of_route(b"doubt", asked, &content.0)
    }

    /// Where it is kept of attempts that they were made after all.
    #[must_use]
    pub fn of_attempts(asked: Asked<'_>) -> Self {
        Self::of_route(b"attempts", asked, &[])
    }

    /// Of one attempt and those that repeat it, among those of a route.
    pub(super) fn of_attempt(&self, attempt: &Attempt) -> Self {
        let first = attempt.first.duration_since(SystemTime::UNIX_EPOCH);
        let first = first.unwrap_or_default().as_nanos().to_be_bytes();
        Self {
            tenant: self.tenant.clone(),
            digest: digest(b"attempt", &[&self.digest, &first, attempt.mark.as_bytes()]),
            holder: self.holder,
        }
    }

    /// Of the credential's callers, whoever they are.
    fn of_route(domain: &[u8], asked: Asked<'_>, content: &[u8]) -> Self {
        let digest = digest(
            domain,
            &[
                asked.clave.as_str().as_bytes(),
                asked.credential.name().as_bytes(),
                asked.operation.as_bytes(),
                &asked.record.to_be_bytes(),
                content,
            ],
        );
        Self::held(asked, digest)
    }

    fn held(asked: Asked<'_>, digest: [u8; 32]) -> Self {
        Self {
            tenant: asked.credential.tenant().clone(),
            digest,
            holder: Holder::of(asked),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Whose share it takes: whoever fills it, where it is the credential's callers' together.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// A digest of what a request asks for, made of its decoded parts: however they were written
/// down, equal requests have equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of those parts, in that order.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(digest(b"fingerprint", parts))
    }
}

/// No two lists of parts run together: each has its length before it.
fn digest(domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [domain].iter().chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
