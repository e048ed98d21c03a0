//! What the operator sees: logs, traces and audit records, what the process may use, and how metrics are shown. Each metric is declared
//! where it happens.

pub mod audit;
pub mod exposition;
pub mod logs;
pub mod memory_limit;
pub mod process;
pub mod traces;
