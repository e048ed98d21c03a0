//! The simulated ERP over real sockets, spoken to as the gateway would.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod control;
mod erp;
mod faults;
mod harness;
