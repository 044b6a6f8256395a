//! The loop through a guest: an input is put into it, it runs until it is done, what it covered is collected, and it is put back.
//!
//! What is around an input is a [`Plan`]: where it goes (`guest/place`, `guest/input`), where its execution ends (`guest/patch`, `guest/vectors`),
//! what is coverage (`guest/patch`, `guest/window`, `guest/steps`). Which ends are one finding says `guest/triage`. One execution is in
//! `guest/execute`.

mod bytes;
mod error;
mod execute;
pub mod input;
pub mod patch;
pub mod place;
mod steps;
pub mod triage;
pub mod vectors;
pub mod view;
pub mod window;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::bytes::Bytes;
pub use self::error::GuestError;
use self::execute::Pace;
use self::input::FuzzInput;
use self::patch::{Patches, Trap, Wanted};
use self::place::{Place, Placer};
use self::steps::Steps;
use self::triage::{ExitKind, Finding, Key};
use self::view::View;
use self::window::{Layout, Window};
use super::coverage::Counters;
use super::engine::{Engine, Evolve, Outcome, Statistics};
use super::havoc::Words;
use super::minimize;
use crate::control::Host;
use crate::machine::Machine;
use crate::memory::Written;
use crate::snapshot::Snapshot;

/// Most instructions of an execution that is looked at for what it compares.
const COMPARED: u64 = 2_000;

/// What is done with inputs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where they go.
    pub places: Vec<Place>,
    /// What of them devices get.
    pub devices: Arc<FuzzInput>,
    /// Where the guest is stopped.
    pub wanted: Wanted,
    /// By which instruction; `None`: by what this machine hands over.
    pub trap: Option<Trap>,
    /// Exits that are findings.
    pub exits: Vec<ExitKind>,
    /// An execution that does not end is one, too.
    pub hangs: bool,
    /// How long an execution may take of a processor; of the clock on the wall many times as much, which a busy host may take.
    pub time: Duration,
    /// How many instructions it may have, if it takes longer than that.
    pub instructions: Option<u64>,
    /// A window in which the guest counts.
    pub window: Option<(u64, u64, Layout)>,
    /// Every instruction is a step, and which follows which is coverage.
    pub steps: bool,
    /// What an input that covers something new compares is looked for.
    pub comparisons: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            devices: Arc::default(),
            wanted: Wanted::default(),
            trap: None,
            exits: vec![ExitKind::Shutdown, ExitKind::FailEntry, ExitKind::InternalError],
            hangs: true,
            time: Duration::from_secs(1),
            instructions: None,
            window: None,
            steps: false,
            comparisons: true,
        }
    }
}

/// A campaign on one guest, execution by execution.
pub struct GuestLoop {
    machine: Arc<Machine>,
    plan: Plan,
    placer: Placer,
    patches: Patches,
    window: Option<Window>,
    /// What a restore leaves alone.
    spared: Vec<Written>,
    /// What every execution begins with: with patches, and as it was given.
    base: Arc<Snapshot>,
    plain: Arc<Snapshot>,
    engine: Evolve<Bytes>,
    counters: Counters,
    steps: Steps,
    /// Blocks that this execution has hit.
    hits: Vec<u64>,
    /// How often a block has stopped the guest.
    stops: u64,
    /// What others may learn; `None`: nobody wants to.
    news: Option<Vec<News>>,
    input: Vec<u8>,
    found: BTreeSet<Key>,
    /// How long restores took, and how many there were.
    resets: (Duration, u32),
}

/// An input, and the blocks that it was the first to hit.
pub type News = (Vec<u8>, Vec<u64>);

/// What came of one input.
#[derive(Debug)]
pub struct Turn {
    /// What was found that was not found before.
    pub finding: Option<Finding>,
    /// The input is kept.
    pub is_kept: bool,
}

impl GuestLoop {
    /// Begins a campaign from a snapshot of this machine.
    ///
    /// # Errors
    /// The plan does not fit the guest, or the machine cannot be put there.
    pub fn new(
        machine: Arc<Machine>,
        base: &Snapshot,
        plan: Plan,
        seed: u64,
        words: Words,
        host: &dyn Host,
    ) -> Result<Self, GuestError> {
        machine.restore(base, &[], host)?;
        let config = machine.config();
        if config.vcpus > 1 && (plan.steps || plan.instructions.is_some()) {
            return Err(GuestError::ManyVcpus { vcpus: config.vcpus });
        }
        let sregs = machine.sregs(0, host)?;
        let view = View { memory: &machine.memory, sregs: &sregs };
        let placer = Placer::new(&view, &plan.places, plan.devices.clone())?;
        let handlers = if config.irqchip { Trap::Int3 } else { Trap::Halt };
        // HLT of a user's program is a fault.
        let is_user = sregs.cr0 & 1 != 0 && sregs.cs.selector & 3 == 3;
        let code = plan.trap.unwrap_or(if is_user { Trap::Int3 } else { handlers });
        let patches = Patches::find(&view, &plan.wanted, code, handlers)?;
        let window =
            plan.window.map(|(gpa, len, layout)| Window::new(&machine.memory, gpa, len, layout)).transpose()?;
        let plain = Arc::new(machine.snapshot(host)?);
        let engine =
            Evolve::new(seed, Bytes { longest: placer.longest(), is_lasting: window.is_some() || plan.steps }, words);
        machine.take_int3(patches.has_int3());
        if patches.has_int3() {
            patch::try_int3(&machine, &plain, host)?;
        }
        let mut made = Self {
            spared: window.iter().map(Window::spared).collect(),
            base: plain.clone(),
            machine,
            plan,
            placer,
            patches,
            window,
            plain,
            engine,
            counters: Counters::default(),
            steps: Steps::default(),
            hits: Vec::new(),
            stops: 0,
            news: None,
            input: Vec::new(),
            found: BTreeSet::new(),
            resets: (Duration::ZERO, 0),
        };
        made.renew_base(host)?;
        Ok(made)
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Has inputs tried as they are, the last one first.
    pub fn give(&mut self, inputs: impl IntoIterator<Item = Vec<u8>>) {
        self.engine.give(inputs);
    }

    /// The inputs that are kept, from one on.
    pub fn corpus(&self, start: usize) -> impl Iterator<Item = &[u8]> {
        self.engine.corpus().entries().iter().skip(start).map(|entry| &*entry.input)
    }

    /// How many inputs of the corpus stay as they are: the last one may still be made shorter.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.engine.settled()
    }

    /// Keeps only what covers all that is covered.
    pub fn minimize_corpus(&mut self) {
        self.engine.minimize();
    }

    /// The input that was executed last.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// How far it has come.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }

    /// What it takes to put the machine back, on average.
    #[must_use]
    pub fn reset(&self) -> Option<Duration> {
        self.resets.0.checked_div(self.resets.1)
    }

    /// Blocks that nobody has covered yet, and all.
    #[must_use]
    pub fn blocks(&self) -> (usize, usize) {
        self.patches.blocks()
    }

    /// How often a block has stopped the guest.
    #[must_use]
    pub fn stops(&self) -> u64 {
        self.stops
    }

    /// Inputs that have hit blocks since it was asked last; from the first time on they are kept for that.
    pub fn news(&mut self) -> Vec<News> {
        self.news.replace(Vec::new()).unwrap_or_default()
    }

    /// Takes the blocks out that others have hit, all at once, and has their inputs in the corpus as if they had been executed here.
    ///
    /// # Errors
    /// The machine cannot be put back.
    pub fn learn(&mut self, news: &[News], host: &dyn Host) -> Result<(), GuestError> {
        let mut is_new = false;
        for (input, gvas) in news {
            self.counters.clear();
            for &gva in gvas {
                if self.patches.clear(gva) {
                    self.counters.mark(execute::covered(gva));
                }
            }
            if !self.counters.is_empty() {
                is_new = true;
                self.engine.learn(input.get(..self.placer.longest()).unwrap_or(input), &self.counters);
            }
        }
        if is_new { self.renew_base(host) } else { Ok(()) }
    }

    /// Executes the next input.
    ///
    /// # Errors
    /// The machine cannot go on. [`crate::error::RunError::Host`]: the host wants its thread back; that input counts for nothing.
    pub fn turn(&mut self, host: &dyn Host) -> Result<Turn, GuestError> {
        let mut input = std::mem::take(&mut self.input);
        self.engine.next(&mut input);
        input.truncate(self.placer.longest());
        let done = self.turn_with(&input, host);
        self.input = input;
        done
    }

    fn turn_with(&mut self, input: &[u8], host: &dyn Host) -> Result<Turn, GuestError> {
        let ended = self.execute(input, host)?;
        let finding = self.finding(&ended, host)?;
        let comparisons = if self.plan.steps { self.steps.compared.as_slice() } else { &[] };
        let outcome = Outcome { counters: &self.counters, operations: 1, comparisons, is_finding: finding.is_some() };
        let is_kept = self.engine.report(input, &outcome);
        if finding.is_none() && !self.hits.is_empty() {
            for &gva in &self.hits {
                self.patches.clear(gva);
            }
            if let Some(news) = &mut self.news {
                news.push((input.to_vec(), self.hits.clone()));
            }
            self.renew_base(host)?;
        }
        if is_kept && self.plan.comparisons && !self.plan.steps && self.machine.config().vcpus == 1 {
            self.compare(input, host)?;
        }
        let finding = finding.filter(|finding| self.found.insert(finding.key()));
        Ok(Turn { finding, is_kept })
    }

    /// Executes one input, and tells the engine nothing: what is found, whether it was before or not.
    ///
    /// # Errors
    /// As for [`Self::turn`].
    pub fn replay(&mut self, input: &[u8], host: &dyn Host) -> Result<Option<Finding>, GuestError> {
        let input = input.get(..self.placer.longest()).unwrap_or(input);
        let ended = self.execute(input, host)?;
        self.finding(&ended, host)
    }

    /// Fewer and simpler bytes that end in the same way: each part is tried to be left out, and each byte to be 0, as far as one comes in
    /// so many executions and so much time.
    ///
    /// # Errors
    /// As for [`Self::turn`].
    pub fn minimized(
        &mut self,
        input: &[u8],
        mut budget: usize,
        most: Duration,
        host: &dyn Host,
    ) -> Result<Vec<u8>, GuestError> {
        let began = Instant::now();
        let Some(key) = self.replay(input, host)?.map(|finding| finding.key()) else { return Ok(input.to_vec()) };
        let mut failed = None;
        let mut still = |bytes: &[u8]| {
            if failed.is_some() || began.elapsed() >= most {
                return false;
            }
            match self.replay(bytes, host) {
                Ok(found) => found.is_some_and(|finding| finding.key() == key),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        };
        let mut small = minimize::fewest(input, &mut budget, &mut still);
        let simpler = |&byte: &u8| if byte == 0 { Vec::new() } else { vec![0] };
        minimize::simplest(&mut small, &mut budget, simpler, &mut still);
        failed.map_or(Ok(small), Err)
    }

    /// Takes every patch out of memory, so that the machine is what the guest has made of it.
    ///
    /// # Errors
    /// Memory is gone.
    pub fn take_patches_out(&self) -> Result<(), GuestError> {
        self.patches.take_out(&self.machine.memory)
    }

    /// Looks which numbers an input has compared.
    fn compare(&mut self, input: &[u8], host: &dyn Host) -> Result<(), GuestError> {
        let most = self.plan.instructions.unwrap_or(COMPARED).min(COMPARED);
        self.begin(input, host)?;
        self.go(Pace::Steps { most, edges: false, compares: true, time: None }, host)?;
        for &(there, wanted) in &self.steps.compared {
            self.engine.words().compared(there, wanted);
        }
        Ok(())
    }

    /// The base with the patches that are left.
    fn renew_base(&mut self, host: &dyn Host) -> Result<(), GuestError> {
        if self.patches.is_empty() {
            return Ok(());
        }
        self.machine.restore(&self.plain, &self.spared, host)?;
        self.patches.write(&self.machine.memory)?;
        self.base = Arc::new(self.machine.snapshot(host)?);
        Ok(())
    }
}

impl std::fmt::Debug for GuestLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestLoop").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "guest_test.rs"]
mod tests;
