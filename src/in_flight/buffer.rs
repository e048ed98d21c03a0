//! An upload's bytes, and the room that they take.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{BESIDE_IMAGE, Budget, Owner, arriving::Arrival, memory::Memory};

/// Where an image arrives and stays. Its room is given back together with its memory, wherever that is dropped.
pub struct Buffer {
    content: Content,
    budget: Budget,
    owner: Owner,
    room: u64,
    /// None once it is here.
    arrival: Option<Arrival>,
}

enum Content {
    /// None yet, or none any more.
    None,
    /// As it came.
    Arrived(Memory),
    /// What was made of it.
    Made(Vec<u8>),
}

impl Buffer {
    pub(super) fn new(
        budget: Budget,
        owner: Owner,
        room: u64,
        arrival: Arrival,
        left: Option<Memory>,
    ) -> Self {
        Self {
            content: left.map_or(Content::None, Content::Arrived),
            budget,
            owner,
            room,
            arrival: Some(arrival),
        }
    }

    /// With memory, that another upload has left or new.
    pub(super) fn with_memory(mut self, capacity: impl FnOnce() -> usize) -> io::Result<Self> {
        if matches!(self.content, Content::None) {
            self.content = Content::Arrived(Memory::with_capacity(capacity())?);
        }
        Ok(self)
    }

    /// Cancelled when the upload is to end, since it takes long and others need its room.
    #[must_use]
    pub fn ousted(&self) -> CancellationToken {
        self.arrival
            .as_ref()
            .map(Arrival::ousted)
            .unwrap_or_default()
    }

    /// Adds bytes behind the others.
    ///
    /// # Panics
    /// They are more than an upload may have ([`Budget::new`]).
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        match &mut self.content {
            Content::None => self.content = Content::Made(more.to_vec()),
            Content::Arrived(memory) => memory.extend_from_slice(more),
            Content::Made(bytes) => bytes.extend_from_slice(more),
        }
        if let Some(arrival) = &self.arrival {
            arrival.has(self.len() as u64);
        }
    }

    /// Ends behind so many bytes, where there are more.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.content {
            Content::None => {}
            Content::Arrived(memory) => memory.truncate(length),
            Content::Made(bytes) => bytes.truncate(length),
        }
    }

    /// Drops the bytes. Their room stays, for what is made of them.
    pub fn clear(&mut self) {
        self.content = Content::None;
    }

    /// Holds those bytes from now on, in the same room.
    pub fn replace(&mut self, bytes: Vec<u8>) {
        self.content = Content::Made(bytes);
    }

    /// It is here: gives back what room it doesn't need.
    pub fn settle(&mut self) {
        let takes = match &self.content {
            Content::None => 0,
            Content::Arrived(memory) => memory.touched(),
            Content::Made(bytes) => bytes.len() as u64,
        };
        let surplus = self.room.saturating_sub(takes.saturating_add(BESIDE_IMAGE));
        let arrival = self.arrival.take();
        if surplus > 0 || arrival.is_some() {
            self.room -= surplus;
            self.budget.arrived(&self.owner, surplus, arrival);
        }
    }

    /// The bytes, whose last handle gives the room back.
    #[must_use]
    pub fn freeze(mut self) -> Bytes {
        self.settle();
        Bytes::from_owner(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let left = match std::mem::replace(&mut self.content, Content::None) {
            Content::Arrived(memory) => Some(memory),
            Content::None | Content::Made(_) => None,
        };
        let arrival = self.arrival.take();
        self.budget.leave(&self.owner, self.room, arrival, left);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.content {
            Content::None => &[],
            Content::Arrived(memory) => memory,
            Content::Made(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.content {
            Content::None => &mut [],
            Content::Arrived(memory) => memory,
            Content::Made(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("bytes", &self.len())
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}
