//! A fetch that is under way, and those who wait for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) landed: Shared<BoxFuture<'static, Landed>>,
    /// Whether somebody waits, so that a failure is worth another attempt at once.
    urgent: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    Fetched,
    Failed,
}

/// A fetch to wait for.
pub(super) enum Boarded {
    /// It was under way, and may have read what was published before.
    Joined(Flight),
    Begun(Flight),
}

impl Flight {
    /// One that is about to begin, and who tells how it landed.
    pub(super) fn new(number: u64, is_urgent: bool) -> (Self, oneshot::Sender<Landed>) {
        let (sender, receiver) = oneshot::channel();
        let landed = receiver.map(|landed| landed.unwrap_or(Landed::Failed));
        let flight = Self {
            number,
            landed: landed.boxed().shared(),
            urgent: Arc::new(AtomicBool::new(is_urgent)),
        };
        (flight, sender)
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    pub(super) fn becomes_urgent(&self) {
        self.urgent.store(true, Ordering::Release);
    }
}

impl Boarded {
    pub(super) fn flight(self) -> Flight {
        let (Self::Joined(flight) | Self::Begun(flight)) = self;
        flight
    }
}
