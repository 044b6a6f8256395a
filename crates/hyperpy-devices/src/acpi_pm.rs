//! ACPI's fixed hardware (ACPI 6.5, 4.8): PM1a events with the power button, PM1a control with power-off, the PM timer
//! and the reset register.
//!
//! The machine starts in ACPI mode: SCI_EN is always 1, and the FADT's SMI_CMD must be 0. Of the sleep states only S5
//! exists. What the tables must say is exported here: [`S5_SLEEP_TYPE`], [`RESET_VALUE`], [`TIMER_IS_32_BIT`].
//! No timer event is ever raised (TMR_STS stays 0); guests use the timer as a counter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyperpy_core::bus::{Access, Action, Device, DeviceMut, ones};
use hyperpy_core::exit::StopReason;
use hyperpy_core::irq::Line;
use hyperpy_core::names::Names;
use hyperpy_core::snapshot::{Saved, State, StateFault, check, require, with};
use hyperpy_core::state;

use crate::clock::Clock;
use crate::names::{self, fixed};
use crate::{OPEN_BUS, lock, read_bytes, write_bytes};

/// Ports of the PM1a event block.
pub const EVENT_PORTS: u64 = 4;
/// Ports of the PM1a control block.
pub const CONTROL_PORTS: u64 = 2;
/// Ports of the PM timer.
pub const TIMER_PORTS: u64 = 4;
/// Ports of the reset register.
pub const RESET_PORTS: u64 = 1;

/// SLP_TYP of S5, for the DSDT's `\_S5`.
pub const S5_SLEEP_TYPE: u8 = 5;
/// RESET_VALUE for the FADT: full reset through RST_CPU.
pub const RESET_VALUE: u8 = 0x06;
/// The timer counts 32 bits: TMR_VAL_EXT must be set in the FADT's flags.
pub const TIMER_IS_32_BIT: bool = true;
/// Frequency of the PM timer.
pub const TIMER_HZ: u64 = 3_579_545;

/// PM1_STS.PWRBTN_STS and PM1_EN.PWRBTN_EN: the power button.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1_EN bits that exist: TMR, GBL, PWRBTN, SLPBTN, RTC.
const ENABLE_BITS: u16 = 0b0000_0111_0010_0001;
/// PM1_CNT.SCI_EN: power events raise the SCI, that is: ACPI mode.
const SCI_ENABLED: u16 = 1 << 0;
/// PM1_CNT.BM_RLD: kept for the guest.
const BUS_MASTER_RELOAD: u16 = 1 << 1;
/// PM1_CNT.SLP_TYP: the sleep state to enter.
const SLEEP_TYPE: u16 = 0b111 << SLEEP_TYPE_SHIFT;
/// Where SLP_TYP begins.
const SLEEP_TYPE_SHIFT: u32 = 10;
/// PM1_CNT.SLP_EN: enter it; reads 0.
const SLEEP_ENABLE: u16 = 1 << 13;
/// Reset control register, RST_CPU: its rising edge resets.
const RESET_CPU: u8 = 1 << 2;

/// Replaces byte 0 or 1 of a register.
fn with_byte(register: u16, index: u64, byte: u8) -> u16 {
    match index {
        0 => register & 0xff00 | u16::from(byte),
        1 => register & 0x00ff | u16::from(byte) << 8,
        _ => register,
    }
}

/// PM1a event block: status (write 1 to clear) at offset 0, enable at offset 2, 16 bits each.
///
/// The SCI is level-triggered: its line is high while a bit is set in both.
pub struct Pm1Event {
    sci: Arc<dyn Line>,
    state: Mutex<Event>,
}

#[derive(Debug, Default)]
struct Event {
    status: u16,
    enable: u16,
    line_is_high: bool,
}

state! {
    /// What is kept of an event block. The line follows from it.
    struct Pm1EventState {
        status: u16,
        enable: u16,
    }
    check rules;
}

impl Pm1EventState {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.status & !POWER_BUTTON == 0, "status has bits that are never set")?;
        require(self.enable & !ENABLE_BITS == 0, "enable has bits that are not there")
    }
}

impl Pm1Event {
    /// An event block that raises `sci`.
    #[must_use]
    pub fn new(sci: Arc<dyn Line>) -> Self {
        Self { sci, state: Mutex::default() }
    }

    /// Presses the power button: an operating system that has it enabled begins to shut down.
    pub fn press_power_button(&self) {
        let mut state = lock(&self.state);
        state.status |= POWER_BUTTON;
        self.drive(&mut state);
    }

    /// Under the lock, so that two vCPUs cannot leave the line in the wrong state; a line never calls back.
    fn drive(&self, state: &mut Event) {
        let high = state.status & state.enable != 0;
        if high != state.line_is_high {
            state.line_is_high = high;
            self.sci.set(high);
        }
    }
}

impl Device for Pm1Event {
    fn read(&self, at: Access) -> u64 {
        let state = lock(&self.state);
        let registers = u32::from(state.enable) << 16 | u32::from(state.status);
        read_bytes(at, |offset| if offset < EVENT_PORTS { (registers >> (8 * offset)) as u8 } else { OPEN_BUS })
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let mut state = lock(&self.state);
        write_bytes(at, value, |offset, byte| {
            match offset {
                0 | 1 => state.status &= !with_byte(0, offset, byte),
                2 | 3 => state.enable = with_byte(state.enable, offset - 2, byte) & ENABLE_BITS,
                _ => {}
            }
            Action::Continue
        });
        self.drive(&mut state);
        Action::Continue
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        (state.status, state.enable) = (0, 0);
        self.drive(&mut state);
    }

    fn save(&self) -> Result<State, StateFault> {
        let Event { status, enable, .. } = *lock(&self.state);
        Ok(Arc::new(Pm1EventState { status, enable }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<Pm1EventState>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |&Pm1EventState { status, enable }| {
            let mut state = lock(&self.state);
            // The line may have been put back before.
            *state = Event { status, enable, line_is_high: self.sci.is_high() };
            self.drive(&mut state);
        })
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        fixed(names::PM1_EVENT)
    }
}

/// PM1a control block: one register of 16 bits. SLP_EN with SLP_TYP of S5 switches the machine off; both lie in the
/// upper byte, so that a guest that writes by bytes is understood.
#[derive(Debug, Default)]
pub struct Pm1Control {
    kept: u16,
}

state! {
    /// What is kept of a control block.
    struct Pm1ControlState {
        control: u16,
    }
    check rules;
}

impl Pm1ControlState {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.control & !(BUS_MASTER_RELOAD | SLEEP_TYPE) == 0, "control has bits that are not kept")
    }
}

impl DeviceMut for Pm1Control {
    fn read(&mut self, at: Access) -> u64 {
        let register = self.kept | SCI_ENABLED;
        read_bytes(at, |offset| if offset < CONTROL_PORTS { (register >> (8 * offset)) as u8 } else { OPEN_BUS })
    }

    fn write(&mut self, at: Access, value: u64) -> Action {
        write_bytes(at, value, |offset, byte| {
            if offset >= CONTROL_PORTS {
                return Action::Continue;
            }
            let register = with_byte(self.kept, offset, byte);
            self.kept = register & (BUS_MASTER_RELOAD | SLEEP_TYPE);
            let sleep_type = (register & SLEEP_TYPE) >> SLEEP_TYPE_SHIFT;
            if register & SLEEP_ENABLE != 0 && sleep_type == u16::from(S5_SLEEP_TYPE) {
                return Action::Stop(StopReason::PowerOff);
            }
            Action::Continue
        })
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(Pm1ControlState { control: self.kept }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<Pm1ControlState>(state)
    }

    fn load(&mut self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |&Pm1ControlState { control }| self.kept = control)
    }
}

/// PM timer: 32 bits that count at [`TIMER_HZ`]. One access samples it once, so that its bytes belong together;
/// writes are ignored.
pub struct PmTimer {
    clock: Arc<dyn Clock>,
    /// Added to the clock, modulo 2^64: not 0 once a state was put back.
    ahead_ns: AtomicU64,
}

state! {
    /// What the timer had come to.
    struct PmTimerState {
        time_ns: u64,
    }
}

impl PmTimer {
    /// A timer that counts with the clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead_ns: AtomicU64::new(0) }
    }

    fn ns(&self) -> u64 {
        self.clock.monotonic_ns().wrapping_add(self.ahead_ns.load(Ordering::Relaxed))
    }
}

impl Device for PmTimer {
    fn read(&self, at: Access) -> u64 {
        // The product has up to 86 bits; the counter is its low 32 after the division and wraps.
        let ticks = u128::from(self.ns()) * u128::from(TIMER_HZ) / 1_000_000_000;
        // Above its four bytes nothing drives the bus.
        let register = u64::MAX << 32 | u64::from(ticks as u32);
        let value = match at.offset {
            0 => register,
            1..TIMER_PORTS => (register >> (8 * at.offset)) | u64::MAX << (64 - 8 * at.offset),
            _ => u64::MAX,
        };
        value & ones(at.size)
    }

    fn write(&self, _at: Access, _value: u64) -> Action {
        Action::Continue
    }

    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(PmTimerState { time_ns: self.ns() }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<PmTimerState>(state)
    }

    /// It counts on from there.
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |&PmTimerState { time_ns }| {
            self.ahead_ns.store(time_ns.wrapping_sub(self.clock.monotonic_ns()), Ordering::Relaxed);
        })
    }
}

/// Reset control register (RESET_REG of the FADT): keeps what is written, and resets the machine when RST_CPU rises.
#[derive(Debug, Default)]
pub struct ResetRegister {
    value: u8,
}

state! {
    /// What the register holds.
    struct ResetRegisterState {
        value: u8,
    }
}

impl DeviceMut for ResetRegister {
    fn read(&mut self, at: Access) -> u64 {
        read_bytes(at, |offset| if offset == 0 { self.value } else { OPEN_BUS })
    }

    fn write(&mut self, at: Access, value: u64) -> Action {
        write_bytes(at, value, |offset, byte| {
            if offset != 0 {
                return Action::Continue;
            }
            let rises = byte & !self.value & RESET_CPU != 0;
            self.value = byte;
            if rises { Action::Reset } else { Action::Continue }
        })
    }

    fn reset(&mut self) {
        self.value = 0;
    }

    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(ResetRegisterState { value: self.value }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<ResetRegisterState>(state)
    }

    fn load(&mut self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |&ResetRegisterState { value }| self.value = value)
    }
}

#[cfg(test)]
#[path = "acpi_pm_test.rs"]
mod tests;
