//! What this version doesn't do yet: settings that can't be ignored safely are refused. Whoever
//! builds one of them deletes its lines here.

use super::{Config, document::Checker};

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
        !config.proxy.allow.is_empty(),
        "proxy.allow",
        "write [] and use the operations of the OpenAPI document",
    );
}
