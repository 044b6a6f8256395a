//! Debugging for Python: page walks, disassembly, steps, breakpoints and traces.

use hyperpy_core::arch::x86_64::disassemble as code;
use hyperpy_core::arch::x86_64::paging::{End, Level, Page, Walk};
use hyperpy_core::bus::Space;
use hyperpy_core::control::Phase;
use hyperpy_core::debug::{Breakpoint, On};
use hyperpy_core::names::History;
use hyperpy_core::trace::{Entry, Reason};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::{LARGE, with_bytes};
use crate::errors;
use crate::host::PyHost;
use crate::machine::Machine;
use crate::machine::inside::duration;

type LevelFields = (&'static str, u64, u16, u64, u64);
type PageFields = (u64, u64, bool, bool, bool);
type WalkFields = (u64, &'static str, Vec<LevelFields>, Option<PageFields>, Option<u64>, String);

/// The page walk of a linear address: (gva, mode, levels, page, reserved bits that are set, in words).
#[pyfunction]
pub fn walk(py: Python<'_>, machine: &Machine, vcpu: u32, gva: u64) -> PyResult<WalkFields> {
    let walk = machine.hosted(py, |host| machine.core().walk(vcpu, gva, host))?;
    let said = walk.to_string();
    let page = walk.page().map(|Page { gpa, size, is_writable, is_user, is_executable }| {
        (gpa, size, is_writable, is_user, is_executable)
    });
    let Walk { gva, paging, levels, end } = walk;
    let level = |Level { name, table_gpa, index, entry_gpa, entry }| (name, table_gpa, index, entry_gpa, entry);
    let reserved = if let End::Reserved { bits } = end { Some(bits) } else { None };
    Ok((gva, paging.name(), levels.into_iter().map(level).collect(), page, reserved, said))
}

/// (linear address of the next instruction, width of its code in bits).
#[pyfunction]
pub fn code_at(py: Python<'_>, machine: &Machine, vcpu: u32) -> PyResult<(u64, u32)> {
    let core = machine.core();
    machine.hosted(py, |host| {
        let sregs = core.sregs(vcpu, host)?;
        Ok((sregs.linear_rip(core.regs(vcpu, host)?.rip), sregs.code_bits()))
    })
}

/// (address, length, text) of each instruction.
#[pyfunction]
pub fn disassemble(bytes: &Bound<'_, PyAny>, address: u64, bits: u32) -> PyResult<Vec<(u64, usize, String)>> {
    let found = with_bytes(bytes, LARGE, |bytes| code::disassemble(bytes, address, bits))?;
    Ok(found.into_iter().map(|i| (i.address, i.len, i.text)).collect())
}

/// Executes some instructions of one vCPU, as `Machine.run` returns.
#[pyfunction]
#[pyo3(signature = (machine, vcpu, count, timeout))]
pub fn step<'py>(
    py: Python<'py>,
    machine: &Machine,
    vcpu: u32,
    count: u64,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let (timeout, core) = (duration(timeout)?, machine.core());
    let host = PyHost::new(core);
    let outcome = py.detach(|| core.step(vcpu, count, timeout, &host));
    machine.outcome(py, outcome, &host)
}

/// Runs the machine until a vCPU comes to an address, as `Machine.run` returns.
#[pyfunction]
#[pyo3(signature = (machine, vcpu, address, timeout))]
pub fn run_until<'py>(
    py: Python<'py>,
    machine: &Machine,
    vcpu: u32,
    address: u64,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let (timeout, core) = (duration(timeout)?, machine.core());
    let host = PyHost::new(core);
    let outcome = py.detach(|| core.run_until(vcpu, address, timeout, &host));
    machine.outcome(py, outcome.map_err(|error| errors::debug(&error))?, &host)
}

/// Sets a breakpoint ("execute") or watchpoint ("write", "readwrite"); the number of its debug register.
#[pyfunction]
pub fn set_breakpoint(machine: &Machine, address: u64, size: u8, on: &str) -> PyResult<u8> {
    machine.ours("set a breakpoint")?;
    let on = match on {
        "execute" => On::Execute,
        "write" => On::Write,
        "readwrite" => On::ReadWrite,
        _ => return Err(PyValueError::new_err(format!("unknown access: {on}\n\nhint: write or readwrite"))),
    };
    let set = machine.core().set_breakpoint(Breakpoint { address, size, on }, None);
    set.map_err(|error| errors::debug(&error))
}

/// Takes one away.
#[pyfunction]
pub fn clear_breakpoint(machine: &Machine, number: u8) -> PyResult<()> {
    machine.ours("remove a breakpoint")?;
    machine.core().clear_breakpoint(number).map_err(|error| errors::debug(&error))
}

/// Time, vCPU, kind, address, value, size, count, whether it is a write, rip, device, register.
type EntryFields = (u64, u32, &'static str, u64, u64, u8, u32, bool, u64, String, String);

/// The last exits of each vCPU, oldest first; nothing on a machine that is not traced. Those before the numbers in
/// `after`, one for each vCPU, are left out. Then the numbers from which to go on, and whether there may be more: then the
/// last one of each vCPU, which may be under way, is left for the next time.
#[pyfunction]
#[pyo3(signature = (machine, after = None))]
pub fn trace(machine: &Machine, after: Option<Vec<u64>>) -> PyResult<(Vec<EntryFields>, Vec<u64>, bool)> {
    machine.ours("read its trace")?;
    let core = machine.core();
    let is_open = after.is_some() && core.control.phase() == Phase::Running;
    let (vcpus, history) = (core.control.vcpus(), core.history());
    let (mut fields, mut next) = (Vec::new(), Vec::new());
    for (id, vcpu) in (0..).zip(vcpus) {
        let first = after.as_ref().and_then(|after| after.get(next.len())).copied().unwrap_or_default();
        let (entries, end) = vcpu.trace().map(|ring| ring.entries_from(first, is_open)).unwrap_or_default();
        next.push(end);
        fields.extend(entries.into_iter().map(|entry| {
            let (device, register) = named(&history, &entry);
            let Entry { ns, reason, address, value, size, count, is_write, rip } = entry;
            (ns, id, reason.name(), address, value, size, count, is_write, rip, device, register)
        }));
    }
    Ok((fields, next, is_open))
}

/// The device and the register of an exit, where it is an access and they are known.
fn named(history: &History, entry: &Entry) -> (String, String) {
    let space = match entry.reason {
        Reason::Pio => Space::Pio,
        Reason::Mmio => Space::Mmio,
        _ => return Default::default(),
    };
    let found = history.find(space, entry.address, entry.size, entry.is_write, entry.ns);
    found.map(|found| (found.device.to_string(), found.register.unwrap_or_default())).unwrap_or_default()
}
