//! Which vCPU has a thread that serves it.
//!
//! Who needs a thread claims the vCPU and asks the host for one; the thread itself says that it serves. A host may say that
//! there is no thread though there is one: Python's `Thread.start()` raises what a signal raised after the thread began.
//! So a claim is given back, but a vCPU that is served stays served, and a second thread for it ends at once.

use super::{Control, Crew, Host, Served};
use crate::error::RunError;

impl Control {
    /// vCPUs that shall be driven by threads of their own, and that none serves or is being made for. Whoever gets them
    /// makes one for each, or gives them back.
    pub(crate) fn claim_threads(&self, crew: Crew) -> Vec<u32> {
        let mut inner = self.lock();
        let mut missing = Vec::new();
        for (id, served) in (0..).zip(inner.threads.iter_mut()) {
            if crew.is_thread(id) && *served == Served::No {
                *served = Served::Claimed;
                missing.push(id);
            }
        }
        missing
    }

    /// There will be no thread for it, as far as its host knows.
    pub(crate) fn give_claim_back(&self, vcpu: u32) {
        self.change(vcpu, |served| if served == Served::Claimed { Served::No } else { served });
    }

    /// The calling thread will serve the vCPU until [`Self::thread_gone`]; false if another one does.
    pub(crate) fn serves(&self, vcpu: u32) -> bool {
        self.change(vcpu, |_| Served::Yes) != Some(Served::Yes)
    }

    /// The thread that served it ends.
    pub(crate) fn thread_gone(&self, vcpu: u32) {
        self.change(vcpu, |_| Served::No);
    }

    /// Waits until every vCPU that is driven by a thread of its own is served: a round counts on each. False if one is not
    /// and nobody makes it a thread, or the machine closes.
    ///
    /// # Errors
    /// [`RunError::Host`]: the host wants its thread back.
    pub(crate) fn wait_served(&self, crew: Crew, host: &dyn Host) -> Result<bool, RunError> {
        let mut inner = self.lock();
        loop {
            let of_crew = || (0..).zip(&inner.threads).filter(|(id, _)| crew.is_thread(*id)).map(|(_, served)| *served);
            if of_crew().all(|served| served == Served::Yes) {
                return Ok(true);
            }
            if inner.closing || of_crew().any(|served| served == Served::No) {
                return Ok(false);
            }
            inner = self.sleep_beside(inner, host)?;
        }
    }

    /// Changes what is known of a vCPU's thread; what was known.
    fn change(&self, vcpu: u32, to: impl FnOnce(Served) -> Served) -> Option<Served> {
        let mut inner = self.lock();
        let served = inner.threads.get_mut(vcpu as usize)?;
        let before = *served;
        *served = to(before);
        drop(inner);
        self.changed.notify_all();
        Some(before)
    }
}
