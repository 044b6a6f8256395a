//! Declared registers for Python: the layout of a class, the registers of an instance, and the methods that want to know.
//!
//! What is declared, and how it is checked and named, is in `python/hyperpy/declare.py`; a register is a number here.

use std::sync::Arc;

use hyperpy_core::bus::{Access, Action};
use hyperpy_core::regfile::{
    Bits, Cell, Delivery, Kind, Layout, LayoutError, Overflow, Owner, RegisterFile as Core, Rule, Tell, When,
};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::device::{PyDevice, action, number};
use crate::plain::object_of;
use crate::signals::attach;

/// A register as Python describes it: its name, and one field for each of [`Cell`].
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Description {
    name: String,
    offset: Option<u64>,
    width: u8,
    kind: String,
    /// What the kind needs, in the order of its fields.
    numbers: Vec<u64>,
    /// The masks of [`Bits`], in their order.
    bits: [u64; 7],
    reset: u64,
    big_endian: bool,
    sides: (bool, bool),
    when: Option<(u32, u64, u64)>,
    on_read: bool,
    /// `None`: not told; 0: of all writes; else of those of one of these bits.
    on_write: Option<u64>,
    /// How it is told: "now", "posted", "stream" or "doorbell", and the values of this.
    delivery: (String, Vec<u64>),
}

impl Description {
    fn cell(&self) -> PyResult<Cell> {
        let number = |at: usize| self.numbers.get(at).copied().unwrap_or_default();
        let small = |at: usize| u32::try_from(number(at)).unwrap_or(u32::MAX);
        let overflow = if number(2) == 0 { Overflow::Drop } else { Overflow::Overwrite };
        let kind = match self.kind.as_str() {
            "plain" => Kind::Plain,
            "fifo" => Kind::Fifo {
                depth: small(0),
                guest_takes: number(1) != 0,
                overflow,
                empty: number(3),
                threshold: small(4),
            },
            "level" => Kind::Level { of: small(0) },
            "counter" => Kind::Counter { hz: number(0) },
            "ram" => Kind::Ram { len: number(0) },
            "port" => {
                Kind::Port { index: small(0), mask: number(1), first: small(2), count: small(3), step: number(4) }
            }
            other => {
                return Err(PyValueError::new_err(format!(
                    "no such kind of register: {other}\n\nhint: as declare.py has them"
                )));
            }
        };
        let delivery = match self.delivery.0.as_str() {
            "posted" => Delivery::Posted,
            "stream" => Delivery::Stream,
            "doorbell" => Delivery::Bell(self.delivery.1.clone()),
            _ => Delivery::Now,
        };
        let [readable, stored, cleared_by_1, cleared_by_0, set_by_1, cleared_by_read, set_by_read] = self.bits;
        Ok(Cell {
            offset: self.offset,
            width: self.width,
            kind,
            bits: Bits { readable, stored, cleared_by_1, cleared_by_0, set_by_1, cleared_by_read, set_by_read },
            reset: self.reset,
            big_endian: self.big_endian,
            sides: self.sides,
            when: self.when.map(|(cell, mask, equals)| When { cell, mask, equals }),
            on_read: self.on_read,
            on_write: match self.on_write {
                None => Tell::Never,
                Some(0) => Tell::Always,
                Some(mask) => Tell::If(mask),
            },
            delivery,
        })
    }
}

/// The registers that a class of devices declares.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct RegisterLayout {
    pub(crate) layout: Arc<Layout>,
}

#[pymethods]
impl RegisterLayout {
    /// Checks a declaration. What cannot be is a ValueError of three arguments: the text, the hint, and which registers it is
    /// about.
    #[new]
    fn new(cells: Vec<Description>, size: u64, rule: &str, plain: bool, schema: i64) -> PyResult<Self> {
        let names = cells.iter().map(|cell| cell.name.as_str().into()).collect();
        let cells = cells.iter().map(Description::cell).collect::<PyResult<_>>()?;
        let rule = match rule {
            "exact" => Rule::Exact,
            "split" => Rule::Split,
            "widen" => Rule::Widen,
            "refuse" => Rule::Refuse,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no such rule: {other}\n\nhint: exact, split, widen or refuse"
                )));
            }
        };
        let layout = Layout::new(cells, size, rule, plain);
        let layout = layout.map_err(|error| PyValueError::new_err((error.to_string(), error.hint(), about(&error))))?;
        Ok(Self { layout: Arc::new(layout.named(names).of_schema(schema)) })
    }

    /// How long a read that Rust serves takes here, in nanoseconds; None if it serves none.
    fn measure(&self, py: Python<'_>) -> Option<f64> {
        py.detach(|| Core::measure(&self.layout))
    }
}

/// The registers that an error is about.
fn about(error: &LayoutError) -> Vec<u32> {
    match *error {
        LayoutError::Shared { cell, other, .. } if cell == other => vec![cell],
        LayoutError::Overlap { cell, other, .. }
        | LayoutError::Shared { cell, other, .. }
        | LayoutError::Reference { cell, other } => vec![other, cell],
        LayoutError::Width { cell, .. }
        | LayoutError::Outside { cell, .. }
        | LayoutError::Value { cell, .. }
        | LayoutError::Length { cell, .. }
        | LayoutError::Kind { cell, .. } => vec![cell],
        _ => Vec::new(),
    }
}

/// The registers of one device.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct RegisterFile {
    pub(crate) inner: Arc<Core>,
}

fn missing() -> PyErr {
    PyIndexError::new_err("no such register\n\nhint: its class declares them")
}

#[pymethods]
impl RegisterFile {
    #[new]
    fn new(layout: &RegisterLayout) -> Self {
        Self { inner: Arc::new(Core::new(layout.layout.clone())) }
    }

    fn get(&self, cell: u32) -> PyResult<u64> {
        self.inner.get(cell).ok_or_else(missing)
    }

    /// Sets the bits of `mask`.
    fn set(&self, cell: u32, value: u64, mask: u64) {
        self.inner.set(cell, value, mask);
    }

    /// Puts an item into a queue; False if one was lost.
    fn push(&self, cell: u32, item: u64) -> bool {
        self.inner.push(cell, item)
    }

    fn pop(&self, cell: u32) -> Option<u64> {
        self.inner.pop(cell)
    }

    fn front(&self, cell: u32) -> Option<u64> {
        self.inner.front(cell)
    }

    /// Items in a queue, and how many were lost.
    fn level(&self, cell: u32) -> (usize, u64) {
        self.inner.level(cell)
    }

    /// From which level on its methods are told of accesses to a queue.
    fn threshold(&self, cell: u32) -> usize {
        self.inner.threshold(cell)
    }

    fn set_threshold(&self, cell: u32, threshold: usize) {
        self.inner.set_threshold(cell, threshold);
    }

    fn items(&self, cell: u32) -> Vec<u64> {
        self.inner.items(cell)
    }

    fn set_items(&self, cell: u32, items: Vec<u64>, lost: u64) {
        self.inner.set_items(cell, &items, lost);
    }

    fn read_window<'py>(&self, py: Python<'py>, cell: u32, offset: u64, len: usize) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(
            py,
            len,
            |into| {
                if self.inner.read_window(cell, offset, into) { Ok(()) } else { Err(missing()) }
            },
        )
    }

    fn write_window(&self, cell: u32, offset: u64, bytes: &[u8]) -> PyResult<()> {
        if self.inner.write_window(cell, offset, bytes) { Ok(()) } else { Err(missing()) }
    }

    /// Reads and writes by guests, and how many of them called a method.
    fn hits(&self, cell: u32) -> (u64, u64, u64) {
        let hits = self.inner.hits(cell);
        (hits.reads, hits.writes, hits.told)
    }

    /// The same of all registers together, and how many writes rang a doorbell.
    fn total_hits(&self) -> (u64, u64, u64, u64) {
        let hits = self.inner.total_hits();
        (hits.reads, hits.writes, hits.told, hits.rings)
    }

    /// Reads and writes that no register takes, and those that the device refuses.
    fn strays(&self) -> ([u64; 2], [u64; 2]) {
        let strays = self.inner.strays();
        (strays.missed, strays.refused)
    }

    fn reset(&self) {
        self.inner.reset();
    }

    /// What they hold, as plain data by name.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        object_of(py, &self.inner.save().registers(), None)
    }
}

/// What is called for an access, and the first argument of it, for one of an array.
type Method = (Py<PyAny>, Option<u32>);

/// Who of a device wants to know of accesses to one register: its number; what is called at reads, and at writes.
pub(crate) type Handler = (u32, Option<Method>, Option<Method>);

/// What Python gives of a device that declares registers.
pub(crate) type Registers<'py> = (Bound<'py, RegisterFile>, Vec<Handler>);

#[derive(Default)]
struct Methods {
    on_read: Option<Method>,
    on_write: Option<Method>,
    /// A doorbell whose value nobody knows: None is told.
    is_blind: bool,
}

/// A device's registers, and its methods by register.
pub(crate) struct Declared {
    pub(crate) file: Arc<Core>,
    methods: Vec<Methods>,
}

impl Declared {
    pub(crate) fn new(file: &RegisterFile, handlers: Vec<Handler>) -> Self {
        let is_blind = |cell: &Cell| matches!(&cell.delivery, Delivery::Bell(values) if values.is_empty());
        let of = |cell| Methods { is_blind: is_blind(cell), ..Methods::default() };
        let mut methods: Vec<_> = file.inner.layout().cells().iter().map(of).collect();
        for (cell, on_read, on_write) in handlers {
            if let Some(place) = methods.get_mut(cell as usize) {
                *place = Methods { on_read, on_write, is_blind: place.is_blind };
            }
        }
        Self { file: file.inner.clone(), methods }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut all = self.methods.iter().flat_map(|methods| [&methods.on_read, &methods.on_write]).flatten();
        all.try_for_each(|(method, _)| visit.call(method))
    }

    fn width(&self, cell: u32) -> u8 {
        self.file.layout().cells().get(cell as usize).map_or(8, |cell| cell.width)
    }
}

/// A device whose registers are served with its methods' help.
pub(crate) struct Served<'a> {
    pub(crate) device: &'a PyDevice,
    pub(crate) declared: &'a Declared,
}

impl Served<'_> {
    fn ask(&self, cell: u32) -> Option<u64> {
        let method = self.declared.methods.get(cell as usize)?;
        attach(|py| {
            let (call, index) = method.on_read.as_ref()?;
            let answer = match index {
                Some(index) => call.bind(py).call1((index,)),
                None => call.bind(py).call0(),
            };
            let answer = answer.and_then(|value| {
                let width = self.declared.width(cell);
                (!value.is_none()).then(|| number(&value, width, &self.device.name)).transpose()
            });
            answer.unwrap_or_else(|error| {
                self.device.report.raised(py, error, &self.device.name, None);
                Some(u64::MAX)
            })
        })
    }

    fn tell(&self, cell: u32, value: u64) -> Action {
        let Some(method) = self.declared.methods.get(cell as usize) else { return Action::Continue };
        attach(|py| {
            let Some((call, index)) = &method.on_write else { return Action::Continue };
            let told = (!method.is_blind).then_some(value);
            let answer = match index {
                Some(index) => call.bind(py).call1((index, told)),
                None => call.bind(py).call1((told,)),
            };
            let action = answer.and_then(|answer| action(&answer, &self.device.name));
            action.unwrap_or_else(|error| {
                self.device.report.raised(py, error, &self.device.name, told);
                Action::Continue
            })
        })
    }
}

impl Owner for Served<'_> {
    fn read(&self, cell: u32, _held: u64) -> Option<u64> {
        self.device.calls.cell(cell).map_or_else(|| self.ask(cell), |calls| calls.read.time(|| self.ask(cell)))
    }

    fn write(&self, cell: u32, value: u64) -> Action {
        let calls = self.device.calls.cell(cell);
        calls.map_or_else(|| self.tell(cell, value), |calls| calls.write.time(|| self.tell(cell, value)))
    }

    fn plain_read(&self, at: Access) -> u64 {
        self.device.call_read(at)
    }

    fn plain_write(&self, at: Access, value: u64) -> Action {
        self.device.call_write(at, value)
    }

    fn refused(&self, at: Access, written: Option<u64>) {
        self.device.refused(at, written);
    }
}
