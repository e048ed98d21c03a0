//! How a request to the ERP can fail, without a word of what it said.

use std::time::Duration;

/// Why there is no usable answer of the ERP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The turn won't come within `upstream.queue_timeout`. Nothing was sent.
    #[error("no turn within the queue's timeout")]
    QueueFull {
        /// When a turn is likely.
        retry_after: Duration,
    },
    /// The tenant's breaker is open. Nothing was sent.
    #[error("its breaker is open")]
    Unavailable {
        /// When it may let requests through again.
        retry_after: Duration,
    },
    /// No connection could be made. Nothing was sent.
    #[error("no connection could be made")]
    Connect,
    /// The connection broke before the whole answer was here.
    #[error("the connection broke before the whole answer was here")]
    Broken,
    /// The connection broke, or the time was up, before the whole body was sent: what the ERP
    /// has of it is nothing that it could take.
    #[error("the connection broke or the time was up before the body was sent")]
    Unsent,
    /// It said that it had done it before it had the whole body, which can't be true.
    #[error("it answered with success before it had the whole body")]
    Early,
    /// The whole answer took longer than `upstream.timeout`.
    #[error("the answer took too long")]
    Timeout,
    /// The pause after a 429, or the pace that was learnt from it, is longer than
    /// `upstream.queue_timeout`. Nothing was sent.
    #[error("it limits the rate, and no turn comes in time")]
    Paused {
        /// When a turn is likely.
        retry_after: Duration,
    },
    /// 429.
    #[error("it limits the rate")]
    RateLimited {
        /// Its own `Retry-After`, where it sent one.
        retry_after: Option<Duration>,
    },
    /// 401 or 403; or the login was refused, with whatever status.
    #[error("it refused the credential with {0}")]
    CredentialRejected(u16),
    /// The login that comes first failed. Nothing of the request was sent.
    #[error("no login could be had: {0}")]
    Login(Box<Failure>),
    /// The answer to a login has nothing in it that could be presented.
    #[error("the answer to the login can't be read")]
    LoginUnreadable,
    /// 404.
    #[error("it has no such record")]
    NotFound,
    /// 400 or 422, with the names of the fields that it complains of.
    #[error("it refused the values of {} fields", fields.len())]
    Rejected {
        /// 400 or 422.
        status: u16,
        /// The ERP's names.
        fields: Vec<String>,
    },
    /// 413.
    #[error("it refused the body as too large")]
    TooLarge,
    /// A status that means nothing better.
    #[error("it answered with status {0}")]
    Status(u16),
    /// The body is over the bound that is kept in memory.
    #[error("the answer is larger than {limit} bytes")]
    Oversized {
        /// The bound, in bytes.
        limit: usize,
    },
    /// Nobody waited any more. Nothing was sent.
    #[error("nobody waits for it any more")]
    Abandoned,
    /// The tenant's address can't be made. Nothing was sent.
    #[error("the tenant's address can't be made from upstream.base_url")]
    Address,
}

impl Failure {
    /// In a word, for what is counted and traced.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue-full",
            Self::Unavailable { .. } => "breaker-open",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Unsent => "unsent",
            Self::Early => "early",
            Self::Timeout => "timeout",
            Self::Paused { .. } => "paused",
            Self::RateLimited { .. } => "rate-limited",
            Self::CredentialRejected(_) => "credential-rejected",
            Self::Login(_) => "login",
            Self::LoginUnreadable => "login-unreadable",
            Self::NotFound => "not-found",
            Self::Rejected { .. } => "rejected",
            Self::TooLarge => "too-large",
            Self::Status(_) => "status",
            Self::Oversized { .. } => "oversized",
            Self::Abandoned => "abandoned",
            Self::Address => "address",
        }
    }

    /// The status that the ERP answered with, where it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::QueueFull { .. }
            | Self::Paused { .. }
            | Self::Unavailable { .. }
            | Self::Connect
            | Self::Broken
            | Self::Unsent
            | Self::Early
            | Self::Timeout
            | Self::Oversized { .. }
            | Self::Login(_)
            | Self::LoginUnreadable
            | Self::Abandoned
            | Self::Address => None,
            Self::RateLimited { .. } => Some(429),
            Self::CredentialRejected(status)
            | Self::Status(status)
            | Self::Rejected { status, .. } => Some(*status),
            Self::NotFound => Some(404),
            Self::TooLarge => Some(413),
        }
    }

    /// When to come back, where that was said.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after }
            | Self::Paused { retry_after }
            | Self::Unavailable { retry_after } => Some(*retry_after),
            Self::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }

    /// Whether it is certain that a write changed nothing.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            // It knows of a photo that it can't have.
            Self::Early => false,
            Self::Broken | Self::Timeout | Self::Oversized { .. } => false,
            // A redirect after a change is a usual sign of success, and 408 says nothing.
            Self::Status(status) => (400..500).contains(status) && *status != 408,
            Self::QueueFull { .. }
            | Self::Paused { .. }
            | Self::Unavailable { .. }
            | Self::Connect
            | Self::Unsent
            | Self::RateLimited { .. }
            | Self::CredentialRejected(_)
            | Self::Login(_)
            | Self::LoginUnreadable
            | Self::NotFound
            | Self::Rejected { .. }
            | Self::TooLarge
            | Self::Abandoned
            | Self::Address => true,
        }
    }

    /// Whether the ERP didn't answer, or answered that it can't: what a breaker counts.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::QueueFull { .. }
            | Self::Unavailable { .. }
            | Self::Connect
            | Self::Broken
            | Self::Unsent
            | Self::Early
            | Self::Timeout => true,
            Self::Status(status) => *status >= 500,
            Self::Login(failure) => failure.is_outage(),
            Self::Paused { .. }
            | Self::RateLimited { .. }
            | Self::CredentialRejected(_)
            | Self::LoginUnreadable
            | Self::NotFound
            | Self::Rejected { .. }
            | Self::TooLarge
            | Self::Oversized { .. }
            | Self::Abandoned
            | Self::Address => false,
        }
    }
}
