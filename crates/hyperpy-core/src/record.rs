//! What a device was asked, what it answered and did, and when: kept so that the same can be asked of it again.
//!
//! A [`Recorder`] stands before a device where it is on a bus ([`Recorded`], put there by
//! [`Machine::replace`](crate::machine::Machine::replace)): one that is not recorded costs nothing. While a recorded access or timer is served, the clock stands still for the thread
//! that serves it ([`Clock::hold`]), so that whatever the device reads off it is the moment that is kept. What fits is kept from the
//! beginning on: it can be played from the state there, which the last part of it could not.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::{Access, Action, Device, Shortcuts, Spot};
use crate::clock::{Clock, Fired, Held};
use crate::names::Names;

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
    },
    /// A timer of the device fired.
    Timer {
        /// When it was due.
        deadline: u64,
    },
    /// Something else than the device's serving of the above drove its interrupt line.
    Line {
        /// Asserted.
        high: bool,
    },
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
    lines: Vec<bool>,
    raised: Option<String>,
    asked: Option<Action>,
}

impl Event {
    fn new(ns: u64, vcpu: u32, what: What) -> Self {
        Self { ns, vcpu, what, is_over: false, more: None }
    }

    /// How the device's interrupt line changed meanwhile: true where it was asserted.
    #[must_use]
    pub fn lines(&self) -> &[bool] {
        self.more.as_ref().map_or(&[], |more| &more.lines)
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
    /// Events and changes of the line.
    kept: usize,
    /// What was not kept.
    lost: u64,
    /// The first event that is not all there.
    cut: Option<usize>,
    /// The moment of the last event: none is told of an earlier one.
    last: u64,
    is_high: bool,
    is_stopped: bool,
}

impl State {
    /// Whether one more is kept. After one that is not, none is: a gap could not be played.
    fn has_room(&mut self, limit: usize) -> bool {
        let is_full = self.lost > 0 || self.kept >= limit || self.events.try_reserve(1).is_err();
        if is_full {
            self.lost = self.lost.saturating_add(1);
        } else {
            self.kept += 1;
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
    /// Keeps up to `limit` events and changes of the interrupt line, which is as it is told here.
    #[must_use]
    pub fn new(clock: Arc<Clock>, limit: usize, is_high: bool) -> Arc<Self> {
        Arc::new(Self { clock, limit, state: Mutex::new(State { is_high, ..State::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps nothing from now on.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
    }

    /// What was kept, and how many events were not: beyond the limit, and from one on that has not ended.
    #[must_use]
    pub fn events(&self) -> (Vec<Event>, u64) {
        let state = self.lock();
        let whole = state.events.iter().take(state.cut.unwrap_or(usize::MAX)).take_while(|event| event.is_over);
        let events: Vec<_> = whole.cloned().collect();
        let left_out = state.events.len() - events.len();
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
        if !state.is_stopped && !is_inner && state.has_room(self.limit) {
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
            (state.last, state.is_high) = (0, false);
        }
        let ns = state.moment(now);
        if state.is_stopped || !state.has_room(self.limit) {
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

    /// The device's interrupt line is driven.
    pub fn line(&self, high: bool) {
        let (now, serving) = (self.clock.now(), self.serving());
        let mut state = self.lock();
        if state.is_stopped || std::mem::replace(&mut state.is_high, high) == high {
            return;
        }
        let has_room = state.has_room(self.limit);
        match serving {
            Some(index) if has_room => {
                if let Some(event) = state.events.get_mut(index) {
                    event.more().lines.push(high);
                }
            }
            Some(index) => state.cut = Some(state.cut.map_or(index, |cut| cut.min(index))),
            None if has_room => {
                let ns = state.moment(now);
                state.events.push(Event { is_over: true, ..Event::new(ns, 0, What::Line { high }) });
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
        self.end_as(|event| {
            if let Some(asked) = asked.filter(|asked| *asked != Action::Continue) {
                event.more().asked = Some(asked);
            }
        });
    }

    fn end_as(self, note: impl FnOnce(&mut Event)) {
        if let Some(event) = self.recorder.lock().events.get_mut(self.index) {
            event.is_over = true;
            note(event);
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mine = SERVING.replace(self.outer.take());
        drop(mine);
    }
}

/// A device whose traffic is kept. It is to be put where the device itself is.
pub struct Recorded {
    /// The device itself.
    pub inner: Arc<dyn Device>,
    /// What keeps it.
    pub recorder: Arc<Recorder>,
}

impl Recorded {
    fn begin(&self, vcpu: u32, what: What) -> Option<Serving<'_>> {
        self.recorder.begin(self.recorder.clock.now(), vcpu, what)
    }
}

impl Device for Recorded {
    fn quick_read(&self, at: Access) -> Option<u64> {
        let Access { offset, size, vcpu } = at;
        self.recorder.quick(vcpu, || {
            let value = self.inner.quick_read(at)?;
            Some((value, What::Read { offset, size, value: value & at.ones() }))
        })
    }

    fn quick_write(&self, at: Access, value: u64) -> bool {
        let Access { offset, size, vcpu } = at;
        let serve = || {
            self.inner.quick_write(at, value).then_some(((), What::Write { offset, size, value: value & at.ones() }))
        };
        self.recorder.quick(vcpu, serve).is_some()
    }

    fn read(&self, at: Access) -> u64 {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Read { offset, size, value: 0 });
        let value = self.inner.read(at);
        if let Some(serving) = serving {
            serving.end_as(|event| event.what = What::Read { offset, size, value: value & at.ones() });
        }
        value
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Write { offset, size, value: value & at.ones() });
        let action = self.inner.write(at, value);
        if let Some(serving) = serving {
            serving.end(Some(action.clone()));
        }
        action
    }

    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Write { offset, size, value: value & at.ones() });
        let action = self.inner.rung(at, value, times);
        if let Some(serving) = serving {
            serving.end(Some(action.clone()));
        }
        action
    }

    fn shortcuts(&self) -> Shortcuts {
        self.inner.shortcuts()
    }

    fn defer(&self, at: Access, value: u64) -> Action {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Write { offset, size, value: value & at.ones() });
        let action = self.inner.defer(at, value);
        if let Some(serving) = serving {
            serving.end(Some(action.clone()));
        }
        action
    }

    fn has_late(&self) -> bool {
        self.inner.has_late()
    }

    fn flush(&self, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        self.inner.flush(spot, asked);
    }

    fn origin(&self) -> (usize, u64) {
        self.inner.origin()
    }

    fn reset(&self) {
        let serving = self.begin(0, What::Reset);
        self.inner.reset();
        if let Some(serving) = serving {
            serving.end(None);
        }
    }

    fn identity(&self) -> Option<usize> {
        // Several of these may stand for one device.
        self.inner.identity().or_else(|| Some(Arc::as_ptr(&self.inner).cast::<()>() as usize))
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        self.inner.names()
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
