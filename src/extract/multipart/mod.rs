//! `multipart/form-data` (RFC 7578, RFC 2046 §5.1) as it arrives. [`Reader`] does no IO: it is
//! given bytes and says what they are, borrowing what belongs to a part. What it says depends on
//! the bytes alone and never on how they were cut. What a form's parts mean isn't known here.

mod boundary;
mod delimiter;
mod head;
mod parameters;
mod reader;

pub(super) use boundary::{Boundary, InvalidBoundary};
pub(super) use head::Head;
pub(super) use reader::{Event, Malformed, Reader};
