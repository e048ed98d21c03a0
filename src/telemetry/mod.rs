//! What the operator sees: logs, traces and audit records, and how metrics are shown. Each metric is declared
//! where it happens.

pub mod audit;
pub mod exposition;
pub mod logs;
pub mod process;
pub mod traces;
