//! Loaders: images into a machine's memory, and its first vCPU to their entry.

use hyperpy_core::boot::acpi::{Irq, ListedDevice, Platform, Range, Uid};
use hyperpy_core::boot::flat::Mode;
use hyperpy_core::boot::linux::Linux;
use hyperpy_core::boot::multiboot::Multiboot;
use hyperpy_core::boot::platform::describe;
use hyperpy_core::boot::pvh::Pvh;
use hyperpy_core::boot::recognise::{self as marks, Kind};
use hyperpy_core::boot::{Entry, Module, flat, linux, multiboot, pvh, trim, unpack};
use hyperpy_core::error::BootError;
use hyperpy_core::memory::Memory;
use hyperpy_devices::pc;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{LARGE, filled, with_bytes};
use crate::errors;
use crate::machine::Machine;

fn enter(py: Python<'_>, machine: &Machine, entry: Result<Entry, BootError>) -> PyResult<()> {
    let entry = entry.map_err(|error| errors::boot(&error))?;
    machine.hosted(py, |host| machine.core().set_entry(entry, host))
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
    let entry = with_bytes(image, LARGE, |image| flat::flat(&core.memory, image, at, mode))?;
    enter(image.py(), machine, entry)
}

/// A device for the ACPI tables: `hyperpy._acpi.Listed`.
#[derive(FromPyObject)]
pub struct Listed {
    hid: String,
    cids: Vec<String>,
    uid: Option<Unique>,
    mmio: Vec<(u64, u64)>,
    pio: Vec<(u64, u64)>,
    /// (gsi, whether level-triggered).
    irqs: Vec<(u32, bool)>,
}

#[derive(FromPyObject)]
enum Unique {
    #[pyo3(annotation = "int")]
    Number(u64),
    #[pyo3(annotation = "str")]
    Text(String),
}

/// What the tables of a machine with a PC's stock devices describe.
fn platform(machine: &Machine, listed: Vec<Listed>) -> Platform {
    let range = |(base, len)| Range { base, len };
    let devices = listed.into_iter().map(|one| ListedDevice {
        hid: one.hid,
        cids: one.cids,
        uid: one.uid.map(|uid| match uid {
            Unique::Number(number) => Uid::Number(number),
            Unique::Text(text) => Uid::Text(text),
        }),
        mmio: one.mmio.into_iter().map(range).collect(),
        pio: one.pio.into_iter().map(range).collect(),
        irqs: one.irqs.into_iter().map(|(gsi, level)| Irq { gsi, level }).collect(),
    });
    Platform {
        cpus: machine.core().config().vcpus,
        com1: machine.has_stock(pc::COM1),
        rtc: machine.has_stock(pc::RTC),
        devices: devices.collect(),
    }
}

/// Loads an operating system, which finds the platform's tables.
fn load_system(
    py: Python<'_>,
    machine: &Machine,
    listed: Vec<Listed>,
    load: impl FnOnce(&Memory, u64) -> Result<Entry, BootError> + Send,
) -> PyResult<()> {
    machine.require_load()?;
    let core = machine.core();
    let platform = platform(machine, listed);
    // Kernels are tens of megabytes: other threads go on meanwhile.
    let entry = py.detach(|| describe(&core.memory, &platform, |rsdp| load(&core.memory, rsdp)));
    enter(py, machine, entry)?;
    core.tells_generation();
    Ok(())
}

/// Loads a Linux kernel, or another program of its boot protocol.
#[pyfunction]
#[pyo3(signature = (machine, kernel, setup, initrd, cmdline, listed))]
pub fn load_linux(
    py: Python<'_>,
    machine: &Machine,
    kernel: &[u8],
    setup: Option<&[u8]>,
    initrd: Option<&[u8]>,
    cmdline: &[u8],
    listed: Vec<Listed>,
) -> PyResult<()> {
    load_system(py, machine, listed, |memory, rsdp| {
        let initrd = initrd.filter(|bytes| !bytes.is_empty());
        linux::linux(memory, &Linux { kernel, setup, initrd, cmdline, rsdp: Some(rsdp) })
    })
}

/// (contents, line of text) pairs.
type Modules<'py> = Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>;

fn modules<'a>(given: &'a Modules<'_>) -> Vec<Module<'a>> {
    given.iter().map(|(bytes, cmdline)| Module { bytes: bytes.as_bytes(), cmdline: cmdline.as_bytes() }).collect()
}

/// Loads a kernel by its PVH entry.
#[pyfunction]
pub fn load_pvh(
    py: Python<'_>,
    machine: &Machine,
    kernel: &[u8],
    given: Modules<'_>,
    cmdline: &[u8],
    listed: Vec<Listed>,
) -> PyResult<()> {
    let modules = modules(&given);
    load_system(py, machine, listed, |memory, rsdp| {
        pvh::pvh(memory, &Pvh { kernel, modules: &modules, cmdline, rsdp: Some(rsdp) })
    })
}

/// Loads a Multiboot kernel.
#[pyfunction]
pub fn load_multiboot(
    py: Python<'_>,
    machine: &Machine,
    kernel: &[u8],
    given: Modules<'_>,
    cmdline: &[u8],
    listed: Vec<Listed>,
) -> PyResult<()> {
    let modules = modules(&given);
    load_system(py, machine, listed, |memory, _| {
        multiboot::multiboot(memory, &Multiboot { kernel, modules: &modules, cmdline })
    })
}

/// Loads firmware, to be entered at the reset vector.
#[pyfunction]
pub fn load_firmware(py: Python<'_>, machine: &Machine, image: &[u8]) -> PyResult<()> {
    machine.require_load()?;
    let core = machine.core();
    let entry = py.detach(|| core.load_firmware(image));
    enter(py, machine, entry)
}

/// The loader that a file is for: "linux", "multiboot" or "pvh".
#[pyfunction]
pub fn recognise(image: &[u8]) -> PyResult<&'static str> {
    match marks::recognise(image).map_err(|error| errors::boot(&error))? {
        Kind::Linux => Ok("linux"),
        Kind::Multiboot => Ok("multiboot"),
        Kind::Pvh => Ok("pvh"),
    }
}

/// What gzip has packed; None for another file. More than `limit` bytes is an error.
#[pyfunction]
pub fn gunzip<'py>(py: Python<'py>, file: &[u8], limit: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let bytes = py.detach(|| unpack::gunzip(file, limit)).map_err(|error| errors::boot(&error))?;
    bytes.map(|bytes| to_python(py, &bytes)).transpose()
}

/// The ELF file inside a bzImage, unpacked and trimmed; None for an image that has none. More than `limit` bytes is an error.
#[pyfunction]
pub fn kernel_payload<'py>(
    py: Python<'py>,
    kernel: &Bound<'py, PyAny>,
    limit: usize,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    // How long it takes is not told by the size of what is packed.
    let unpacked = |kernel: &[u8]| unpack::payload(kernel, limit).map(|payload| payload.map(trim::trimmed));
    let payload = with_bytes(kernel, 0, unpacked)?.map_err(|error| errors::boot(&error))?;
    payload.map(|bytes| to_python(py, &bytes)).transpose()
}

fn to_python<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    filled(py, bytes.len(), |into| {
        into.copy_from_slice(bytes);
        Ok(())
    })
}
