//! What an exchange gives back.

use std::{sync::Arc, time::Duration};

use crate::{cache::Representation, upstream::Failure};

use super::freshness::Age;

/// A read's answer.
#[derive(Debug, Clone)]
pub struct Served {
    /// The bytes and their validator.
    pub representation: Arc<Representation>,
    /// How they were come by.
    pub verdict: Verdict,
    /// How old they are.
    pub age: Age,
}

/// How the cache handled a read (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Served from the cache, fresh.
    Hit,
    /// Served stale while a new answer is fetched.
    StaleWhileRevalidate,
    /// Served stale because the ERP fails.
    StaleIfError,
    /// Fetched from the ERP.
    Forwarded(Why, Fetched),
}

/// Why a read went to the ERP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Nothing was kept under that key.
    UriMiss,
    /// The caller asked for it.
    Request,
    /// What was kept had grown stale, or a write had made it so.
    Stale,
}

/// What became of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fetched {
    /// It is kept.
    Stored,
    /// It isn't.
    NotStored,
    /// It is another request's, which this one waited for.
    Collapsed,
}

impl Verdict {
    /// Every word of [`Self::as_str`].
    pub(super) const WORDS: [&str; 7] = [
        "hit",
        "stale-while-revalidate",
        "stale-if-error",
        "collapsed",
        "miss",
        "requested",
        "stale",
    ];

    /// Its word in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::StaleIfError => "stale-if-error",
            Self::Forwarded(_, Fetched::Collapsed) => "collapsed",
            Self::Forwarded(Why::UriMiss, _) => "miss",
            Self::Forwarded(Why::Request, _) => "requested",
            Self::Forwarded(Why::Stale, _) => "stale",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The ERP or the way to it failed.
    #[error(transparent)]
    Upstream(#[from] Failure),
    /// It answered something that can't be used.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The record isn't in the state that the change was made for.
    #[error("the record has changed")]
    Changed,
    /// Another change goes before it, to the same record or under the same mark, and takes long. Nothing was sent.
    #[error(
        "another change to the same record, or another photo of the same title, goes before it and takes long"
    )]
    Occupied {
        /// When it may be over.
        retry_after: Duration,
    },
    /// An earlier attempt may yet be made.
    #[error("an earlier attempt may yet be made")]
    Unsettled {
        /// When to look again.
        retry_after: Duration,
    },
    /// An earlier attempt may have been made, and the ERP couldn't be asked.
    #[error("an earlier attempt can't be looked for: {0}")]
    Unseen(Box<ExchangeError>),
    /// The caller wanted a kept answer and nothing else.
    #[error("nothing is kept, and the caller wants nothing else")]
    NotCached,
    /// The task that fetched it ended without an outcome.
    #[error("the task was torn down before it had an outcome")]
    Interrupted,
}

impl ExchangeError {
    /// Whether it is certain that a write changed nothing.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Upstream(failure) => failure.is_certain(),
            Self::Changed
            | Self::Occupied { .. }
            | Self::Unsettled { .. }
            | Self::Unseen(_)
            | Self::NotCached => true,
            Self::Unfit(_) | Self::Interrupted => false,
        }
    }

    /// Whether the ERP failed to answer, so that an older answer may stand in. One that
    /// says something of the record or of the credential is an answer.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            // A login that can't be read is a page of something before the ERP.
            Self::Upstream(
                Failure::RateLimited { .. }
                | Failure::Paused { .. }
                | Failure::Oversized { .. }
                | Failure::Login(_),
            ) => true,
            Self::Upstream(failure) => failure.is_outage(),
            Self::Unfit(Unfit::Unreadable) | Self::Interrupted => true,
            Self::Unfit(Unfit::Mismatch)
            | Self::NotCached
            | Self::Changed
            | Self::Occupied { .. }
            | Self::Unsettled { .. }
            | Self::Unseen(_) => false,
        }
    }
}

/// Why an answer of the ERP can't be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not the JSON that the vendor's page promises.
    #[error("the answer isn't of the documented form")]
    Unreadable,
    /// Another record than the one asked for.
    #[error("the answer is another record")]
    Mismatch,
}
