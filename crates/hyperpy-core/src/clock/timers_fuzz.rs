//! Timers of a manual clock against a list that is looked through each time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::clock::Kept;
use crate::targets::{near, with};

/// Writes down its number, when it was due, and whether that was the last time.
struct Note(u64, Arc<Mutex<Vec<(u64, u64, bool)>>>);

impl Callback for Note {
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push((self.0, fired.deadline, fired.is_last));
        Ok(None)
    }
}

/// A timer as the list has it: its number, deadline and period.
type Listed = (u64, u64, u64);

/// Timers set, cancelled, fired, kept and put back.
pub fn timers(data: &[u8]) {
    with(data, |u| {
        let (clock, log) = (Arc::new(Clock::manual()), Arc::<Mutex<Vec<_>>>::default());
        let (mut now, mut next) = (0_u64, 0);
        let mut set: Vec<Listed> = Vec::new();
        let mut handles: Vec<(u64, Timer)> = Vec::new();
        let mut kept: Vec<(Kept, u64, Vec<Listed>)> = Vec::new();
        for _ in 0..40 {
            let ns = near(u, &[0, 10, 100, 1 << 40, u64::MAX])?;
            match u.int_in_range(0..=9)? {
                0..=2 => {
                    let (when, deadline, period) = match u.int_in_range(0..=2)? {
                        0 => (When::After(ns), now.saturating_add(ns), 0),
                        1 => (When::At(ns), ns, 0),
                        // Not so short that a step is for ever.
                        _ => (When::Every(ns.max(1 << 38)), now.saturating_add(ns.max(1 << 38)), ns.max(1 << 38)),
                    };
                    let timer = clock.arm(when, next % 3, Arc::new(Note(next, log.clone()))).unwrap();
                    assert_eq!((timer.deadline(), timer.is_active()), (deadline, true));
                    set.push((next, deadline, period));
                    handles.push((next, timer));
                    next += 1;
                }
                3 if !handles.is_empty() => {
                    let (number, timer) = &handles[u.int_in_range(0..=handles.len() - 1)?];
                    let was_set = set.iter().any(|it| it.0 == *number);
                    assert_eq!(clock.cancel(timer), was_set);
                    set.retain(|it| it.0 != *number);
                }
                4 => {
                    let owner = u.int_in_range(0..=2)?;
                    clock.cancel_of(owner);
                    set.retain(|it| it.0 % 3 != owner);
                }
                5 => kept.push((clock.save(), now, set.clone())),
                6 if !kept.is_empty() => {
                    let (state, then, those) = &kept[u.int_in_range(0..=kept.len() - 1)?];
                    clock.load(state);
                    (now, set) = (*then, those.clone());
                }
                7 if !kept.is_empty() => drop(kept.remove(u.int_in_range(0..=kept.len() - 1)?)),
                _ => {
                    let ns = ns.min(1 << 45);
                    clock.step(ns).unwrap();
                    let until = now.saturating_add(ns);
                    let mut expected = Vec::new();
                    // The first of those that are due, until there is none.
                    while let Some(at) =
                        (0..set.len()).filter(|&at| set[at].1 <= until).min_by_key(|&at| (set[at].1, set[at].0))
                    {
                        let (number, deadline, period) = set[at];
                        now = now.max(deadline);
                        // A period that was missed is left out: the next one is after now.
                        let missed = (now - deadline).checked_div(period).map_or(0, |it| it + 1);
                        let following =
                            period.checked_mul(missed).filter(|it| *it > 0).and_then(|it| deadline.checked_add(it));
                        match following {
                            Some(following) => set[at].1 = following,
                            None => drop(set.remove(at)),
                        }
                        expected.push((number, deadline, following.is_none()));
                    }
                    now = now.max(until);
                    let fired = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
                    assert_eq!(fired, expected);
                }
            }
            assert_eq!((clock.now(), clock.timers()), (now, set.len()));
            assert_eq!(clock.first_deadline(), set.iter().map(|it| it.1).min());
            for (number, timer) in &handles {
                assert_eq!(timer.is_active(), set.iter().any(|it| it.0 == *number), "timer {number}");
            }
        }
        Ok(())
    });
}
