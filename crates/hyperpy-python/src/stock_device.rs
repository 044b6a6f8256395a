//! Stock devices that a script attaches one by one, by name; a PC's own set is attached by the core's board.

use std::sync::Arc;

use hyperpy_core::boot::firmware::e820;
use hyperpy_core::bus::{Access, Action, Device};
use hyperpy_core::fuzz::device::Around;
use hyperpy_devices::debugcon::DebugConsole;
use hyperpy_devices::debugexit::DebugExit;
use hyperpy_devices::fw_cfg::FwCfg;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::console::Console;
use crate::fuzz::{BenchTime, Stock};
use crate::machine::Machine;

struct Panicking;

impl Device for Panicking {
    #[allow(clippy::panic, reason = "what it is for")]
    fn read(&self, _: Access) -> u64 {
        panic!("a read that panics")
    }
    #[allow(clippy::panic, reason = "what it is for")]
    fn write(&self, _: Access, _: u64) -> Action {
        panic!("a write that panics")
    }
}

/// A device written in Rust, to be attached by name.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct StockDevice {
    pub(crate) device: Arc<dyn Device>,
    #[pyo3(get)]
    name: &'static str,
    #[pyo3(get)]
    size: u64,
    /// Of one that is made for a bench.
    pub(crate) time: Option<Arc<BenchTime>>,
    pub(crate) around: Option<Arc<dyn Around + Send + Sync>>,
}

impl StockDevice {
    /// Any device of the core's.
    pub(crate) fn of(device: Arc<dyn Device>, name: &'static str, size: u64) -> Self {
        Self { device, name, size, time: None, around: None }
    }
}

#[pymethods]
impl StockDevice {
    /// The debug-exit port of test kernels: a write stops the machine with status `value << 1 | 1`.
    #[staticmethod]
    fn debug_exit() -> Self {
        Self::of(Arc::new(DebugExit), "debug exit", hyperpy_devices::debugexit::PORTS)
    }

    /// A device with a bug, for the tests: every access to it panics.
    #[staticmethod]
    fn panicking() -> Self {
        Self::of(Arc::new(Panicking), "panicking", 1)
    }

    /// The debug console port: bytes go to the console.
    #[staticmethod]
    fn debug_console(console: &Console) -> Self {
        Self::of(Arc::new(DebugConsole::new(console.inner.clone())), "debug console", 1)
    }

    /// fw_cfg for a machine's processors and memory map, with further files.
    #[staticmethod]
    fn fw_cfg(machine: &Machine, files: Vec<(String, Vec<u8>)>) -> PyResult<Self> {
        let core = machine.core();
        let map = ("etc/e820".to_owned(), e820(&core.memory));
        let files = [map].into_iter().chain(files).collect();
        let cpus = core.config().vcpus.try_into().unwrap_or(u16::MAX);
        let device = FwCfg::new(cpus, files).map_err(|error| {
            let hint = "a name has 1 to 55 ASCII characters; etc/e820 is hyperpy's own";
            PyValueError::new_err(format!("{error}\n\nhint: {hint}"))
        })?;
        Ok(Self::of(Arc::new(device), "fw_cfg", hyperpy_devices::fw_cfg::PORTS))
    }

    /// One of a PC's devices by its name, for a bench.
    #[staticmethod]
    fn on_bench(name: &str) -> PyResult<Self> {
        let Stock { name, device, size, time, around } = Stock::named(name).ok_or_else(|| {
            PyValueError::new_err(format!("no such device: {name:.40}\n\nhint: a name of hyperpy.fuzz.STOCK"))
        })?;
        Ok(Self { device, name, size, time: Some(time), around })
    }

    /// Puts what is around the device back to what it was at first.
    fn begin(&self) {
        if let Some(around) = &self.around {
            around.begin();
        }
    }

    /// Somebody outside the guest does something to the device.
    fn event(&self, number: u32, data: &[u8]) {
        if let Some(around) = &self.around {
            around.event(number, data);
        }
    }
}
