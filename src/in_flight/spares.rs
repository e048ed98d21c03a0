//! Memory that uploads have left, for the next ones: to take it anew costs more than to encode a photo.

use super::memory::Memory;

/// What is left, and how much memory it takes.
#[derive(Debug, Default)]
pub(super) struct Spares {
    all: Vec<Spare>,
    bytes: u64,
}

#[derive(Debug)]
struct Spare {
    memory: Memory,
    /// It was there already when [`Spares::age`] was called last.
    is_old: bool,
}

impl Spares {
    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn put(&mut self, mut memory: Memory) {
        memory.truncate(0);
        self.bytes += memory.touched();
        self.all.push(Spare {
            memory,
            is_old: false,
        });
    }

    /// Memory with room for so many bytes: of what takes no more already, what takes most; else what takes least, up to
    /// `most`.
    pub(super) fn take(&mut self, bytes: u64, most: u64) -> Option<Memory> {
        let all = || {
            let all = self.all.iter().enumerate();
            let all = all.filter(|(_, spare)| spare.memory.capacity() >= bytes);
            all.map(|(at, spare)| (at, spare.memory.touched()))
        };
        let within = all().filter(|(_, touched)| *touched <= bytes);
        let beyond = || all().filter(|(_, touched)| *touched <= most);
        let (at, touched) = within
            .max_by_key(|(_, touched)| *touched)
            .or_else(|| beyond().min_by_key(|(_, touched)| *touched))?;
        self.bytes -= touched;
        Some(self.all.swap_remove(at).memory)
    }

    /// What has to go so that no more than so many bytes are taken.
    pub(super) fn beyond(&mut self, bytes: u64) -> Vec<Memory> {
        if self.bytes <= bytes {
            return Vec::new();
        }
        // What takes most suits fewest.
        self.all.sort_by_key(|spare| spare.memory.touched());
        let mut gone = Vec::new();
        while self.bytes > bytes
            && let Some(spare) = self.all.pop()
        {
            self.bytes -= spare.memory.touched();
            gone.push(spare.memory);
        }
        gone
    }

    /// What was there the last time already.
    pub(super) fn age(&mut self) -> Vec<Memory> {
        let gone = self.all.extract_if(.., |spare| spare.is_old);
        let gone: Vec<_> = gone.map(|spare| spare.memory).collect();
        self.bytes -= gone.iter().map(Memory::touched).sum::<u64>();
        for spare in &mut self.all {
            spare.is_old = true;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [u64; 0] = [];

    fn spares<const N: usize>(sizes: [usize; N]) -> Spares {
        let mut spares = Spares::default();
        for size in sizes {
            let mut memory = Memory::with_capacity(100.max(size)).expect("little");
            memory.extend_from_slice(&vec![7; size]);
            spares.put(memory);
        }
        spares
    }

    fn touched(memory: impl IntoIterator<Item = Memory>) -> Vec<u64> {
        memory.into_iter().map(|it| it.touched()).collect()
    }

    #[test]
    fn what_grows_least_is_taken_and_then_what_is_least_too_large() {
        let mut spares = spares([50, 20, 90, 30]);
        assert_eq!(touched(spares.take(60, 100)), [50]);
        assert_eq!(touched(spares.take(30, 100)), [30]);
        assert_eq!(touched(spares.take(10, 15)), NOTHING, "they take too much");
        assert_eq!(touched(spares.take(10, 100)), [20]);
        assert_eq!(touched(spares.take(10, 100)), [90]);
        assert_eq!(touched(spares.take(10, 100)), NOTHING);
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn what_is_too_small_suits_nobody() {
        let mut spares = spares([50, 200]);
        assert_eq!(touched(spares.take(150, 100)), NOTHING);
        assert_eq!(touched(spares.take(150, 200)), [200]);
    }

    #[test]
    fn what_was_left_is_empty_and_keeps_its_place() {
        let mut spares = spares([50]);
        let mut memory = spares.take(50, 0).expect("it suits");
        assert!(memory.is_empty());
        memory.extend_from_slice(b"photo");
        assert_eq!(&*memory, b"photo");
        assert_eq!(memory.touched(), 50);
    }

    #[test]
    fn the_largest_go_first() {
        let mut spares = spares([50, 20, 90, 30]);
        assert_eq!(touched(spares.beyond(190)), NOTHING);
        assert_eq!(touched(spares.beyond(60)), [90, 50]);
        assert_eq!(touched(spares.beyond(0)), [30, 20]);
    }

    #[test]
    fn what_nobody_takes_goes() {
        let mut spares = spares([50, 20]);
        assert_eq!(touched(spares.age()), NOTHING);
        let taken = spares.take(20, 0).expect("it suits");
        spares.put(taken);
        assert_eq!(touched(spares.age()), [50]);
        assert_eq!(touched(spares.age()), [20]);
        assert!(spares.is_empty() && spares.bytes == 0);
    }
}
