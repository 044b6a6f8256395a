//! What a device was asked, what it answered and did, and when: kept so that the same can be asked of it again.
//!
//! A [`Recorder`] stands before a device where it is on a bus ([`Recorded`], put there by
//! [`Machine::replace`](crate::machine::Machine::replace)): one that is not recorded costs nothing. While a recorded access or timer is served, the clock stands still for the thread
//! that serves it ([`Clock::hold`]), so that whatever the device reads off it is the moment that is kept. What the device does
//! meanwhile to its lines and to guest memory is kept with it, in order ([`Deed`]). What fits is kept from the
//! beginning on: it can be played from the state there, which the last part of it could not.

mod deed;
mod device;

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::deed::{Deed, Moved, Wire};
pub use self::device::Recorded;
pub(crate) use self::device::{told, waits};
use crate::bus::Action;
use crate::clock::{Clock, Fired, Held};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A guest read so much at this offset, and got the value.
    Read {
        /// Bytes from the start of the device's range.
        offset: u64,
        /// Width in bytes, 1 to 8.
        size: u8,
        /// What it got.
        value: u64,
    },
    /// A guest wrote.
    Write {
        /// Bytes from the start of the device's range.
        offset: u64,
        /// Width in bytes, 1 to 8.
        size: u8,
        /// What it wrote.
        value: u64,
        /// The device's method is told later.
        waits: bool,
    },
    /// The device's method was told of a write that had waited: with which value.
    Told {
        /// Bytes from the start of the device's range.
        offset: u64,
        /// Width in bytes, 1 to 8.
        size: u8,
        /// What the method got.
        value: u64,
    },
    /// A timer of the device fired.
    Timer {
        /// When it was due.
        deadline: u64,
    },
    /// The device did something elsewhere than in the above, such as on a thread of its own: one [`Deed`].
    Deed,
    /// The machine's reset button was pressed.
    Reset,
}

/// One thing that happened, in the order in which they began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the machine's clock.
    pub ns: u64,
    /// The vCPU of an access.
    pub vcpu: u32,
    /// What it was.
    pub what: What,
    is_over: bool,
    more: Option<Box<More>>,
}

/// What few events have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    deeds: Vec<Deed>,
    raised: Option<String>,
    asked: Option<Action>,
}

impl Event {
    fn new(ns: u64, vcpu: u32, what: What) -> Self {
        Self { ns, vcpu, what, is_over: false, more: None }
    }

    /// What the device did meanwhile, in order.
    #[must_use]
    pub fn deeds(&self) -> &[Deed] {
        self.more.as_ref().map_or(&[], |more| &more.deeds)
    }

    /// What a method of the device raised: a name.
    #[must_use]
    pub fn raised(&self) -> Option<&str> {
        self.more.as_ref()?.raised.as_deref()
    }

    /// What a write asked for beside going on.
    #[must_use]
    pub fn asked(&self) -> Option<&Action> {
        self.more.as_ref()?.asked.as_ref()
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// Events and deeds, by what they take up.
    kept: usize,
    /// What was not kept.
    lost: u64,
    /// The first event that is not all there.
    cut: Option<usize>,
    /// The moment of the last event: none is told of an earlier one.
    last: u64,
    wires: Vec<Wire>,
    is_stopped: bool,
}

impl State {
    /// Whether one more, that takes up so much, is kept. After one that is not, none is: a gap could not be played.
    fn has_room(&mut self, limit: usize, cost: usize) -> bool {
        let after = self.kept.saturating_add(cost);
        let is_full = self.lost > 0 || after > limit || self.events.try_reserve(1).is_err();
        if is_full {
            self.lost = self.lost.saturating_add(1);
        } else {
            self.kept = after;
        }
        !is_full
    }

    fn moment(&mut self, now: u64) -> u64 {
        self.last = self.last.max(now);
        self.last
    }
}

/// Keeps what happens to one device.
#[derive(Debug)]
pub struct Recorder {
    clock: Arc<Clock>,
    limit: usize,
    state: Mutex<State>,
}

thread_local! {
    /// What this thread serves: whose event, and which.
    static SERVING: RefCell<Option<(Arc<Recorder>, usize)>> = const { RefCell::new(None) };
}

impl Recorder {
    /// Keeps up to `limit` events and deeds, as [`Deed::cost`] counts them; of a device with these lines, which deeds name by
    /// their number.
    #[must_use]
    pub fn new(clock: Arc<Clock>, limit: usize, wires: Vec<Wire>) -> Arc<Self> {
        Arc::new(Self { clock, limit, state: Mutex::new(State { wires, ..State::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps nothing from now on.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
    }

    /// What was kept, from the event of this number on, and how many events were not: beyond the limit, and from one on that
    /// has not ended. What was given once stays as it is.
    #[must_use]
    pub fn events(&self, from: usize) -> (Vec<Event>, u64) {
        let state = self.lock();
        let whole = state.events.iter().take(state.cut.unwrap_or(usize::MAX)).take_while(|event| event.is_over);
        let events: Vec<_> = whole.skip(from).cloned().collect();
        let left_out = state.events.len().saturating_sub(from.saturating_add(events.len()));
        (events, state.lost.saturating_add(left_out as u64))
    }

    /// The event that this thread serves.
    fn serving(&self) -> Option<usize> {
        SERVING.with_borrow(|serving| {
            serving.as_ref().filter(|(whose, _)| std::ptr::eq(Arc::as_ptr(whose), self)).map(|(_, index)| *index)
        })
    }

    /// Serves an access under the lock, if `serve` does it and so says what it was: that calls nobody.
    fn quick<T>(&self, vcpu: u32, serve: impl FnOnce() -> Option<(T, What)>) -> Option<T> {
        let is_inner = self.serving().is_some();
        let mut state = self.lock();
        let ns = state.moment(self.clock.now());
        let held = self.clock.hold(ns);
        let (given, what) = serve()?;
        drop(held);
        if !state.is_stopped && !is_inner && state.has_room(self.limit, 1) {
            state.events.push(Event { is_over: true, ..Event::new(ns, vcpu, what) });
        }
        Some(given)
    }

    /// Something begins that is served by the device's own code, on this thread and until the result is dropped. What happens
    /// inside of another event comes of that one.
    fn begin(self: &Arc<Self>, now: u64, vcpu: u32, what: What) -> Option<Serving<'_>> {
        if self.serving().is_some() {
            return None;
        }
        let mut state = self.lock();
        if what == What::Reset {
            state.last = 0;
            state.wires.iter_mut().for_each(|wire| wire.is_high = false);
        }
        let ns = state.moment(now);
        if state.is_stopped || !state.has_room(self.limit, 1) {
            return None;
        }
        state.events.push(Event::new(ns, vcpu, what));
        let index = state.events.len() - 1;
        drop(state);
        let outer = SERVING.replace(Some((self.clone(), index)));
        Some(Serving { recorder: self, index, outer, _held: self.clock.hold(ns) })
    }

    /// A timer of the device fires, until the result is ended.
    pub fn timer(self: &Arc<Self>, fired: Fired) -> Option<Serving<'_>> {
        self.begin(fired.now, 0, What::Timer { deadline: fired.deadline })
    }

    /// An interrupt line of the device is driven.
    pub fn line(&self, wire: usize, high: bool) {
        let (now, serving) = (self.clock.now(), self.serving());
        let mut state = self.lock();
        let is_inside = serving.is_some();
        if let Some(deed) = state.wires.get_mut(wire).and_then(|it| it.driven(wire, high, is_inside)) {
            self.add(&mut state, now, serving, deed);
        }
    }

    /// The device did something else.
    pub fn did(&self, deed: Deed) {
        let (now, serving) = (self.clock.now(), self.serving());
        self.add(&mut self.lock(), now, serving, deed);
    }

    /// The device did something that there is no memory for: as beyond the limit.
    pub fn end_full(&self) {
        let serving = self.serving();
        let mut state = self.lock();
        if !state.is_stopped {
            state.lost = state.lost.saturating_add(1);
            if let Some(index) = serving {
                state.cut = Some(state.cut.map_or(index, |cut| cut.min(index)));
            }
        }
    }

    /// Keeps a deed: with the event that this thread serves, or alone.
    fn add(&self, state: &mut State, now: u64, serving: Option<usize>, deed: Deed) {
        if state.is_stopped {
            return;
        }
        let has_room = state.has_room(self.limit, deed.cost());
        match serving {
            Some(index) if has_room => {
                if let Some(event) = state.events.get_mut(index) {
                    event.more().deeds.push(deed);
                }
            }
            Some(index) => state.cut = Some(state.cut.map_or(index, |cut| cut.min(index))),
            None if has_room => {
                let ns = state.moment(now);
                let mut event = Event { is_over: true, ..Event::new(ns, 0, What::Deed) };
                event.more().deeds.push(deed);
                state.events.push(event);
            }
            None => {}
        }
    }
}

/// A method of a device raised something, on the thread that served what led there.
pub fn raised(name: &str) {
    SERVING.with_borrow(|serving| {
        let Some((recorder, index)) = serving else { return };
        if let Some(event) = recorder.lock().events.get_mut(*index) {
            event.more().raised.get_or_insert_with(|| name.to_owned());
        }
    });
}

/// Until it is dropped, what this thread does belongs to an event.
pub struct Serving<'a> {
    recorder: &'a Recorder,
    index: usize,
    outer: Option<(Arc<Recorder>, usize)>,
    _held: Held<'a>,
}

impl Serving<'_> {
    /// The event has ended, and asks for this. One that is only dropped has not.
    pub fn end(self, asked: Option<Action>) {
        self.end_as(asked, |_| ());
    }

    fn end_as(self, asked: Option<Action>, note: impl FnOnce(&mut Event)) {
        if let Some(event) = self.recorder.lock().events.get_mut(self.index) {
            event.is_over = true;
            note(event);
            if let Some(asked) = asked.filter(|asked| *asked != Action::Continue) {
                event.more().asked = Some(asked);
            }
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mine = SERVING.replace(self.outer.take());
        drop(mine);
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
