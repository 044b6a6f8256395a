//! Where a machine's devices are: attaching all windows of one, and moving, disabling and detaching them while it runs.
//!
//! Each window of a device is a place with a number of its own, which it keeps wherever it is moved. What is disabled is off
//! its bus and keeps its place. Changes of several places are one change of the buses.

use std::sync::Arc;

use hyperpy_core::bus::{Access, Action, Device, Placement, Rung, Shortcuts, Space, Spot};
use hyperpy_core::machine::Attachment;
use hyperpy_core::names::Names;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::calls::Calls;
use crate::device::{PyDevice, StockDevice};
use crate::errors::{self, Raise};
use crate::machine::{Machine, lock, space};
use crate::regfile::Registers;

/// A window as Python describes it: whether it is of ports, base, size, where it begins in the device's own range, name.
type Window = (bool, u64, u64, u64, String);
/// Where vCPUs may still be: whether it is of ports, and the region.
type Left = (bool, u64);

/// A window of a device.
struct Placed {
    number: u64,
    space: Space,
    placement: Placement,
    /// The device, if it is one in Python.
    python: Option<Arc<PyDevice>>,
    /// Not if it is disabled.
    attachment: Option<Attachment>,
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

    fn find(&mut self, number: u64) -> PyResult<&mut Placed> {
        // Another thread, or a method that was told of a write meanwhile, may just have taken it away.
        let hint = "`m.map` shows what is attached";
        let gone = || Raise::new("DeviceError", "device is not attached any more", hint).into();
        self.all.iter_mut().find(|placed| placed.number == number).ok_or_else(gone)
    }
}

/// A window that does not begin where its device does.
struct Slice {
    device: Arc<PyDevice>,
    origin: u64,
    len: u64,
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
        self.device.identity()
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

/// Puts an object with `read` and `write` onto the buses, all windows or none; the numbers of the windows. `named` are the
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
    let wanted = windows.iter().map(|(is_pio, base, len, origin, name)| {
        let device = match &python {
            Some(python) if *origin > 0 => Arc::new(Slice { device: python.clone(), origin: *origin, len: *len }),
            _ => device.clone(),
        };
        (space(*is_pio), Placement { base: *base, len: *len, name: name.as_str().into(), rung, device })
    });
    let wanted: Vec<_> = wanted.collect();
    let mut places = lock(&machine.places);
    let (_, added) = machine.core().rearrange(&[], &wanted).map_err(|error| errors::attach(&error))?;
    let mut numbers = Vec::with_capacity(added.len());
    for ((space, placement), attachment) in wanted.into_iter().zip(added) {
        places.last += 1;
        let (number, python) = (places.last, python.clone());
        places.all.push(Placed { number, space, placement, python, attachment: Some(attachment) });
        numbers.push(number);
    }
    Ok(numbers)
}

/// What becomes of a window: its number, its new address, whether it is on its bus; `None` leaves it as it is.
type Change = (u64, Option<u64>, Option<bool>);

/// Moves windows, disables and enables them, as one change; where vCPUs may still be in them.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn change(py: Python<'_>, machine: &Machine, changes: Vec<Change>) -> PyResult<Vec<Left>> {
    machine.ours("move a device")?;
    let mut places = lock(&machine.places);
    let (mut off, mut on, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for (number, base, enabled) in changes {
        let placed = places.find(number)?;
        let (was_on, old) = (placed.attachment.is_some(), placed.placement.base);
        let (base, is_on) = (base.unwrap_or(old), enabled.unwrap_or(was_on));
        if (base, is_on) == (old, was_on) {
            continue;
        }
        off.extend(placed.attachment);
        let placement = Placement { base, ..placed.placement.clone() };
        if is_on {
            on.push((placed.space, placement));
        }
        after.push((number, base, is_on));
    }
    drop(places); // methods may be told of writes now
    let moved = py.detach(|| machine.core().rearrange(&off, &on));
    let (removed, added) = moved.map_err(|error| errors::attach(&error))?;
    let mut places = lock(&machine.places);
    let mut added = added.into_iter();
    for (number, base, is_on) in after {
        let placed = places.find(number)?;
        placed.placement.base = base;
        placed.attachment = if is_on { added.next() } else { None };
    }
    drop(places);
    py.detach(|| machine.core().serve_rest(&removed));
    Ok(off.iter().map(left).collect())
}

/// Takes windows off their buses for good; where vCPUs may still be in them.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn detach(py: Python<'_>, machine: &Machine, numbers: Vec<u64>) -> PyResult<Vec<Left>> {
    machine.ours("detach")?;
    let mut places = lock(&machine.places);
    let mut off = Vec::new();
    for number in &numbers {
        off.extend(places.find(*number)?.attachment);
    }
    drop(places);
    let taken = py.detach(|| machine.core().rearrange(&off, &[]));
    let (removed, _) = taken.map_err(|error| errors::attach(&error))?;
    let mut places = lock(&machine.places);
    let (gone, kept): (Vec<_>, _) = places.all.drain(..).partition(|placed| numbers.contains(&placed.number));
    places.all = kept;
    drop(places);
    py.detach(|| machine.core().serve_rest(&removed));
    drop((removed, gone)); // perhaps the last references to Python objects
    Ok(off.iter().map(left).collect())
}

fn left(attachment: &Attachment) -> Left {
    (attachment.space == Space::Pio, attachment.region.0)
}
