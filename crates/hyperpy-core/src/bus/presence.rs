//! Whether a vCPU is inside a device, and in which: what `detach` waits by. The order of the two stores and the two reads that
//! makes this safe is told at [`Presence`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::{RegionId, Space};
use crate::control::POLL;

const OUTSIDE: u32 = 0;
const INSIDE: u32 = 1;
const WAITED_FOR: u32 = 2;

/// What a vCPU that is inside is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub(super) u64);

impl Place {
    /// Not told: a device that does not take long.
    pub(super) const ANY: Self = Self(0);
    /// Nothing that is attached to a bus.
    pub(crate) const ELSEWHERE: Self = Self(1);

    /// A region of a bus.
    pub(crate) fn of(space: Space, region: RegionId) -> Self {
        // Regions are numbered from 1 on each bus.
        Self(region.0 << 1 | u64::from(space == Space::Mmio))
    }
}

/// Whether a vCPU is between a bus look-up and the end of the device's answer.
///
/// The vCPU stores INSIDE and then reads the bus's generation; `detach` bumps the generation and then reads this.
/// Both are sequentially consistent, so at least one of them sees the other: a vCPU found outside can only enter
/// with the new map. In what takes its time, which is Python, it also says where it is: it is not waited for by
/// who detaches another device. That is read after the state, and taken back before the vCPU leaves, so that it is
/// never one of an earlier stay.
#[derive(Debug, Default)]
pub struct Presence {
    state: AtomicU32,
    place: AtomicU64,
    gate: Mutex<()>,
    left: Condvar,
}

impl Presence {
    /// The vCPU is about to look a device up.
    #[inline]
    pub fn enter(&self) {
        self.state.swap(INSIDE, Ordering::SeqCst);
    }

    /// The device has answered.
    #[inline]
    pub fn leave(&self) {
        if self.state.swap(OUTSIDE, Ordering::SeqCst) & WAITED_FOR != 0 {
            self.wake();
        }
    }

    /// The vCPU, which is inside, goes into this; it calls [`Self::back`] before it leaves.
    pub(crate) fn go_to(&self, place: Place) {
        self.place.store(place.0, Ordering::SeqCst);
    }

    /// It has come back.
    pub(crate) fn back(&self) {
        self.go_to(Place::ANY);
    }

    #[cold]
    fn wake(&self) {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.left.notify_all();
    }

    /// Returns once the vCPU has been outside of this at least for a moment; false if `wanted`, asked now and then, says
    /// that the waiting thread is wanted.
    pub fn wait_until_left(&self, place: Place, mut wanted: impl FnMut() -> bool) -> bool {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // The mark goes only onto a vCPU that is inside; one that left clears it and has then been outside.
            let mark = |state| (state & INSIDE != 0).then_some(state | WAITED_FOR);
            if self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, mark).is_err() {
                return true;
            }
            let now = Place(self.place.load(Ordering::SeqCst));
            if now != Place::ANY && now != place {
                return true;
            }
            let (woken, timeout) = self.left.wait_timeout(gate, POLL).unwrap_or_else(PoisonError::into_inner);
            gate = woken;
            if timeout.timed_out() {
                drop(gate);
                if wanted() {
                    return false;
                }
                gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            }
            if self.state.load(Ordering::SeqCst) & WAITED_FOR == 0 {
                return true;
            }
        }
    }
}
