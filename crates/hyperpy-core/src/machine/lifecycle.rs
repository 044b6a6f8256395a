//! The verbs that change a machine's state: run, start, wait, pause, resume, stop, close; and the life of a vCPU's thread.
//!
//! `reset` has a file of its own. What they do in each state is in docs/concepts/states.md; how vCPUs start and stop
//! together is in `control`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Machine;
use super::objects::borrow;
use crate::control::{Control, Crew, Host, Leave, Outcome, Phase, Turn};
use crate::error::RunError;
use crate::exit::StopReason;
use crate::kvm::thread::block_signals;
use crate::run::{self, Steps, Watch};
use crate::vcpu::Inside;

/// Where run and start begin from.
const STANDING: &[Phase] = &[Phase::Created, Phase::Paused];

impl Machine {
    /// Runs until something happens that the caller must know, or for `timeout`. vCPU 0 runs on this thread.
    ///
    /// # Errors
    /// See [`RunError`]. The machine can run on after all but a panic.
    pub fn run(self: &Arc<Self>, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        self.drive("run", 0, Crew::Caller, timeout, host, None)
    }

    /// Runs one vCPU on this thread while all others stand still, as a debugger does, until something happens or for
    /// `timeout`. An outcome that an earlier round left is returned first, and nothing runs, as by [`Self::run`]. A vCPU
    /// that halts with interrupts off gives [`Exit::Halt`](crate::exit::Exit::Halt): nobody is there to wake it.
    ///
    /// # Errors
    /// There is no such vCPU; else as for [`Self::run`].
    pub fn run_one(self: &Arc<Self>, vcpu: u32, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        if vcpu >= self.config().vcpus {
            return Err(RunError::NoVcpu { vcpu });
        }
        self.drive("run", vcpu, Crew::One(vcpu), timeout, host, None)
    }

    /// A round of which this thread drives the vCPU `id`, freely or for a number of steps.
    pub(crate) fn drive(
        self: &Arc<Self>,
        verb: &'static str,
        id: u32,
        crew: Crew,
        timeout: Option<Duration>,
        host: &dyn Host,
        steps: Option<Steps<'_>>,
    ) -> Outcome {
        self.check(verb)?;
        let _inside = Inside::enter(self.id);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut turn = loop {
            if let Some(outcome) = self.control.queued() {
                return self.ended(outcome, host);
            }
            if let Some(turn) = self.begin_round(verb, crew, STANDING, host)? {
                break turn;
            }
        };
        let watch = Watch { host: Some(host), deadline, steps };
        let outcome = loop {
            let leave = self.round(id, turn, &watch);
            let interrupted = matches!(leave, Leave::Host);
            self.control.leave(id, leave);
            match self.control.wait_round(interrupted, host, deadline) {
                Ok(outcome) => break outcome,
                Err(again) => turn = again,
            }
        };
        self.close_if_forsaken();
        self.ended(outcome, host)
    }

    /// A device that panicked is not entered again: the machine closes. A host that wants its thread back meanwhile is told
    /// that instead, and the machine closes all the same.
    pub(super) fn ended<T>(&self, result: Result<T, RunError>, host: &dyn Host) -> Result<T, RunError> {
        if matches!(result, Err(RunError::Panic { .. })) {
            self.close_now(Some(host))?;
        }
        result
    }

    /// The same for who has the machine stand still, and would wait for itself: it closes once that is over.
    pub(super) fn survived<T>(&self, result: Result<T, RunError>) -> Result<T, RunError> {
        if matches!(result, Err(RunError::Panic { .. })) {
            self.control.forsake();
        }
        result
    }

    /// Starts every vCPU on a thread of its own and returns. If an earlier round left an outcome, nothing runs before
    /// `wait()` has returned it.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn start(self: &Arc<Self>, host: &dyn Host) -> Result<(), RunError> {
        self.begin("start", STANDING, host)
    }

    /// Runs a paused machine on, every vCPU on a thread of its own, as [`Self::start`] does.
    ///
    /// # Errors
    /// The machine is not paused; else as for [`Self::run`].
    pub fn resume(self: &Arc<Self>, host: &dyn Host) -> Result<(), RunError> {
        self.begin("resume", &[Phase::Paused], host)
    }

    fn begin(self: &Arc<Self>, verb: &'static str, from: &[Phase], host: &dyn Host) -> Result<(), RunError> {
        self.check(verb)?;
        self.begin_round(verb, Crew::Threads, from, host)?;
        Ok(())
    }

    /// Begins a round of vCPUs that exist, with threads for those that need one. `None`: there is something to return first.
    fn begin_round(
        &self,
        verb: &'static str,
        crew: Crew,
        from: &[Phase],
        host: &dyn Host,
    ) -> Result<Option<Turn>, RunError> {
        loop {
            self.control.require(verb, from)?;
            self.objects()?;
            if !self.spawn(crew, host)? {
                continue; // the machine closes, or someone else could make no thread
            }
            if self.clock.timers() > 0 {
                self.spawn_caller(host)?; // those that were set when no thread could be made
            }
            self.spawn_ringer(host)?;
            let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
            if objects.is_some() {
                // Under their lock: a reset that drops them has begun before it takes that, or not at all.
                return Ok(self.control.begin(verb, crew, from)?);
            }
            // Someone has reset the machine meanwhile.
        }
    }

    /// Stops every vCPU where it is, and returns when all stand still. Whoever is in [`Self::run`] or [`Self::wait`]
    /// gets [`Exit::Stopped`](crate::exit::Exit::Stopped) with the reason "pause"; if nobody is, nothing is queued. A
    /// paused machine stays as it is.
    ///
    /// # Errors
    /// It has not run, has ended, also meanwhile, or is closed. [`RunError::Host`]: the host wants its thread back; the
    /// machine pauses all the same.
    pub fn pause(&self, host: &dyn Host) -> Result<(), RunError> {
        self.check("pause")?;
        self.control.pause(host)
    }

    /// Waits for a started machine to stop. After `timeout` it returns [`Exit::Timeout`](crate::exit::Exit::Timeout)
    /// and the guest runs on.
    ///
    /// # Errors
    /// Nothing was started, or what stopped the machine was an error.
    pub fn wait(&self, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        self.check("wait")?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.ended(self.control.wait(deadline, host), host)
    }

    /// Sees to it that every vCPU which needs a thread is served by one; false if that is to be tried again.
    fn spawn(&self, crew: Crew, host: &dyn Host) -> Result<bool, RunError> {
        let missing = self.control.claim_threads(crew);
        let give_back = |ids: &[u32]| ids.iter().for_each(|&id| self.control.give_claim_back(id));
        for (done, &id) in missing.iter().enumerate() {
            // Neither this one nor those after it have a thread, as far as the host knows.
            host.spawn(id).inspect_err(|_| give_back(missing.get(done..).unwrap_or_default()))?;
        }
        self.control.wait_served(crew, host).inspect_err(|_| give_back(&missing))
    }

    /// The life of a vCPU's thread: one round after the other until the machine closes. Holds no strong reference to
    /// the machine between rounds.
    pub fn serve(machine: Weak<Self>, control: &Control, vcpu: u32) {
        block_signals();
        if !control.serves(vcpu) {
            return;
        }
        let mut epoch = 0;
        while let Some(turn) = control.wait_turn(vcpu, epoch) {
            epoch = turn.epoch;
            let Some(machine) = machine.upgrade() else { break };
            let leave = machine.round(vcpu, turn, &Watch { host: None, deadline: None, steps: None });
            drop(machine);
            control.leave(vcpu, leave);
        }
        control.thread_gone(vcpu);
        if let Some(machine) = machine.upgrade() {
            machine.close_if_forsaken();
        }
    }

    /// One vCPU's part in a round. Nothing unwinds out of it: the others would wait for this vCPU for ever.
    fn round(&self, vcpu: u32, turn: Turn, watch: &Watch<'_>) -> Leave {
        let driven = catch_unwind(AssertUnwindSafe(|| {
            let _inside = Inside::enter(self.id);
            let objects = self.objects()?;
            borrow(&objects, vcpu, watch.host, || Ok(()), |vcpu| run::drive(vcpu, self, turn, watch))
        }));
        let driven = driven.unwrap_or_else(|panic| Err(run::panicked(None, panic.as_ref())));
        driven.unwrap_or_else(|error| match error {
            RunError::Host => Leave::Host,
            error => Leave::Outcome(Err(error)),
        })
    }

    /// Asks every vCPU to stop for good, from anywhere, device callbacks included. Does not wait.
    ///
    /// # Errors
    /// The machine is closed, or belongs to the parent of a forked process.
    pub fn stop(&self, reason: StopReason) -> Result<(), RunError> {
        let verb = "stop";
        if self.is_forked() {
            return Err(RunError::Forked { verb });
        }
        self.control.require(verb, &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        self.control.stop(reason);
        Ok(())
    }

    /// Stops every vCPU, waits for threads to end, and gives memory and descriptors back. Twice is fine.
    ///
    /// # Errors
    /// Called inside a device callback. [`RunError::Host`]: the host wants its thread back, while a device keeps a vCPU;
    /// once the device returns, the machine closes all the same.
    pub fn close(&self, host: Option<&dyn Host>) -> Result<(), RunError> {
        if self.is_forked() {
            return Ok(()); // the parent's: nothing of it is touched
        }
        self.check("close")?;
        self.close_now(host)
    }

    fn close_now(&self, host: Option<&dyn Host>) -> Result<(), RunError> {
        self.control.begin_close();
        self.control.wait_closed(host)?;
        self.give_back();
        Ok(())
    }

    /// Who leaves a machine last does what an interrupted `close()` left.
    pub(super) fn close_if_forsaken(&self) {
        if self.control.was_forsaken() {
            self.give_back();
        }
    }

    fn give_back(&self) {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(objects);
        drop(self.accel.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.clock.cancel_all();
        self.control.bells.clear();
        self.memory.clear();
    }
}
