//! Putting back what a guest has written, and forks of its memory: by hyperpy and by C in turn (`floor/restore.c`).
//!
//! The guest is a user's program in long mode, which every KVM runs by the processor. It writes one byte on each of so many
//! pages; what is measured is the restore alone, and beside it a whole turn, the guest's next faults and all.

use std::ffi::{c_int, c_long};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use hyperpy_core::accel::VmConfig;
use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::exit::Exit;
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::{Image, Memory};

use crate::alloc::allocations;
use crate::{Alone, Failure};

const CODE: u64 = 0x1000;
const START: u64 = 1 << 20;
/// Bytes that hold the code and the page tables.
const IMAGE: usize = 0x1_0000;
/// mov rdi,rsi; l: mov [rdi],bl; add rdi,0x1000; loop l; out 0x99,al
const USER: [u8; 16] = [0x48, 0x89, 0xf7, 0x88, 0x1f, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf5, 0xe6, 0x99];
/// Restores in a row before the other has its turn.
const TURN: usize = 10;

#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

// SAFETY: the functions have these signatures in floor/restore.c, which build.rs compiles into this crate.
unsafe extern "C" {
    fn restore_open(image: *const u8, image_len: usize, len: usize, rings: c_int) -> *mut Raw;
    fn restore_run(floor: *mut Raw, rip: u64, start: u64, pages: u64, value: u64) -> c_int;
    fn restore_put_back(floor: *mut Raw) -> c_long;
    fn restore_write(floor: *mut Raw, start: u64, pages: u64);
    fn restore_fork(floor: *mut Raw) -> c_int;
    fn restore_close(floor: *mut Raw);
}

/// The guest in C.
struct Floor(NonNull<Raw>);

impl Floor {
    fn open(image: &[u8], len: usize, rings: bool) -> Result<Self, Failure> {
        // SAFETY: `image` is valid for reads for the call, and only read.
        let raw = unsafe { restore_open(image.as_ptr(), image.len(), len, rings.into()) };
        Ok(Self(NonNull::new(raw).ok_or_else(io::Error::last_os_error)?))
    }

    fn run(&mut self, pages: u64) -> Result<(), Failure> {
        // SAFETY: the pointer came from restore_open and is closed only in drop; `&mut` keeps other calls out.
        match unsafe { restore_run(self.0.as_ptr(), CODE, START, pages, 1) } {
            0 => Ok(()),
            reason => Err(format!("the floor's guest ended by {reason}: {}", io::Error::last_os_error()).into()),
        }
    }

    fn put_back(&mut self) -> Result<u64, Failure> {
        // SAFETY: as above.
        let pages = unsafe { restore_put_back(self.0.as_ptr()) };
        Ok(u64::try_from(pages).map_err(|_| io::Error::last_os_error())?)
    }

    fn write(&mut self, pages: u64) {
        // SAFETY: as above; the pages lie in its memory, which is at least 64 MiB.
        unsafe { restore_write(self.0.as_ptr(), START, pages) };
    }

    fn fork(&mut self) -> Result<(), Failure> {
        // SAFETY: as above.
        if unsafe { restore_fork(self.0.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, here.
        unsafe { restore_close(self.0.as_ptr()) }
    }
}

/// The guest in hyperpy, and the image that it goes back to.
pub struct Hyperpy {
    machine: Arc<Machine>,
    image: Arc<Image>,
}

impl Hyperpy {
    /// A guest with `len` bytes of memory.
    ///
    /// # Errors
    /// There is no usable KVM.
    pub fn open(len: u64, rings: bool) -> Result<Self, Failure> {
        let config = VmConfig { vcpus: 1, irqchip: false };
        let kvm = Arc::new(Kvm::open()?.with_rings(rings));
        let machine = Arc::new(Machine::new(kvm, Memory::with_ram(len)?, config));
        machine.set_entry(flat(&machine.memory, &USER, CODE, Mode::Long)?, &Alone)?;
        // Tables of its own, whose entries are marked as used and written: nobody has to.
        let large = (0..512).map(|n| (0xa000 + 8 * n, n << 21 | 0xe7));
        for (gpa, entry) in [(0x8000, 0x9067_u64), (0x9000, 0xa067)].into_iter().chain(large) {
            machine.memory.write(gpa, &entry.to_le_bytes())?;
        }
        machine.set_sregs(0, &Alone, |sregs| {
            sregs.cr3 = 0x8000;
            for segment in [&mut sregs.cs, &mut sregs.ss, &mut sregs.ds, &mut sregs.es] {
                segment.dpl = 3;
                segment.selector |= 3;
            }
        })?;
        let image = machine.memory.image()?;
        Ok(Self { machine, image })
    }

    /// The guest writes so many pages.
    ///
    /// # Errors
    /// It did something else.
    pub fn run(&mut self, pages: u64) -> Result<(), Failure> {
        self.machine.set_regs(0, &Alone, |regs| {
            (regs.rip, regs.rflags) = (CODE, 0x3002); // ports are open to it
            (regs.rsi, regs.rcx, regs.rbx) = (START, pages, 1);
        })?;
        match self.machine.run(None, &Alone)? {
            Exit::Pio(_) => Ok(()),
            other => Err(format!("hyperpy's guest ended by {other:?}").into()),
        }
    }

    /// Puts back what it has written; how many pages.
    ///
    /// # Errors
    /// The host refuses.
    pub fn restore(&mut self) -> Result<u64, Failure> {
        Ok(self.machine.memory.restore(&self.image, &[])?.pages)
    }

    fn start(&self) -> Result<Vec<u8>, Failure> {
        let mut image = vec![0; IMAGE];
        self.machine.memory.read(0, &mut image)?;
        Ok(image)
    }
}

/// Microseconds of one restore, and of one turn: the guest's writes and the restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// hyperpy's restore.
    pub hyperpy: f64,
    /// The floor's.
    pub floor: f64,
    /// hyperpy's turn.
    pub hyperpy_turn: f64,
    /// The floor's.
    pub floor_turn: f64,
    /// Allocations of all of hyperpy's restores.
    pub allocations: u64,
}

fn turns(
    run: &mut dyn FnMut() -> Result<(), Failure>,
    restore: &mut dyn FnMut() -> Result<u64, Failure>,
    pages: u64,
) -> Result<(f64, f64), Failure> {
    let (began, mut inside) = (Instant::now(), 0.0);
    for _ in 0..TURN {
        run()?;
        let began = Instant::now();
        let put_back = restore()?;
        inside += began.elapsed().as_secs_f64() * 1e6;
        if put_back < pages {
            return Err(format!("{put_back} pages of {pages} were put back").into());
        }
    }
    #[allow(clippy::cast_precision_loss)] // ten
    let each = TURN as f64;
    Ok((inside / each, began.elapsed().as_secs_f64() * 1e6 / each))
}

/// `rounds` rounds of `restores` restores each of `pages` pages in memory of `mib` MiB; who begins alternates.
///
/// # Errors
/// There is no usable KVM, or a guest did something else.
pub fn compare(mib: u64, pages: u64, rings: bool, rounds: usize, restores: usize) -> Result<Vec<Round>, Failure> {
    let mut hyperpy = Hyperpy::open(mib << 20, rings)?;
    let mut floor = Floor::open(&hyperpy.start()?, usize::try_from(mib << 20)?, rings)?;
    let count = restores.div_ceil(TURN);
    let mut round = || {
        let mut sum = Round::default();
        for turn in 0..2 * count {
            if turn % 2 == turn / 2 % 2 {
                let cell = std::cell::RefCell::new(&mut hyperpy);
                let mut during = 0;
                let (inside, all) = turns(
                    &mut || cell.borrow_mut().run(pages),
                    &mut || {
                        let mut hyperpy = cell.borrow_mut();
                        let before = allocations();
                        let restored = hyperpy.restore();
                        during += allocations() - before;
                        restored
                    },
                    pages,
                )?;
                sum.hyperpy += inside;
                sum.hyperpy_turn += all;
                sum.allocations += during;
            } else {
                let cell = std::cell::RefCell::new(&mut floor);
                let (inside, all) =
                    turns(&mut || cell.borrow_mut().run(pages), &mut || cell.borrow_mut().put_back(), pages)?;
                sum.floor += inside;
                sum.floor_turn += all;
            }
        }
        #[allow(clippy::cast_precision_loss)] // a few hundred
        let each = 1.0 / count as f64;
        let Round { hyperpy, floor, hyperpy_turn, floor_turn, allocations } = sum;
        Ok(Round {
            hyperpy: hyperpy * each,
            floor: floor * each,
            hyperpy_turn: hyperpy_turn * each,
            floor_turn: floor_turn * each,
            allocations,
        })
    };
    round()?; // the warm-up
    (0..rounds).map(|_| round()).collect()
}

/// Microseconds of one fork of memory whose host has written `pages` pages, and its end: (hyperpy, the floor).
///
/// # Errors
/// There is no usable KVM, or the host refuses.
pub fn forks(mib: u64, pages: u64, rounds: usize, forks: usize) -> Result<Vec<(f64, f64)>, Failure> {
    let hyperpy = Hyperpy::open(mib << 20, false)?;
    let mut floor = Floor::open(&hyperpy.start()?, usize::try_from(mib << 20)?, false)?;
    for page in 0..pages {
        hyperpy.machine.memory.write(START + page * 4096, &[1])?;
    }
    floor.write(pages);
    #[allow(clippy::cast_precision_loss)] // a few thousand
    let each = 1e6 / forks as f64;
    let mut round = || {
        let began = Instant::now();
        for _ in 0..forks {
            drop(hyperpy.machine.memory.fork()?);
        }
        let ours = began.elapsed().as_secs_f64() * each;
        let began = Instant::now();
        for _ in 0..forks {
            floor.fork()?;
        }
        Ok((ours, began.elapsed().as_secs_f64() * each))
    };
    round()?; // the warm-up
    (0..rounds).map(|_| round()).collect()
}

/// KiB of this process's memory that each of `children` children of a guest's memory takes before it writes (PSS).
///
/// # Errors
/// There is no usable KVM, or the host refuses.
pub fn kib_per_child(mib: u64, children: usize) -> Result<f64, Failure> {
    let hyperpy = Hyperpy::open(mib << 20, false)?;
    drop(hyperpy.machine.memory.fork()?);
    let before = pss()?;
    let made = (0..children).map(|_| hyperpy.machine.memory.fork()).collect::<Result<Vec<_>, _>>()?;
    let after = pss()?;
    drop(made);
    #[allow(clippy::cast_precision_loss)] // a few thousand
    Ok((after - before) / children as f64)
}

fn pss() -> Result<f64, Failure> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
