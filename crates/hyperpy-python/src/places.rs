//! Where a machine's devices are: attaching all windows of one, and moving, disabling and detaching them while it runs.
//!
//! Each window of a device is a place with a number of its own, which it keeps wherever it is moved. What is disabled is off
//! its bus and keeps its place. Changes of several places are one change of the buses. A recorder of a device stands at its
//! places, and goes where they go. While the list is locked no Python runs, and even making an exception would be that.

use std::sync::Arc;

use hyperpy_core::bus::{Access, Action, Device, Placement, Rung, Shortcuts, Space, Spot};
use hyperpy_core::error::{AttachError, BusError};
use hyperpy_core::machine::{Attachment, Machine as Core};
use hyperpy_core::names::Names;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::calls::Calls;
use crate::device::{PyDevice, StockDevice};
use crate::errors;
use crate::machine::{Machine, lock, space};
use crate::record::Recorder;
use crate::regfile::Registers;

/// A window as Python describes it: whether it is of ports, base, size, where it begins in the device's own range, name, whether it
/// is enabled.
type Window = (bool, u64, u64, u64, String, bool);
/// The same for the bus: which, what, where it begins in the device's own range, whether it is enabled.
type Wanted = (Space, Placement, u64, bool);
/// Where vCPUs may still be: whether it is of ports, and the region.
type Left = (bool, u64);

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

    fn attach(
        &mut self,
        core: &Core,
        device: &Arc<dyn Device>,
        wanted: Vec<Wanted>,
        python: Option<&Arc<PyDevice>>,
    ) -> Result<Vec<u64>, AttachError> {
        let on: Vec<_> = wanted.iter().filter(|wanted| wanted.3).map(|wanted| (wanted.0, wanted.1.clone())).collect();
        let (_, added) = core.rearrange(&[], &on)?;
        let mut added = added.into_iter();
        let mut numbers = Vec::with_capacity(wanted.len());
        for (space, placement, origin, is_on) in wanted {
            self.last += 1;
            let attachment = if is_on { added.next() } else { None };
            let (device, python) = (device.clone(), python.cloned());
            self.all.push(Placed { number: self.last, space, placement, device, origin, python, attachment });
            numbers.push(self.last);
        }
        Ok(numbers)
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
    fn flush(&self, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        self.device.flush(spot, asked);
    }
    fn origin(&self) -> (usize, u64) {
        (self.device.origin().0, self.origin)
    }
    fn reset(&self) {
        self.device.reset();
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
    let added = lock(&machine.places).attach(machine.core(), &device, wanted.collect(), python.as_ref());
    let numbers = added.map_err(|error| errors::attach(&error))?;
    let py = object.py();
    machine.hosted(py, |host| machine.core().spawn_ringer(host)).inspect_err(|_| {
        let _ = detach(py, machine, numbers.clone());
    })?;
    Ok(numbers)
}

/// What becomes of a window: its number, its new address, whether it is on its bus; `None` leaves it as it is.
type Change = (u64, Option<u64>, Option<bool>);

/// Moves windows, disables and enables them, as one change; where vCPUs may still be in them.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn change(py: Python<'_>, machine: &Machine, changes: Vec<Change>) -> PyResult<Vec<Left>> {
    machine.ours("move a device")?;
    let plan = lock(&machine.places).plan(&changes).map_err(|error| errors::attach(&error))?;
    // Methods may be told of writes meanwhile, with no lock held.
    let moved = py.detach(|| machine.core().rearrange(&plan.off, &plan.on));
    let (removed, added) = moved.map_err(|error| errors::attach(&error))?;
    let settled = lock(&machine.places).settle(&plan.after, added);
    py.detach(|| machine.core().serve_rest(&removed));
    settled.map_err(|error| errors::attach(&error))?;
    Ok(seen(plan.off))
}

/// Takes windows off their buses for good; where vCPUs may still be in them.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn detach(py: Python<'_>, machine: &Machine, numbers: Vec<u64>) -> PyResult<Vec<Left>> {
    machine.ours("detach")?;
    let off = lock(&machine.places).attached(&numbers).map_err(|error| errors::attach(&error))?;
    let taken = py.detach(|| machine.core().rearrange(&off, &[]));
    let (removed, _) = taken.map_err(|error| errors::attach(&error))?;
    let gone = lock(&machine.places).take(&numbers);
    py.detach(|| machine.core().serve_rest(&removed));
    drop((removed, gone));
    Ok(seen(off))
}

fn seen(left: Vec<Attachment>) -> Vec<Left> {
    left.into_iter().map(|attachment| (attachment.space == Space::Pio, attachment.region.0)).collect()
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
