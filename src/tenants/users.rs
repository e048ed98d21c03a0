//! `users`: which caller acts with which credential, first match wins.

use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::{identity::Claims, operation::Scope};

use super::Credential;

/// One line of `users`. It matches when every claim that it names has one of the words
/// that it asks for; a rule that names none matches everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) credential: Arc<str>,
    pub(super) scopes: Option<Vec<Scope>>,
}

/// What a rule wants of one claim: any of those words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub(super) claim: ClaimName,
    pub(super) any_of: Vec<String>,
}

/// Which claim a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimName {
    /// `sub`: one opaque text, blanks included.
    Subject,
    /// `email`, whole and in any case; not where `email_verified` says no.
    Email,
    /// `groups` or `group`.
    Group,
    /// The scopes, wherever the issuer's tokens have them.
    Scope,
    /// Any other, by its name or dotted path.
    Other(String),
}

/// What a rule gives a caller.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Whom the caller is at the ERP.
    pub credential: Arc<Credential>,
    /// The only scopes that the rule leaves; none where it leaves the token's.
    pub scopes: Option<Vec<Scope>>,
    /// The rule's place in `users`; none where the tenant has no rules.
    pub rule: Option<usize>,
}

impl Rule {
    pub(super) fn matches(&self, claims: &Claims) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(claims))
    }

    /// What it asks for.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// The credential that it gives.
    #[must_use]
    pub fn credential(&self) -> &str {
        &self.credential
    }

    /// The only scopes that it leaves.
    #[must_use]
    pub fn scopes(&self) -> Option<&[Scope]> {
        self.scopes.as_deref()
    }

    /// The people that it names, who belong to its tenant even where their token doesn't
    /// say so. Another issuer's `ana` may be somebody else: with several issuers, a rule
    /// names people only together with their `iss`.
    pub(super) fn people(&self) -> impl Iterator<Item = Person> {
        self.conditions.iter().flat_map(|condition| {
            let person: fn(&str) -> Option<Person> = match condition.claim {
                ClaimName::Subject => |word| Some(Person::subject(word)),
                ClaimName::Email => |word| Some(Person::email(word)),
                _ => |_| None,
            };
            condition.any_of.iter().filter_map(move |word| person(word))
        })
    }

    pub(super) fn names(&self, claims: &Claims) -> bool {
        let of_issuer = claims.is_of_the_only_issuer()
            || self
                .conditions
                .iter()
                .any(|condition| condition.claim == ClaimName::Other("iss".to_owned()));
        of_issuer && self.people().next().is_some() && self.matches(claims)
    }
}

impl Condition {
    /// The claim's name, as it is written in a tenant file.
    #[must_use]
    pub fn claim(&self) -> &ClaimName {
        &self.claim
    }

    /// The words of which the claim must have one.
    #[must_use]
    pub fn any_of(&self) -> &[String] {
        &self.any_of
    }

    /// Whether a caller's claim has one of the words.
    #[must_use]
    pub fn holds(&self, claims: &Claims) -> bool {
        let is_wanted = |word: &str| self.any_of.iter().any(|wanted| wanted == word);
        match &self.claim {
            ClaimName::Subject => is_wanted(claims.subject()),
            ClaimName::Email => verified_email(claims).is_some_and(|email| {
                self.any_of
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(email))
            }),
            ClaimName::Group => ["groups", "group"]
                .into_iter()
                .filter_map(|name| claims.claim(name))
                .any(|value| has(value, &is_wanted)),
            ClaimName::Scope => claims.scopes().iter().any(|word| is_wanted(word)),
            ClaimName::Other(path) => claims
                .claim(path)
                .is_some_and(|value| has(value, &is_wanted)),
        }
    }
}

impl ClaimName {
    /// The claim that a tenant file's word means.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match word {
            "sub" => Self::Subject,
            "email" => Self::Email,
            "group" => Self::Group,
            "scope" => Self::Scope,
            path => Self::Other(path.to_owned()),
        }
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subject => "sub",
            Self::Email => "email",
            Self::Group => "group",
            Self::Scope => "scope",
            Self::Other(path) => path,
        })
    }
}

/// Somebody whom a rule names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Person {
    Subject(String),
    Email(String),
}

impl Person {
    fn subject(word: &str) -> Self {
        Self::Subject(word.to_owned())
    }

    fn email(word: &str) -> Self {
        Self::Email(word.to_ascii_lowercase())
    }

    /// Who those claims are.
    pub(super) fn of(claims: &Claims) -> impl Iterator<Item = Self> {
        let email = verified_email(claims).map(Self::email);
        std::iter::once(Self::subject(claims.subject())).chain(email)
    }
}

/// The e-mail, unless the issuer says anything but that it is known to be theirs.
fn verified_email(claims: &Claims) -> Option<&str> {
    let may_be_believed = claims
        .claim("email_verified")
        .is_none_or(|verified| *verified == true || *verified == "true");
    claims
        .claim("email")
        .and_then(Value::as_str)
        .filter(|_| may_be_believed)
}

/// Whether a claim is, or has among its values, one that is wanted. A text is one value, blanks
/// included: many a name is its bearer's to choose. Numbers and truth values are what they look like.
fn has(value: &Value, is_wanted: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_wanted(text),
        Value::Array(items) => items.iter().any(|item| match item {
            Value::String(text) => is_wanted(text),
            Value::Number(_) | Value::Bool(_) => is_wanted(&item.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }),
        Value::Number(_) | Value::Bool(_) => is_wanted(&value.to_string()),
        Value::Null | Value::Object(_) => false,
    }
}
