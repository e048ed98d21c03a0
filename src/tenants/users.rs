//! `users`: which caller acts with which credential, first match wins.

use std::{collections::BTreeMap, sync::Arc};

use crate::{identity::Claims, operation::Scope};

use super::Credential;

/// One line of `users`. It matches when every claim that it names has the word
/// that it asks for; a rule that names none matches everybody.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) claims: BTreeMap<String, String>,
    pub(super) credential: Arc<str>,
    pub(super) scopes: Option<Vec<Scope>>,
}

/// What a rule gives a caller.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Whom the caller is at the ERP.
    pub credential: Arc<Credential>,
    /// The only scopes that the rule leaves; none where it leaves the token's.
    pub scopes: Option<Vec<Scope>>,
}

impl Rule {
    pub(super) fn matches(&self, claims: &Claims) -> bool {
        self.claims
            .iter()
            .all(|(claim, word)| match claim.as_str() {
                // `sub` is one opaque string, blanks included.
                "sub" => **claims.subject() == **word,
                "scope" => claims.scopes().contains(word),
                path => claims.words(path).contains(word),
            })
    }

    pub(super) fn credential(&self) -> &str {
        &self.credential
    }

    pub(super) fn scopes(&self) -> Option<&[Scope]> {
        self.scopes.as_deref()
    }
}
