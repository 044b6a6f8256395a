//! Keyboard controller (i8042) without a keyboard: what a guest needs to find that out fast, and to reset the machine.
//!
//! vm-superio's `I8042Device` answers every read with 0. Linux then waits half a second for the command byte, so this
//! one answers commands. What Linux meets when it probes (`drivers/input/serio/i8042.c`; it does not even probe when
//! the FADT's IAPC_BOOT_ARCH says that there is no 8042):
//! 1. status 0: nothing to flush, a command is welcome;
//! 2. command 0x20 gives the command byte, 0x60 sets it: a controller is there;
//! 3. 0xd3 (loop through the mouse port) comes back without the mouse's flag, and 0xa9 (test the mouse port) says that
//!    its clock is stuck: no mouse;
//! 4. a byte for the keyboard is answered with 0xfe and the time-out flag, as the chip does when no keyboard answers.
//!
//! No step waits for the guest's time-out when the guest polls. There are no interrupts (irq 1 and 12).
//! Ports 0x60 and 0x64 are two windows onto one controller, because 0x61 to 0x63 are not its own.

use std::sync::{Arc, Mutex};

use hyperpy_core::bus::{Access, Action, Device};
use hyperpy_core::names::Names;
use hyperpy_core::snapshot::{self, Saved, StateFault, check, require, with};
use hyperpy_core::state;

use crate::names::{self, fixed};
use crate::{OPEN_BUS, lock, read_bytes, write_bytes};

/// From the data port to the command port.
pub const COMMAND_PORT_OFFSET: u16 = 4;

/// Status: a byte waits at the data port (OBF).
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: the controller passed its self-test (SYS).
const STATUS_SYSTEM: u8 = 1 << 2;
/// Status: the last write was a command (A2).
const STATUS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked by a key (INH).
const STATUS_UNLOCKED: u8 = 1 << 4;
/// Status: the keyboard did not answer in time (TIM).
const STATUS_TIMEOUT: u8 = 1 << 6;

/// Command: give the command byte.
const READ_COMMAND_BYTE: u8 = 0x20;
/// Command: the next data byte is the command byte.
const WRITE_COMMAND_BYTE: u8 = 0x60;
/// Command: disable the mouse port.
const DISABLE_MOUSE: u8 = 0xa7;
/// Command: enable the mouse port.
const ENABLE_MOUSE: u8 = 0xa8;
/// Command: test the mouse port.
const TEST_MOUSE: u8 = 0xa9;
/// Command: test the controller.
const SELF_TEST: u8 = 0xaa;
/// Command: test the keyboard port.
const TEST_KEYBOARD: u8 = 0xab;
/// Command: disable the keyboard port.
const DISABLE_KEYBOARD: u8 = 0xad;
/// Command: enable the keyboard port.
const ENABLE_KEYBOARD: u8 = 0xae;
/// Command: give the output port.
const READ_OUTPUT_PORT: u8 = 0xd0;
/// Command: the next data byte is the output port.
const WRITE_OUTPUT_PORT: u8 = 0xd1;
/// Command: the next data byte comes back as if the keyboard had sent it.
const LOOP_KEYBOARD: u8 = 0xd2;
/// Command: the next data byte comes back as if the mouse had sent it.
const LOOP_MOUSE: u8 = 0xd3;
/// Command: the next data byte goes to the mouse.
const SEND_TO_MOUSE: u8 = 0xd4;
/// Commands from here on pulse the lines of the output port whose bit is 0; 0xfe pulses the processor's reset.
const PULSE_OUTPUT_PORT: u8 = 0xf0;

/// Commands that a data byte follows.
const WITH_DATA: [u8; 5] = [WRITE_COMMAND_BYTE, WRITE_OUTPUT_PORT, LOOP_KEYBOARD, LOOP_MOUSE, SEND_TO_MOUSE];

/// Answer to [`SELF_TEST`]: good.
const SELF_TEST_GOOD: u8 = 0x55;
/// Answer to a port test: clock line stuck low, which is what a port without a device gives.
const NO_DEVICE: u8 = 0x01;
/// What the controller gives for a device that does not answer.
const NO_ANSWER: u8 = 0xfe;
/// Output port: the processor's reset line, active low.
const OUTPUT_NO_RESET: u8 = 1 << 0;
/// Output port: A20 is on.
const OUTPUT_A20: u8 = 1 << 1;
/// Command byte after a BIOS: translation on, both ports off, system flag set, no interrupts.
const COMMAND_BYTE_AFTER_BIOS: u8 = 0b0111_0100;
/// Command byte: keyboard port off.
const KEYBOARD_OFF: u8 = 1 << 4;
/// Command byte: mouse port off.
const MOUSE_OFF: u8 = 1 << 5;

/// The controller. It is reached through its two [`I8042::windows`].
#[derive(Debug)]
pub struct I8042 {
    state: Mutex<State>,
}

state! {
    /// All of it.
    struct State {
        /// The byte at the data port, while there is one.
        output: Option<u8>,
        /// The byte read last: what an empty data port shows.
        last: u8,
        command_byte: u8,
        output_port: u8,
        /// The command whose data byte is still to come.
        pending: Option<u8>,
        /// Status flags other than [`STATUS_OUTPUT_FULL`] and the constant ones.
        flags: u8,
    }
    check rules;
}

impl Default for State {
    fn default() -> Self {
        Self {
            output: None,
            last: 0,
            command_byte: COMMAND_BYTE_AFTER_BIOS,
            output_port: OUTPUT_NO_RESET | OUTPUT_A20,
            pending: None,
            flags: 0,
        }
    }
}

/// One port of the controller.
#[derive(Debug)]
struct Window {
    controller: Arc<I8042>,
    is_command_port: bool,
}

impl I8042 {
    /// The devices for the data port (0x60) and for the command port (0x64) of one new controller.
    #[must_use]
    pub fn windows() -> (Arc<dyn Device>, Arc<dyn Device>) {
        let controller = Arc::new(Self { state: Mutex::default() });
        let window = |is_command_port| Arc::new(Window { controller: controller.clone(), is_command_port });
        (window(false), window(true))
    }
}

impl State {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.pending.is_none_or(|it| WITH_DATA.contains(&it)), "pending is no command that a byte follows")?;
        require(self.output_port & OUTPUT_NO_RESET != 0, "output_port holds the processor in reset")?;
        require(self.flags & !(STATUS_COMMAND | STATUS_TIMEOUT) == 0, "flags has others than are kept")
    }

    fn status(&self) -> u8 {
        let full = if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
        STATUS_SYSTEM | STATUS_UNLOCKED | self.flags | full
    }

    fn read_data(&mut self) -> u8 {
        self.flags &= !STATUS_TIMEOUT;
        self.last = self.output.take().unwrap_or(self.last);
        self.last
    }

    fn answer(&mut self, byte: u8) {
        self.output = Some(byte);
    }

    fn command(&mut self, command: u8) -> Action {
        // A new command ends an unfinished one, and its answer replaces one that nobody fetched.
        self.flags = STATUS_COMMAND;
        self.pending = None;
        match command {
            READ_COMMAND_BYTE => self.answer(self.command_byte),
            DISABLE_MOUSE => self.command_byte |= MOUSE_OFF,
            ENABLE_MOUSE => self.command_byte &= !MOUSE_OFF,
            DISABLE_KEYBOARD => self.command_byte |= KEYBOARD_OFF,
            ENABLE_KEYBOARD => self.command_byte &= !KEYBOARD_OFF,
            TEST_MOUSE | TEST_KEYBOARD => self.answer(NO_DEVICE),
            SELF_TEST => self.answer(SELF_TEST_GOOD),
            READ_OUTPUT_PORT => self.answer(self.output_port),
            _ if WITH_DATA.contains(&command) => self.pending = Some(command),
            PULSE_OUTPUT_PORT.. if command & OUTPUT_NO_RESET == 0 => return Action::Reset,
            _ => {}
        }
        Action::Continue
    }

    fn write_data(&mut self, byte: u8) -> Action {
        self.flags = 0;
        match self.pending.take() {
            Some(WRITE_COMMAND_BYTE) => self.command_byte = byte,
            Some(WRITE_OUTPUT_PORT) if byte & OUTPUT_NO_RESET == 0 => return Action::Reset,
            Some(WRITE_OUTPUT_PORT) => self.output_port = byte,
            Some(LOOP_KEYBOARD | LOOP_MOUSE) => self.answer(byte),
            // To a keyboard or a mouse, and neither is there.
            _ => {
                self.flags = STATUS_TIMEOUT;
                self.answer(NO_ANSWER);
            }
        }
        Action::Continue
    }
}

impl Device for Window {
    fn read(&self, at: Access) -> u64 {
        let mut state = lock(&self.controller.state);
        read_bytes(at, |offset| match (offset, self.is_command_port) {
            (0, true) => state.status(),
            (0, false) => state.read_data(),
            _ => OPEN_BUS,
        })
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let mut state = lock(&self.controller.state);
        write_bytes(at, value, |offset, byte| match (offset, self.is_command_port) {
            (0, true) => state.command(byte),
            (0, false) => state.write_data(byte),
            _ => Action::Continue,
        })
    }

    fn reset(&self) {
        *lock(&self.controller.state) = State::default();
    }

    fn save(&self) -> Result<snapshot::State, StateFault> {
        Ok(Arc::new(lock(&self.controller.state).clone()))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<State>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |state: &State| lock(&self.controller.state).clone_from(state))
    }

    /// The two ports are one device.
    fn identity(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.controller).addr())
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        if self.is_command_port { fixed(names::I8042_COMMAND) } else { None }
    }
}

#[cfg(test)]
#[path = "i8042_test.rs"]
mod tests;
