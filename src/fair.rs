//! Fair waiting: whoever waits is in a lane, and lanes take turns. A lane that comes
//! late is served next, however much waits in another (start-time fair queueing,
//! Goyal, Vin and Cheng 1996, with turns of equal size).

use std::collections::VecDeque;

/// Items in lanes.
#[derive(Debug)]
pub(crate) struct FairQueue<K, T> {
    /// An empty one is remembered while its next item is due later than a stranger's would be.
    lanes: Vec<Lane<K, T>>,
    /// The turn that was given last, in turns of a lane that never pauses.
    virtual_time: u64,
    next_ticket: u64,
}

#[derive(Debug)]
struct Lane<K, T> {
    key: K,
    /// When its first item is due.
    due: u64,
    items: VecDeque<(Ticket, T)>,
}

/// Names one waiting item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            virtual_time: 0,
            next_ticket: 0,
        }
    }
}

impl<K: PartialEq, T> FairQueue<K, T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.items.len()).sum()
    }

    /// Puts an item at the end of its lane.
    pub(crate) fn push(&mut self, key: K, item: T) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        match self.lanes.iter_mut().find(|lane| lane.key == key) {
            Some(lane) => lane.items.push_back((ticket, item)),
            None => self.lanes.push(Lane {
                key,
                due: self.virtual_time,
                items: VecDeque::from([(ticket, item)]),
            }),
        }
        ticket
    }

    /// The item whose turn it is, where it may have it now: of the lanes that are due first, the one that waited longest. Where it mayn't, it keeps its place and nobody passes it, so that
    /// what needs much comes to it.
    pub(crate) fn pop_if(&mut self, may: impl FnOnce(&T) -> bool) -> Option<T> {
        let first = |lane: &Lane<K, T>| (lane.due, lane.items.front().map(|(ticket, _)| *ticket));
        let waiting = self.lanes.iter_mut().filter(|lane| !lane.items.is_empty());
        let lane = waiting.min_by_key(|lane| first(lane))?;
        let (_, item) = lane.items.pop_front_if(|(_, item)| may(item))?;
        self.virtual_time = lane.due;
        lane.due += 1;
        self.forget();
        Some(item)
    }

    /// The first item in that order that may have its turn now, and whose it is. Those that mayn't keep their places, and
    /// others pass them.
    pub(crate) fn pop_passing(&mut self, may: impl Fn(&K, &T) -> bool) -> Option<(K, T)>
    where
        K: Clone,
    {
        let candidates = self.lanes.iter().enumerate().filter_map(|(at, lane)| {
            let mut items = lane.items.iter();
            let place = items.position(|(_, item)| may(&lane.key, item))?;
            Some((lane.due, lane.items[place].0, at, place))
        });
        let (due, _, at, place) = candidates.min()?;
        let lane = &mut self.lanes[at];
        let (_, item) = lane.items.remove(place)?;
        let key = lane.key.clone();
        // A lane that was passed is next, but the turns that it couldn't use are nobody's.
        self.virtual_time = self.virtual_time.max(due);
        lane.due = self.virtual_time + 1;
        self.forget();
        Some((key, item))
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        let lanes = std::mem::take(&mut self.lanes);
        let items = lanes.into_iter().flat_map(|lane| lane.items);
        items.map(|(_, item)| item).collect()
    }

    /// Takes an item out before its turn.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let found = self.lanes.iter().enumerate().find_map(|(at, lane)| {
            let place = lane.items.iter().position(|(it, _)| *it == ticket)?;
            Some((at, place))
        });
        let (at, place) = found?;
        let (_, item) = self.lanes[at].items.remove(place)?;
        self.forget();
        Some(item)
    }

    fn forget(&mut self) {
        let nobody_waits = self.is_empty();
        let now = self.virtual_time;
        self.lanes
            .retain(|lane| !lane.items.is_empty() || (lane.due > now && !nobody_waits));
    }

    /// How many such items wait in that lane.
    pub(crate) fn of_lane(&self, key: &K, such: impl Fn(&T) -> bool) -> usize {
        let own = self.lanes.iter().find(|lane| lane.key == *key);
        own.map_or(0, |lane| lane.count(such))
    }

    /// How many such items have their turn before one that joins now, of each other lane so many at most.
    pub(crate) fn ahead_of(
        &self,
        key: &K,
        such: impl Fn(&T) -> bool,
        at_most: impl Fn(&K) -> usize,
    ) -> usize {
        let own = self.lanes.iter().find(|lane| lane.key == *key);
        let place = own.map_or(0, |lane| lane.count(&such));
        let due = own.map_or(self.virtual_time, |lane| lane.due) + place as u64;
        let others = self.lanes.iter().filter(|lane| lane.key != *key);
        let before = others.map(|lane| {
            let earlier = usize::try_from((due + 1).saturating_sub(lane.due));
            let earlier = earlier.unwrap_or(usize::MAX).min(at_most(&lane.key));
            lane.count(&such).min(earlier)
        });
        place + before.sum::<usize>()
    }

    /// Makes room for an item of that lane: gives back the last item of the longest
    /// lane, or nothing where no lane is longer than its own would become.
    pub(crate) fn displace_for(&mut self, key: &K) -> Option<T> {
        let length = |lane: &Lane<K, T>| lane.items.len();
        let own = self.lanes.iter().find(|lane| lane.key == *key);
        let becomes = own.map_or(1, |lane| length(lane) + 1);
        let longest = self.lanes.iter_mut().max_by_key(|lane| length(lane))?;
        // It keeps an item at least, since it is longer than a lane with one.
        (length(longest) > becomes)
            .then(|| longest.items.pop_back())
            .flatten()
            .map(|(_, item)| item)
    }
}

impl<K, T> Lane<K, T> {
    fn count(&self, such: impl Fn(&T) -> bool) -> usize {
        self.items.iter().filter(|(_, item)| such(item)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Nobody has to wait.
    fn pop<K: PartialEq, T>(queue: &mut FairQueue<K, T>) -> Option<T> {
        queue.pop_if(|_| true)
    }

    #[test]
    fn a_late_lane_is_next_however_long_another_is() {
        let mut queue = FairQueue::default();
        for at in 0..500 {
            queue.push("poller", at);
        }
        for at in 0..100 {
            assert_eq!(pop(&mut queue), Some(at));
        }
        assert!(queue.ahead_of(&"ana", |_| true, |_| 500) <= 1);
        queue.push("ana", 1000);
        queue.push("beto", 2000);
        let next: Vec<_> = (0..4).filter_map(|_| pop(&mut queue)).collect();
        assert!(next.contains(&1000) && next.contains(&2000), "{next:?}");
    }

    #[test]
    fn lanes_take_turns() {
        let mut queue = FairQueue::default();
        for at in 0..3 {
            queue.push("a", ("a", at));
        }
        for at in 0..3 {
            queue.push("b", ("b", at));
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(
            order,
            [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn one_at_a_time_is_not_a_way_past_the_others() {
        let mut queue = FairQueue::default();
        queue.push("a", "a");
        queue.push("a", "a");
        assert_eq!(pop(&mut queue), Some("a"));
        let mut before = 0;
        loop {
            queue.push("b", "b");
            match pop(&mut queue) {
                Some("b") => before += 1,
                _ => break,
            }
        }
        assert!(before <= 2, "{before}");
    }

    #[test]
    fn who_leaves_a_long_lane_owes_nothing() {
        let mut queue = FairQueue::default();
        let tickets: Vec<_> = (0..100).map(|at| queue.push("a", at)).collect();
        for ticket in tickets {
            assert!(queue.remove(ticket).is_some());
            assert!(queue.remove(ticket).is_none());
        }
        queue.push("b", 1);
        queue.push("a", 2);
        assert_eq!(pop(&mut queue), Some(1));
        assert_eq!(pop(&mut queue), Some(2));
    }

    #[test]
    fn room_is_made_at_the_cost_of_the_longest_lane() {
        let mut queue = FairQueue::default();
        for at in 0..3 {
            queue.push("poller", at);
        }
        assert_eq!(queue.displace_for(&"poller"), None);
        assert_eq!(queue.displace_for(&"ana"), Some(2));
        assert_eq!(queue.displace_for(&"ana"), Some(1));
        assert_eq!(queue.displace_for(&"ana"), None, "one each is fair");
    }

    #[test]
    fn who_has_to_wait_keeps_its_turn() {
        let mut queue = FairQueue::default();
        queue.push("a", 10);
        queue.push("b", 1);
        queue.push("a", 2);
        let small = |item: &i32| *item < 10;
        assert_eq!(queue.pop_if(small), None, "nobody passes it");
        assert_eq!(queue.len(), 3);
        assert_eq!(pop(&mut queue), Some(10));
        assert_eq!(queue.pop_if(small), Some(1));
        assert_eq!(queue.pop_if(small), Some(2));
    }

    #[test]
    fn who_may_not_go_is_passed_and_then_next() {
        let mut queue = FairQueue::default();
        for item in [10, 11, 12, 1] {
            queue.push("a", item);
        }
        for item in 2..8 {
            queue.push("b", item);
        }
        let small = |_: &&str, item: &i32| *item < 10;
        let passed: Vec<_> = std::iter::from_fn(|| queue.pop_passing(small)).collect();
        let order = [
            ("a", 1),
            ("b", 2),
            ("b", 3),
            ("b", 4),
            ("b", 5),
            ("b", 6),
            ("b", 7),
        ];
        assert_eq!(passed, order, "in its own lane too");
        queue.push("b", 8);
        queue.push("b", 9);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_passing(|_, _| true)).collect();
        // Six turns were given while `a` couldn't take one, and it isn't owed six.
        assert_eq!(order, [("a", 10), ("a", 11), ("b", 8), ("a", 12), ("b", 9)]);
    }

    #[test]
    fn what_is_ahead_is_counted_by_what_may_go() {
        let mut queue = FairQueue::default();
        for item in [1, 10, 11, 12] {
            queue.push("a", item);
        }
        queue.push("b", 2);
        let large = |item: &i32| *item >= 10;
        assert_eq!(queue.of_lane(&"a", large), 3);
        assert_eq!(queue.of_lane(&"c", large), 0);
        assert_eq!(queue.ahead_of(&"a", large, |_| 9), 3);
        assert_eq!(queue.ahead_of(&"b", large, |_| 9), 1);
        assert_eq!(queue.ahead_of(&"b", large, |_| 0), 0);
        assert_eq!(queue.ahead_of(&"c", |item| !large(item), |_| 9), 2);
    }

    proptest! {
        /// While a lane waits, no other lane is served more than twice before it is.
        #[test]
        fn no_lane_gets_ahead(arrivals in prop::collection::vec((0_u8..5, any::<bool>()), 1..300)) {
            let mut queue = FairQueue::default();
            let mut waiting = [0_usize; 5];
            let mut since = [[0_usize; 5]; 5];
            for (lane, serve) in arrivals {
                if serve {
                    if let Some(served) = pop(&mut queue) {
                        let served = usize::from(served);
                        waiting[served] -= 1;
                        for other in 0..5 {
                            since[other][served] = if waiting[other] > 0 && other != served {
                                since[other][served] + 1
                            } else {
                                0
                            };
                            prop_assert!(since[other][served] <= 2, "{served} before {other}");
                        }
                        since[served] = [0; 5];
                    }
                } else {
                    queue.push(lane, lane);
                    if waiting[usize::from(lane)] == 0 {
                        since[usize::from(lane)] = [0; 5];
                    }
                    waiting[usize::from(lane)] += 1;
                }
                prop_assert_eq!(queue.len(), waiting.iter().sum::<usize>());
            }
        }
    }
}
