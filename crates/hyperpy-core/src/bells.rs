//! Doorbells: writes that are no more than a signal. The kernel makes an eventfd of each (kernel api.rst 4.59, KVM_IOEVENTFD), so
//! that they cost no exit; a thread of the machine's calls their devices while it runs (`machine/bells.rs`).
//!
//! Who reads an eventfd's count has its rings, all of them as one, and calls the device: that thread, or a vCPU that leaves its
//! round, so that none waits while the machine stands still. Where the kernel takes no doorbell, its writes are exits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::accel::Vm;
use crate::bus::{Access, Action, BellAt, Device, RegionId, Space, Spot};
use crate::control::POLL;
use crate::machine::Attachment;
use crate::vcpu::{Current, alone};

/// A write of a guest that is a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The bus.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// Width in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The value that is a signal; `None`: any.
    pub value: Option<u64>,
}

/// One of a device.
pub(crate) struct Bell {
    at: BellAt,
    spot: Spot,
    region: RegionId,
    /// Another one may be put there.
    device: Mutex<Arc<dyn Device>>,
    event: EventFd,
}

impl Bell {
    fn doorbell(&self) -> Doorbell {
        let BellAt { offset, size, value } = self.at;
        Doorbell { space: self.spot.space, address: self.spot.base.saturating_add(offset), size, value }
    }

    fn is_of(&self, place: Attachment) -> bool {
        (self.spot.space, self.region) == (place.space, place.region)
    }

    /// Which region it is of.
    pub(crate) fn place(&self) -> Attachment {
        Attachment { space: self.spot.space, region: self.region }
    }

    /// Has the device told of writes that it keeps, as if all had been made by way of this.
    pub(crate) fn flush(&self, asked: &dyn Fn(u32, Action)) {
        let device = self.device();
        let (_, origin) = device.origin();
        let spot = Spot { base: self.spot.base.wrapping_sub(origin), ..self.spot };
        if device.has_late() {
            device.flush(usize::MAX, &|_| spot, asked);
        }
    }

    fn device(&self) -> Arc<dyn Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls the device if it was rung since the last time, after `before`; what that asks for.
    pub(crate) fn serve(&self, before: impl FnOnce()) -> Action {
        let Ok(times) = self.event.read() else {
            return Action::Continue; // someone else has
        };
        // Now, so that it finds what was written before any of these rings.
        before();
        let current = Current {
            machine: self.spot.machine,
            vcpu: Current::NO_VCPU,
            rip: Current::NO_RIP,
            space: Some(self.spot.space),
            address: self.doorbell().address,
            size: self.at.size,
            is_write: true,
        };
        let at = Access { offset: self.at.offset, size: self.at.size, vcpu: Current::NO_VCPU };
        alone(current, || self.device().rung(at, self.at.value.unwrap_or_default(), times))
    }
}

/// How long after a ring the thread looks for the next one before it sleeps: to be woken costs the vCPU that rings ten times
/// as much as the ring.
const AWAKE: Duration = Duration::from_micros(50);

/// What waits for rings.
struct Poll {
    epoll: Epoll,
    /// Ends the wait.
    wake: EventFd,
}

/// Of `Poll::wake`; bells are numbered from 1.
const WAKE: u64 = 0;
/// Rings that are looked at at once.
const SOME: usize = 16;

impl Poll {
    fn new() -> io::Result<Self> {
        let poll = Self { epoll: Epoll::new()?, wake: event()? };
        poll.add(&poll.wake, WAKE)?;
        Ok(poll)
    }

    fn add(&self, event: &EventFd, token: u64) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, token))
    }
}

fn event() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
}

/// The doorbells of a machine. Devices may have them before KVM's objects exist.
#[derive(Default)]
pub struct Bells {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    /// Weak: a device that outlives its machine keeps no KVM descriptor open.
    vm: Option<Weak<dyn Vm>>,
    bells: BTreeMap<u64, Arc<Bell>>,
    last: u64,
    /// Made for the first one.
    poll: Option<Arc<Poll>>,
    /// Whose device the machine's thread is calling.
    serving: Option<Attachment>,
    is_closed: bool,
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().bells.is_empty()
    }

    /// How many calls of [`Self::rung`] tell of all.
    pub(crate) fn looks(&self) -> usize {
        self.lock().bells.len().div_ceil(SOME)
    }

    /// The writes of a device that are signals from now on. Without a descriptor, and refused, they are exits.
    pub(crate) fn add(&self, bells: &[BellAt], spot: Spot, region: RegionId, device: &Arc<dyn Device>) {
        let mut state = self.lock();
        let vm = state.vm.as_ref().and_then(Weak::upgrade);
        for &at in bells {
            let Ok(event) = event() else { break };
            let bell = Arc::new(Bell { at, spot, region, device: Mutex::new(device.clone()), event });
            if state.add(&bell).is_ok()
                && let Some(vm) = &vm
            {
                let _ = vm.ring(&bell.doorbell(), &bell.event, true);
            }
        }
        drop(state); // before the VM, which may be the last reference
    }

    /// Another device stands where one is, whose rings it gets from now on.
    pub(crate) fn replace(&self, place: Attachment, device: &Arc<dyn Device>) {
        let bells: Vec<_> = self.lock().bells.values().filter(|bell| bell.is_of(place)).cloned().collect();
        for bell in bells {
            let before = {
                let mut held = bell.device.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *held, device.clone())
            };
            drop(before); // it may be Python's
        }
    }

    /// Those of a device are exits again. Its rings that nobody has served yet are for the caller, who has it still.
    pub(crate) fn remove(&self, place: Attachment) -> Vec<Arc<Bell>> {
        let mut state = self.lock();
        let vm = state.vm.as_ref().and_then(Weak::upgrade);
        let tokens: Vec<_> =
            state.bells.iter().filter(|(_, bell)| bell.is_of(place)).map(|(token, _)| *token).collect();
        let gone: Vec<_> = tokens.iter().filter_map(|token| state.bells.remove(token)).collect();
        for bell in &gone {
            if let Some(vm) = &vm {
                let _ = vm.ring(&bell.doorbell(), &bell.event, false);
            }
            if let Some(poll) = &state.poll {
                let _ = poll.epoll.ctl(ControlOperation::Delete, bell.event.as_raw_fd(), EpollEvent::default());
            }
        }
        drop((state, vm)); // in this order
        gone
    }

    /// Returns when the machine's thread has left a device that was removed; false if `is_wanted` says that this thread is.
    pub(crate) fn wait_until_left(&self, place: Attachment, is_wanted: impl Fn() -> bool) -> bool {
        let mut state = self.lock();
        while state.serving == Some(place) {
            state = self.returned.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
            drop(state);
            if is_wanted() {
                return false;
            }
            state = self.lock();
        }
        true
    }

    /// The VM exists from now on.
    pub(crate) fn connect(&self, vm: &Arc<dyn Vm>) {
        let mut state = self.lock();
        for bell in state.bells.values() {
            let _ = vm.ring(&bell.doorbell(), &bell.event, true);
        }
        state.vm = Some(Arc::downgrade(vm));
    }

    /// There is no VM until the next [`Self::connect`], and nothing has rung.
    pub(crate) fn reset(&self) {
        self.lock().vm = None;
        self.forget();
    }

    /// Nothing has rung.
    pub(crate) fn forget(&self) {
        for bell in self.lock().bells.values() {
            let _ = bell.event.read();
        }
    }

    /// Nobody waits for rings any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if let Some(poll) = &state.poll {
            let _ = poll.wake.write(1);
        }
    }

    /// Gives descriptors and devices back.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let gone = (std::mem::take(&mut state.bells), state.poll.take());
        drop((state, gone)); // in this order: devices may be Python's
    }

    /// Waits for rings. False: the machine closes, or has no doorbell yet.
    pub(crate) fn wait(&self) -> bool {
        let state = self.lock();
        let Some(poll) = state.poll.clone().filter(|_| !state.is_closed) else { return false };
        drop(state);
        let until = Instant::now() + AWAKE;
        loop {
            let patience = if Instant::now() < until { 0 } else { -1 };
            match poll.epoll.wait(patience, &mut [EpollEvent::default(); SOME]) {
                Ok(1..) => break,
                Ok(_) => std::thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        !self.lock().is_closed
    }

    /// Doorbells that have rung, some of them.
    pub(crate) fn rung(&self) -> Vec<Arc<Bell>> {
        let mut events = [EpollEvent::default(); SOME];
        let state = self.lock();
        let count = state.poll.as_ref().map_or(0, |poll| poll.epoll.wait(0, &mut events).unwrap_or(0));
        let of = |event: &EpollEvent| state.bells.get(&event.data()).cloned();
        events.iter().take(count).filter_map(of).collect()
    }

    /// The machine's thread calls the device of a bell, unless it was removed meanwhile; `None`: it calls no more.
    pub(crate) fn serves(&self, bell: Option<&Bell>) -> bool {
        let mut state = self.lock();
        let place = bell.map(Bell::place).filter(|&place| state.bells.values().any(|other| other.is_of(place)));
        state.serving = place;
        drop(state);
        self.returned.notify_all();
        place.is_some()
    }
}

impl State {
    fn add(&mut self, bell: &Arc<Bell>) -> io::Result<()> {
        if self.is_closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let poll = match &self.poll {
            Some(poll) => poll.clone(),
            None => self.poll.insert(Arc::new(Poll::new()?)).clone(),
        };
        let token = self.last + 1;
        poll.add(&bell.event, token)?;
        self.last = token;
        self.bells.insert(token, bell.clone());
        Ok(())
    }
}

impl std::fmt::Debug for Bells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bells({})", self.lock().bells.len())
    }
}
