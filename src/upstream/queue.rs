//! Turns: at most `max_concurrency` requests at once with one credential, first
//! come first served.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::tenants::CredentialId;

use super::Failure;

/// The queues of every credential.
pub(super) struct Queues {
    places: Mutex<HashMap<CredentialId, Arc<Semaphore>>>,
    max_concurrency: usize,
    timeout: Duration,
}

/// A turn; giving it up is dropping it.
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Queues {
    pub(super) fn new(max_concurrency: usize, timeout: Duration) -> Self {
        Self {
            places: Mutex::default(),
            max_concurrency,
            timeout,
        }
    }

    /// Waits for a turn. A waiter that is dropped frees its place.
    pub(super) async fn turn(&self, credential: &CredentialId) -> Result<Turn, Failure> {
        let places = {
            let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(credential) {
                Some(places) => places.clone(),
                None => {
                    let places = Arc::new(Semaphore::new(self.max_concurrency));
                    all.insert(credential.clone(), places.clone());
                    places
                }
            }
        };
        match timeout(self.timeout, places.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn(turn)),
            // The semaphore is never closed; a closed one would mean no turn either.
            Ok(Err(_)) | Err(_) => Err(Failure::QueueFull {
                retry_after: self.timeout,
            }),
        }
    }
}
