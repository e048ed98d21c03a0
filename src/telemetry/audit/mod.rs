//! The audit: one record for each write, whatever becomes of it, and one for each denied
//! attempt.
//!
//! A request that comes in gets a [`Trail`], which learns who it is. A write that goes to
//! the ERP takes it over ([`Trail::take_over`]) and says what became of it; otherwise the
//! layer that opened the trail does. Whoever drops one unsaid leaves a record all the same.
//! [`AuditLog`] brings records to their output without ever holding a request up.

mod log;
mod record;
mod trail;

pub use log::{AuditLog, OpenError};
pub use record::{Image, Outcome};
pub use trail::{Attempt, Taken, Trail};
