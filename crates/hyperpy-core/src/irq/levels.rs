//! The levels of lines and the routes of gsis as a snapshot has them.
//!
//! KVM keeps a level of its own for each input, which it gives nobody: it is driven to what it was. That is to be done before the
//! state of the interrupt controllers is put back, since a level that changes is an interrupt. What pulses send is with the
//! controllers when the pulse returns, so that none is on its way.

use std::sync::{Arc, PoisonError, Weak};

use super::{LineHub, Wire, check_routes, default_routes};
use crate::accel::{Route, Vm};
use crate::snapshot::{Fields, Form, Plain, Saved, StateFault, Value, misfit, require, with};
use crate::state;

state! {
    /// A line.
    struct Level {
        gsi: u32,
        high: bool,
    }
}

/// What a snapshot has of the lines of a machine.
#[derive(Clone, Debug)]
pub struct LineLevels {
    /// Whose lines they are.
    hub: Weak<LineHub>,
    /// In order of creation, with the number that tells it from others.
    lines: Vec<(u64, Level)>,
    /// `None`: what KVM starts with.
    routes: Option<Vec<Route>>,
}

impl LineLevels {
    /// Whether a line is to be high. Of another machine's lines that of the same place among those of its gsi says so.
    fn wants(&self, is_own: bool, wires: &[Wire], at: usize) -> bool {
        let Some(wire) = wires.get(at) else { return false };
        let found = if is_own {
            let found = self.lines.binary_search_by_key(&wire.id, |line| line.0);
            found.ok().and_then(|at| self.lines.get(at))
        } else {
            let before = wires.get(..at).unwrap_or_default().iter().filter(|other| other.gsi == wire.gsi).count();
            self.lines.iter().filter(|line| line.1.gsi == wire.gsi).nth(before)
        };
        found.is_some_and(|line| line.1.high)
    }
}

impl Saved for LineLevels {
    fn value(&self) -> Value {
        let lines: Vec<_> = self.lines.iter().map(|line| line.1.clone()).collect();
        Value::map([("lines", Plain::value(&lines)), ("routes", Plain::value(&self.routes))])
    }
}

impl Form for LineLevels {
    fn of(value: &Value) -> Result<Self, StateFault> {
        let fields = Fields::new(value, &["lines", "routes"])?;
        let (lines, routes): (Vec<Level>, Option<Vec<Route>>) = (fields.get("lines")?, fields.get("routes")?);
        check_table(routes.as_deref().unwrap_or_default())?;
        Ok(Self { hub: Weak::new(), lines: lines.into_iter().map(|line| (0, line)).collect(), routes })
    }
}

/// Most targets of a gsi: the I/O APIC and the two 8259s.
const MOST_TARGETS: usize = 3;

/// Refuses a table of routes that cannot be.
fn check_table(routes: &[Route]) -> Result<(), StateFault> {
    let mut by_gsi = routes.to_vec();
    by_gsi.sort_by_key(Route::gsi);
    for targets in by_gsi.chunk_by(|one, other| one.gsi() == other.gsi()) {
        require(targets.len() <= MOST_TARGETS, "a gsi leads to too much")?;
        check_routes(targets).map_err(|error| misfit(error.to_string()))?;
    }
    Ok(())
}

impl Plain for Route {
    fn value(&self) -> Value {
        match *self {
            Self::IoApic { gsi, pin } => Value::map([("gsi", gsi.into()), ("ioapic", pin.into())]),
            Self::Pic { gsi, input } => Value::map([("gsi", gsi.into()), ("pic", input.into())]),
            Self::Msi { gsi, address, data } => {
                Value::map([("gsi", gsi.into()), ("address", address.into()), ("data", data.into())])
            }
        }
    }

    fn of(value: &Value) -> Option<Self> {
        let Value::Map(entries) = value else { return None };
        let gsi = value.get("gsi")?.int()?;
        let number = |name| value.get(name).and_then(Value::int);
        match (entries.len(), number("ioapic"), number("pic")) {
            (2, Some(pin), None) => Some(Self::IoApic { gsi, pin }),
            (2, None, Some(input)) => Some(Self::Pic { gsi, input }),
            (3, None, None) => {
                Some(Self::Msi { gsi, address: value.get("address")?.int()?, data: value.get("data")?.int()? })
            }
            _ => None,
        }
    }
}

impl LineHub {
    /// What a snapshot has of the lines and routes, and what `take` takes of the controllers: no line changes in between. One
    /// that rose for the one and not for the other would stay high without an interrupt.
    pub fn save_with<T>(self: &Arc<Self>, take: impl FnOnce() -> T) -> (LineLevels, T) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = take();
        let lines = state.wires.iter().map(|wire| (wire.id, Level { gsi: wire.gsi, high: wire.high }));
        (LineLevels { hub: Arc::downgrade(self), lines: lines.collect(), routes: routes.clone() }, taken)
    }

    /// What a snapshot has of the lines and routes.
    #[must_use]
    pub fn save(self: &Arc<Self>) -> LineLevels {
        self.save_with(|| ()).0
    }

    /// Drives lines to what they were and leads gsis to where they led, here and in KVM. Lines that came since are low. Of another
    /// machine's the lines of a gsi are taken in the order in which they were made.
    ///
    /// # Errors
    /// It is no such state, a line that was high is not there, or KVM refuses the routes. No line has changed then.
    pub fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |levels: &LineLevels| self.put(levels))?
    }

    fn put(&self, levels: &LineLevels) -> Result<(), StateFault> {
        let is_own = std::ptr::eq(levels.hub.as_ptr(), self);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = state.vm.as_ref().and_then(Weak::upgrade);
        let count = state.wires.len();
        let high = (0..count).filter(|&at| levels.wants(is_own, &state.wires, at)).count();
        if high != levels.lines.iter().filter(|line| line.1.high).count() {
            return Err(misfit("a line that was high is not there"));
        }
        let led_elsewhere = *routes != levels.routes;
        if led_elsewhere {
            if let Some(vm) = &vm {
                let told =
                    levels.routes.as_ref().map_or_else(|| vm.set_routes(&default_routes()), |it| vm.set_routes(it));
                told.map_err(|error| misfit(error.to_string()))?;
            }
            routes.clone_from(&levels.routes);
            state.pulses.follow(routes.as_deref().unwrap_or_default());
        }
        for at in 0..count {
            let wanted = levels.wants(is_own, &state.wires, at);
            if let Some(wire) = state.wires.get_mut(at) {
                (wire.was_high, wire.high) = (wire.high, wanted);
            }
        }
        if let Some(vm) = &vm {
            tell(&**vm, &state.wires, led_elsewhere);
        }
        drop((state, routes)); // before the VM, which may be the last reference
        Ok(())
    }
}

/// Tells KVM of the gsis whose level has changed; of all, if they lead elsewhere.
fn tell(vm: &dyn Vm, wires: &[Wire], all: bool) {
    if !all && wires.iter().all(|wire| wire.was_high == wire.high) {
        return; // by far the most
    }
    for (at, wire) in wires.iter().enumerate() {
        let is_first = wires.get(..at).unwrap_or_default().iter().all(|other| other.gsi != wire.gsi);
        if !is_first || wire.gsi == Wire::MESSAGE {
            continue;
        }
        let of_gsi = || wires.iter().filter(|other| other.gsi == wire.gsi);
        let (was_high, is_high) = (of_gsi().any(|it| it.was_high), of_gsi().any(|it| it.high));
        if all || was_high != is_high {
            // One that leads nowhere is the guest's to miss.
            let _ = vm.set_line(wire.gsi, is_high);
        }
    }
}

#[cfg(test)]
#[path = "levels_test.rs"]
mod tests;
