//! Loaders: images into a machine's memory, and its first vCPU to their entry.

use hyperpy_core::boot::acpi::{self, Irq, ListedDevice, Platform, Range};
use hyperpy_core::boot::flat::Mode;
use hyperpy_core::boot::linux::Linux;
use hyperpy_core::boot::{Entry, flat, linux, unpack};
use hyperpy_core::machine::Machine as Core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::with_bytes;
use crate::errors;
use crate::machine::Machine;

fn enter(machine: &Core, entry: Entry) -> PyResult<()> {
    machine.set_entry(entry).map_err(|error| errors::run(&error))
}

/// Loads code as it is, to be entered at its first byte.
#[pyfunction]
pub fn load_flat(machine: &Machine, image: &Bound<'_, PyAny>, at: u64, mode: &str) -> PyResult<()> {
    let mode = match mode {
        "real" => Mode::Real,
        "protected" => Mode::Protected,
        "long" => Mode::Long,
        _ => return Err(PyValueError::new_err(format!("unknown mode: {mode}\n\nhint: real, protected or long"))),
    };
    machine.require_load()?;
    let core = machine.core();
    let entry = with_bytes(image, |image| flat::flat(&core.memory, image, at, mode))?;
    enter(core, entry.map_err(|error| errors::boot(&error))?)
}

/// A device for the ACPI tables: hardware id, mmio ranges, port ranges, (gsi, level-triggered) pairs.
type Listed = (String, Vec<(u64, u64)>, Vec<(u64, u64)>, Vec<(u32, bool)>);

/// Loads a Linux kernel, or another program of its boot protocol.
#[pyfunction]
#[pyo3(signature = (machine, kernel, setup, initrd, cmdline, listed))]
pub fn load_linux(
    machine: &Machine,
    kernel: &Bound<'_, PyAny>,
    setup: Option<&Bound<'_, PyAny>>,
    initrd: Option<&Bound<'_, PyAny>>,
    cmdline: &[u8],
    listed: Vec<Listed>,
) -> PyResult<()> {
    machine.require_load()?;
    let core = machine.core();
    let range = |(base, len)| Range { base, len };
    let devices = listed.into_iter().map(|(hid, mmio, pio, irqs)| ListedDevice {
        hid,
        mmio: mmio.into_iter().map(range).collect(),
        pio: pio.into_iter().map(range).collect(),
        irqs: irqs.into_iter().map(|(gsi, level)| Irq { gsi, level }).collect(),
    });
    let platform = Platform { cpus: core.config().vcpus, com1: true, rtc: true, devices: devices.collect() };
    let rsdp = acpi::write(&core.memory, &platform).map_err(|error| errors::boot(&error))?;
    let none = PyBytes::new(kernel.py(), &[]).into_any();
    let entry = with_bytes(kernel, |kernel| {
        with_bytes(setup.unwrap_or(&none), |setup| {
            with_bytes(initrd.unwrap_or(&none), |initrd| {
                let filled = |bytes: &'_ [u8]| !bytes.is_empty();
                let image = Linux {
                    kernel,
                    setup: filled(setup).then_some(setup),
                    initrd: filled(initrd).then_some(initrd),
                    cmdline,
                    rsdp: Some(rsdp),
                };
                linux::linux(&core.memory, &image)
            })
        })
    })???;
    enter(core, entry.map_err(|error| errors::boot(&error))?)
}

/// The ELF file inside a bzImage, unpacked; None for an image that has none. More than `limit` bytes is an error.
#[pyfunction]
pub fn kernel_payload<'py>(
    py: Python<'py>,
    kernel: &Bound<'py, PyAny>,
    limit: usize,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let payload = with_bytes(kernel, |kernel| unpack::payload(kernel, limit))?.map_err(|error| errors::boot(&error))?;
    Ok(payload.map(|bytes| PyBytes::new(py, &bytes)))
}
