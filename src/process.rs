//! What this process asks of the system: that its memory is kept from others, and is no more than it needs.

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::disable_transparent_huge_pages,
};

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

/// Takes memory in pages of 4 KiB instead of 2 MiB (prctl(2), `PR_SET_THP_DISABLE`), so that an upload holds as much
/// as it has and not what lies around it. Where the system doesn't allow it, more is held.
pub fn take_small_pages() {
    let _ = disable_transparent_huge_pages(true);
}
