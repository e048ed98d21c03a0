//! Memory for one image.

use std::{
    io,
    ops::{Deref, DerefMut},
};

use memmap2::MmapMut;

/// Bytes in a mapping of their own, which never move. What they took is the system's again as soon as they are dropped: an
/// allocator keeps it for a while, beside what is taken anew.
#[derive(Debug)]
pub(super) struct Memory {
    /// Pages of it that nothing was written to take no memory.
    map: MmapMut,
    length: usize,
    /// How far it was ever written.
    touched: usize,
}

impl Memory {
    /// Empty, with room for so many bytes.
    ///
    /// # Errors
    /// The system gives no more.
    pub(super) fn with_capacity(capacity: usize) -> io::Result<Self> {
        Ok(Self {
            map: MmapMut::map_anon(capacity)?,
            length: 0,
            touched: 0,
        })
    }

    /// How many bytes there is room for.
    pub(super) fn capacity(&self) -> u64 {
        self.map.len() as u64
    }

    /// How many bytes of memory it takes.
    pub(super) const fn touched(&self) -> u64 {
        self.touched as u64
    }

    /// # Panics
    /// There is no room for them.
    pub(super) fn extend_from_slice(&mut self, more: &[u8]) {
        let end = self.length + more.len();
        self.map[self.length..end].copy_from_slice(more);
        self.length = end;
        self.touched = self.touched.max(end);
    }

    /// Ends behind so many bytes, where it has more.
    pub(super) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.length]
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.length]
    }
}
