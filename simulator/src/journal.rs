//! What the ERP received, in order, so that a test can count. Secrets and bodies are not kept, only their sizes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use http::request::Parts;
use http::{StatusCode, header};
use serde::Serialize;

use crate::state::Shared;

/// A request that reached the ERP.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// Its place among all requests since the start, from 0. Clearing doesn't start it again.
    pub number: u64,
    /// The tenant that it was addressed to, if there is such a tenant.
    pub clave: Option<String>,
    /// The method.
    pub method: String,
    /// The path as it was sent, `/{clave}/api/v2/` included.
    pub path: String,
    /// The query as it was sent, without the question mark.
    pub query: Option<String>,
    /// The names of its header fields, sorted. Their values are not kept.
    pub headers: Vec<String>,
    /// The `Content-Length` that it announced.
    pub content_length: Option<u64>,
    /// The bytes of the body that arrived.
    pub body_bytes: usize,
    /// The user whose valid key or token it carried.
    pub credential: Option<String>,
    /// How many requests of this tenant and this user were under way when it arrived, itself included.
    pub at_once: usize,
    /// The status that it was answered with; `None` while it waits, and for ever if nobody answered.
    pub status: Option<u16>,
    /// For an accepted upload, the length of the decoded image.
    pub imagen_bytes: Option<usize>,
    /// For an accepted upload, the id that the image was given.
    pub archivo_id: Option<u64>,
    /// For an accepted upload, which step of the job it is of: 1 to 3.
    pub proceso: Option<u64>,
}

type Caller = (Option<String>, Option<String>);

#[derive(Default)]
pub(crate) struct Journal {
    next: u64,
    entries: VecDeque<ReceivedRequest>,
    under_way: HashMap<Caller, usize>,
}

impl Journal {
    const MAX_ENTRIES: usize = 10_000;

    pub(crate) fn list(&self) -> Vec<ReceivedRequest> {
        self.entries.iter().cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    fn entry(&mut self, number: u64) -> Option<&mut ReceivedRequest> {
        // Numbers are consecutive, so an entry's place follows from the first one's.
        let first = self.entries.front()?.number;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        self.entries.get_mut(place)
    }
}

/// A request under way: the journal's entry about it, and its place among those served at once.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    caller: Caller,
}

impl Ticket {
    /// Enters a request when its head has arrived.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        parts: &Parts,
        clave: Option<&str>,
        credential: Option<&str>,
    ) -> Self {
        let caller = (clave.map(str::to_owned), credential.map(str::to_owned));
        let mut headers: Vec<String> = parts.headers.keys().map(|name| name.to_string()).collect();
        headers.sort();

        let mut journal = shared.journal();
        let under_way = journal.under_way.entry(caller.clone()).or_default();
        *under_way += 1;
        let at_once = *under_way;
        let number = journal.next;
        journal.next += 1;
        if journal.entries.len() == Journal::MAX_ENTRIES {
            journal.entries.pop_front();
        }
        journal.entries.push_back(ReceivedRequest {
            number,
            clave: caller.0.clone(),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers,
            content_length: parts
                .headers
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok()),
            body_bytes: 0,
            credential: caller.1.clone(),
            at_once,
            status: None,
            imagen_bytes: None,
            archivo_id: None,
            proceso: None,
        });
        Self {
            shared: shared.clone(),
            number,
            caller,
        }
    }

    pub(crate) fn body_arrived(&self, bytes: usize) {
        self.note(|entry| entry.body_bytes = bytes);
    }

    pub(crate) fn image_stored(&self, archivo_id: u64, proceso: u64, bytes: usize) {
        self.note(|entry| {
            entry.archivo_id = Some(archivo_id);
            entry.proceso = Some(proceso);
            entry.imagen_bytes = Some(bytes);
        });
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.note(|entry| entry.status = Some(status.as_u16()));
    }

    fn note(&self, f: impl FnOnce(&mut ReceivedRequest)) {
        if let Some(entry) = self.shared.journal().entry(self.number) {
            f(entry);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut journal = self.shared.journal();
        if let Some(under_way) = journal.under_way.get_mut(&self.caller) {
            *under_way -= 1;
            if *under_way == 0 {
                journal.under_way.remove(&self.caller);
            }
        }
    }
}
