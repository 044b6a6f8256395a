//! A machine's whole short life: made, run to its first exit, closed; by hyperpy and by the C floor in turn.
//!
//! Both open /dev/kvm, make a VM with memory in a memfd, one vCPU with the same CPUID and registers, answer one port
//! write, and give everything back.

use std::time::Instant;

use crate::Failure;
use crate::exits::{GUESTS, Guest, Hyperpy};
use crate::floor::Floor;

/// Lives in a row before the other has its turn: short turns meet the same disturbances.
const TURN: usize = 5;

/// Microseconds of one life.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// hyperpy.
    pub hyperpy: f64,
    /// The C floor.
    pub floor: f64,
}

/// `rounds` rounds of `lives` lives each; who begins alternates. In wall time: closing a VM waits for the kernel.
///
/// # Errors
/// There is no usable KVM, or a guest did something else.
pub fn compare(rounds: usize, lives: usize) -> Result<Vec<Round>, Failure> {
    let guest = &GUESTS[0];
    let (image, regs, sregs) = Hyperpy::open(guest)?.start()?;
    let hyperpy = || live(guest);
    let floor = || Floor::open(&image, &regs, &sregs)?.run(1);
    let turns = lives.div_ceil(TURN);
    let round = || {
        let mut sum = Round { hyperpy: 0.0, floor: 0.0 };
        for turn in 0..turns {
            if turn % 2 == 0 {
                sum.hyperpy += micros(hyperpy)?;
                sum.floor += micros(floor)?;
            } else {
                sum.floor += micros(floor)?;
                sum.hyperpy += micros(hyperpy)?;
            }
        }
        #[allow(clippy::cast_precision_loss)] // a few hundred
        let per_life = 1.0 / (turns * TURN) as f64;
        Ok(Round { hyperpy: sum.hyperpy * per_life, floor: sum.floor * per_life })
    };
    round()?; // the warm-up
    (0..rounds).map(|_| round()).collect()
}

fn live(guest: &Guest) -> Result<(), Failure> {
    let mut hyperpy = Hyperpy::open(guest)?;
    hyperpy.run(1)?;
    hyperpy.close()
}

fn micros(life: impl Fn() -> Result<(), Failure>) -> Result<f64, Failure> {
    let began = Instant::now();
    for _ in 0..TURN {
        life()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6)
}
