use std::sync::OnceLock;

use hyperpy_core::irq::Unconnected;
use proptest::prelude::*;

use super::*;
use crate::testing::{Step, at, play, read, steps, sweep, write};

struct Port {
    uart: Arc<Uart>,
    line: Arc<Unconnected>,
    console: Arc<Console>,
}

fn port() -> Port {
    let (line, console) = (Unconnected::new(), Arc::new(Console::new(4096)));
    Port { uart: Uart::new(line.clone(), console.clone()), line, console }
}

impl Port {
    fn get(&self, register: u64) -> u8 {
        read(&*self.uart, register, 1) as u8
    }
    fn set(&self, register: u64, value: u8) {
        assert_eq!(write(&*self.uart, register, 1, value.into()), Action::Continue);
    }
    fn output(&self) -> Vec<u8> {
        self.console.read_from(0).1
    }
}

#[test]
fn test_registers_after_reset_read_as_an_idle_port() {
    let port = port();
    let expected =
        [(0, 0), (IER, 0), (IIR, IIR_NONE), (LCR, 0x03), (MCR, 0x08), (LSR, 0x60), (6, 0xb0), (SCR, 0), (8, 0xff)];
    for (register, value) in expected {
        assert_eq!(port.get(register), value, "register {register}");
    }
    port.set(FCR, FCR_ENABLE);
    assert_eq!(port.get(IIR), IIR_FIFOS | IIR_NONE);
    port.set(SCR, 0x5a);
    assert_eq!(port.get(SCR), 0x5a);
    port.set(IER, 0xff);
    assert_eq!(port.get(IER), 0x0f, "the upper half of IER does not exist");
}

#[test]
fn test_thr_sent_while_its_interrupt_is_wanted_looks_up_no_posted_ranges() {
    let port = port();
    let posts = Arc::new(Posts::default());
    port.uart.post(posts.clone(), 0x3f8);
    let thr = Range { space: Space::Pio, base: 0x3f8, len: 1 };
    port.set(IER, IER_THR_EMPTY);
    assert_eq!(posts.ranges(), []);
    // What somebody else puts there is met by the next change alone.
    posts.set(thr, true);
    port.set(THR, b'x');
    port.set(IER, IER_THR_EMPTY | IER_RECEIVED);
    assert_eq!(posts.ranges(), [thr]);
    port.set(IER, IER_RECEIVED);
    port.set(IER, IER_THR_EMPTY);
    assert_eq!(posts.ranges(), []);
    // It does not begin anew while the guest wants the interrupt.
    port.uart.post(posts.clone(), 0x3f8);
    assert_eq!(posts.ranges(), []);
}

#[test]
fn test_thr_is_posted_until_its_interrupt_is_wanted_and_again_after_a_reset() {
    let port = port();
    let posts = Arc::new(Posts::default());
    port.uart.post(posts.clone(), 0x3f8);
    let thr = [Range { space: Space::Pio, base: 0x3f8, len: 1 }];
    assert_eq!(posts.ranges(), thr);
    port.set(IER, IER_RECEIVED);
    port.set(LCR, LCR_DLAB);
    port.set(IER, IER_THR_EMPTY); // half a divisor
    port.set(LCR, 3);
    assert_eq!(posts.ranges(), thr);
    port.set(IER, IER_THR_EMPTY);
    assert_eq!(posts.ranges(), []);
    port.set(IER, 0);
    assert_eq!(posts.ranges(), [], "a driver that has begun so goes on");
    port.uart.reset();
    assert_eq!(posts.ranges(), thr);
    port.uart.stop_posting();
    assert_eq!(posts.ranges(), []);
}

#[test]
fn test_uart_put_back_posts_what_it_posted_then() {
    let port = port();
    let posts = Arc::new(Posts::default());
    port.uart.post(posts.clone(), 0x3f8);
    let thr = [Range { space: Space::Pio, base: 0x3f8, len: 1 }];
    let (device, posting): (&dyn Device, _) = (&*port.uart, port.uart.save().unwrap());
    port.set(IER, IER_THR_EMPTY);
    port.set(IER, 0);
    let not_posting = device.save().unwrap();
    device.load(&*posting).unwrap();
    assert_eq!(posts.ranges(), thr);
    device.load(&*not_posting).unwrap();
    assert_eq!(posts.ranges(), []);
}

#[test]
fn test_output_reaches_the_console_unless_dlab_or_loopback() {
    let port = port();
    port.set(THR, b'a');
    port.set(LCR, LCR_DLAB | 3);
    port.set(THR, b'x');
    assert_eq!(port.get(THR), b'x', "the divisor");
    port.set(LCR, 3);
    port.set(MCR, MCR_LOOP);
    port.set(THR, b'y');
    assert_eq!(port.get(LSR) & LSR_DATA_READY, LSR_DATA_READY);
    assert_eq!(port.get(THR), b'y', "sent to itself");
    port.set(MCR, 0);
    port.set(THR, b'b');
    assert_eq!(port.output(), b"ab");
}

#[test]
fn test_wide_access_serves_bytes_low_to_high() {
    let port = port();
    // THR, IER, FCR, LCR in one 32-bit write.
    write(&*port.uart, 0, 4, 0x0301_0541);
    assert_eq!((port.output(), port.get(IER), port.get(LCR)), (b"A".to_vec(), 5, 3));
    assert_eq!(read(&*port.uart, 0, 4), 0x03c1_0500);
    assert_eq!(read(&*port.uart, SCR, 8), u64::MAX << 8, "past the last register is nobody");
    write(&*port.uart, SCR, 8, u64::MAX);
    assert_eq!(port.get(SCR), 0xff);
    sweep(&*port.uart, PORTS);
}

#[test]
fn test_line_is_high_while_data_waits() {
    let port = port();
    assert_eq!(port.console.send(b"ab"), 2);
    assert!(!port.line.is_high(), "not enabled");
    port.set(IER, IER_RECEIVED);
    assert!(port.line.is_high());
    for byte in *b"ab" {
        assert_eq!(port.get(IIR), IIR_RECEIVED, "reading IIR does not clear it");
        assert!(port.line.is_high());
        assert_eq!(port.get(THR), byte);
    }
    assert_eq!(port.get(IIR), IIR_NONE);
    assert!(!port.line.is_high());
    assert_eq!(port.line.edges(), 1);
}

#[test]
fn test_thr_empty_is_announced_and_cleared_by_iir() {
    // Linux' serial8250_THRE_test: the cause must come again each time it is enabled.
    let port = port();
    for round in 1..=3 {
        port.set(IER, IER_THR_EMPTY);
        assert!(port.line.is_high());
        assert_eq!(port.get(IIR), IIR_THR_EMPTY);
        assert!(!port.line.is_high());
        assert_eq!(port.get(IIR), IIR_NONE);
        port.set(IER, 0);
        assert_eq!(port.line.edges(), round);
    }
}

#[test]
fn test_both_causes_received_data_goes_first() {
    let port = port();
    port.set(IER, IER_RECEIVED | IER_THR_EMPTY);
    assert_eq!(port.console.send(b"x"), 1);
    assert_eq!(port.get(IIR), IIR_RECEIVED);
    assert_eq!(port.get(THR), b'x');
    assert_eq!(port.get(IIR), IIR_THR_EMPTY);
    assert_eq!(port.get(IIR), IIR_NONE);
    assert_eq!(port.line.edges(), 1, "it never fell in between");
}

#[test]
fn test_edges_of_a_burst() {
    // With FIFOs a burst is one event; without, each byte is one, also for a driver that never reads IIR.
    for (fcr, edges) in [(FCR_ENABLE, 1), (0, 16)] {
        let port = port();
        port.set(FCR, fcr);
        port.set(IER, IER_THR_EMPTY);
        assert_eq!(port.get(IIR) & 0x0f, IIR_THR_EMPTY);
        let before = port.line.edges();
        (0..16).for_each(|_| port.set(THR, b'.'));
        assert_eq!(port.line.edges() - before, edges, "fcr {fcr}");
    }
}

/// Linux' 8250 driver behind an edge-triggered input: it runs when it sees an edge and at no other time.
struct Linux<'a> {
    port: &'a Port,
    served: u64,
    received: Vec<u8>,
    to_send: Vec<u8>,
}

impl Linux<'_> {
    fn run(&mut self) {
        while self.served != self.port.line.edges() {
            self.served = self.port.line.edges();
            // serial8250_interrupt and serial8250_handle_irq.
            while self.port.get(IIR) & IIR_NONE == 0 {
                let status = self.port.get(LSR);
                let mut left = 256;
                while left > 0 && self.port.get(LSR) & LSR_DATA_READY != 0 {
                    self.received.push(self.port.get(THR));
                    left -= 1;
                }
                if status & 0x20 != 0 && self.port.get(IER) & IER_THR_EMPTY != 0 {
                    let burst = self.to_send.len().min(64);
                    self.to_send.drain(..burst).for_each(|byte| self.port.set(THR, byte));
                    if self.to_send.is_empty() {
                        self.port.set(IER, IER_RECEIVED);
                    }
                }
            }
        }
    }
}

#[test]
fn test_host_floods_linux_receives_every_byte() {
    let port = port();
    port.set(FCR, FCR_ENABLE);
    port.set(IER, IER_RECEIVED);
    let mut linux = Linux { port: &port, served: 0, received: vec![], to_send: vec![] };
    let sent: Vec<u8> = (0..40_000_u32).map(|i| (i / 7) as u8).collect();
    // 10 first: then the FIFO is partly full when the driver gives up after 256 bytes.
    let (first, rest) = sent.split_at(10);
    assert_eq!(port.console.send(first), first.len());
    for piece in rest.chunks(13_000) {
        assert_eq!(port.console.send(piece), piece.len());
        linux.run();
    }
    assert_eq!(linux.received, sent);
    assert!(!port.line.is_high());
}

#[test]
fn test_linux_sends_by_interrupts_until_done() {
    let port = port();
    port.set(FCR, FCR_ENABLE);
    let text: Vec<u8> = (0..1000_u32).map(|i| i as u8).collect();
    let mut linux = Linux { port: &port, served: 0, received: vec![], to_send: text.clone() };
    port.set(IER, IER_RECEIVED | IER_THR_EMPTY);
    linux.run();
    assert_eq!(port.output(), text);
}

#[test]
fn test_linux_size_fifo_finds_64_bytes() {
    // drivers/tty/serial/8250/8250_port.c, size_fifo: input that waits must not mix with the loopback.
    let port = port();
    port.set(MCR, MCR_LOOP);
    assert_eq!(port.console.send(b"early"), 5);
    (0..256).for_each(|i| port.set(THR, i as u8));
    let mut count = 0;
    while port.get(LSR) & LSR_DATA_READY != 0 {
        assert_eq!(port.get(THR), count);
        count += 1;
    }
    assert_eq!(count, 64);
    port.set(MCR, 0);
    let early: Vec<u8> = (0..5).map(|_| port.get(THR)).collect();
    assert_eq!(early, b"early");
}

#[test]
fn test_input_sent_before_the_uart_exists_is_received() {
    let console = Arc::new(Console::default());
    assert_eq!(console.send(b"x"), 1);
    let uart = Uart::new(Unconnected::new(), console.clone());
    assert_eq!(read(&*uart, 0, 1), u64::from(b'x'));
    drop(uart);
    assert_eq!(console.send(b"y"), 1, "a console whose uart is gone");
    assert_eq!(console.input_len(), 1);
}

#[test]
fn test_tap_that_answers_the_guest_does_not_deadlock() {
    let port = port();
    let console = Arc::downgrade(&port.console);
    port.console.set_tap(Some(Box::new(move |chunk| {
        assert_eq!(console.upgrade().unwrap().send(chunk), chunk.len());
    })));
    port.set(THR, b'?');
    assert_eq!(port.get(THR), b'?');
}

#[test]
fn test_reset_lowers_the_line_and_keeps_the_backlog() {
    let port = port();
    port.set(IER, IER_RECEIVED);
    assert_eq!(port.console.send(&[7; 100]), 100);
    assert_eq!(port.console.input_len(), 36);
    port.uart.reset();
    assert!(!port.line.is_high());
    assert_eq!((port.get(IER), port.get(LSR) & LSR_DATA_READY), (0, LSR_DATA_READY));
    assert_eq!(port.console.input_len(), 0);
}

#[test]
fn test_line_that_looks_at_the_level_sees_it_change_only() {
    /// Fails the test when it is driven to the level that it has.
    struct Strict(OnceLock<()>, Mutex<bool>);
    impl Line for Strict {
        fn set(&self, high: bool) {
            let mut level = lock(&self.1);
            assert_ne!(*level, high, "driven without a change: a wasted call into the kernel");
            *level = high;
            let _ = self.0.set(());
        }
        fn is_high(&self) -> bool {
            *lock(&self.1)
        }
    }
    let line = Arc::new(Strict(OnceLock::new(), Mutex::new(false)));
    let uart = Uart::new(line.clone(), Arc::default());
    sweep(&*uart, PORTS);
    assert!(line.0.get().is_some());
}

/// Whether the write sends its first byte, by the registers as they are before it.
fn sends(uart: &Uart, (is_write, offset, size, _): Step) -> bool {
    let set = |register, mask| uart.read(at(register, 1)) & mask != 0;
    is_write && offset == 0 && size > 0 && !set(LCR, 0x80) && !set(MCR, 0x10)
}

proptest! {
    #[test]
    fn test_any_guest_keeps_line_output_and_input_right(
        guest in steps(PORTS),
        input in prop::collection::vec((0_usize..200, prop::collection::vec(any::<u8>(), 0..100)), 0..4),
    ) {
        let port = port();
        let mut output = Vec::new();
        for (i, step) in guest.into_iter().enumerate() {
            for (_, bytes) in input.iter().filter(|(when, _)| *when == i) {
                prop_assert_eq!(port.console.send(bytes), bytes.len());
            }
            if sends(&port.uart, step) {
                output.push(step.3 as u8);
            }
            let (_, action) = play(&*port.uart, step);
            prop_assert_eq!(action, Action::Continue);
            // Nothing waits outside while the FIFO is empty and the line is connected.
            let idle = port.get(LSR) & LSR_DATA_READY == 0 && port.get(MCR) & MCR_LOOP == 0;
            prop_assert!(!idle || port.console.input_len() == 0);
        }
        prop_assert_eq!(port.output(), output);
        let high = port.line.is_high();
        prop_assert_eq!(high, port.get(IIR) & IIR_NONE == 0);
    }
}
