//! What a machine may use of the host's processors: which of them, and how much of their time.
//!
//! The cap works by periods of 100 ms. Its quota is shared by the machine's vCPUs. A vCPU is charged for the processor
//! time of the thread that drives it wherever KVM_RUN was interrupted; its timer is set so that this happens when the
//! quota is used up, and it then rests (`control`) until the next period. What was used beyond is owed, so that the share
//! is right over time. Nothing is looked at between two exits. The threads' masks are in `kvm::affinity`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kvm::affinity::CpuSet;

/// Length of a period.
pub const PERIOD: Duration = Duration::from_millis(100);

/// The shortest time for which a vCPU's timer is set: a shorter rest of a quota is owed.
const SHORTEST: Duration = Duration::from_micros(500);

/// The limits of one machine.
#[derive(Debug, Default)]
pub struct Limits {
    /// Processors that its vCPUs may run on; all that the process may, if there is none.
    pub cpus: Option<CpuSet>,
    /// Nanoseconds of processor time in a period; 0 for no limit.
    quota: AtomicU64,
    period: Mutex<Period>,
}

#[derive(Debug, Default)]
struct Period {
    ends: Option<Instant>,
    /// What is left of the quota, in nanoseconds; below 0 what is owed.
    left: i64,
}

/// What a vCPU may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Whatever it likes.
    All,
    /// Run for so long.
    Run(Duration),
    /// Rest until then.
    Rest(Instant),
}

impl Limits {
    /// Sets how many processors' time the machine may use, 1.5 for one and a half; `None` for no limit.
    pub fn set_cpu_limit(&self, processors: Option<f64>) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        let quota = processors.map_or(0, |limit| ((limit * PERIOD.as_nanos() as f64) as u64).max(1));
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        self.quota.store(quota, Ordering::Relaxed);
        *period = Period::default();
    }

    /// The same, for a copy of the machine: each has its own time.
    pub(crate) fn copied(&self) -> Self {
        let quota = AtomicU64::new(self.quota.load(Ordering::Relaxed));
        Self { cpus: self.cpus, quota, period: Mutex::default() }
    }

    /// Whether there is a limit on its time.
    pub(crate) fn is_capped(&self) -> bool {
        self.quota.load(Ordering::Relaxed) != 0
    }

    /// Charges for `used` nanoseconds of a vCPU, one of `vcpus`, and says how it goes on.
    pub(crate) fn charge(&self, used: u64, vcpus: usize, now: Instant) -> Allowed {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(quota @ 1..) = i64::try_from(self.quota.load(Ordering::Relaxed)) else { return Allowed::All };
        let ends = match period.ends {
            Some(ends) if now < ends => ends,
            Some(ends) => {
                let passed = i64::try_from((now - ends).as_nanos() / PERIOD.as_nanos()).unwrap_or(i64::MAX);
                let passed = passed.saturating_add(1);
                period.left = period.left.saturating_add(quota.saturating_mul(passed)).min(quota);
                let skip = u32::try_from(passed).ok().and_then(|passed| PERIOD.checked_mul(passed));
                skip.and_then(|skip| ends.checked_add(skip)).unwrap_or(now + PERIOD)
            }
            None => {
                period.left = quota;
                now + PERIOD
            }
        };
        period.ends = Some(ends);
        period.left = period.left.saturating_sub_unsigned(used);
        if period.left > 0 {
            let share = period.left.unsigned_abs() / (vcpus.max(1) as u64);
            return Allowed::Run(Duration::from_nanos(share).max(SHORTEST));
        }
        // As many more periods as it takes to pay what is owed.
        let more = u32::try_from(period.left.unsigned_abs() / quota.unsigned_abs()).unwrap_or(u32::MAX);
        Allowed::Rest(PERIOD.checked_mul(more).and_then(|more| ends.checked_add(more)).unwrap_or(ends))
    }
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
