//! Where an input goes: each place takes of it what it needs, in the order in which they were named; what is left a later one gets.

use std::sync::Arc;

use super::error::GuestError;
use super::input::FuzzInput;
use super::view::View;
use crate::arch::x86_64::Regs;
use crate::control::Host;
use crate::fuzz::LONGEST;
use crate::machine::Machine;

macro_rules! registers {
    ($($name:ident)*) => {
        /// A general register.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, missing_docs)] // the names are the manuals'
        pub enum Register { $($name),* }

        impl Register {
            /// The one of a name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            fn of(self, regs: &mut Regs) -> &mut u64 {
                match self { $(Self::$name => &mut regs.$name),* }
            }
        }
    };
}
registers!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15);

/// Who takes something of an input.
#[derive(Clone, Debug)]
pub enum Place {
    /// Memory.
    Memory {
        /// Its address.
        at: u64,
        /// Whether that is linear.
        is_linear: bool,
        /// How many bytes it takes at most.
        most: u64,
        /// Gets how many it was.
        length: Option<Register>,
    },
    /// A register: 8 bytes, the missing ones 0.
    Register(Register),
    /// Devices: all that is left.
    Devices,
}

/// The same with addresses that need no walk.
#[derive(Debug)]
enum Put {
    Memory { ranges: Vec<(u64, u64)>, most: usize, length: Option<Register> },
    Register(Register),
    Devices,
}

/// Puts inputs into a guest.
#[derive(Debug)]
pub struct Placer {
    puts: Vec<Put>,
    longest: usize,
    sets_registers: bool,
    devices: Arc<FuzzInput>,
}

impl Placer {
    /// Looks up where the places are.
    ///
    /// # Errors
    /// There is no memory, or it takes too much.
    pub fn new(view: &View<'_>, places: &[Place], devices: Arc<FuzzInput>) -> Result<Self, GuestError> {
        let (mut puts, mut longest) = (Vec::new(), 0_u64);
        for place in places {
            let (put, takes) = match *place {
                Place::Memory { at, is_linear, most, length } => {
                    let missing = || GuestError::NoPlace { at, len: most };
                    if most > LONGEST as u64 {
                        return Err(GuestError::TooLong { len: most });
                    }
                    let ranges = if is_linear { view.ranges(at, most) } else { Some(vec![(at, most)]) };
                    let ranges = ranges.ok_or_else(missing)?;
                    let size = |len| usize::try_from(len).unwrap_or(usize::MAX);
                    if !ranges.iter().all(|&(gpa, len)| view.memory.holds(gpa, size(len))) {
                        return Err(missing());
                    }
                    (Put::Memory { ranges, most: size(most), length }, most)
                }
                Place::Register(register) => (Put::Register(register), 8),
                Place::Devices => (Put::Devices, LONGEST as u64),
            };
            puts.push(put);
            longest += takes;
        }
        if !places.iter().any(|place| matches!(place, Place::Devices)) && longest > LONGEST as u64 {
            return Err(GuestError::TooLong { len: longest });
        }
        let longest = usize::try_from(longest).unwrap_or(LONGEST).min(LONGEST);
        let sets = |put: &Put| matches!(put, Put::Register(_) | Put::Memory { length: Some(_), .. });
        Ok(Self { sets_registers: puts.iter().any(sets), puts, longest, devices })
    }

    /// Bytes of an input that anybody takes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Puts an input where it belongs.
    ///
    /// # Errors
    /// The machine is closed.
    pub fn put(&self, machine: &Machine, input: &[u8], host: &dyn Host) -> Result<(), GuestError> {
        let mut registers: [Option<(Register, u64)>; 16] = [None; 16];
        let mut left = input;
        let mut set = |register, value| {
            if let Some(slot) = registers.get_mut(register as usize) {
                *slot = Some((register, value));
            }
        };
        for put in &self.puts {
            match *put {
                Put::Memory { ref ranges, most, length } => {
                    let (mut mine, rest) = left.split_at(most.min(left.len()));
                    left = rest;
                    if let Some(register) = length {
                        set(register, mine.len() as u64);
                    }
                    for &(gpa, len) in ranges {
                        let (here, rest) = mine.split_at(mine.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
                        if here.is_empty() {
                            break;
                        }
                        machine.memory.write(gpa, here)?;
                        mine = rest;
                    }
                }
                Put::Register(register) => {
                    let (mine, rest) = left.split_at(left.len().min(8));
                    left = rest;
                    let mut bytes = [0; 8];
                    bytes.iter_mut().zip(mine).for_each(|(into, &byte)| *into = byte);
                    set(register, u64::from_le_bytes(bytes));
                }
                Put::Devices => self.devices.put(std::mem::take(&mut left)),
            }
        }
        if self.sets_registers {
            machine.set_regs(0, host, |regs| {
                registers.iter().flatten().for_each(|&(register, value)| *register.of(regs) = value);
            })?;
        }
        Ok(())
    }
}
