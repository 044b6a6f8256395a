//! The first serial port: a 16550A whose line ends in a [`Console`].
//!
//! Registers, loopback and the receive FIFO (64 bytes) are vm-superio's `Serial`. Interrupt identification and the
//! interrupt line are ours: vm-superio forgets on a read of IIR that data is still in the FIFO, and shows two causes at
//! once, which together mean a third (receiver line status). Here the line is high exactly as long as an enabled cause
//! is pending, as on the chip (PC16550D data sheet, section 8.6.3 and table III). To an edge-triggered ISA input that
//! gives one edge from idle to pending, which is what Linux' 8250 driver counts on: it serves until IIR says "none".
//!
//! As in vm-superio, FCR's clear bits do nothing, so input that came before the guest's driver is not lost when that
//! starts. Baud rate and frame are kept but mean nothing: every byte is sent at once, and THR is always empty. There
//! are no line errors and no modem-status interrupts. Wide accesses: see the crate's rule.
//!
//! Locks: output reaches the console after the registers are unlocked, because a console's tap may send input, which
//! comes back here. The interrupt line is driven with the registers locked: two vCPUs must not set it in the wrong
//! order, and a line is a call into the kernel (or into a test's counter) that never comes back to a device.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use hyperpy_core::bus::{Access, Action, Device, Space};
use hyperpy_core::irq::Line;
use hyperpy_core::names::Names;
use hyperpy_core::posted::{Posts, Range};
use hyperpy_core::snapshot::{Saved, State, StateFault, check, require, with};
use hyperpy_core::state;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::console::Console;
use crate::names::{self, fixed};
use crate::{OPEN_BUS, lock, read_bytes, write_bytes};

/// Ports that the device takes.
pub const PORTS: u64 = 8;

/// THR: what is written here is sent (with DLAB: divisor, low byte).
const THR: u64 = 0;
/// IER: which causes may raise the interrupt line (with DLAB: divisor, high byte).
const IER: u64 = 1;
/// IIR when read: the most urgent pending cause.
const IIR: u64 = 2;
/// FCR when written: whether the FIFOs are on.
const FCR: u64 = 2;
/// LCR: frame format, and DLAB.
const LCR: u64 = 3;
/// MCR: modem outputs and loopback.
const MCR: u64 = 4;
/// LSR: whether data is there and whether THR is empty.
const LSR: u64 = 5;
/// SCR: the last register; it only keeps what is written.
const SCR: u64 = 7;

/// IER.ERBFI: interrupt when received data is available.
const IER_RECEIVED: u8 = 1 << 0;
/// IER.ETBEI: interrupt when THR is empty.
const IER_THR_EMPTY: u8 = 1 << 1;
/// IIR: no cause is pending.
const IIR_NONE: u8 = 0b0001;
/// IIR: THR is empty; reading this answer clears the cause.
const IIR_THR_EMPTY: u8 = 0b0010;
/// IIR: received data is available; it clears when the FIFO is empty.
const IIR_RECEIVED: u8 = 0b0100;
/// IIR: FIFOs are on; this is how drivers tell a 16550A from a 16450.
const IIR_FIFOS: u8 = 0b1100_0000;
/// FCR: FIFOs on.
const FCR_ENABLE: u8 = 1 << 0;
/// LCR.DLAB: offsets 0 and 1 are the baud divisor.
const LCR_DLAB: u8 = 1 << 7;
/// MCR.LOOP: what is sent is received, and nothing from the line is.
const MCR_LOOP: u8 = 1 << 4;
/// IER bits that a 16550A has.
const IER_BITS: u8 = 0x0f;
/// Bytes of the receive FIFO.
const FIFO_LEN: usize = 64;
/// LSR.DR: at least one byte is in the receive FIFO.
const LSR_DATA_READY: u8 = 1 << 0;

/// COM1 over a console.
pub struct Uart {
    console: Arc<Console>,
    registers: Mutex<Registers>,
    posting: OnceLock<(Arc<Posts>, Range)>,
}

struct Registers {
    serial: Serial<Quiet, NoEvents, Sent>,
    line: Arc<dyn Line>,
    /// What the line was last set to, so that it is only driven when it changes.
    line_is_high: bool,
    /// IER; a copy, because with DLAB it cannot be read from `serial`.
    enabled: u8,
    /// THR became empty and nobody has read so from IIR.
    thr_emptied: bool,
    /// FCR.ENABLE.
    fifos: bool,
    /// A driver that sends byte by byte may wait for an edge after each one, without reading IIR in between.
    edge_again: bool,
}

state! {
    /// What is kept of the registers. The line follows from them; FIFOs that are off still have room.
    struct UartState {
        divisor: [u8; 2],
        interrupt_enable: u8,
        line_control: u8,
        modem_control: u8,
        scratch: u8,
        /// The receive FIFO.
        received: Box<[u8]>,
        thr_emptied: bool,
        fifos: bool,
        /// What is written to THR costs no exit: until THR's interrupt was asked for.
        posted: bool,
    }
    check rules;
}

impl UartState {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.interrupt_enable & !IER_BITS == 0, "interrupt_enable has bits that are not there")?;
        require(self.received.len() <= FIFO_LEN, "received is longer than the FIFO")?;
        let waits = self.interrupt_enable & IER_THR_EMPTY != 0;
        require(!self.posted || !waits, "posted, and somebody waits for the interrupt")
    }
}

/// Takes vm-superio's interrupt events, which this device does not use.
struct Quiet;

impl Trigger for Quiet {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Holds the byte that the guest sent until the registers are unlocked.
#[derive(Default)]
struct Sent(Option<u8>);

impl io::Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = bytes.last().copied().or(self.0);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart").field("console", &self.console).finish_non_exhaustive()
    }
}

impl Uart {
    /// A UART that raises `irq`, writes to the console and takes its input.
    #[must_use]
    pub fn new(irq: Arc<dyn Line>, console: Arc<Console>) -> Arc<Self> {
        let uart = Arc::new(Self { console, registers: Mutex::new(Registers::new(irq)), posting: OnceLock::new() });
        // Weak: the console outlives its machine, and must not keep the machine's devices alive.
        let weak = Arc::downgrade(&uart);
        uart.console.on_input(move || {
            if let Some(uart) = weak.upgrade() {
                uart.settle(&mut lock(&uart.registers));
            }
        });
        uart.settle(&mut lock(&uart.registers));
        uart
    }

    /// Has what is written to THR cost no exit until the guest asks for THR's interrupt, which must not wait for one.
    /// Reset begins anew. Until then output comes as late as the vCPU's next exit or tick.
    pub fn post(&self, posts: Arc<Posts>, port: u64) {
        let (posts, range) =
            self.posting.get_or_init(|| (posts, Range { space: Space::Pio, base: port + THR, len: 1 }));
        let waits = lock(&self.registers).waits_for_thr();
        posts.set(*range, !waits);
    }

    /// From now on every write is an exit.
    pub fn stop_posting(&self) {
        if let Some((posts, range)) = self.posting.get() {
            posts.set(*range, false);
        }
    }

    /// Moves waiting input into the FIFO when that has run empty, then drives the line.
    fn settle(&self, registers: &mut Registers) {
        if self.console.input_len() > 0 && registers.wants_input() {
            let bytes = self.console.take_input(registers.serial.fifo_capacity());
            // Cannot fail: there is room for every byte, and the trigger does nothing.
            let _ = registers.serial.enqueue_raw_bytes(&bytes);
        }
        registers.drive();
    }
}

impl Registers {
    fn new(line: Arc<dyn Line>) -> Self {
        Self {
            serial: Serial::new(Quiet, Sent::default()),
            line,
            line_is_high: false,
            enabled: 0,
            thr_emptied: false,
            fifos: false,
            edge_again: false,
        }
    }

    fn bit(&mut self, offset: u64, mask: u8) -> bool {
        self.serial.read(offset as u8) & mask != 0
    }

    /// The guest wants THR's interrupt.
    fn waits_for_thr(&self) -> bool {
        self.enabled & IER_THR_EMPTY != 0
    }

    /// In batches, not byte by byte; and never while loopback has cut the line off.
    fn wants_input(&mut self) -> bool {
        !self.bit(LSR, LSR_DATA_READY) && !self.bit(MCR, MCR_LOOP)
    }

    /// The pending cause that IIR shows: received data goes before an empty THR.
    fn cause(&mut self) -> u8 {
        if self.enabled & IER_RECEIVED != 0 && self.bit(LSR, LSR_DATA_READY) {
            IIR_RECEIVED
        } else if self.waits_for_thr() && self.thr_emptied {
            IIR_THR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn drive(&mut self) {
        let high = self.cause() != IIR_NONE;
        let again = std::mem::take(&mut self.edge_again) && high && self.line_is_high;
        if again {
            self.line.set(false);
        }
        if again || high != self.line_is_high {
            self.line.set(high);
        }
        self.line_is_high = high;
    }

    fn read(&mut self, offset: u64) -> u8 {
        match offset {
            IIR => {
                let cause = self.cause();
                self.thr_emptied &= cause != IIR_THR_EMPTY;
                if self.fifos { IIR_FIFOS | cause } else { cause }
            }
            0..=SCR => self.serial.read(offset as u8),
            _ => OPEN_BUS,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        if offset > SCR {
            return;
        }
        match offset {
            THR | IER if self.bit(LCR, LCR_DLAB) => {}
            THR => {
                // Full and empty again before the guest can look. With FIFOs on it has room for more, and one edge
                // stands for the whole burst.
                self.edge_again = !self.fifos && self.thr_emptied;
                self.thr_emptied = true;
            }
            IER => {
                // Enabling the cause makes it pending at once: THR is empty now. Linux tests for this.
                self.thr_emptied |= value & !self.enabled & IER_THR_EMPTY != 0;
                self.enabled = value & IER_BITS;
            }
            FCR => self.fifos = value & FCR_ENABLE != 0,
            _ => {}
        }
        // Cannot fail: neither `Quiet` nor `Sent` does.
        let _ = self.serial.write(offset as u8, value);
    }
}

impl Registers {
    fn state(&self, posted: bool) -> UartState {
        let serial = self.serial.state();
        UartState {
            divisor: [serial.baud_divisor_low, serial.baud_divisor_high],
            interrupt_enable: self.enabled,
            line_control: serial.line_control,
            modem_control: serial.modem_control,
            scratch: serial.scratch,
            received: serial.in_buffer.into(),
            thr_emptied: self.thr_emptied,
            fifos: self.fifos,
            posted,
        }
    }

    /// Puts it back by way of the registers, since vm-superio would make new ones, with a new FIFO.
    fn put(&mut self, state: &UartState) {
        let [low, high] = state.divisor;
        let received = &state.received;
        // None can fail: neither `Quiet` nor `Sent` does, and there is room for every byte. None is sent.
        let mut set = |offset: u64, value| drop(self.serial.write(offset as u8, value));
        set(LCR, LCR_DLAB);
        set(THR, low);
        set(IER, high);
        set(LCR, 0);
        set(MCR, 0);
        set(IER, state.interrupt_enable);
        set(SCR, state.scratch);
        while self.bit(LSR, LSR_DATA_READY) {
            self.serial.read(THR as u8);
        }
        let _ = self.serial.enqueue_raw_bytes(received);
        let mut set = |offset: u64, value| drop(self.serial.write(offset as u8, value));
        set(MCR, state.modem_control);
        set(LCR, state.line_control);
        (self.enabled, self.thr_emptied, self.fifos) = (state.interrupt_enable, state.thr_emptied, state.fifos);
        self.edge_again = false;
        // It may have been put back before.
        self.line_is_high = self.line.is_high();
        self.drive();
    }
}

impl Device for Uart {
    fn read(&self, at: Access) -> u64 {
        let mut registers = lock(&self.registers);
        let value = read_bytes(at, |offset| registers.read(offset));
        self.settle(&mut registers);
        value
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let mut registers = lock(&self.registers);
        let waited = registers.waits_for_thr();
        write_bytes(at, value, |offset, byte| {
            registers.write(offset, byte);
            Action::Continue
        });
        self.settle(&mut registers);
        // At most one byte: only offset 0 sends.
        let sent = registers.serial.writer_mut().0.take();
        let waits = registers.waits_for_thr();
        drop(registers);
        // Once, not at each byte: the list of what is posted has a lock.
        if waits && !waited {
            self.stop_posting();
        }
        if let Some(byte) = sent {
            self.console.write(&[byte]);
        }
        Action::Continue
    }

    fn reset(&self) {
        let mut registers = lock(&self.registers);
        let (line, was_high) = (registers.line.clone(), registers.line_is_high);
        *registers = Registers { line_is_high: was_high, ..Registers::new(line) };
        // What the host sent and the guest had not fetched from the FIFO is gone; what waits in the console is not.
        self.settle(&mut registers);
        drop(registers);
        if let Some((posts, range)) = self.posting.get() {
            posts.set(*range, true);
        }
    }

    fn save(&self) -> Result<State, StateFault> {
        let is_posted = |(posts, range): &(Arc<Posts>, Range)| posts.ranges().contains(range);
        Ok(Arc::new(lock(&self.registers).state(self.posting.get().is_some_and(is_posted))))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<UartState>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |state: &UartState| {
            lock(&self.registers).put(state);
            if let Some((posts, range)) = self.posting.get() {
                posts.set(*range, state.posted);
            }
        })
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        fixed(names::UART)
    }
}

#[cfg(test)]
#[path = "uart_test.rs"]
mod tests;
