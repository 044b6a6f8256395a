//! One number for a state: the same for the same state, in every version and on every host.
//!
//! It is of all that a restore puts back, but for what time alone moves: the machine's clock with its timers, the
//! paravirtual clock, IA32_TSC, the local APICs' current counts, and what devices that count the host's time call [`TIME`]. So the same guest with the same inputs has the same number,
//! however long it took.

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
}

impl Parts {
    fn feed(&self, hash: &mut XxHash3_64) {
        hash.write_u32(self.shape.config.vcpus);
        hash.write_u8(self.shape.config.irqchip.into());
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
                feed(&without_time(state.value()), hash);
            }
        }
    }
}

fn without_time(mut state: Value) -> Value {
    if let Value::Map(entries) = &mut state {
        entries.retain(|(name, _)| **name != *TIME);
    }
    state
}

/// Every page that is not of zeros, by its address.
fn feed_memory(image: &Image, hash: &mut XxHash3_64) {
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
