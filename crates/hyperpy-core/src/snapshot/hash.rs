//! One number for a state: the same for the same state, in every version and on every host.
//!
//! It is of all that a restore puts back, but for what time alone moves: the machine's clock with its timers, the
//! paravirtual clock, IA32_TSC, the local APICs' current counts, and what devices that count the host's time call [`TIME`]. So the same guest with the same inputs has the same number,
//! however long it took. With clocks it is of these too: a snapshot does not change, so that its time is a number as any other.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use super::{Parts, Saved, Snapshot, Value};
use crate::memory::Image;

/// The entry of a device's state that time alone moves.
const TIME: &str = "time_ns";

impl Snapshot {
    /// 64 bits that tell states apart.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = XxHash3_64::new();
        self.parts.feed(&mut hash);
        feed_memory(&self.memory, &mut hash);
        hash.finish()
    }

    /// The same with what time alone moves: of all that comes back from a file of the snapshot, which has no timers.
    #[must_use]
    pub fn hash_with_clocks(&self) -> u64 {
        let mut hash = XxHash3_64::new();
        let mut state = self.parts.value();
        if let Value::Map(parts) = &mut state {
            let clock = parts.iter_mut().find(|(name, _)| **name == *"clock");
            clock
                .into_iter()
                .for_each(|(_, clock)| *clock = without("timers", std::mem::replace(clock, Value::Nothing)));
        }
        feed(&state, &mut hash);
        feed_memory(&self.memory, &mut hash);
        hash.finish()
    }
}

impl Parts {
    fn feed(&self, hash: &mut XxHash3_64) {
        hash.write_u32(self.shape.config.vcpus);
        hash.write_u8(self.shape.config.irqchip.into());
        hash.write(self.phase.name().as_bytes());
        hash.write_u8(self.parked.all.into());
        hash.write_u32(if self.parked.all { self.parked.last } else { 0 });
        for vcpu in &self.vcpus {
            hash.write_u64(vcpu.state.hash());
            hash.write_u8(vcpu.parked.into());
        }
        hash.write_u64(self.vm.hash());
        hash.write_u8(self.has_generation.into());
        feed(&self.lines.value(), hash);
        if let Some(console) = &self.console {
            feed(&console.value(), hash);
        }
        for (place, state) in self.shape.places.iter().zip(&self.devices) {
            hash.write(place.to_string().as_bytes());
            if let Some(state) = state {
                feed(&without(TIME, state.value()), hash);
            }
        }
    }
}

fn without(entry: &str, mut state: Value) -> Value {
    if let Value::Map(entries) = &mut state {
        entries.retain(|(name, _)| **name != *entry);
    }
    state
}

/// Which regions the guest may write, and every page that is not of zeros, by its address.
fn feed_memory(image: &Image, hash: &mut XxHash3_64) {
    for region in image.regions() {
        hash.write_u64(region.gpa);
        hash.write_u8(region.writable.into());
    }
    for block in image.blocks() {
        hash.write_u64(block.region.gpa);
        hash.write_u64(block.region.len);
        block.each_page(|page, bytes| {
            if bytes.iter().any(|byte| *byte != 0) {
                hash.write_u64(page as u64);
                hash.write(bytes);
            }
            true
        });
    }
}

/// What kind of value it is, how long, and what it is.
fn feed(value: &Value, hash: &mut XxHash3_64) {
    let head = |kind: u8, len: usize, hash: &mut XxHash3_64| {
        hash.write_u8(kind);
        hash.write_u64(len as u64);
    };
    match value {
        Value::Nothing => head(0, 0, hash),
        Value::Bool(value) => head(1, (*value).into(), hash),
        Value::Int(value) => {
            head(2, 16, hash);
            hash.write(&value.to_le_bytes());
        }
        Value::Float(value) => {
            head(3, 8, hash);
            hash.write_u64(value.to_bits());
        }
        Value::Text(value) => {
            head(4, value.len(), hash);
            hash.write(value.as_bytes());
        }
        Value::Bytes(value) => {
            head(5, value.len(), hash);
            hash.write(value);
        }
        Value::List(values) => {
            head(6, values.len(), hash);
            values.iter().for_each(|value| feed(value, hash));
        }
        Value::Map(entries) => {
            head(7, entries.len(), hash);
            for (name, value) in entries {
                head(4, name.len(), hash);
                hash.write(name.as_bytes());
                feed(value, hash);
            }
        }
    }
}
