//! What the operator sees: logs and audit records. Each metric is declared
//! where it happens.

pub mod audit;
pub mod logs;
