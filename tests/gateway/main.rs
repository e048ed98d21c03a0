//! The gateway over real sockets, before a simulated ERP. One module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may fail"
)]

mod harness;

mod cache;
mod canaries;
mod commands;
mod connections;
mod detail;
mod identity;
mod lies;
mod list;
mod model;
mod odd_answers;
mod operators;
mod patch;
mod pressure;
mod reference;
mod rooms;
mod stale;
mod sweep;
mod tenancy;
mod upload;
