//! The timers of a clock, by deadline and then by creation; and those that a snapshot has, which stay while it lives, so that
//! they can be set again with what they call.
//!
//! A timer has a slot for its life. Those that are set are in a heap of slots, and each knows its place there, so that setting one,
//! taking one off and putting all back is done in place. What a timer calls belongs to its slot and to nothing else: whoever
//! looks for references finds each one once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::kept::KeptTimer;
use super::timers::{Callback, Due, Fired, Shared, Timer, following};

/// Not in the heap.
const NOWHERE: usize = usize::MAX;

struct Entry {
    timer: Timer,
    /// 0: it fires once.
    period: u64,
    owner: u64,
    callback: Arc<dyn Callback>,
    /// Place in the heap.
    at: usize,
    /// How many snapshots have it.
    kept: usize,
}

/// A slot of the heap: by deadline, then by id.
type Place = (u64, u64, usize);

/// Timers that were taken off, for their callbacks to be dropped without a lock.
pub(super) type Off = Vec<Arc<dyn Callback>>;

/// The timers of a clock.
#[derive(Default)]
pub(super) struct Queue {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Those that are set: each one's place is not before that of its parent, which is at half its index.
    heap: Vec<Place>,
    /// Room for [`Off`], so that putting timers back allocates nothing.
    room: Off,
    /// What timers of the machine that this one is a copy of are here: number there, and here.
    carried: Vec<(u64, Timer)>,
    pub(super) is_closed: bool,
    /// Whose callback runs on the machine's thread.
    pub(super) firing: Option<u64>,
    /// Owners whose callbacks somebody waits for: none of theirs fires meanwhile.
    pub(super) barred: Vec<u64>,
}

impl Queue {
    /// Sets a timer.
    pub(super) fn arm(
        &mut self,
        id: u64,
        deadline: u64,
        period: u64,
        owner: u64,
        callback: Arc<dyn Callback>,
    ) -> Timer {
        let slot = self.free.pop().unwrap_or(self.entries.len());
        let timer = Timer(Arc::new(Shared::new(id, deadline, slot)));
        let entry = Some(Entry { timer: timer.clone(), period, owner, callback, at: NOWHERE, kept: 0 });
        match self.entries.get_mut(slot) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
        self.set(slot, deadline);
        timer
    }

    /// Takes a timer off; whether it was set, and its callback if nobody else has it.
    pub(super) fn remove(&mut self, timer: &Timer) -> (bool, Option<Arc<dyn Callback>>) {
        let slot = timer.0.slot;
        let was_set = self.entry(slot, timer.id()).is_some_and(|entry| entry.at != NOWHERE);
        (was_set, if was_set { self.unset(slot) } else { None })
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.heap.first().map(|place| place.0)
    }

    /// How many are set.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The next timer that is due at `until`, and whose it is. One that fires again is set again.
    pub(super) fn pop(&mut self, now: u64, until: u64) -> Option<(Due, u64)> {
        let &(deadline, id, slot) = self.heap.first().filter(|place| place.0 <= until)?;
        let entry = self.entry(slot, id)?;
        let (callback, owner, period) = (entry.callback.clone(), entry.owner, entry.period);
        let now = now.max(deadline);
        let next = (period > 0).then(|| following(deadline, period, now)).flatten();
        if let Some(next) = next {
            self.set(slot, next);
        } else {
            drop(self.unset(slot)); // there is another reference
        }
        Some((Due { callback, fired: Fired { deadline, now, is_last: next.is_none() } }, owner))
    }

    /// Takes off all of an owner.
    pub(super) fn take(&mut self, owner: u64) -> Off {
        let mine =
            |place: &&Place| self.entries.get(place.2).and_then(Option::as_ref).is_some_and(|it| it.owner == owner);
        let slots: Vec<_> = self.heap.iter().filter(mine).map(|place| place.2).collect();
        slots.into_iter().filter_map(|slot| self.unset(slot)).collect()
    }

    /// Takes off all.
    pub(super) fn clear(&mut self) -> Off {
        self.restore(&[]);
        self.take_room()
    }

    /// Takes off all, and forgets those that snapshots have.
    pub(super) fn forget(&mut self) -> Off {
        let mut off = self.clear();
        off.extend(self.entries.drain(..).flatten().map(|entry| entry.callback));
        self.free.clear();
        off
    }

    /// Calls `visitor` with every callback.
    pub(super) fn visit(&self, visitor: &mut dyn FnMut(&dyn Callback)) {
        self.entries.iter().flatten().for_each(|entry| visitor(&*entry.callback));
    }

    /// What the timers that are set are, in order; each is one that a snapshot has from now on.
    pub(super) fn keep(&mut self) -> Vec<KeptTimer> {
        let mut places = self.heap.clone();
        places.sort_unstable();
        let mut keep = |&(deadline, id, slot): &Place| {
            let entry = self.entries.get_mut(slot)?.as_mut()?;
            entry.kept += 1;
            Some(KeptTimer { id, deadline, period: entry.period, owner: entry.owner, slot })
        };
        places.iter().filter_map(&mut keep).collect()
    }

    /// Sets these and no others. What is no more has its callback in what [`Self::take_room`] gives.
    pub(super) fn restore(&mut self, timers: &[KeptTimer]) {
        let mut off = std::mem::take(&mut self.room);
        let mut heap = std::mem::take(&mut self.heap);
        for (_, _, slot) in heap.drain(..) {
            self.rest(slot, &mut off);
        }
        (self.heap, self.room) = (heap, off);
        for timer in timers {
            if let Some(entry) = self.entry_mut(timer.slot, timer.id) {
                entry.period = timer.period;
                self.set(timer.slot, timer.deadline);
            }
        }
    }

    /// A timer that is out of the heap is off, and gone unless a snapshot has it.
    fn rest(&mut self, slot: usize, off: &mut Off) {
        let Some(place) = self.entries.get_mut(slot) else { return };
        let Some(entry) = place else { return };
        entry.at = NOWHERE;
        entry.timer.0.is_active.store(false, Ordering::Release);
        if entry.kept == 0 {
            off.extend(place.take().map(|entry| entry.callback));
            self.free.push(slot);
        }
    }

    /// Callbacks to be dropped without a lock, in a room that is to be given back empty.
    pub(super) fn take_room(&mut self) -> Off {
        std::mem::take(&mut self.room)
    }

    /// Gives it back.
    pub(super) fn give_room(&mut self, room: Off) {
        if self.room.is_empty() {
            self.room = room;
        }
    }

    /// A snapshot that had these is gone.
    pub(super) fn release(&mut self, timers: &[KeptTimer]) -> Off {
        let mut off = Off::new();
        for timer in timers {
            let Some(entry) = self.entry_mut(timer.slot, timer.id) else { continue };
            entry.kept = entry.kept.saturating_sub(1);
            if entry.at == NOWHERE {
                self.rest(timer.slot, &mut off);
            }
        }
        off
    }

    /// What a timer calls.
    pub(super) fn callback(&self, timer: &KeptTimer) -> Option<&Arc<dyn Callback>> {
        self.entry(timer.slot, timer.id).map(|entry| &entry.callback)
    }

    /// A timer by its number, here or in the machine that this one is a copy of.
    pub(super) fn find(&self, id: u64) -> Option<Timer> {
        let carried = self.carried.iter().find(|(number, _)| *number == id).map(|(_, timer)| timer);
        let mine = || self.entries.iter().flatten().map(|entry| &entry.timer).find(|timer| timer.id() == id);
        carried.or_else(mine).cloned()
    }

    /// That timer of the other machine is this one here.
    pub(super) fn carry(&mut self, id: u64, timer: &Timer) {
        self.carried.push((id, timer.clone()));
    }

    fn entry(&self, slot: usize, id: u64) -> Option<&Entry> {
        self.entries.get(slot)?.as_ref().filter(|entry| entry.timer.id() == id)
    }

    fn entry_mut(&mut self, slot: usize, id: u64) -> Option<&mut Entry> {
        self.entries.get_mut(slot)?.as_mut().filter(|entry| entry.timer.id() == id)
    }

    /// Takes a timer out of the heap.
    fn unset(&mut self, slot: usize) -> Option<Arc<dyn Callback>> {
        let at = self.entries.get(slot)?.as_ref()?.at;
        if at < self.heap.len() {
            self.heap.swap_remove(at);
            if at < self.heap.len() {
                self.settle(at);
            }
        }
        let mut off = std::mem::take(&mut self.room);
        self.rest(slot, &mut off);
        let callback = off.pop();
        self.room = off;
        callback
    }

    /// Puts a timer into the heap, or to where it belongs by its new deadline.
    fn set(&mut self, slot: usize, deadline: u64) {
        let Some(entry) = self.entries.get_mut(slot).and_then(Option::as_mut) else { return };
        entry.timer.0.deadline.store(deadline, Ordering::Release);
        entry.timer.0.is_active.store(true, Ordering::Release);
        let (place, at) = ((deadline, entry.timer.id(), slot), entry.at);
        let at = match self.heap.get_mut(at) {
            Some(old) => {
                *old = place;
                at
            }
            None => {
                self.heap.push(place);
                self.heap.len() - 1
            }
        };
        self.settle(at);
    }

    /// Moves what is at `at` to where it belongs.
    fn settle(&mut self, mut at: usize) {
        let before = |heap: &[Place], one: usize, two: usize| {
            heap.get(one).zip(heap.get(two)).is_some_and(|(one, two)| one < two)
        };
        while at > 0 && before(&self.heap, at, (at - 1) / 2) {
            self.heap.swap(at, (at - 1) / 2);
            self.note(at);
            at = (at - 1) / 2;
        }
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let least = if before(&self.heap, right, left) { right } else { left };
            if least >= self.heap.len() || !before(&self.heap, least, at) {
                break;
            }
            self.heap.swap(at, least);
            self.note(at);
            at = least;
        }
        self.note(at);
    }

    /// Tells a timer its place.
    fn note(&mut self, at: usize) {
        let slot = self.heap.get(at).map(|place| place.2);
        if let Some(entry) = slot.and_then(|slot| self.entries.get_mut(slot)).and_then(Option::as_mut) {
            entry.at = at;
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} timers)", self.heap.len())
    }
}
