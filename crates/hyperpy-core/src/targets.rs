//! What hyperpy is fuzzed with: each target is a function of any bytes, which panics where a property does not hold.
//!
//! A target stands beside what it is about (`x_fuzz.rs` beside `x.rs`), since that is where it may see it; here is their list.
//! `fuzz/` makes a libFuzzer program of each; the tests that come with the list hold on any toolchain what these have found
//! (`fuzz/regressions`). None of it is compiled but for tests and with `--cfg fuzzing`, as cargo-fuzz sets it.

mod input;

pub(crate) use self::input::{any_of, changed, edited, leaf, near, sorted, targets, with};
use crate::snapshot::Value;

targets! {
    bus = crate::bus::fuzz::bus;
    shortcuts = crate::bus::fuzz::shortcuts;
    registers = crate::regfile::fuzz::registers;
    layouts = crate::regfile::fuzz::layouts;
    access_split = crate::regfile::fuzz::access_split;
    register_state = crate::regfile::fuzz::register_state;
    boot_linux = crate::boot::fuzz::boot_linux;
    boot_pvh = crate::boot::fuzz::boot_pvh;
    boot_multiboot = crate::boot::fuzz::boot_multiboot;
    boot_flat = crate::boot::fuzz::boot_flat;
    boot_unpack = crate::boot::fuzz::boot_unpack;
    boot_trim = crate::boot::fuzz::boot_trim;
    acpi = crate::boot::fuzz::acpi;
    paging = crate::arch::x86_64::fuzz::paging;
    fpu_area = crate::arch::x86_64::fuzz::fpu_area;
    processor = crate::arch::x86_64::fuzz::processor;
    exit_page = crate::kvm::fuzz::exit_page;
    posted_ring = crate::kvm::fuzz::posted_ring;
    dirty_ring = crate::kvm::fuzz::dirty_ring;
    memory_map = crate::memory::fuzz::memory_map;
    dma = crate::memory::fuzz::dma;
    dirty_bits = crate::memory::fuzz::dirty_bits;
    lines = crate::irq::fuzz::lines;
    routes = crate::irq::fuzz::routes;
    timers = crate::clock::fuzz::timers;
    snapshot_value = crate::snapshot::file::fuzz::snapshot_value;
    snapshot_file = crate::snapshot::file::fuzz::snapshot_file;
    machine_state = crate::machine::fuzz::machine_state;
    run_loop = crate::machine::fuzz::run_loop;
}
