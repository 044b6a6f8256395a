//! What must be alike for a snapshot to be put back: numbers of vCPUs, interrupt controllers, and which devices are where.
//! What must be alike of memory is `memory`'s to say, and of processors the accelerator's.

use std::sync::Arc;

use crate::accel::VmConfig;
use crate::bus::{Map, Region, Space};

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bus.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// The device's name.
    pub name: Arc<str>,
}

impl Place {
    fn of(space: Space, region: &Region) -> Self {
        Self { space, base: region.base, len: region.len, name: region.name.clone() }
    }

    fn is(&self, space: Space, region: &Region) -> bool {
        (self.space, self.base, self.len) == (space, region.base, region.len) && self.name == region.name
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} {:#x}, {:#x} bytes", self.name, self.space.word(), self.base, self.len)
    }
}

/// How a machine is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// vCPUs and interrupt controllers.
    pub config: VmConfig,
    /// Every region of a device, those on the port bus first, by ascending address.
    pub places: Vec<Place>,
}

impl Shape {
    /// That of a machine with these buses.
    #[must_use]
    pub fn of(config: VmConfig, pio: &Map, mmio: &Map) -> Self {
        let of =
            |space, map: &Map| map.regions().iter().map(move |region| Place::of(space, region)).collect::<Vec<_>>();
        Self { config, places: [of(Space::Pio, pio), of(Space::Mmio, mmio)].concat() }
    }

    /// Whether a machine with these buses has it. Makes no allocation.
    #[must_use]
    pub fn fits(&self, config: VmConfig, pio: &Map, mmio: &Map) -> bool {
        let mut places = self.places.iter();
        let mut all = |space, map: &Map| {
            map.regions().iter().all(|region| places.next().is_some_and(|place| place.is(space, region)))
        };
        self.config == config && all(Space::Pio, pio) && all(Space::Mmio, mmio) && places.next().is_none()
    }

    /// What another has differently, a line each.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let (ours, theirs) = (self.config, other.config);
        if ours.vcpus != theirs.vcpus {
            lines.push(format!("vcpus: {}, here {}", ours.vcpus, theirs.vcpus));
        }
        if ours.irqchip != theirs.irqchip {
            let word = |has| if has { "with" } else { "without" };
            lines.push(format!("{} interrupt controllers, here {}", word(ours.irqchip), word(theirs.irqchip)));
        }
        let missing = self.places.iter().filter(|place| !other.places.contains(place));
        lines.extend(missing.map(|place| format!("{place}, here it is not")));
        let more = other.places.iter().filter(|place| !self.places.contains(place));
        lines.extend(more.map(|place| format!("{place}, only here")));
        lines
    }
}
