//! What this process keeps from others on its machine.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Leaves nothing of the memory, where the keys are: no core dump, and no look by another process of the
/// same user, at the environment neither (prctl(2), `PR_SET_DUMPABLE`). False where the system doesn't allow it.
#[must_use]
pub fn keep_memory_private() -> bool {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let no_core = setrlimit(Resource::Core, none).is_ok();
    let no_look = set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    no_core && no_look
}
