//! A snapshot's parts as plain data, and back: what a file holds, what a script looks at, what two snapshots are compared by.
//!
//! Maps by name, as the processor's manuals and the devices have them. Of data that comes from outside everything is refused that is
//! not what it says.

use std::sync::Arc;

use super::{Fields, Form, Parts, Place, Saved, Shape, State, StateFault, Stateless, Value, VcpuPart, misfit};
use crate::accel::{VcpuState, VmConfig, VmState};
use crate::bus::Space;
use crate::clock::Kept;
use crate::control::{Parked, Phase};
use crate::irq::LineLevels;
use crate::machine::next_id;

/// Names of the parts, in their order.
const PARTS: [&str; 10] =
    ["shape", "state", "parked", "vcpus", "vm", "has_generation", "lines", "console", "devices", "clock"];

impl Parts {
    /// All of it.
    pub(crate) fn value(&self) -> Value {
        let Shape { config, places } = &self.shape;
        let vcpu = |part: &VcpuPart| Value::map([("parked", part.parked.into()), ("state", part.state.value())]);
        let device = |(place, state): (&Place, &Option<State>)| {
            let state = state.as_ref().map_or(Value::Nothing, |state| saved(state.value()));
            Value::map([
                ("name", (&*place.name).into()),
                ("bus", place.space.name().into()),
                ("base", place.base.into()),
                ("size", place.len.into()),
                ("state", state),
            ])
        };
        Value::map([
            ("shape", Value::map([("vcpus", config.vcpus.into()), ("irqchip", config.irqchip.into())])),
            ("state", self.phase.name().into()),
            ("parked", Value::map([("all", self.parked.all.into()), ("last", self.parked.last.into())])),
            ("vcpus", Value::List(self.vcpus.iter().map(vcpu).collect())),
            ("vm", self.vm.value()),
            ("has_generation", self.has_generation.into()),
            ("lines", self.lines.value()),
            ("console", self.console.as_ref().map_or(Value::Nothing, |state| state.value())),
            ("devices", Value::List(places.iter().zip(&self.devices).map(device).collect())),
            ("clock", self.clock.value()),
        ])
    }

    /// Of plain data, such as a file's.
    pub(crate) fn of(value: &Value) -> Result<Self, StateFault> {
        let fields = Fields::new(value, &PARTS)?;
        let part = |name: &str| value.get(name).ok_or_else(|| misfit(format!("{name} is missing")));
        let config = Fields::new(part("shape")?, &["vcpus", "irqchip"])?;
        let config = VmConfig { vcpus: config.get("vcpus")?, irqchip: config.get("irqchip")? };
        let phase = fields.get::<Value>("state")?;
        let phase = match phase.text() {
            Some("created") => Phase::Created,
            Some("paused") => Phase::Paused,
            Some("stopped") => Phase::Stopped,
            _ => return Err(misfit("state is none of a machine that stands still")),
        };
        let parked = Fields::new(part("parked")?, &["all", "last"])?;
        let parked = Parked { all: parked.get("all")?, last: parked.get("last")? };
        let vcpus = part("vcpus")?.list().ok_or_else(|| misfit("vcpus are no list"))?;
        if usize::try_from(config.vcpus) != Ok(vcpus.len()) {
            return Err(misfit("there are not as many vcpus as it says"));
        }
        let vcpu = |value: &Value| {
            let state = value.get("state").ok_or_else(|| misfit("a vcpu has no state"))?;
            let parked = Fields::new(value, &["parked", "state"])?.get("parked")?;
            Ok(VcpuPart { state: VcpuState::from_value(state)?, parked })
        };
        let devices = part("devices")?.list().ok_or_else(|| misfit("devices are no list"))?;
        let (mut places, mut states) = (Vec::new(), Vec::new());
        for device in devices {
            let (place, state) = device_of(device)?;
            places.push(place);
            states.push(state);
        }
        Ok(Self {
            kin: next_id(),
            shape: Shape { config, places },
            phase,
            parked,
            vcpus: vcpus.iter().map(vcpu).collect::<Result<_, _>>()?,
            vm: VmState::from_value(part("vm")?)?,
            has_generation: fields.get("has_generation")?,
            lines: LineLevels::of(part("lines")?)?,
            console: state_of(part("console")?),
            devices: states,
            clock: Kept::of(part("clock")?)?,
        })
    }
}

fn device_of(value: &Value) -> Result<(Place, Option<State>), StateFault> {
    let fields = Fields::new(value, &["name", "bus", "base", "size", "state"])?;
    let space = fields.get::<Value>("bus")?.text().and_then(Space::of_name);
    let space = space.ok_or_else(|| misfit("a device is on no bus"))?;
    let name = fields.get::<Value>("name")?;
    let name = name.text().ok_or_else(|| misfit("a device has no name"))?.into();
    let place = Place { space, base: fields.get("base")?, len: fields.get("size")?, name };
    let state = match fields.get::<Value>("state")? {
        Value::Map(entries) => match &entries[..] {
            [] => Some(Arc::new(Stateless) as State),
            [(name, inner)] if name.is_empty() => Some(Arc::new(inner.clone()) as State),
            _ => Some(Arc::new(Value::Map(entries)) as State),
        },
        state => state_of(&state),
    };
    Ok((place, state))
}

/// The state of a device that has one, so that it can be told from that of a device that has none: nothing to be saved has been saved
/// all the same, and is an empty map; a map that could be taken for that is in another, without a name.
fn saved(state: Value) -> Value {
    match state {
        Value::Nothing => Value::Map(Vec::new()),
        Value::Map(entries) if entries.iter().all(|(name, _)| name.is_empty()) => {
            Value::map([("", Value::Map(entries))])
        }
        state => state,
    }
}

fn state_of(value: &Value) -> Option<State> {
    (*value != Value::Nothing).then(|| Arc::new(value.clone()) as State)
}
