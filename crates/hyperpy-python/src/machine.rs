//! The machine for Python: verbs and statistics. What they share is in `inside`, the stock devices in `board`, where devices are in `places`.

mod board;
pub(crate) mod inside;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperpy_core::accel::{Accelerator, VmConfig};
use hyperpy_core::bus::Space;
use hyperpy_core::control::Phase;
use hyperpy_core::error::RunError;
use hyperpy_core::exit::StopReason;
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::{Machine as Core, Unclaimed};
use hyperpy_core::memory::Memory as CoreMemory;
use hyperpy_devices::pc::Board;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use self::inside::{cpu_set, duration, unanswered};
use crate::clock::{self, Clock};
use crate::console::Console;
use crate::device::{Faults, PyAnswerer};
use crate::host::PyHost;
use crate::memory::{Memory, pages};
use crate::places::{Places, reset_disabled};
use crate::processor::Handlers;
use crate::script::Script;
use crate::signals::attach;
use crate::{convert, errors, vcpu};

/// A machine's core, and what of it is Python's.
#[pyclass(frozen, weakref, module = "hyperpy._hyperpy")]
pub struct Machine {
    core: Arc<Core>,
    faults: Arc<Faults>,
    pub(crate) places: Mutex<Places>,
    answerer: Mutex<Option<Arc<PyAnswerer>>>,
    board: Mutex<Option<Board>>,
    pub(crate) handlers: Handlers,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Machine {
    #[new]
    #[pyo3(signature = (memory, vcpus, irqchip, console, huge_pages = None, cpus = None, trace = 0, script = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        memory: u64,
        vcpus: u32,
        irqchip: bool,
        console: &Console,
        huge_pages: Option<&str>,
        cpus: Option<Vec<u32>>,
        trace: u32,
        script: Option<&Script>,
    ) -> PyResult<Self> {
        if vcpus == 0 {
            return Err(PyValueError::new_err("a machine has at least one vcpu: 0\n\nhint: give 1 or more"));
        }
        let cpus = cpus.map(cpu_set).transpose()?;
        let accel: Arc<dyn Accelerator> = match script {
            Some(script) => Arc::new(script.accelerator.clone()),
            None => Arc::new(Kvm::open().map_err(|error| errors::accel(&error))?),
        };
        let most = accel.max_vcpus().map_err(|error| errors::accel(&error))?;
        if vcpus > most {
            return Err(PyValueError::new_err(format!(
                "more vcpus than this KVM's {most}: {vcpus}\n\nhint: `hyperpy doctor` shows how many KVM takes"
            )));
        }
        let pages = pages(huge_pages)?;
        let memory = CoreMemory::with_ram_in(memory, pages).map_err(|error| errors::memory(&error))?;
        let mut core = Core::new(accel, memory, VmConfig { vcpus, irqchip }).traced(trace);
        core.limits.cpus = cpus;
        Ok(Self::around(Arc::new(core), console))
    }

    #[getter]
    fn id(&self) -> u64 {
        self.core.id
    }

    #[getter]
    fn state(&self) -> &'static str {
        // In the child of a fork a lock may be held by a thread that is not there; and nothing of it can be used.
        if self.core.is_forked() { Phase::Closed.name() } else { self.core.control.phase().name() }
    }

    /// Refuses where nothing of it can be used.
    fn enter(&self) -> PyResult<()> {
        self.ours("enter")
    }

    #[getter]
    fn vcpus(&self) -> u32 {
        self.core.config().vcpus
    }

    #[getter]
    fn irqchip(&self) -> bool {
        self.core.config().irqchip
    }

    #[getter]
    fn memory(&self) -> Memory {
        Memory { inner: self.core.memory.clone(), machine: Arc::downgrade(&self.core), forks: self.core.forks() }
    }

    /// The machine's clock; timers that are set by it are the device's of this name.
    #[pyo3(signature = (device = None))]
    fn clock(&self, device: Option<String>) -> Clock {
        Clock::of_machine(&self.core, &self.faults, device)
    }

    /// Puts the stock devices of a PC onto the port bus, with interrupt controllers.
    fn attach_pc(&self, console: &Console) -> PyResult<()> {
        self.ours("attach")?;
        self.make_board(console).map_err(|failed| failed.raised())
    }

    /// Whether the stock devices of a PC are there.
    #[getter]
    fn has_pc(&self) -> bool {
        self.has_board()
    }

    /// Takes the stock devices of a PC away again; `irqchip` is whether interrupt controllers were asked for before.
    fn detach_pc(&self, py: Python<'_>, irqchip: bool) -> PyResult<()> {
        self.ours("detach")?;
        self.drop_board(py, irqchip);
        Ok(())
    }

    /// Refuses to load where the state says so.
    #[pyo3(name = "require_load")]
    fn check_load(&self) -> PyResult<()> {
        self.require_load()
    }

    /// Sets the policy for what nobody claims: "exit", "ones", or a callable.
    fn set_unclaimed(&self, policy: &Bound<'_, PyAny>) -> PyResult<()> {
        self.ours("set what is unclaimed")?;
        let answerer = policy.is_callable().then(|| {
            let callable = policy.clone().unbind();
            Arc::new(PyAnswerer { callable, report: self.report() })
        });
        let policy = match &answerer {
            Some(answerer) => Unclaimed::Answerer(answerer.clone()),
            None if policy.eq("ones").unwrap_or(false) => Unclaimed::Ones,
            None => Unclaimed::Exit,
        };
        let old = std::mem::replace(&mut *lock(&self.answerer), answerer);
        self.core.set_unclaimed(policy);
        drop(old);
        Ok(())
    }

    fn run<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let timeout = duration(timeout)?;
        let host = PyHost::new(&self.core);
        let outcome = py.detach(|| self.core.run(timeout, &host));
        self.outcome(py, outcome, &host)
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.hosted(py, |host| self.core.start(host))
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.hosted(py, |host| self.core.resume(host))
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.hosted(py, |host| self.core.pause(host))
    }

    /// Restores the power-on state; `reload` puts back what was loaded. Returns what devices had raised before, that no
    /// run will raise any more, and what devices and `reload` raised now.
    #[allow(clippy::type_complexity)]
    fn reset<'py>(
        &self,
        py: Python<'py>,
        reload: &Bound<'py, PyAny>,
    ) -> PyResult<(Vec<Bound<'py, PyAny>>, Vec<Bound<'py, PyAny>>)> {
        self.ours("reset")?;
        let (reload, failed) = (reload.clone().unbind(), Mutex::new(None));
        let again = || {
            reset_disabled(self);
            let done = attach(|py| reload.call0(py).map(drop));
            done.map_err(|error| {
                *lock(&failed) = Some(error);
                RunError::Host
            })
        };
        let before = self.faults.len();
        let done = self.hosted(py, |host| match self.core.reset(host, again) {
            Err(RunError::Host) if lock(&failed).is_some() => Ok(()),
            done => done,
        });
        done?;
        let mut raised = self.faults.take();
        raised.extend(lock(&failed).take().map(|error| error.into_value(py)));
        let mut raised: Vec<_> = raised.into_iter().map(|error| error.into_bound(py).into_any()).collect();
        let now = raised.split_off(before.min(raised.len()));
        Ok((raised, now))
    }

    /// Gives the machine an identifier of its own, and tells its operating system.
    fn renew_generation(&self, id: u128) -> PyResult<()> {
        self.ours("renew its generation")?;
        self.core.renew_generation(id).map_err(|error| errors::run(&error))
    }

    fn wait<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let timeout = duration(timeout)?;
        let host = PyHost::new(&self.core);
        let outcome = py.detach(|| self.core.wait(timeout, &host));
        self.outcome(py, outcome, &host)
    }

    /// What the last round ended with, as `run` gives it but not used up; an error as ("error", text).
    fn ended<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.ours("ask why it stopped")?;
        let ended = self.core.control.ended();
        ended
            .map(|ended| {
                ended.map_or_else(|text| ("error", text).into_bound_py_any(py), |exit| convert::exit(py, &exit))
            })
            .transpose()
    }

    fn stop(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        self.ours("stop")?;
        if self.core.control.phase() == Phase::Closed {
            return Err(errors::state(&hyperpy_core::error::StateError::new("stop", Phase::Closed)));
        }
        let reason = StopReason::Text(reason.into());
        py.detach(|| self.core.control.stop(reason));
        Ok(())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.hosted(py, |host| self.core.close(Some(host)))?;
        if !self.core.is_forked() {
            self.let_go();
        }
        Ok(())
    }

    /// The beginning of `close`: every vCPU is asked to leave. Does not wait.
    fn begin_close(&self) {
        if !self.core.is_forked() {
            self.core.control.begin_close();
        }
    }

    /// `close` that waits no longer than `seconds`; whether it has closed. If not, it does when its devices have returned.
    fn close_within(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        let host = PyHost::new(&self.core).until(Instant::now() + wait);
        match py.detach(|| self.core.close(Some(&host))) {
            Ok(()) => {
                self.let_go();
                Ok(true)
            }
            Err(RunError::Host) => host.take().map_or(Ok(false), Err),
            Err(error) => Err(errors::run(&error)),
        }
    }

    /// Answers an unclaimed read: the fields of its exit.
    fn answer(&self, py: Python<'_>, exit: (u32, u64, u8, bool, u64, u64), value: u64) -> PyResult<()> {
        let exit = convert::io_from_fields(exit);
        let answered = self.hosted(py, |host| self.core.answer(&exit, value, host))?;
        answered.map_err(|refused| unanswered(refused, value, exit.size))
    }

    fn regs<'py>(&self, py: Python<'py>, index: u32) -> PyResult<Bound<'py, PyDict>> {
        let regs = self.hosted(py, |host| self.core.regs(index, host))?;
        vcpu::regs_dict(py, &regs)
    }

    fn set_regs(&self, py: Python<'_>, index: u32, values: Vec<(String, u64)>) -> PyResult<()> {
        // Names are checked before anything is changed.
        for (name, _) in &values {
            vcpu::reg_mut(&mut Default::default(), name)?;
        }
        let change = |regs: &mut _| {
            for (name, value) in &values {
                if let Ok(register) = vcpu::reg_mut(regs, name) {
                    *register = *value;
                }
            }
        };
        self.hosted(py, |host| self.core.set_regs(index, host, change))
    }

    fn sregs<'py>(&self, py: Python<'py>, index: u32) -> PyResult<Bound<'py, PyDict>> {
        let sregs = self.hosted(py, |host| self.core.sregs(index, host))?;
        vcpu::sregs_dict(py, &sregs)
    }

    fn set_sregs(&self, py: Python<'_>, index: u32, values: &Bound<'_, PyDict>) -> PyResult<()> {
        let mut sregs = self.hosted(py, |host| self.core.sregs(index, host))?;
        for (name, value) in values {
            vcpu::set_sreg(&mut sregs, &name.extract::<String>()?, &value)?;
        }
        self.hosted(py, |host| self.core.set_sregs(index, host, |now| *now = sregs))
    }

    /// How many processors' time the machine may use; `None` for no limit.
    fn set_cpu_limit(&self, limit: Option<f64>) -> PyResult<()> {
        self.ours("set its cpu limit")?;
        self.core.limits.set_cpu_limit(limit);
        self.core.control.look();
        Ok(())
    }

    /// Per vCPU: (hits by rung, exits, processor time and time capped in ns); and wall time in seconds.
    #[allow(clippy::type_complexity)]
    fn readings(&self) -> PyResult<(Vec<(Vec<u64>, u64, u64, u64)>, f64)> {
        self.ours("read its counters")?;
        let of = |r: hyperpy_core::vcpu::Readings| (r.hits.to_vec(), r.exits, r.cpu_ns, r.capped_ns);
        let vcpus = self.core.control.vcpus().iter().map(|vcpu| of(vcpu.readings())).collect();
        Ok((vcpus, self.core.control.ran().as_secs_f64()))
    }

    /// (bus, base, size, name, rung) of every device.
    #[allow(clippy::type_complexity)]
    fn regions(&self) -> PyResult<Vec<(&'static str, u64, u64, String, u8)>> {
        self.ours("read its map")?;
        let of = |space: Space, map: Arc<hyperpy_core::bus::Map>| {
            let row =
                move |r: &hyperpy_core::bus::Region| (space.name(), r.base, r.len, r.name.to_string(), r.rung as u8);
            map.regions().iter().map(row).collect::<Vec<_>>()
        };
        let mut rows = of(Space::Pio, self.core.pio.map());
        rows.extend(of(Space::Mmio, self.core.mmio.map()));
        Ok(rows)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A lock that is held belongs to a thread that is changing the list: the collector comes again.
        if let Ok(places) = self.places.try_lock() {
            places.traverse(&visit)?;
        }
        if let Ok(answerer) = self.answerer.try_lock() {
            visit.call(answerer.as_ref().map(|answerer| &answerer.callable))?;
        }
        clock::traverse(&self.core.clock, &visit)?;
        self.faults.traverse(&visit)?;
        self.handlers.traverse(&visit)
    }

    fn __clear__(&self) {
        if !self.core.is_forked() {
            self.core.control.begin_close();
            self.let_go();
        }
    }
}

pub(crate) fn space(pio: bool) -> Space {
    if pio { Space::Pio } else { Space::Mmio }
}
