//! Where interrupts lead, for `hyperpy._routes`: the table of routes, and the stock devices' lines.

use hyperpy_core::accel::Route;
use hyperpy_devices::pc;
use pyo3::prelude::*;

use crate::errors;
use crate::machine::Machine;

const IO_APIC: &str = "ioapic";
const PIC: &str = "pic";

/// Leads a gsi to these targets and no others: ("ioapic", pin, 0), ("pic", input, 0) or ("msi", address, data).
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // what Python hands over
pub(crate) fn route(py: Python<'_>, machine: &Machine, gsi: u32, targets: Vec<(String, u64, u32)>) -> PyResult<()> {
    machine.ours("set interrupt routes")?;
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let of = |(kind, value, data): &(String, u64, u32)| match kind.as_str() {
        IO_APIC => Route::IoApic { gsi, pin: number(*value) },
        PIC => Route::Pic { gsi, input: number(*value) },
        _ => Route::Msi { gsi, address: *value, data: *data },
    };
    let targets: Vec<_> = targets.iter().map(of).collect();
    py.detach(|| machine.core().route(gsi, &targets)).map_err(|error| errors::route(&error))
}

/// (gsi, kind, value, data) of every route, as `route` takes them.
#[pyfunction]
pub(crate) fn routes(machine: &Machine) -> PyResult<Vec<(u32, &'static str, u64, u32)>> {
    machine.ours("read its routes")?;
    let of = |route: &Route| match *route {
        Route::IoApic { gsi, pin } => (gsi, IO_APIC, u64::from(pin), 0),
        Route::Pic { gsi, input } => (gsi, PIC, u64::from(input), 0),
        Route::Msi { gsi, address, data } => (gsi, "msi", address, data),
    };
    Ok(machine.core().lines.routes().iter().map(of).collect())
}

/// (gsi, whether level-triggered, name) of every line of the stock devices that the machine has.
#[pyfunction]
pub(crate) fn stock_lines(machine: &Machine) -> PyResult<Vec<(u32, bool, &'static str)>> {
    machine.ours("read its map")?;
    Ok(if machine.has_board() { pc::LINES.to_vec() } else { Vec::new() })
}
