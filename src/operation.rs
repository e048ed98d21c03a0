//! What can be done, as data: an operation's name, the scope it needs, and what
//! it means for the cache. Metrics, audit records and the reference document
//! take their names from here.

use std::{fmt, str::FromStr};

/// One operation of the public API, declared as a `static` beside its handler.
#[derive(Debug)]
pub struct Operation {
    /// The `operationId` of the reference document; also the name in metrics and audit records.
    pub name: &'static str,
    /// What the caller's token must allow.
    pub scope: Scope,
    /// Whether it reads or changes the ERP's data.
    pub effect: Effect,
}

/// What an operation does to the ERP's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// An answer that may be kept for as long as its class says.
    Read(FreshnessClass),
    /// A change: what is kept of its subject is dropped.
    Write,
}

/// How long an answer stays fresh is configured by class (`cache.ttl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshnessClass {
    /// A page of many records.
    List,
    /// One record.
    Detail,
}

/// What a token may allow (contract section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Read work orders.
    OrdenesRead,
    /// Change work orders.
    OrdenesWrite,
    /// Attach photos.
    ImagenesWrite,
    /// Read through the proxy.
    ProxyRead,
    /// Write through the proxy.
    ProxyWrite,
}

impl Scope {
    /// Every scope, in the order of the contract.
    pub const ALL: [Self; 5] = [
        Self::OrdenesRead,
        Self::OrdenesWrite,
        Self::ImagenesWrite,
        Self::ProxyRead,
        Self::ProxyWrite,
    ];

    /// The scope as a token spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrdenesRead => "ordenes:read",
            Self::OrdenesWrite => "ordenes:write",
            Self::ImagenesWrite => "imagenes:write",
            Self::ProxyRead => "proxy:read",
            Self::ProxyWrite => "proxy:write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of Llavero's scopes.
#[derive(Debug, thiserror::Error)]
#[error(
    "not one of Llavero's scopes; there are: ordenes:read, ordenes:write, imagenes:write, proxy:read, proxy:write"
)]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == word)
            .ok_or(UnknownScope)
    }
}
