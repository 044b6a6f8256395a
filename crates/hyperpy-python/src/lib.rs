//! The Python face of hyperpy: conversion, GIL policy, exceptions, buffers. No logic lives here.
//!
//! Every class is frozen: what can change is behind the core's own locks. Blocking verbs detach from the interpreter
//! before they wait; a device's method attaches for its call alone. The classes here are private: the public ones in
//! `python/hyperpy/` are made of them.

mod bench;
mod boot;
mod buffer;
mod calls;
mod clock;
mod console;
mod convert;
mod debug;
mod device;
mod dma;
mod errors;
mod fuzz;
mod fuzz_guest;
mod host;
mod line;
mod machine;
mod memory;
mod places;
mod plain;
mod probe;
mod processor;
mod record;
mod regfile;
mod routes;
mod script;
mod signals;
mod sink;
mod snapshot;
mod snapshot_file;
mod snapshot_value;
mod state;
mod stock_device;
mod vcpu;

use pyo3::prelude::*;

/// Native half of hyperpy.
#[pymodule]
mod _hyperpy {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::bench::{Batch, Bench, BenchState};
    #[pymodule_export]
    use crate::boot::{
        gunzip, kernel_payload, load_firmware, load_flat, load_linux, load_multiboot, load_pvh, recognise,
    };
    #[pymodule_export]
    use crate::buffer::{View, end_thread};
    #[pymodule_export]
    use crate::calls::Calls;
    #[pymodule_export]
    use crate::clock::{Clock, Timer};
    #[pymodule_export]
    use crate::console::Console;
    #[pymodule_export]
    use crate::debug::{clear_breakpoint, code_at, disassemble, run_until, set_breakpoint, step, trace, walk};
    #[pymodule_export]
    use crate::dma::Dma;
    #[pymodule_export]
    use crate::fuzz::{DeviceFuzzer, FuzzMemory, Trail, TrailOfCode};
    #[pymodule_export]
    use crate::fuzz_guest::{FuzzInput, GuestFuzzer, note_inputs};
    #[pymodule_export]
    use crate::host::{BellThread, TimerThread, VcpuThread};
    #[pymodule_export]
    use crate::line::{IrqLine, MessageSender, line, message_line, message_sender};
    #[pymodule_export]
    use crate::machine::Machine;
    #[pymodule_export]
    use crate::memory::Memory;
    #[pymodule_export]
    use crate::places::{Left, attach, change, detach, end_record, record, wait_until_left};
    #[pymodule_export]
    use crate::plain::plain;
    #[pymodule_export]
    use crate::probe::capabilities;
    #[pymodule_export]
    use crate::processor::{
        cpuid, fpu, msr_indices, msrs, remove_cpuid, set_cpuid, set_fpu, set_msrs, trap_hypercalls, trap_msr,
    };
    #[pymodule_export]
    use crate::record::Recorder;
    #[pymodule_export]
    use crate::regfile::{RegisterFile, RegisterLayout};
    #[pymodule_export]
    use crate::routes::{kernel_ranges, route, routes, stock_lines, stock_ports, stock_sizes};
    #[pymodule_export]
    use crate::script::Script;
    #[pymodule_export]
    use crate::snapshot::{Snapshot, fork, restore, take_snapshot};
    #[pymodule_export]
    use crate::snapshot_file::{SnapshotFile, save_snapshot};
    #[pymodule_export]
    use crate::stock_device::StockDevice;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::signals::prepare(module.py())
    }
}
