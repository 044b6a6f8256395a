//! What stands before a recorded device, where it is on a bus.
//!
//! What the device is told of later (`regfile/late.rs`) is an event of its own, told by [`told`] on the thread that tells it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::{Recorder, Serving, What};
use crate::bus::{Access, Action, Device, Shortcuts, Spot};
use crate::names::Names;
use crate::snapshot::{Saved, State, StateFault};

thread_local! {
    /// Whose device this thread has write after write told to.
    static TELLING: RefCell<Option<Arc<Recorder>>> = const { RefCell::new(None) };
    /// Whether a write that this thread makes waits to be told.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// A write of this thread's waits: its device is told of it later.
#[inline]
pub(crate) fn waits() {
    WAITS.set(true);
}

/// Has this thread's device told of a write that has waited, as an event if the device is recorded.
pub(crate) fn told(at: Access, value: u64, tell: impl FnOnce() -> Action) -> Action {
    let recorder = TELLING.with_borrow(Clone::clone);
    let Access { offset, size, vcpu } = at;
    let what = What::Told { offset, size, value };
    let serving = recorder.as_ref().and_then(|recorder| recorder.begin(recorder.clock.now(), vcpu, what));
    let action = tell();
    if let Some(serving) = serving {
        serving.end(Some(action.clone()));
    }
    action
}

/// Until it is dropped, this thread tells a recorded device.
struct Telling(Option<Arc<Recorder>>);

impl Drop for Telling {
    fn drop(&mut self) {
        let mine = TELLING.replace(self.0.take());
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

    /// Keeps a write that is served at once.
    fn written(&self, at: Access, value: u64, serve: impl FnOnce() -> Action) -> Action {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Write { offset, size, value: value & at.ones(), waits: false });
        let action = serve();
        if let Some(serving) = serving {
            serving.end(Some(action.clone()));
        }
        action
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
            WAITS.set(false);
            let is_done = self.inner.quick_write(at, value);
            is_done.then(|| ((), What::Write { offset, size, value: value & at.ones(), waits: WAITS.get() }))
        };
        self.recorder.quick(vcpu, serve).is_some()
    }

    fn read(&self, at: Access) -> u64 {
        let Access { offset, size, vcpu } = at;
        let serving = self.begin(vcpu, What::Read { offset, size, value: 0 });
        let value = self.inner.read(at);
        if let Some(serving) = serving {
            serving.end_as(None, |event| event.what = What::Read { offset, size, value: value & at.ones() });
        }
        value
    }

    fn write(&self, at: Access, value: u64) -> Action {
        self.written(at, value, || self.inner.write(at, value))
    }

    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        self.written(at, value, || self.inner.rung(at, value, times))
    }

    fn shortcuts(&self) -> Shortcuts {
        self.inner.shortcuts()
    }

    fn defer(&self, at: Access, value: u64) -> Action {
        let Access { offset, size, vcpu } = at;
        let what = |waits| What::Write { offset, size, value: value & at.ones(), waits };
        let serving = self.begin(vcpu, what(false));
        WAITS.set(false);
        let action = self.inner.defer(at, value);
        if let Some(serving) = serving {
            serving.end_as(Some(action.clone()), |event| event.what = what(WAITS.get()));
        }
        action
    }

    fn has_late(&self) -> bool {
        self.inner.has_late()
    }

    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        let telling = Telling(TELLING.replace(Some(self.recorder.clone())));
        self.inner.flush(most, spot, asked);
        drop(telling);
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

    fn save(&self) -> Result<State, StateFault> {
        self.inner.save()
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.inner.check(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.inner.load(state)?;
        self.recorder.put_back();
        Ok(())
    }

    fn identity(&self) -> Option<usize> {
        // Several of these may stand for one device.
        self.inner.identity().or_else(|| Some(Arc::as_ptr(&self.inner).cast::<()>() as usize))
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        self.inner.names()
    }
}
