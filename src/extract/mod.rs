//! Our extractors. What they give is valid; every rejection is a [`Problem`](crate::problem::Problem).

mod body;
mod conditional;
mod json;
mod path;
mod photo;
mod query;

pub use conditional::{CacheControl, IfMatch};
pub use json::JsonObject;
pub use path::{Id, RecordId};
pub use photo::Photo;
pub use query::{NoParameters, Parameters, Query, Values};
