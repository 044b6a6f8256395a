//! What a snapshot has of a device's registers: in the form in which they are held, so that putting them back is comparing and
//! copying; and as plain data, by their names.
//!
//! A counter is kept as what is added to the time, and as plain data by what it showed. So the clock is put back before its
//! devices. Ports and levels hold nothing of their own, and counts of accesses are nobody's state.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::RegisterFile;
use super::layout::{Cell, Kind, Layout};
use super::queue::Queue;
use super::window::Window;
use crate::snapshot::{Fields, Plain, Saved, StateFault, Value, misfit, require};
use crate::state;

/// The registers of one device at one moment.
#[derive(Clone, Debug)]
pub struct Image {
    layout: Arc<Layout>,
    /// The time of its clock, in nanoseconds.
    ns: u64,
    values: Box<[u64]>,
    queues: Box<[QueueState]>,
    windows: Box<[Box<[u64]>]>,
}

state! {
    /// A queue register.
    pub(super) struct QueueState {
        /// Oldest first.
        pub(super) items: Vec<u64>,
        pub(super) lost: u64,
        pub(super) threshold: u64,
    }
}

impl QueueState {
    /// Whether a queue register could be so.
    fn fits(&self, cell: &Cell) -> bool {
        let Kind::Fifo { depth, .. } = cell.kind else { return false };
        let depth = u64::from(depth);
        let fits = |&item: &u64| item & !cell.all() == 0;
        self.items.len() as u64 <= depth && self.threshold <= depth && self.items.iter().all(fits)
    }
}

/// Whether a register holds something of its own.
fn is_kept(cell: &Cell) -> bool {
    !matches!(cell.kind, Kind::Port { .. } | Kind::Level { .. })
}

impl Layout {
    /// What a register is called in plain data.
    fn key(&self, id: usize) -> Box<str> {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_string().into())
    }
}

impl Image {
    /// Whose registers they are.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The registers as plain data, by name.
    #[must_use]
    pub fn registers(&self) -> Value {
        let (mut queues, mut windows) = (self.queues.iter(), self.windows.iter());
        let cells = self.layout.cells.iter().zip(&self.values).enumerate();
        let value = |(id, (cell, &held)): (usize, (&Cell, &u64))| {
            let value = match cell.kind {
                Kind::Fifo { .. } => Plain::value(queues.next()?),
                Kind::Ram { len } => {
                    let bytes = windows.next()?.iter().flat_map(|word| word.to_le_bytes());
                    Value::Bytes(bytes.take(usize::try_from(len).unwrap_or(usize::MAX)).collect())
                }
                Kind::Counter { .. } => (held.wrapping_add(cell.ticks_at(self.ns)) & cell.all()).into(),
                _ => (held & cell.all()).into(),
            };
            is_kept(cell).then(|| (self.layout.key(id), value))
        };
        Value::Map(cells.filter_map(value).collect())
    }

    /// The same of plain data, all of it, for registers whose clock is at `ns`.
    ///
    /// # Errors
    /// It is of other registers, or one cannot hold its value.
    pub fn of(layout: &Arc<Layout>, registers: &Value, ns: u64) -> Result<Self, StateFault> {
        let Value::Map(entries) = registers else { return Err(misfit("its registers are no map")) };
        let kept = || layout.cells.iter().enumerate().filter(|(_, cell)| is_kept(cell));
        let mut given: HashMap<&str, &Value> = entries.iter().map(|(name, value)| (&**name, value)).collect();
        let is_twice = given.len() != entries.len();
        let (mut queues, mut windows) = (Vec::new(), Vec::new());
        let mut values = vec![0; layout.cells.len()];
        for (id, cell) in kept() {
            let name = layout.key(id);
            let value = given.remove(&*name).ok_or_else(|| misfit(format!("it has other registers: {name}")))?;
            let wrong = || misfit(format!("{name} cannot hold its value"));
            let number = || value.int::<u64>().filter(|it| it & !cell.all() == 0).ok_or_else(wrong);
            let held = match cell.kind {
                Kind::Fifo { .. } => {
                    let queue = <QueueState as Plain>::of(value).filter(|queue| queue.fits(cell));
                    queues.push(queue.ok_or_else(wrong)?);
                    continue;
                }
                Kind::Ram { len } => {
                    let bytes = value.bytes().filter(|bytes| bytes.len() as u64 == len);
                    windows.push(Window::words_of(bytes.ok_or_else(wrong)?));
                    continue;
                }
                Kind::Counter { .. } => number()?.wrapping_sub(cell.ticks_at(ns)),
                _ => number()?,
            };
            if let Some(place) = values.get_mut(id) {
                *place = held;
            }
        }
        if let Some(odd) = given.keys().min() {
            return Err(misfit(format!("it has other registers: {odd:.60}")));
        }
        require(!is_twice, "a register is there twice")?;
        Ok(Self { layout: layout.clone(), ns, values: values.into(), queues: queues.into(), windows: windows.into() })
    }
}

impl Saved for Image {
    fn value(&self) -> Value {
        Value::map([("schema", Value::Int(self.layout.schema.into())), ("registers", self.registers())])
    }
}

impl RegisterFile {
    /// What a snapshot has of them. Writes whose owner is still to be told belong to no state: it is told before.
    #[must_use]
    pub fn save(&self) -> Image {
        Image {
            layout: self.layout.clone(),
            ns: self.now(),
            values: self.slots.iter().map(|slot| slot.value.load(Ordering::Acquire)).collect(),
            queues: self.queues.iter().map(|queue| Self::lock(queue).state()).collect(),
            windows: self.windows.iter().map(Window::words).collect(),
        }
    }

    /// Puts them back. Those of the same class are copied, and nothing is allocated; those of another, such as the same one in
    /// another process, are read by their names. No owner is told, and no write waits for one any more.
    ///
    /// # Errors
    /// It is of another schema or of other registers, or one cannot hold its value. Nothing has changed then.
    pub fn load(&self, image: &Image) -> Result<(), StateFault> {
        if Arc::ptr_eq(&image.layout, &self.layout) {
            self.put(image);
            Ok(())
        } else {
            self.load_value(&image.value())
        }
    }

    /// Puts them back from plain data.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_value(&self, value: &Value) -> Result<(), StateFault> {
        self.put(&self.read_value(value)?);
        Ok(())
    }

    /// Whether [`Self::load_value`] would take it.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn check_value(&self, value: &Value) -> Result<(), StateFault> {
        self.read_value(value).map(drop)
    }

    fn read_value(&self, value: &Value) -> Result<Image, StateFault> {
        let fields = Fields::new(value, &["schema", "registers"])?;
        let (schema, registers): (i64, Value) = (fields.get("schema")?, fields.get("registers")?);
        if schema != self.layout.schema {
            return Err(misfit(format!("it is of schema {schema}, not {}", self.layout.schema)));
        }
        Image::of(&self.layout, &registers, self.now())
    }

    fn put(&self, image: &Image) {
        self.late.clear();
        for (slot, &value) in self.slots.iter().zip(&image.values) {
            if slot.value.load(Ordering::Relaxed) != value {
                slot.value.store(value, Ordering::Release);
            }
        }
        for (queue, state) in self.queues.iter().zip(&image.queues) {
            Self::lock(queue).put(state);
        }
        for (window, words) in self.windows.iter().zip(&image.windows) {
            window.put_words(words);
        }
    }
}

impl Queue {
    fn state(&self) -> QueueState {
        QueueState { items: self.items(), lost: self.lost(), threshold: self.threshold() as u64 }
    }

    fn put(&mut self, state: &QueueState) {
        self.load(state.items.iter().copied(), state.lost);
        self.set_threshold(usize::try_from(state.threshold).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
