//! Tests on the host's KVM, with tiny real-mode guests whose bytes are spelled out. Here is what they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, missing_docs)]

mod access;
mod memory;
mod posted;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyperpy_core::accel::VmConfig;
use hyperpy_core::bus::{Access, Action, Device, Rung, Space};
use hyperpy_core::control::Host;
use hyperpy_core::error::RunError;
use hyperpy_core::exit::StopReason;
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::Memory;

/// A host without Python: threads are plain threads.
struct Threads(Mutex<std::sync::Weak<Machine>>);

impl Host for Threads {
    fn poll(&self) -> bool {
        false
    }
    fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
        let machine = self.0.lock().unwrap().clone();
        let control = machine.upgrade().unwrap().control.clone();
        std::thread::spawn(move || Machine::serve(machine, &control, vcpu));
        Ok(())
    }
}

fn bare(memory: Memory, vcpus: u32, irqchip: bool) -> (Arc<Machine>, Threads) {
    let config = VmConfig { vcpus, irqchip };
    let machine = Arc::new(Machine::new(Arc::new(Kvm::open().unwrap()), memory, config));
    let host = Threads(Mutex::new(Arc::downgrade(&machine)));
    (machine, host)
}

/// A machine with 1 MiB of RAM whose vCPU 0 begins at `code` in real mode, at 0x1000.
fn machine(code: &[u8], vcpus: u32, irqchip: bool) -> (Arc<Machine>, Threads) {
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.write(0x1000, code).unwrap();
    let (machine, host) = bare(memory, vcpus, irqchip);
    machine
        .set_sregs(0, &host, |sregs| {
            sregs.cs.base = 0;
            sregs.cs.selector = 0;
        })
        .unwrap();
    machine
        .set_regs(0, &host, |regs| {
            regs.rip = 0x1000;
            regs.rsp = 0x8000;
            regs.rflags = 2;
        })
        .unwrap();
    (machine, host)
}

/// Remembers what was written, and answers reads by counting up.
#[derive(Default)]
struct Recorder {
    writes: Mutex<Vec<(u64, u8, u64)>>,
    reads: Mutex<Vec<(u64, u8)>>,
    next: AtomicU64,
}

impl Device for Recorder {
    fn read(&self, at: Access) -> u64 {
        self.reads.lock().unwrap().push((at.offset, at.size));
        self.next.fetch_add(1, Ordering::SeqCst)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.writes.lock().unwrap().push((at.offset, at.size, value));
        if value == 0xdead { Action::Stop(StopReason::Text("asked".into())) } else { Action::Continue }
    }
}

fn attach(machine: &Machine, space: Space, base: u64, len: u64) -> Arc<Recorder> {
    let device = Arc::new(Recorder::default());
    machine.attach(space, base, len, "recorder", Rung::Native, device.clone()).unwrap();
    device
}

const SECOND: Option<Duration> = Some(Duration::from_secs(10));
