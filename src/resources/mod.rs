//! The ERP's resources as this gateway publishes them, one file or folder each:
//! routes, operations, the public shape, the ERP's shape, and the translation
//! between them.

pub mod me;
mod members;
pub mod once;
pub mod ordenes;
pub mod paged;
pub mod problems;
pub mod reference;
