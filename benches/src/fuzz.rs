//! The loop of the guest fuzzer, all of it, against what a C program needs to run the guest and put it back (`floor/fuzz.c`).
//!
//! The guest takes ten bytes of an input, counts each in a window, writes to ten pages and executes 1,300 instructions. As a user's
//! program it is executed by the processor on every KVM, and what is around it weighs most; as a kernel it has breakpoints, and one KVM interprets it.

use std::ffi::{c_int, c_long};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyperpy_core::accel::{Accelerator, VmConfig};
use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::fuzz::guest::patch::Wanted;
use hyperpy_core::fuzz::guest::place::{Place, Register};
use hyperpy_core::fuzz::guest::window::Layout;
use hyperpy_core::fuzz::guest::{GuestLoop, Plan};
use hyperpy_core::fuzz::havoc::Words;
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::Memory;

use crate::{Alone, Failure, timed};

const CODE: u64 = 0x1000;
const INPUT: u64 = 0x2_0000;
const WINDOW: u64 = 0x3_0000;
const MEMORY: u64 = 64 << 20;
/// Bytes that hold the code and the page tables.
const IMAGE: usize = 0x1_0000;
const KVM_EXIT_IO: u32 = 2;
const KVM_EXIT_HLT: u32 = 5;
/// mov edi,0x100000; mov edx,INPUT; mov ebx,WINDOW; mov ecx,10; l: movzx eax,byte [rdx]; inc byte [rbx+rax]; mov [rdi],al;
/// add rdi,0x1000; inc rdx; mov r8d,60; k: dec r8d; jnz k; dec ecx; jnz l
const BODY: [u8; 0x35] = [
    0xbf, 0, 0, 0x10, 0, 0xba, 0, 0, 2, 0, 0xbb, 0, 0, 3, 0, 0xb9, 10, 0, 0, 0, 0x0f, 0xb6, 0x02, 0xfe, 0x04, 0x03,
    0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xc2, 0x41, 0xb8, 60, 0, 0, 0, 0x41, 0xff, 0xc8, 0x75,
    0xfb, 0xff, 0xc9, 0x75, 0xdf,
];
/// Executions in a row before the other has its turn.
const TURN: usize = 20;

/// How the guest is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A user's program, which ends by a write to a port.
    User,
    /// A kernel, which ends by HLT, with breakpoints on its blocks.
    Kernel,
}

/// Both.
pub const GUESTS: [Guest; 2] = [Guest::User, Guest::Kernel];

impl Guest {
    /// What the figures call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Kernel => "kernel",
        }
    }

    fn code(self) -> Vec<u8> {
        let end: &[u8] = if self == Self::User { &[0xe6, 0x99] } else { &[0xf4] };
        [&BODY, end].concat()
    }
}

#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

// SAFETY: the functions have these signatures in floor/fuzz.c, which build.rs compiles into this crate.
unsafe extern "C" {
    fn fuzz_open(
        image: *const u8,
        image_len: usize,
        len: usize,
        is_user: c_int,
        rip: u64,
        reason: u32,
        msrs: *const u32,
        count: usize,
    ) -> *mut Raw;
    fn fuzz_turn(fuzz: *mut Raw) -> c_long;
    fn fuzz_close(fuzz: *mut Raw);
}

/// The loop in C.
struct Floor(NonNull<Raw>);

impl Floor {
    fn open(guest: Guest, image: &[u8], msrs: &[u32]) -> Result<Self, Failure> {
        let reason = if guest == Guest::User { KVM_EXIT_IO } else { KVM_EXIT_HLT };
        let (is_user, len) = ((guest == Guest::User).into(), usize::try_from(MEMORY)?);
        // SAFETY: both slices are valid for reads for the call, and only read.
        let raw =
            unsafe { fuzz_open(image.as_ptr(), image.len(), len, is_user, CODE, reason, msrs.as_ptr(), msrs.len()) };
        Ok(Self(NonNull::new(raw).ok_or_else(io::Error::last_os_error)?))
    }

    fn turn(&mut self) -> Result<(), Failure> {
        // SAFETY: the pointer came from fuzz_open and is closed only in drop; `&mut` keeps other calls out.
        let pages = unsafe { fuzz_turn(self.0.as_ptr()) };
        if pages < 0 { Err("the floor's guest ended otherwise".into()) } else { Ok(()) }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, here.
        unsafe { fuzz_close(self.0.as_ptr()) }
    }
}

/// The fuzzer; the memory of its guest at the base, and which registers belong to its state.
fn open(guest: Guest) -> Result<(GuestLoop, Vec<u8>, Vec<u32>), Failure> {
    let config = VmConfig { vcpus: 1, irqchip: false };
    let kvm = Arc::new(Kvm::open()?.with_rings(false));
    let msrs = {
        let vm = kvm.create_vm(config)?;
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.all_made()?;
        vm.save()?;
        vcpu.save()?.msrs.iter().map(|(index, _)| *index).collect()
    };
    let machine = Arc::new(Machine::new(kvm, Memory::with_ram(MEMORY)?, config));
    machine.set_entry(flat(&machine.memory, &guest.code(), CODE, Mode::Long)?, &Alone)?;
    // Tables of its own, whose entries are marked as used and written: nobody has to.
    let large = (0..512).map(|n| (0xa000 + 8 * n, n << 21 | 0xe7));
    for (gpa, entry) in [(0x8000, 0x9067_u64), (0x9000, 0xa067)].into_iter().chain(large) {
        machine.memory.write(gpa, &entry.to_le_bytes())?;
    }
    machine.set_sregs(0, &Alone, |sregs| {
        sregs.cr3 = 0x8000;
        for segment in [&mut sregs.cs, &mut sregs.ss, &mut sregs.ds, &mut sregs.es] {
            if guest == Guest::User {
                segment.dpl = 3;
                segment.selector |= 3;
            }
        }
    })?;
    machine.set_regs(0, &Alone, |regs| (regs.rip, regs.rflags) = (CODE, 0x3002))?; // ports are open to it
    let mut image = vec![0; IMAGE];
    machine.memory.read(0, &mut image)?;
    let base = machine.snapshot(&Alone)?;
    let blocks = if guest == Guest::Kernel { vec![CODE + 0x14, CODE + 0x2c, CODE + 0x31] } else { Vec::new() };
    let plan = Plan {
        places: vec![Place::Memory { at: INPUT, is_linear: false, most: 512, length: Some(Register::rsi) }],
        wanted: Wanted { blocks, ..Wanted::default() },
        window: Some((WINDOW, 0x1000, Layout::Counters)),
        comparisons: false,
        ..Plan::default()
    };
    let fuzzer = GuestLoop::new(machine, &base, plan, 1, Words::default(), &Alone)?;
    Ok((fuzzer, image, msrs))
}

fn turn(fuzzer: &mut GuestLoop) -> Result<(), Failure> {
    match fuzzer.turn(&Alone)?.finding {
        None => Ok(()),
        Some(finding) => Err(format!("the guest was found to end by {finding:?}").into()),
    }
}

/// Microseconds of an execution by the fuzzer, and of one in C: `rounds` rounds of `executions` each; who begins alternates.
///
/// # Errors
/// There is no usable KVM, or a guest ended otherwise.
pub fn compare(guest: Guest, rounds: usize, executions: usize) -> Result<Vec<(f64, f64)>, Failure> {
    let (mut fuzzer, image, msrs) = open(guest)?;
    let mut floor = Floor::open(guest, &image, &msrs)?;
    // Until what can be covered is.
    for _ in 0..4000 {
        turn(&mut fuzzer)?;
    }
    let turns = executions.div_ceil(TURN);
    let mut round = || {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for number in 0..2 * turns {
            if number % 2 == number / 2 % 2 {
                ours += timed(|| (0..TURN).try_for_each(|_| turn(&mut fuzzer)))?;
            } else {
                theirs += timed(|| (0..TURN).try_for_each(|_| floor.turn()))?;
            }
        }
        #[allow(clippy::cast_precision_loss)] // a few thousand
        let each = 1e-3 / (turns * TURN) as f64;
        Ok((ours * each, theirs * each))
    };
    round()?; // the warm-up
    (0..rounds).map(|_| round()).collect()
}

/// Executions a second of the loop in C, for so many seconds by the clock on the wall.
///
/// # Errors
/// There is no usable KVM, or the guest ended otherwise.
pub fn floor_rate(seconds: f64) -> Result<f64, Failure> {
    let (fuzzer, image, msrs) = open(Guest::User)?;
    drop(fuzzer);
    let mut floor = Floor::open(Guest::User, &image, &msrs)?;
    let (began, mut count) = (Instant::now(), 0_u32);
    let until = Duration::try_from_secs_f64(seconds)?;
    while began.elapsed() < until {
        (0..TURN).try_for_each(|_| floor.turn())?;
        count += TURN as u32;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// The fuzzer alone, for who counts its system calls.
///
/// # Errors
/// There is no usable KVM.
pub fn drive(executions: usize) -> Result<(), Failure> {
    let mut fuzzer = open(Guest::User)?.0;
    (0..executions).try_for_each(|_| turn(&mut fuzzer))
}
