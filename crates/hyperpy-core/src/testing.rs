//! What the core's own tests share: a host of plain threads, scripted machines, and devices made of closures.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use crate::accel::{AccelExit, VmConfig};
use crate::bus::{Access, Action, Device, Rung, Space};
use crate::control::{Control, Host, Outcome};
use crate::error::RunError;
use crate::exit::{Exit, IoExit, StopReason};
use crate::machine::{Attachment, Machine};
use crate::memory::Memory;
use crate::scripted::{Log, Scripted, Step};

/// Longer than any test takes: a wait that ends by it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Something that happens once.
#[derive(Default)]
pub(crate) struct Event(Mutex<bool>, Condvar);

impl Event {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }
    pub(crate) fn set(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
    pub(crate) fn wait(&self) {
        let (_happened, timeout) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), LONG, |happened| !*happened).unwrap();
        assert!(!timeout.timed_out(), "what was waited for did not happen");
    }
}

/// A scripted machine, its host, and its log.
pub(crate) struct Rig {
    pub(crate) machine: Arc<Machine>,
    pub(crate) script: Scripted,
    /// Polls of the host say that the program wants its thread back.
    pub(crate) wanted: AtomicBool,
    /// Threads that can be made before the host has no more.
    pub(crate) threads: AtomicU32,
}

impl Rig {
    /// One vCPU for each script.
    pub(crate) fn new(scripts: Vec<Vec<Step>>) -> Self {
        Self::with_irqchip(scripts, false)
    }

    pub(crate) fn with_irqchip(scripts: Vec<Vec<Step>>, irqchip: bool) -> Self {
        let vcpus = u32::try_from(scripts.len()).unwrap();
        let script = Scripted::new(scripts);
        let memory = Memory::with_ram(1 << 20).unwrap();
        let machine = Arc::new(Machine::new(Arc::new(script.clone()), memory, VmConfig { vcpus, irqchip }));
        let mut rig = Self::of(machine);
        rig.script = script;
        rig
    }

    /// A machine that the test has made.
    pub(crate) fn of(machine: Arc<Machine>) -> Self {
        Self { machine, script: Scripted::default(), wanted: AtomicBool::new(false), threads: AtomicU32::new(u32::MAX) }
    }

    pub(crate) fn run(&self) -> Outcome {
        self.machine.run(Some(LONG), self)
    }

    pub(crate) fn wait(&self) -> Outcome {
        self.machine.wait(Some(LONG), self)
    }

    /// A device whose accesses cost what a Python method costs: any time.
    pub(crate) fn attach_slow(&self, port: u64, device: impl Device + 'static) {
        self.machine.attach(Space::Pio, port, 1, "slow", Rung::Method, Arc::new(device)).unwrap();
    }

    /// Runs `f` while another thread has vCPU 0; the event lets it go, which `f` does at the latest at its end.
    pub(crate) fn holding(&self, f: impl FnOnce(&Event)) {
        let (taken, release) = (Event::new(), Event::new());
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                self.machine.with_vcpu(0, "look", false, self, |_vcpu| {
                    taken.set();
                    release.wait();
                })
            });
            taken.wait();
            f(&release);
            holder.join().unwrap().unwrap();
        });
    }

    pub(crate) fn start(&self) {
        self.machine.start(self).unwrap();
    }

    pub(crate) fn log(&self) -> Log {
        self.script.log()
    }

    pub(crate) fn attach(&self, space: Space, base: u64, len: u64, device: impl Device + 'static) -> Attachment {
        self.machine.attach(space, base, len, "test device", Rung::Native, Arc::new(device)).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.close(None).unwrap();
    }
}

/// A host that never wants its thread back, and has no others.
pub(crate) struct Nobody;

impl Host for Nobody {
    fn poll(&self) -> bool {
        false
    }
    fn spawn(&self, _: u32) -> Result<(), RunError> {
        Err(RunError::Host)
    }
}

impl Host for Rig {
    fn poll(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }
    fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
        let enough = |left: u32| left.checked_sub(1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enough).is_err() {
            return Err(RunError::Host);
        }
        let (machine, control) = (Arc::downgrade(&self.machine), self.machine.control.clone());
        std::thread::spawn(move || Machine::serve(machine, &control, vcpu));
        Ok(())
    }
    fn spawn_timers(&self) -> Result<(), RunError> {
        let enough = |left: u32| left.checked_sub(1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enough).is_err() {
            return Err(RunError::Host);
        }
        let (machine, id) = (Arc::downgrade(&self.machine), self.machine.id);
        let control = self.machine.control.clone();
        std::thread::spawn(move || Machine::serve_timers(&machine, id, &control));
        Ok(())
    }
    fn spawn_ringer(&self) -> Result<(), RunError> {
        let enough = |left: u32| left.checked_sub(1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enough).is_err() {
            return Err(RunError::Host);
        }
        let (machine, id) = (Arc::downgrade(&self.machine), self.machine.id);
        let control = self.machine.control.clone();
        std::thread::spawn(move || Machine::serve_bells(&machine, id, &control));
        Ok(())
    }
}

/// A machine's control for hooks in its own script, which are written before the machine exists.
#[derive(Clone, Default)]
pub(crate) struct Later(Arc<OnceLock<Arc<Control>>>);

impl Later {
    pub(crate) fn set(&self, rig: &Rig) {
        assert!(self.0.set(rig.machine.control.clone()).is_ok());
    }
    pub(crate) fn control(&self) -> &Control {
        self.0.get().unwrap()
    }
}

/// A device made of two closures.
pub(crate) struct Closures<R, W>(pub(crate) R, pub(crate) W);

impl<R, W> Device for Closures<R, W>
where
    R: Fn(Access) -> u64 + Send + Sync,
    W: Fn(Access, u64) -> Action + Send + Sync,
{
    fn read(&self, at: Access) -> u64 {
        self.0(at)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.1(at, value)
    }
}

/// Remembers writes, and answers reads by counting up from 1.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    reads: Arc<Mutex<Vec<(u64, u8)>>>,
    writes: Arc<Mutex<Vec<(u64, u8, u64)>>>,
}

impl Recorder {
    /// (offset, size) of each read.
    pub(crate) fn reads(&self) -> Vec<(u64, u8)> {
        self.reads.lock().unwrap().clone()
    }
    /// (offset, size, value) of each write.
    pub(crate) fn writes(&self) -> Vec<(u64, u8, u64)> {
        self.writes.lock().unwrap().clone()
    }
}

impl Device for Recorder {
    fn read(&self, at: Access) -> u64 {
        let mut reads = self.reads.lock().unwrap();
        reads.push((at.offset, at.size));
        reads.len() as u64
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.writes.lock().unwrap().push((at.offset, at.size, value));
        Action::Continue
    }
}

/// A device whose every write asks for a stop with this reason.
pub(crate) fn stopper(why: &str) -> impl Device + use<> {
    let reason = StopReason::Text(why.into());
    Closures(|_| 0, move |_, _| Action::Stop(reason.clone()))
}

pub(crate) fn before(hook: impl Fn() + Send + Sync + 'static) -> Step {
    Step::Before(Arc::new(hook))
}

/// One or more port writes of a byte each, by one instruction.
pub(crate) fn outs(port: u16, values: &[u64]) -> Step {
    let count = u32::try_from(values.len()).unwrap();
    Step::Exit(AccelExit::Pio { port, size: 1, count, is_write: true }, values.to_vec())
}

/// Port reads of a byte each, by one instruction.
pub(crate) fn ins(port: u16, count: u32) -> Step {
    Step::Exit(AccelExit::Pio { port, size: 1, count, is_write: false }, Vec::new())
}

pub(crate) fn mmio_read(gpa: u64, size: u8) -> AccelExit {
    AccelExit::Mmio { gpa, size, is_write: false }
}

pub(crate) fn mmio_write(gpa: u64, size: u8) -> AccelExit {
    AccelExit::Mmio { gpa, size, is_write: true }
}

/// The access of an unclaimed exit.
#[track_caller]
pub(crate) fn io(outcome: Outcome) -> IoExit {
    match outcome {
        Ok(Exit::Pio(io) | Exit::Mmio(io)) => io,
        other => panic!("not an unclaimed access: {other:?}"),
    }
}

pub(crate) fn stopped(vcpu: Option<u32>, why: &str) -> Exit {
    Exit::Stopped { vcpu, reason: StopReason::Text(why.into()) }
}
