//! Writes that KVM queues: all of them arrive, in order, before what comes after them, and most without an exit.

use hyperpy_core::bus::{Rung, Space};
use hyperpy_core::exit::Exit;
use hyperpy_core::posted::Range;

use crate::{SECOND, attach, machine};

const PORT: Range = Range { space: Space::Pio, base: 0x80, len: 1 };

#[test]
fn test_posted_port_writes_arrive_in_order_and_fill_the_ring_more_than_once() {
    // mov cx,500; next: mov al,cl; out 0x80,al; loop next; out 0x81,al; hlt
    let code = [0xb9, 0xf4, 0x01, 0x88, 0xc8, 0xe6, 0x80, 0xe2, 0xfa, 0xe6, 0x81, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    machine.posts.set(PORT, true);
    let device = attach(&machine, Space::Pio, 0x80, 2);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let expected: Vec<_> = (1..=500).rev().map(|n| (0, 1, n & 0xff)).chain([(1, 1, 1)]).collect();
    assert_eq!(*device.writes.lock().unwrap(), expected);
    let readings = machine.control.vcpus()[0].readings();
    let (posted, exits) = (readings.hits[Rung::Kernel as usize], readings.hits[Rung::Native as usize]);
    assert_eq!(posted + exits, 501);
    assert!(exits < 10, "one when the ring is full, and the last: {exits}");
    assert!(readings.exits < 12, "and ticks: {}", readings.exits);
}

#[test]
fn test_posted_write_is_served_at_the_tick_while_the_guest_makes_no_exit() {
    // mov al,0x5a; out 0x80,al; again: jmp again
    let code = [0xb0, 0x5a, 0xe6, 0x80, 0xeb, 0xfe];
    let (machine, host) = machine(&code, 1, false);
    machine.posts.set(PORT, true);
    let device = attach(&machine, Space::Pio, 0x80, 1);
    machine.start(&host).unwrap();
    let begun = std::time::Instant::now();
    while device.writes.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < SECOND.unwrap(), "nothing came");
        std::thread::yield_now();
    }
    machine.close(None).unwrap();
    assert_eq!(*device.writes.lock().unwrap(), [(0, 1, 0x5a)]);
}

#[test]
fn test_posting_that_ends_keeps_the_order() {
    // mov al,1; out 0x80,al; out 0x81,al; inc al; out 0x80,al; hlt
    let code = [0xb0, 0x01, 0xe6, 0x80, 0xe6, 0x81, 0xfe, 0xc0, 0xe6, 0x80, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    machine.posts.set(PORT, true);
    let device = attach(&machine, Space::Pio, 0x80, 1);
    let Exit::Pio(io) = machine.run(SECOND, &host).unwrap() else { panic!() };
    assert_eq!(io.address, 0x81);
    assert_eq!(*device.writes.lock().unwrap(), [(0, 1, 1)]);
    machine.posts.set(PORT, false);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(*device.writes.lock().unwrap(), [(0, 1, 1), (0, 1, 2)]);
    assert_eq!(machine.control.vcpus()[0].readings().hits[Rung::Native as usize], 1);
}
