//! How long a read of a declared register takes here, measured on registers that no guest sees.

use std::sync::Arc;
use std::time::Instant;

use super::{Kind, Layout, RegisterFile};
use crate::bus::Access;

/// Most registers that are read in turn.
const MOST: usize = 1_000;
/// Reads in a round: some hundred microseconds.
const READS: usize = 20_000;
/// Rounds, of which the middle one is given: others of this machine's work is in the longer ones.
const ROUNDS: usize = 9;

impl RegisterFile {
    /// Nanoseconds that a read takes whose owner need not be asked, without what comes before it: the exit and the look-up
    /// of the device. `None` if there is no such register.
    #[must_use]
    pub fn measure(layout: &Arc<Layout>) -> Option<f64> {
        let plain = layout.cells.iter().filter(|cell| cell.kind == Kind::Plain && cell.sides.0 && !cell.on_read);
        let at = |offset, size| Access { offset, size, vcpu: 0 };
        let reads: Vec<_> = plain.filter_map(|cell| Some(at(cell.offset?, cell.width))).take(MOST).collect();
        if reads.is_empty() {
            return None;
        }
        let file = Self::new(layout.clone());
        let round = || {
            let began = Instant::now();
            for at in reads.iter().cycle().take(READS) {
                std::hint::black_box(file.quick_read(std::hint::black_box(*at)));
            }
            began.elapsed()
        };
        let mut rounds: Vec<_> = std::iter::repeat_with(round).take(ROUNDS).collect();
        rounds.sort_unstable();
        let middle = rounds.get(ROUNDS / 2)?;
        #[allow(clippy::cast_precision_loss)] // a few thousand reads
        Some(middle.as_nanos() as f64 / READS as f64)
    }
}
