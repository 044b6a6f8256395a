//! The stock devices of a PC on a machine of Python's: they come and go together.

use std::sync::Arc;

use hyperpy_core::bus::Space;
use hyperpy_core::control::Phase;
use hyperpy_core::error::{AttachError, RunError};
use hyperpy_core::machine::Attachment;
use hyperpy_devices::clock::HostClock;
use hyperpy_devices::pc::{Board, Parts};
use pyo3::prelude::*;

use super::{Machine, lock};
use crate::console::Console;
use crate::errors;

/// Why there are no stock devices.
pub(super) enum BoardError {
    Run(RunError),
    Attach(AttachError),
}

impl From<RunError> for BoardError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<AttachError> for BoardError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl BoardError {
    pub(super) fn raised(&self) -> PyErr {
        match self {
            Self::Run(error) => errors::run(error),
            Self::Attach(error) => errors::attach(error),
        }
    }
}

impl Machine {
    /// Puts the stock devices of a PC onto the port bus, once. No exception is made while the board is locked: that is Python.
    pub(super) fn make_board(&self, console: &Console) -> Result<(), BoardError> {
        let mut board = lock(&self.board);
        if board.is_some() {
            return Ok(());
        }
        let open = [Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped];
        self.core.control.require("attach", &open).map_err(RunError::from)?;
        let had_irqchip = self.core.config().irqchip;
        self.core.want_irqchip()?;
        let lines = |gsi| self.core.lines.line(gsi);
        let memory_size = self.core.memory.pc_ram();
        let (clock, posts) = (Arc::new(HostClock::default()), self.core.posts.clone());
        let console = console.inner.clone();
        let parts = Parts { lines: &lines, clock, console, memory_size, posts, debug_exit: None };
        let made = Board::attach(&self.core.pio, parts);
        *board = Some(made.map_err(|error| {
            self.core.unwant_irqchip(had_irqchip);
            AttachError::from(error)
        })?);
        Ok(())
    }

    /// Whether the stock devices of a PC are attached.
    pub(crate) fn has_board(&self) -> bool {
        lock(&self.board).is_some()
    }

    /// Whether a stock device of that name is attached: not if a script's own stands there.
    pub(crate) fn has_stock(&self, name: &str) -> bool {
        lock(&self.board).as_ref().is_some_and(|board| board.has(name))
    }

    /// The lines of the stock devices that are attached.
    pub(crate) fn stock_lines(&self) -> Vec<(u32, bool, &'static str)> {
        lock(&self.board).as_ref().map_or_else(Vec::new, |board| board.lines().collect())
    }

    /// Takes them away again; `irqchip` is whether interrupt controllers were asked for before.
    pub(super) fn drop_board(&self, py: Python<'_>, irqchip: bool) {
        // Nothing is locked where the interpreter is taken again.
        let board = lock(&self.board).take();
        if let Some(board) = board {
            py.detach(|| {
                for &region in board.regions() {
                    // One that is no longer there was detached by somebody else: nothing is left to do.
                    let _ = self.core.detach(Attachment { space: Space::Pio, region });
                }
            });
        }
        self.core.unwant_irqchip(irqchip);
    }
}
