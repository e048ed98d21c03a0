//! Our extractors. What they give is valid; every rejection is a [`Problem`](crate::problem::Problem).

mod body;
mod conditional;
mod digest;
mod idempotency;
mod json;
mod multipart;
mod pace;
mod path;
mod photo;
mod query;

pub use conditional::{CacheControl, IfMatch};
pub use idempotency::{IDEMPOTENCY_KEY, Keyed};
pub use json::JsonObject;
pub use pace::Patience;
pub use path::{Id, RecordId};
pub use photo::{Intake, MULTIPART_OVERHEAD, Photo, Texts};
pub use query::{NoParameters, Parameters, Query, Values};
