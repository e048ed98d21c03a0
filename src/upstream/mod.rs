//! The ERP as a client sees it: addresses, credentials on the wire, bounded
//! answers, failures in our own words. What an answer means is the resources' business.

mod body;
mod client;
mod cursor;
mod failure;
mod paging;
mod queue;
mod target;

pub use body::{Encoding, Payload};
pub use client::{Answer, ClientError, Upstream};
pub use cursor::{CursorKey, InvalidCursor};
pub use failure::Failure;
pub use paging::{Page, PageLinks};
pub use target::Target;
