//! Guest memory that a guest writes: images, restores and forks of it, and how what was written becomes known, by the ring
//! of each vCPU where KVM has rings.

use std::sync::{Arc, Mutex};

use hyperpy_core::accel::VmConfig;
use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::exit::Exit;
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::{Kind, Memory};

use crate::{SECOND, Threads, bare};

const PAGE: u64 = 0x1000;
const CODE: u64 = 0x1000;
/// Where guests write, and more pages than any ring has entries.
const START: u64 = 1 << 20;
const MANY: u64 = 3_000;

/// mov edi,esi; l: mov [edi],bl; add edi,0x1000; loop l; hlt: from ESI on, ECX pages, with BL.
const WRITER: [u8; 13] = [0x89, 0xf7, 0x88, 0x1f, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf6, 0xf4];

/// A machine with 16 MiB whose vCPUs are in protected mode at the writer's code.
fn writers(vcpus: u32) -> (Arc<Machine>, Threads) {
    writers_in(Memory::with_ram(16 << 20).unwrap(), vcpus)
}

fn writers_in(memory: Memory, vcpus: u32) -> (Arc<Machine>, Threads) {
    let (machine, host) = bare(memory, vcpus, false);
    machine.set_entry(flat(&machine.memory, &WRITER, CODE, Mode::Protected).unwrap(), &host).unwrap();
    let first = machine.sregs(0, &host).unwrap();
    for vcpu in 1..vcpus {
        machine.set_sregs(vcpu, &host, |sregs| *sregs = first).unwrap();
    }
    (machine, host)
}

/// Each vCPU is to write `count` pages of its own.
fn set(machine: &Arc<Machine>, host: &Threads, vcpu: u32, count: u64, value: u8) {
    let start = START + u64::from(vcpu) * count * PAGE;
    machine
        .set_regs(vcpu, host, |regs| {
            (regs.rip, regs.rflags) = (CODE, 2);
            (regs.rsi, regs.rcx, regs.rbx) = (start, count, value.into());
        })
        .unwrap();
}

#[track_caller]
fn run(machine: &Arc<Machine>, host: &Threads) {
    let exit = machine.run(SECOND, host).unwrap();
    assert!(matches!(exit, Exit::Halt { .. }), "{exit:?}");
}

fn byte(memory: &Memory, gpa: u64) -> u8 {
    let mut byte = [0];
    memory.read(gpa, &mut byte).unwrap();
    byte[0]
}

#[test]
fn test_restore_puts_back_what_the_guest_wrote_and_no_more() {
    let (machine, host) = writers(1);
    set(&machine, &host, 0, 3, 1);
    run(&machine, &host);
    let image = machine.memory.image().unwrap();
    for (count, value) in [(1, 2), (5, 3), (0, 0), (100, 4), (MANY, 5), (7, 6)] {
        if count > 0 {
            set(&machine, &host, 0, count, value);
            run(&machine, &host);
            assert_eq!(byte(&machine.memory, START + (count - 1) * PAGE), value);
        }
        assert_eq!(machine.memory.restore(&image, &[]).unwrap().pages, count, "{count} pages");
        let seen = [0, 1, 2, 3, 99, MANY - 1].map(|page| byte(&machine.memory, START + page * PAGE));
        assert_eq!(seen, [1, 1, 1, 0, 0, 0]);
    }
    machine.close(None).unwrap();
}

/// mov rdi,rsi; l: mov [rdi],bl; add rdi,0x1000; loop l; out 0x99,al
const USER: [u8; 16] = [0x48, 0x89, 0xf7, 0x88, 0x1f, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf5, 0xe6, 0x99];

/// A machine whose guest is a user's program in long mode, which every KVM runs by the processor, and whose written pages
/// are told by rings, where KVM has them, or by bits.
fn user(rings: bool) -> (Arc<Machine>, Threads) {
    let config = VmConfig { vcpus: 1, irqchip: false };
    let kvm = Arc::new(Kvm::open().unwrap().with_rings(rings));
    let machine = Arc::new(Machine::new(kvm, Memory::with_ram(16 << 20).unwrap(), config));
    let host = Threads(Mutex::new(Arc::downgrade(&machine)));
    machine.set_entry(flat(&machine.memory, &USER, CODE, Mode::Long).unwrap(), &host).unwrap();
    // Tables of its own, whose entries are marked as used and written: nobody has to.
    let tables: [(u64, u64); 2] = [(0x8000, 0x9067), (0x9000, 0xa067)];
    let large = (0..8).map(|n| (0xa000 + 8 * n, n << 21 | 0xe7));
    for (gpa, entry) in tables.into_iter().chain(large) {
        machine.memory.write(gpa, &entry.to_le_bytes()).unwrap();
    }
    machine
        .set_sregs(0, &host, |sregs| {
            sregs.cr3 = 0x8000;
            for segment in [&mut sregs.cs, &mut sregs.ss, &mut sregs.ds, &mut sregs.es] {
                segment.dpl = 3;
                segment.selector |= 3;
            }
        })
        .unwrap();
    (machine, host)
}

#[track_caller]
fn run_user(machine: &Arc<Machine>, host: &Threads, count: u64, value: u8) {
    machine
        .set_regs(0, host, |regs| {
            // Ports are open to it.
            (regs.rip, regs.rflags) = (CODE, 0x3002);
            (regs.rsi, regs.rcx, regs.rbx) = (START, count, value.into());
        })
        .unwrap();
    let exit = machine.run(SECOND, host).unwrap();
    assert!(matches!(&exit, Exit::Pio(io) if io.address == 0x99), "{exit:?}");
}

/// Pages told of those that guests write on purpose: a KVM may write elsewhere for them.
fn written(machine: &Machine) -> u64 {
    let told = machine.memory.dirty(true).unwrap();
    told.iter().filter(|run| run.0 >= START).map(|run| run.1 / PAGE).sum()
}

// fault row 47
#[test]
fn test_ring_that_fills_is_no_exit_and_loses_no_page() {
    for rings in [true, false] {
        let (machine, host) = user(rings);
        machine.memory.track(true).unwrap();
        let exits = || machine.control.vcpus()[0].readings().exits;
        run_user(&machine, &host, 1, 1);
        let few = exits();
        run_user(&machine, &host, MANY, 2);
        // The host's tick interrupts an entry now and then.
        assert!(exits() - few < few + 10, "{} exits after {few}", exits());
        assert_eq!((written(&machine), written(&machine)), (MANY, 0));
        // All of it is told to both who want to know.
        let image = machine.memory.image().unwrap();
        for round in 3..9 {
            run_user(&machine, &host, MANY, round);
            if round % 2 == 1 {
                assert_eq!(written(&machine), MANY);
            }
            let pages = machine.memory.restore(&image, &[]).unwrap().pages;
            assert!((MANY..MANY + 4).contains(&pages), "{pages}");
            assert_eq!(written(&machine), MANY);
        }
        assert_eq!(byte(&machine.memory, START + (MANY - 1) * PAGE), 2);
        machine.close(None).unwrap();
    }
}

#[test]
fn test_pages_of_two_vcpus_that_run_at_once_are_all_put_back() {
    // vCPU 0 starts the other by INIT and SIPI through its local APIC, and writes: mov dword [0xfee00300],0xc4500;
    // mov dword [0xfee00300],0xc4602; and the writer.
    let starter = [0xc7, 0x05, 0, 3, 0xe0, 0xfe, 0, 0x45, 0x0c, 0, 0xc7, 0x05, 0, 3, 0xe0, 0xfe, 2, 0x46, 0x0c, 0];
    let each = MANY / 2;
    let second = u32::try_from(START + each * PAGE).unwrap().to_le_bytes();
    let count = u32::try_from(each).unwrap().to_le_bytes();
    // vCPU 1 in real mode at 0x2000: lgdt cs:[0x80]; mov eax,cr0; or eax,1; mov cr0,eax; jmp 0x10:0x2018
    let real = [
        0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x80, 0, 0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0, 0x66,
        0xea, 0x1a, 0x20, 0, 0, 0x10, 0,
    ];
    // mov ax,0x18; mov ds,ax; mov esi,second; mov ecx,count; mov bl,1; and the writer.
    let protected =
        [&[0x66, 0xb8, 0x18, 0, 0x8e, 0xd8, 0xbe], &second[..], &[0xb9], &count, &[0xb3, 1], &WRITER].concat();
    let memory = Memory::with_ram(16 << 20).unwrap();
    memory.write(0x2000, &[&real[..], &protected].concat()).unwrap();
    let entry = flat(&memory, &[&starter[..], &WRITER].concat(), CODE, Mode::Protected).unwrap();
    let (machine, host) = bare(memory, 2, true);
    machine.set_entry(entry, &host).unwrap();
    let gdt = machine.sregs(0, &host).unwrap().gdt;
    let gdt = [&gdt.limit.to_le_bytes()[..], &gdt.base.to_le_bytes()].concat();
    machine.memory.write(0x2080, &gdt).unwrap();
    let image = machine.memory.image().unwrap();
    machine.memory.track(true).unwrap();
    set(&machine, &host, 0, each, 1);
    run(&machine, &host);
    let ends = || [0, each - 1, each, 2 * each - 1].map(|page| byte(&machine.memory, START + page * PAGE));
    assert_eq!(ends(), [1; 4]);
    assert_eq!(written(&machine), 2 * each);
    assert!(machine.memory.restore(&image, &[]).unwrap().pages >= 2 * each);
    assert_eq!(ends(), [0; 4]);
    assert_eq!(written(&machine), 2 * each);
    machine.close(None).unwrap();
}

#[test]
fn test_dirty_asked_while_the_guest_writes_tells_every_page_in_the_end() {
    let (machine, host) = writers(1);
    machine.memory.track(true).unwrap();
    set(&machine, &host, 0, MANY, 1);
    let mut seen = vec![false; MANY as usize];
    let mut note = |machine: &Machine| {
        for (gpa, len) in machine.memory.dirty(true).unwrap() {
            for page in (gpa - START) / PAGE..(gpa - START + len) / PAGE {
                seen[page as usize] = true;
            }
        }
    };
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| run(&machine, &host));
        while !guest.is_finished() {
            note(&machine);
        }
    });
    note(&machine);
    assert_eq!(seen.iter().filter(|seen| !**seen).count(), 0);
    machine.close(None).unwrap();
}

#[test]
fn test_guests_writes_through_an_alias_and_to_what_was_added_are_put_back() {
    let (machine, host) = writers(1);
    machine.memory.alias(32 << 20, START, 8 * PAGE, "again").unwrap();
    let alone = machine.memory.image().unwrap();
    machine.memory.add(64 << 20, 8 * PAGE, Kind::Ram, "late").unwrap();
    let image = machine.memory.image().unwrap();
    for place in [32 << 20, 64 << 20] {
        set(&machine, &host, 0, 8, 9);
        machine.set_regs(0, &host, |regs| regs.rsi = place).unwrap();
        run(&machine, &host);
        assert_eq!(byte(&machine.memory, place), 9);
    }
    assert_eq!(byte(&machine.memory, START + 7 * PAGE), 9);
    assert!(machine.memory.restore(&alone, &[]).is_err());
    assert_eq!(machine.memory.restore(&image, &[]).unwrap().pages, 16);
    assert_eq!([START, 32 << 20, 64 << 20].map(|gpa| byte(&machine.memory, gpa + 7 * PAGE)), [0; 3]);
    // Pages that were told of a region that goes are nobody's, and a new one with its slot begins clean.
    machine.memory.track(true).unwrap();
    set(&machine, &host, 0, 8, 9);
    machine.set_regs(0, &host, |regs| regs.rsi = 64 << 20).unwrap();
    run(&machine, &host);
    machine.memory.remove(64 << 20).unwrap();
    machine.memory.add(64 << 20, 4 * PAGE, Kind::Ram, "new").unwrap();
    assert_eq!(machine.memory.dirty(true).unwrap(), []);
    machine.close(None).unwrap();
}

#[test]
fn test_forks_run_beside_their_parent_and_see_their_own_writes_alone() {
    let (machine, host) = writers(1);
    set(&machine, &host, 0, 64, 1);
    run(&machine, &host);
    let children: Vec<_> = (2..6)
        .map(|value| {
            let (child, childs) = writers_in(machine.memory.fork().unwrap().0, 1);
            set(&child, &childs, 0, 32, value);
            run(&child, &childs);
            (child, childs, value)
        })
        .collect();
    set(&machine, &host, 0, 16, 9);
    run(&machine, &host);
    let seen = |machine: &Machine| [0, 15, 16, 31, 32, 63].map(|page| byte(&machine.memory, START + page * PAGE));
    assert_eq!(seen(&machine), [9, 9, 1, 1, 1, 1]);
    machine.close(None).unwrap();
    for (child, childs, value) in children {
        assert_eq!(seen(&child), [value, value, value, value, 1, 1]);
        set(&child, &childs, 0, 64, value + 100);
        run(&child, &childs);
        assert_eq!(seen(&child), [value + 100; 6]);
        child.close(None).unwrap();
    }
}

#[test]
fn test_remapped_and_rebased_memory_is_what_the_guest_sees() {
    let (machine, host) = writers(1);
    let other = Memory::with_ram(16 << 20).unwrap();
    other.write(CODE, &WRITER).unwrap();
    other.write(START, &[7]).unwrap();
    let foreign = other.image().unwrap();
    set(&machine, &host, 0, MANY, 1);
    run(&machine, &host);
    let own = machine.memory.image().unwrap();
    // A new file, since more than a quarter was written after the image: the guest goes on in it.
    set(&machine, &host, 0, MANY, 2);
    run(&machine, &host);
    assert_eq!(machine.memory.fork().unwrap().1.rebased, 16 << 20);
    for (image, there) in [(&foreign, 7), (&own, 1), (&foreign, 7)] {
        set(&machine, &host, 0, 2, 3);
        run(&machine, &host);
        assert_eq!(byte(&machine.memory, START), 3);
        machine.memory.restore(image, &[]).unwrap();
        assert_eq!(byte(&machine.memory, START), there);
    }
    machine.close(None).unwrap();
    let config = VmConfig { vcpus: 1, irqchip: false };
    let loaded = Machine::new(Arc::new(Kvm::open().unwrap()), Memory::from_image(&own).unwrap(), config);
    assert_eq!(byte(&loaded.memory, START + (MANY - 1) * PAGE), 1);
}
