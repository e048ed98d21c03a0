//! What this version doesn't do yet. A setting that can't be ignored safely is refused;
//! one that only has no effect is noticed. Whoever builds one of them deletes its lines here.

use super::{
    Config,
    document::{Checker, Document},
    images::{ImageFormat, Metadata},
    mistake::Mistake,
};

/// Accepted without effect.
const WITHOUT_EFFECT: [&str; 2] = ["images.dedupe_window", "images.in_flight_bytes"];

/// Refuses what would be unsafe or impossible to ignore.
pub(super) fn check(config: &Config, at: &mut Checker<'_>) {
    let mut refuse = |unavailable: bool, key: &str, instead: &str| {
        at.require(
            !unavailable,
            key,
            &format!("isn't available in this version; {instead}"),
        );
    };
    refuse(
        config.server.tls.is_some(),
        "server.tls",
        "remove it and let a proxy or an ingress before the gateway end TLS",
    );
    refuse(
        config.images.metadata != Metadata::Keep,
        "images.metadata",
        "write keep, and strip metadata in the app where it matters",
    );
    refuse(
        config.images.max_dimension.is_some(),
        "images.max_dimension",
        "write off, and make images smaller in the app; max_bytes and max_pixels bound them",
    );
    for (index, format) in config.images.formats.iter().enumerate() {
        refuse(
            *format == ImageFormat::Heic,
            &format!("images.formats[{index}]"),
            "remove heic and let the app send JPEG",
        );
    }
    refuse(
        !config.proxy.allow.is_empty(),
        "proxy.allow",
        "write [] and use the operations of the OpenAPI document",
    );
}

/// The settings that were written and have no effect.
pub(super) fn notices(document: &Document) -> Vec<Mistake> {
    WITHOUT_EFFECT
        .iter()
        .filter(|key| document.is_set(key))
        .map(|key| document.mistake(key, "has no effect in this version"))
        .collect()
}
