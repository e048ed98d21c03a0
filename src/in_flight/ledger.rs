//! The account of that memory: what is held, who waits for room, and what is left over. It decides; `mod.rs` locks it,
//! waits, and frees memory once the lock is released.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{
    BESIDE_IMAGE, Buffer,
    arriving::{Arrival, Arriving, Asked},
    holdings::{Holdings, Owner},
    memory::Memory,
    spares::Spares,
    waiting::{Ticket, Waiting},
};

/// Brings the buffer to whoever waits for it.
pub(super) type Sender = oneshot::Sender<Buffer>;

pub(super) struct Ledger {
    pub(super) room: Room,
    arriving: Arriving,
    /// Beside what is held, and no more than is left of all.
    pub(super) spares: Spares,
    waiting: Waiting<Sender>,
}

/// How much there is, and who has it.
pub(super) struct Room {
    total: u64,
    /// What one upload may need: so much is only for tenants that have none under way.
    kept: u64,
    held: u64,
    pub(super) holdings: Holdings,
}

/// An upload that is let in.
pub(super) struct Admitted {
    pub(super) sender: Sender,
    pub(super) owner: Owner,
    /// The room it has.
    pub(super) bytes: u64,
    pub(super) arrival: Arrival,
    /// Memory for it, where another upload has left some that suits.
    pub(super) left: Option<Memory>,
    /// Memory that is to be freed before anything is written where there is room now.
    pub(super) gone: Vec<Memory>,
}

impl Ledger {
    /// For so many bytes of all uploads together; the largest image has so many.
    pub(super) fn new(total: u64, largest: u64) -> Self {
        Self {
            room: Room {
                total,
                kept: largest.saturating_add(BESIDE_IMAGE).min(total),
                held: 0,
                holdings: Holdings::default(),
            },
            arriving: Arriving::default(),
            spares: Spares::default(),
            waiting: Waiting::default(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Puts an upload in the queue that takes so much, and tells who has to leave it for that; none where it is full
    /// ([`Waiting::push`]).
    pub(super) fn queue(
        &mut self,
        owner: &Owner,
        takes: u64,
        sender: Sender,
    ) -> Option<(Ticket, Option<Sender>)> {
        self.waiting.push(owner.clone(), takes, sender)
    }

    /// Takes it out of the queue; whether it was in there.
    pub(super) fn unqueue(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(ticket)
    }

    /// Has uploads that take long end for one of that owner, where that is fair.
    pub(super) fn make_room(&self, owner: &Owner, takes: u64, now: Instant) {
        let asked = Asked {
            owner,
            takes,
            missing: self.room.missing(owner, takes),
        };
        self.arriving.make_room(asked, now, &self.room.holdings);
    }

    /// Lets in whose turn it is, where there is room.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Admitted> {
        let room = &self.room;
        let (owner, takes, sender) = self.waiting.pop_if(
            |owner| room.holdings.of(owner),
            |owner, takes| room.missing(owner, takes) == 0,
        )?;
        let left = self.spare_for(takes);
        // Memory that is larger than what was asked for counts as what it is.
        let touched = left.as_ref().map_or(0, Memory::touched);
        let bytes = takes.max(self.room.takes(touched));
        self.room.begin(&owner, bytes);
        let arrival = self.arriving.begin(owner.clone(), bytes, now);
        Some(Admitted {
            sender,
            owner,
            bytes,
            arrival,
            left,
            gone: self.surplus(),
        })
    }

    /// Memory that was left, for an upload that takes so much: while there is plenty, also some of up to twice its size.
    fn spare_for(&mut self, takes: u64) -> Option<Memory> {
        let image = takes.saturating_sub(BESIDE_IMAGE);
        let most = self.room.plenty().min(image.saturating_mul(2));
        self.spares.take(image, most)
    }

    /// An upload has arrived, and gives so much of its room back.
    pub(super) fn arrived(&mut self, owner: &Owner, surplus: u64, arrival: Option<Arrival>) {
        self.room.give_back(owner, surplus, false);
        self.ends(arrival);
    }

    /// An upload is over, and leaves its room and its memory. What memory has to be freed then.
    pub(super) fn leave(
        &mut self,
        owner: &Owner,
        bytes: u64,
        arrival: Option<Arrival>,
        left: Option<Memory>,
    ) -> Vec<Memory> {
        self.room.give_back(owner, bytes, true);
        self.ends(arrival);
        if let Some(memory) = left {
            self.spares.put(memory);
        }
        self.surplus()
    }

    fn ends(&mut self, arrival: Option<Arrival>) {
        if let Some(arrival) = arrival {
            self.arriving.end(&arrival);
        }
    }

    /// Memory that nobody has and for which there is no room.
    fn surplus(&mut self) -> Vec<Memory> {
        self.spares.beyond(self.room.for_spares())
    }
}

impl Room {
    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    /// What an upload takes that has so many bytes, with what it holds beside them.
    pub(super) fn takes(&self, bytes: u64) -> u64 {
        bytes.saturating_add(BESIDE_IMAGE).min(self.total)
    }

    /// Whether so much is free, for whomever it is kept.
    pub(super) const fn has(&self, takes: u64) -> bool {
        self.held.saturating_add(takes) <= self.total
    }

    /// How much has to come free for an upload of that owner: what is left then is kept for others, where its tenant has
    /// one under way.
    fn missing(&self, owner: &Owner, takes: u64) -> u64 {
        let kept = match self.holdings.has_none(owner.tenant()) {
            true => 0,
            false => self.kept,
        };
        let wanted = self.held.saturating_add(takes).saturating_add(kept);
        wanted.saturating_sub(self.total)
    }

    /// How much one may take that asked for less: what is free of one half.
    const fn plenty(&self) -> u64 {
        (self.total / 2).saturating_sub(self.held.saturating_add(BESIDE_IMAGE))
    }

    /// How much memory may be kept that nobody has, beside what is held: an eighth stays free, for what requests and
    /// the allocator hold beside images.
    const fn for_spares(&self) -> u64 {
        (self.total - self.total / 8).saturating_sub(self.held)
    }

    fn begin(&mut self, owner: &Owner, bytes: u64) {
        self.held += bytes;
        self.holdings.begin(owner, bytes);
    }

    fn give_back(&mut self, owner: &Owner, bytes: u64, is_last: bool) {
        self.held -= bytes;
        self.holdings.give_back(owner, bytes, is_last);
    }
}
