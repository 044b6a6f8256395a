//! Accesses to be played to a machine instead of a guest's, for `hyperpy.testing`.

use hyperpy_core::accel::AccelExit;
use hyperpy_core::scripted::{Scripted, Step};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A list of accesses, and what their reads gave.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Script {
    pub(crate) accelerator: Scripted,
}

/// On ports or not, address, size in bytes, the value of a write, how many times.
type Play = (bool, u64, u8, Option<u64>, u64);

#[pymethods]
impl Script {
    #[new]
    fn new(accesses: Vec<Play>, keep_reads: bool) -> PyResult<Self> {
        let mut steps = Vec::new();
        for (is_pio, address, size, value, times) in accesses {
            let is_write = value.is_some();
            let exit = if is_pio {
                let port = u16::try_from(address)
                    .map_err(|_| PyValueError::new_err("no such port\n\nhint: from 0 to 0xffff"))?;
                AccelExit::Pio { port, size, count: 1, is_write }
            } else {
                AccelExit::Mmio { gpa: address, size, is_write }
            };
            if times > 0 {
                steps.push(Step::Exit(exit, value.into_iter().collect()));
            }
            if times > 1 {
                steps.push(Step::Repeat(exit, times - 1)); // with the value before it
            }
        }
        let accelerator = Scripted::new(vec![steps]);
        Ok(Self { accelerator: if keep_reads { accelerator } else { accelerator.without_log() } })
    }

    /// What the reads gave, in order.
    fn reads(&self) -> Vec<u64> {
        self.accelerator.log().reads.into_iter().map(|(_, value)| value).collect()
    }
}
