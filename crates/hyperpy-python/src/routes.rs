//! Where interrupts lead, for `hyperpy.irq`: the table of routes; and where the stock devices are, for maps and specs.

use std::collections::HashMap;
use std::sync::Arc;

use hyperpy_core::accel::Route;
use hyperpy_core::arch::x86_64::layout::KERNELS;
use hyperpy_core::bus::Bus;
use hyperpy_core::irq::{Line, Unconnected};
use hyperpy_devices::clock::HostClock;
use hyperpy_devices::debugexit;
use hyperpy_devices::pc::{self, Board, Parts};
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

/// (gsi, whether level-triggered, name) of every line of the stock devices: those that the machine has, or all.
#[pyfunction]
#[pyo3(signature = (machine))]
pub(crate) fn stock_lines(machine: Option<&Machine>) -> PyResult<Vec<(u32, bool, &'static str)>> {
    let Some(machine) = machine else { return Ok(pc::LINES.to_vec()) };
    machine.ours("read its map")?;
    Ok(machine.stock_lines())
}

/// (first port, ports, name) of every stock device of a PC: needs no machine and no KVM.
#[pyfunction]
pub(crate) fn stock_ports() -> PyResult<Vec<(u64, u64, String)>> {
    let bus = Bus::new(u64::from(u16::MAX));
    let lines = |_| Unconnected::new() as Arc<dyn Line>;
    let clock = Arc::new(HostClock::default());
    let parts = Parts {
        lines: &lines,
        clock,
        console: Arc::default(),
        memory_size: 0,
        posts: Arc::default(),
        debug_exit: None,
    };
    Board::attach(&bus, parts).map_err(|error| errors::attach(&error.into()))?;
    Ok(bus.map().regions().iter().map(|region| (region.base, region.len, region.name.to_string())).collect())
}

/// (bus, base, size, name, whether only with interrupt controllers) of every range that the kernel has for itself.
#[pyfunction]
pub(crate) fn kernel_ranges() -> Vec<(&'static str, u64, u64, &'static str, bool)> {
    KERNELS.iter().map(|own| (own.space.name(), own.base, own.len, own.name, own.with_irqchip)).collect()
}

/// Ports of the stock devices that are attached one by one, by their names in specs.
#[pyfunction]
pub(crate) fn stock_sizes() -> HashMap<&'static str, u64> {
    HashMap::from([("debug-exit", debugexit::PORTS), ("debug-console", 1)])
}
