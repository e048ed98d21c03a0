//! The gateway over real sockets, before a simulated ERP. One module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may fail"
)]

mod harness;

mod attacks;
mod audit;
mod cache;
mod canaries;
mod commands;
mod connections;
mod credentials;
mod detail;
mod drain;
mod early_answers;
mod exposition;
mod floods;
mod forms;
mod fuzzing;
mod idempotency;
mod identity;
mod intake;
mod isolation;
mod jwks;
mod keys_in_answers;
mod lies;
mod limits;
mod list;
mod metrics;
mod model;
mod odd_answers;
mod operators;
mod patch;
mod photos;
mod pressure;
mod recovery;
mod reference;
mod reload;
mod retries;
mod rooms;
mod rotation;
mod shrinking;
mod stale;
mod sweep;
mod tenancy;
mod tls;
mod traces;
mod upload;
