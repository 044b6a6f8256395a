//! Where a machine's devices are: attaching all windows of one, and moving, disabling and detaching them while it runs.
//!
//! Each window of a device is a place with a number of its own, which it keeps wherever it is moved. What is disabled is off
//! its bus and keeps its place. Changes of several places are one change of the buses. A recorder of a device stands at its
//! places, and goes where they go. While the list is locked no Python runs, and even making an exception would be that.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyperpy_core::bus::{Access, Action, Device, Placement, Rung, Shortcuts, Space, Spot};
use hyperpy_core::error::{AttachError, BusError};
use hyperpy_core::machine::{Attachment, Machine as Core, Removed};
use hyperpy_core::names::Names;
use hyperpy_core::snapshot::{Saved, State, StateFault};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::calls::Calls;
use crate::device::PyDevice;
use crate::errors;
use crate::machine::{Machine, lock, space};
use crate::record::Recorder;
use crate::regfile::Registers;
use crate::stock_device::StockDevice;

/// A window as Python describes it: whether it is of ports, base, size, where it begins in the device's own range, name, whether it
/// is enabled.
type Window = (bool, u64, u64, u64, String, bool);
/// The same for the bus: which, what, where it begins in the device's own range, whether it is enabled.
type Wanted = (Space, Placement, u64, bool);

/// A window of a device.
struct Placed {
    number: u64,
    space: Space,
    placement: Placement,
    /// The device itself, and where in its range the window begins.
    device: Arc<dyn Device>,
    origin: u64,
    /// The device, if it is one in Python.
    python: Option<Arc<PyDevice>>,
    /// Not if it is disabled.
    attachment: Option<Attachment>,
}

impl Placed {
    /// Puts the device, or what stands for it, here and wherever this is moved to.
    fn serve_by(&mut self, core: &Core, device: Arc<dyn Device>) {
        self.placement.device = in_window(self.origin, self.placement.len, device);
        if let Some(attachment) = self.attachment {
            // It is there: whoever takes it off has the places locked.
            drop(core.replace(attachment, self.placement.device.clone()));
        }
    }
}

/// All windows of a machine's devices.
#[derive(Default)]
pub(crate) struct Places {
    last: u64,
    all: Vec<Placed>,
}

impl Places {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.all.iter().filter_map(|placed| placed.python.as_ref()).try_for_each(|device| device.traverse(visit))
    }

    /// What the devices hold of Python's; dropped where no lock is held.
    pub(crate) fn let_go(&self) {
        for device in self.all.iter().filter_map(|placed| placed.python.as_ref()) {
            drop(device.let_go());
        }
    }

    fn find(&mut self, number: u64) -> Result<&mut Placed, AttachError> {
        // Another thread, or a method that was told of a write meanwhile, may just have taken it away.
        self.all.iter_mut().find(|placed| placed.number == number).ok_or(AttachError::Bus(BusError::NotAttached))
    }

    /// A device was put onto the buses: the numbers of its windows.
    fn note(
        &mut self,
        added: Vec<Attachment>,
        device: &Arc<dyn Device>,
        wanted: Vec<Wanted>,
        python: Option<&Arc<PyDevice>>,
    ) -> Vec<u64> {
        let mut added = added.into_iter();
        let mut numbers = Vec::with_capacity(wanted.len());
        for (space, placement, origin, is_on) in wanted {
            self.last += 1;
            let attachment = if is_on { added.next() } else { None };
            let (device, python) = (device.clone(), python.cloned());
            self.all.push(Placed { number: self.last, space, placement, device, origin, python, attachment });
            numbers.push(self.last);
        }
        numbers
    }

    /// What changes of windows come to on the buses.
    fn plan(&mut self, changes: &[Change]) -> Result<Plan, AttachError> {
        let mut plan = Plan::default();
        for &(number, base, enabled) in changes {
            let placed = self.find(number)?;
            let (was_on, old) = (placed.attachment.is_some(), placed.placement.base);
            let (base, is_on) = (base.unwrap_or(old), enabled.unwrap_or(was_on));
            if (base, is_on) == (old, was_on) {
                continue;
            }
            plan.off.extend(placed.attachment);
            let placement = Placement { base, ..placed.placement.clone() };
            if is_on {
                plan.on.push((placed.space, placement));
            }
            plan.after.push((number, base, is_on));
        }
        Ok(plan)
    }

    /// The buses are changed.
    fn settle(&mut self, after: &[(u64, u64, bool)], added: Vec<Attachment>) -> Result<(), AttachError> {
        let mut added = added.into_iter();
        for &(number, base, is_on) in after {
            let placed = self.find(number)?;
            placed.placement.base = base;
            placed.attachment = if is_on { added.next() } else { None };
        }
        Ok(())
    }

    /// Every device as it is called, and whether it is on a bus there.
    fn devices(&self) -> Vec<(Arc<dyn Device>, bool)> {
        self.all.iter().map(|placed| (placed.placement.device.clone(), placed.attachment.is_some())).collect()
    }

    fn record(&mut self, core: &Core, numbers: &[u64], recorder: &Recorder) -> Result<(), AttachError> {
        for number in numbers {
            let placed = self.find(*number)?;
            placed.serve_by(core, recorder.before(&placed.device));
        }
        Ok(())
    }

    /// Where windows are on the buses.
    fn attached(&mut self, numbers: &[u64]) -> Result<Vec<Attachment>, AttachError> {
        let mut all = Vec::new();
        for number in numbers {
            all.extend(self.find(*number)?.attachment);
        }
        Ok(all)
    }

    /// They are perhaps the last that keep Python objects: they are dropped where no lock is held.
    fn take(&mut self, numbers: &[u64]) -> Vec<Placed> {
        let (gone, kept) = self.all.drain(..).partition(|placed| numbers.contains(&placed.number));
        self.all = kept;
        gone
    }
}

/// A change of the buses: what goes, what comes, and what that makes of the windows.
#[derive(Default)]
struct Plan {
    off: Vec<Attachment>,
    on: Vec<(Space, Placement)>,
    after: Vec<(u64, u64, bool)>,
}

/// A window that does not begin where its device does.
struct Slice {
    device: Arc<dyn Device>,
    origin: u64,
    len: u64,
}

/// A device as a window has it that begins there.
fn in_window(origin: u64, len: u64, device: Arc<dyn Device>) -> Arc<dyn Device> {
    if origin == 0 { device } else { Arc::new(Slice { device, origin, len }) }
}

impl Slice {
    /// The window ends within the device's range, so that nothing wraps.
    fn of(&self, at: Access) -> Access {
        Access { offset: self.origin.wrapping_add(at.offset), ..at }
    }
}

impl Device for Slice {
    fn quick_read(&self, at: Access) -> Option<u64> {
        self.device.quick_read(self.of(at))
    }
    fn quick_write(&self, at: Access, value: u64) -> bool {
        self.device.quick_write(self.of(at), value)
    }
    fn read(&self, at: Access) -> u64 {
        self.device.read(self.of(at))
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.device.write(self.of(at), value)
    }
    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        self.device.rung(self.of(at), value, times)
    }
    fn shortcuts(&self) -> Shortcuts {
        self.device.shortcuts().within(self.origin, self.len)
    }
    fn defer(&self, at: Access, value: u64) -> Action {
        self.device.defer(self.of(at), value)
    }
    fn has_late(&self) -> bool {
        self.device.has_late()
    }
    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        self.device.flush(most, spot, asked);
    }
    fn origin(&self) -> (usize, u64) {
        (self.device.origin().0, self.origin)
    }
    fn reset(&self) {
        self.device.reset();
    }
    fn save(&self) -> Result<State, StateFault> {
        self.device.save()
    }
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.device.check(state)
    }
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.device.load(state)
    }
    fn identity(&self) -> Option<usize> {
        self.device.identity().or_else(|| Some(Arc::as_ptr(&self.device).cast::<()>() as usize))
    }
    fn names(&self) -> Option<Arc<dyn Names>> {
        let names = self.device.names()?;
        Some(Arc::new(SliceNames { names, origin: self.origin }))
    }
}

/// What the registers of such a window are called.
struct SliceNames {
    names: Arc<dyn Names>,
    origin: u64,
}

impl Names for SliceNames {
    fn register(&self, offset: u64, size: u8, is_write: bool) -> Option<String> {
        self.names.register(self.origin.wrapping_add(offset), size, is_write)
    }
}

/// Puts an object with `read` and `write` onto the buses, all windows that are enabled or none; the numbers of the windows. `named` are the
/// windows of its class, by descending place; `registers` its declared ones, with the methods that want to know of accesses; `calls` counts
/// these.
#[pyfunction]
#[pyo3(signature = (machine, object, name, windows, named, registers = None, calls = None))]
#[allow(clippy::needless_pass_by_value)] // what Python hands over
pub(crate) fn attach(
    machine: &Machine,
    object: &Bound<'_, PyAny>,
    name: &str,
    windows: Vec<Window>,
    named: Vec<(u64, String)>,
    registers: Option<Registers<'_>>,
    calls: Option<&Calls>,
) -> PyResult<Vec<u64>> {
    machine.ours("attach")?;
    let (device, rung, python): (Arc<dyn Device>, _, _) = if let Ok(stock) = object.cast::<StockDevice>() {
        (stock.get().device.clone(), Rung::Native, None)
    } else {
        let device = PyDevice::of(object, name, machine.report(), registers, named, calls, &machine.core().clock);
        let rung = if device.file.is_some() { Rung::Declared } else { Rung::Method };
        (device.clone(), rung, Some(device))
    };
    let wanted = windows.iter().map(|(is_pio, base, len, origin, name, is_on)| {
        let device = in_window(*origin, *len, device.clone());
        let placement = Placement { base: *base, len: *len, name: name.as_str().into(), rung, device };
        (space(*is_pio), placement, *origin, *is_on)
    });
    let wanted: Vec<Wanted> = wanted.collect();
    let on: Vec<_> = wanted.iter().filter(|wanted| wanted.3).map(|wanted| (wanted.0, wanted.1.clone())).collect();
    let py = object.py();
    // Another thread that changes places may be emptying the ring.
    let added = py.detach(|| machine.core().rearrange(&[], &on));
    let (_, added) = added.map_err(|error| errors::attach(&error))?;
    let numbers = lock(&machine.places).note(added, &device, wanted, python.as_ref());
    machine.hosted(py, |host| machine.core().spawn_ringer(host)).inspect_err(|_| {
        let _ = detach(py, machine, numbers.clone()).and_then(|left| wait_until_left(py, machine, &left));
    })?;
    Ok(numbers)
}

/// What becomes of a window: its number, its new address, whether it is on its bus; `None` leaves it as it is.
type Change = (u64, Option<u64>, Option<bool>);

/// What was taken off the buses: vCPUs may still be in it.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Left(Removed);

/// Moves windows, disables and enables them, as one change; what [`wait_until_left`] is for.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn change(py: Python<'_>, machine: &Machine, changes: Vec<Change>) -> PyResult<Left> {
    machine.ours("move a device")?;
    let plan = lock(&machine.places).plan(&changes).map_err(|error| errors::attach(&error))?;
    let moved = py.detach(|| machine.core().rearrange(&plan.off, &plan.on));
    let (removed, added) = moved.map_err(|error| errors::attach(&error))?;
    let settled = lock(&machine.places).settle(&plan.after, added);
    settled.map_err(|error| errors::attach(&error))?;
    Ok(Left(removed))
}

/// Takes windows off their buses for good; what [`wait_until_left`] is for.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn detach(py: Python<'_>, machine: &Machine, numbers: Vec<u64>) -> PyResult<Left> {
    machine.ours("detach")?;
    let off = lock(&machine.places).attached(&numbers).map_err(|error| errors::attach(&error))?;
    let taken = py.detach(|| machine.core().rearrange(&off, &[]));
    let (removed, _) = taken.map_err(|error| errors::attach(&error))?;
    let gone = lock(&machine.places).take(&numbers);
    drop(gone);
    Ok(Left(removed))
}

/// Waits until every vCPU has left what was taken off the buses, and tells it of what was written before. To be called where
/// nothing is held that a device's method wants.
#[pyfunction]
pub(crate) fn wait_until_left(py: Python<'_>, machine: &Machine, left: &Left) -> PyResult<()> {
    machine.hosted(py, |host| {
        let core = machine.core();
        let mut regions = left.0.regions.iter();
        let waited = regions.try_for_each(|(space, region)| {
            core.wait_until_left(Attachment { space: *space, region: region.id }, host)
        });
        core.serve_rest(&left.0);
        waited
    })
}

/// Resets devices that are attached and on no bus, where the core does not find them.
pub(crate) fn reset_disabled(machine: &Machine) {
    let devices = lock(&machine.places).devices();
    let of = |device: &Arc<dyn Device>| Arc::as_ptr(device).cast::<()>() as usize;
    let identity = |device: &Arc<dyn Device>| device.identity().unwrap_or_else(|| of(device));
    let mut seen: BTreeSet<_> = devices.iter().filter(|(_, is_on)| *is_on).map(|(it, _)| identity(it)).collect();
    for (device, _) in &devices {
        if seen.insert(identity(device)) {
            device.reset();
        }
    }
}

/// Has a recorder watch windows, wherever they are and will be.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn record(machine: &Machine, numbers: Vec<u64>, recorder: &Recorder) -> PyResult<()> {
    machine.ours("record a device")?;
    let done = lock(&machine.places).record(machine.core(), &numbers, recorder);
    done.map_err(|error| errors::attach(&error))
}

/// Puts the devices themselves back, where they are still attached.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn end_record(machine: &Machine, numbers: Vec<u64>) {
    // Python's collector may call this on a thread that has the places locked, or in the child of a fork, where somebody may:
    // a recorder that stays, and has ended, does no harm.
    let Ok(mut places) = machine.places.try_lock() else { return };
    if !machine.core().is_forked() {
        for placed in places.all.iter_mut().filter(|placed| numbers.contains(&placed.number)) {
            placed.serve_by(machine.core(), placed.device.clone());
        }
    }
}
