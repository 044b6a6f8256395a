//! Starting and stopping the vCPUs of a machine together.
//!
//! One lock, one condition variable, and a kick for each vCPU. The exit path never comes here: whoever wants a vCPU to
//! stop stores the wish under the lock and kicks; the vCPU sees KVM_RUN interrupted, looks here, and leaves. The last
//! one to leave *settles* the round: it decides what `run()` or `wait()` returns and wakes those who wait.
//!
//! The machine's states and what its program is asked are in `phase`. A round is one run of all vCPUs, numbered by its epoch: `round`
//! begins and settles it. What one vCPU does between
//! exits is in `run`, who asks vCPUs to leave and what is queued for the caller in `request`, which thread serves which vCPU
//! in `threads`, callbacks of timers beside them in `callbacks`, a moment's stand for a snapshot in `still`, and what pause and close wait
//! for in `verbs`.

mod callbacks;
mod hold;
mod phase;
mod request;
mod round;
mod still;
mod threads;
mod verbs;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use self::phase::{Host, Phase};
pub(crate) use self::still::{Before, Parked};
use crate::bells::Bells;
use crate::clock::Clock;
use crate::condvar::Condvar;
use crate::error::{RunError, StateError};
use crate::exit::{Exit, StopReason};
use crate::vcpu::Shared;

/// How often a waiting thread looks whether its host (Python) wants it.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// What `run()` or `wait()` will return.
pub type Outcome = Result<Exit, RunError>;

/// Why the vCPUs are asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// One of them, or someone else, has queued an outcome.
    Outcome,
    /// `stop()`: as above, and the guest is not to run on.
    Stop,
    /// The time is over.
    Timeout,
    /// `pause()`: whoever waits for the round is told, and nothing is queued.
    Pause,
    /// Somebody wants it to stand still for a moment: the round is not over.
    Still,
    /// All looked halted for good; whether they are is decided when all stand still.
    CheckHalt,
}

/// Which vCPUs run in a round, and on whose threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crew {
    /// All on threads of their own.
    Threads,
    /// vCPU 0 on the thread of the caller, who owns the round; the others on theirs.
    Caller,
    /// This one alone, on the thread of the caller, who owns the round. The others stand still.
    One(u32),
    /// None: the machine stands still for a caller who owns this.
    Nobody,
}

impl Crew {
    /// Whether the vCPU's own thread drives it.
    fn is_thread(self, vcpu: u32) -> bool {
        match self {
            Self::Threads => true,
            Self::Caller => vcpu > 0,
            Self::One(_) | Self::Nobody => false,
        }
    }
}

/// Whether a thread serves a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// None does.
    No,
    /// One is being made.
    Claimed,
    /// One does.
    Yes,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    epoch: u64,
    /// vCPUs that have not left this round, and with them the thread that fires timers, while a callback runs.
    active: u32,
    /// Who drives which vCPU.
    crew: Crew,
    cause: Option<Cause>,
    closing: bool,
    /// A caller of `run()` is in this round: it ends the round itself, so that nobody else takes its outcome.
    owned: bool,
    /// The vCPU that parked last, if all are parked.
    all_parked: bool,
    last_parked: u32,
    outcomes: VecDeque<Outcome>,
    last: Option<Exit>,
    /// What the owner of the round is told if nothing is queued: that the time is over, or that someone paused it.
    aside: Option<Exit>,
    /// How often someone has asked the machine to stop for something: a device, a script.
    asked: u64,
    /// How many rounds and resets have ended, and how many of them by `pause()`.
    settled: u64,
    pauses: u64,
    /// The caller of `close()` was interrupted: the last one to leave gives memory and descriptors back.
    forsaken: bool,
    /// Which vCPUs have a thread that serves them.
    threads: Vec<Served>,
    /// Whether a thread fires timers.
    caller: Served,
    /// Whether a thread serves doorbells.
    ringer: Served,
    /// Those that want every vCPU out of the guest without the round's end.
    holds: u32,
    /// vCPUs that are in the round but wait outside of the guest.
    resting: u32,
    /// How many wait for it to stand still for a moment, and whether it does and none of them knows yet.
    still_wanted: u32,
    has_settled_still: bool,
    /// It does so in the middle of a round, which goes on afterwards.
    is_interrupted: bool,
    started: Option<Instant>,
    ran: Duration,
}

/// The state of a machine and the means to change it.
pub struct Control {
    inner: Mutex<Inner>,
    changed: Condvar,
    vcpus: OnceLock<Vec<Arc<Shared>>>,
    watcher: OnceLock<Watcher>,
    /// The machine's time, which goes by between a start and the stop that follows.
    pub(crate) clock: Arc<Clock>,
    /// Its doorbells.
    pub(crate) bells: Arc<Bells>,
}

/// Told when vCPUs begin to run (true) and when all stand still (false). Called under the control's lock: it may take
/// no lock but leaves, and calls nothing of the machine.
pub type Watcher = Box<dyn Fn(bool) + Send + Sync>;

/// How a vCPU left a round.
#[derive(Debug)]
pub(crate) enum Leave {
    /// It was asked to.
    Asked,
    /// With something for the caller.
    Outcome(Outcome),
    /// It halted, on a machine without an interrupt controller.
    Parked,
    /// The program around the machine wants the thread that drove it back.
    Host,
}

/// One vCPU's part in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) epoch: u64,
    /// All vCPUs are parked, so that this run takes them past their HLT.
    pub(crate) unpark: bool,
}

impl Default for Control {
    fn default() -> Self {
        let inner = Inner {
            phase: Phase::Created,
            epoch: 0,
            active: 0,
            crew: Crew::Threads,
            cause: None,
            closing: false,
            owned: false,
            all_parked: false,
            last_parked: 0,
            outcomes: VecDeque::new(),
            last: None,
            aside: None,
            asked: 0,
            settled: 0,
            pauses: 0,
            forsaken: false,
            threads: Vec::new(),
            caller: Served::No,
            ringer: Served::No,
            holds: 0,
            resting: 0,
            still_wanted: 0,
            has_settled_still: false,
            is_interrupted: false,
            started: None,
            ran: Duration::ZERO,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::default(),
            vcpus: OnceLock::new(),
            watcher: OnceLock::new(),
            clock: Arc::new(Clock::of_machine()),
            bells: Arc::default(),
        }
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows the vCPUs from now on, by halves that outlive a reset: threads, kicks and statistics stay as they are.
    pub(crate) fn install(&self, vcpus: Vec<Arc<Shared>>) {
        let mut inner = self.lock();
        if inner.threads.is_empty() {
            inner.threads = vec![Served::No; vcpus.len()];
            // It was not set: only this sets it, under the lock.
            let _ = self.vcpus.set(vcpus);
        }
    }

    /// Tells `watcher` of every start and stop from now on. The first one stays.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    fn tell(&self, running: bool) {
        self.clock.run(running);
        if let Some(watcher) = self.watcher.get() {
            watcher(running);
        }
    }

    /// The vCPUs' shared halves, once there are any.
    #[must_use]
    pub fn vcpus(&self) -> &[Arc<Shared>] {
        self.vcpus.get().map_or(&[], Vec::as_slice)
    }

    /// The state now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let inner = self.lock();
        if inner.closing { Phase::Closed } else { inner.phase }
    }

    /// Wall time that vCPUs have been running.
    #[must_use]
    pub fn ran(&self) -> Duration {
        let inner = self.lock();
        inner.ran + inner.started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// What the last round ended with, an error as its text; it stays for `run()` or `wait()` to return.
    #[must_use]
    pub fn ended(&self) -> Option<Result<Exit, String>> {
        let inner = self.lock();
        let text = |outcome: &Outcome| match outcome {
            Ok(exit) => Ok(exit.clone()),
            Err(error) => Err(error.to_string()),
        };
        inner.outcomes.front().map(text).or_else(|| inner.last.clone().map(Ok))
    }

    /// Whether the vCPU is to leave the guest.
    pub(crate) fn wants_out(&self) -> bool {
        let inner = self.lock();
        inner.cause.is_some() || inner.closing
    }

    /// `wait()`: the next outcome of a started machine, or the last exit again.
    pub(crate) fn wait(&self, deadline: Option<Instant>, host: &dyn Host) -> Outcome {
        let mut inner = self.lock();
        let pauses = inner.pauses;
        loop {
            if inner.closing {
                return Err(StateError::new("wait", Phase::Closed).into());
            }
            if inner.pauses != pauses {
                // Told even if someone has resumed it meanwhile.
                return Ok(paused());
            }
            if inner.phase != Phase::Running {
                if let Some(outcome) = inner.take() {
                    return outcome;
                }
                return inner.last.clone().ok_or_else(|| StateError::new("wait", inner.visible()).into());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Exit::Timeout);
            }
            drop(inner);
            if host.poll() {
                return Err(RunError::Host);
            }
            inner = self.lock();
            if inner.phase == Phase::Running {
                inner = self.sleep(inner, deadline).0;
            }
        }
    }

    /// Sleeps until something changes (then true), but not past the deadline or the next poll of the host.
    fn sleep<'a>(&'a self, inner: MutexGuard<'a, Inner>, deadline: Option<Instant>) -> (MutexGuard<'a, Inner>, bool) {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        let nap = left.map_or(POLL, |left| left.min(POLL));
        let (inner, timeout) = self.changed.wait_timeout(inner, nap).unwrap_or_else(PoisonError::into_inner);
        (inner, !timeout.timed_out())
    }

    /// Sleeps until something changes, or until the host was asked, which is done unlocked.
    ///
    /// # Errors
    /// [`RunError::Host`]: it wants its thread back.
    fn sleep_beside<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        host: &dyn Host,
    ) -> Result<MutexGuard<'a, Inner>, RunError> {
        let (inner, woken) = self.sleep(inner, None);
        if woken {
            return Ok(inner);
        }
        drop(inner);
        if host.poll() { Err(RunError::Host) } else { Ok(self.lock()) }
    }

    /// Refuses a verb in any but the given phases.
    ///
    /// # Errors
    /// The machine is in another.
    pub fn require(&self, verb: &'static str, phases: &[Phase]) -> Result<(), StateError> {
        let phase = self.phase();
        if phases.contains(&phase) { Ok(()) } else { Err(StateError::new(verb, phase)) }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.phase().name())
    }
}

impl Inner {
    fn visible(&self) -> Phase {
        if self.closing { Phase::Closed } else { self.phase }
    }
}

/// What `run()` and `wait()` return when someone else pauses the machine.
fn paused() -> Exit {
    Exit::Stopped { vcpu: None, reason: StopReason::Text("pause".into()) }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
