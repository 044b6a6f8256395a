//! What of a vCPU is a table of registers: as a map from the manuals' names, and back.

use std::sync::Arc;

use super::LEAVES_MAX;
use super::plain::{Plain, misfit, no_more, part};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::msrs;
use crate::snapshot::{StateFault, Value};

/// Most model-specific registers of a state: more than any processor's that KVM tells of.
const MSRS_MAX: usize = 1024;
/// The local APIC's current count (SDM vol. 3, table 11-1: offset 0x390).
pub(super) const APIC_TMCCT: usize = 0x39;

const DEBUG: [&str; 6] = ["dr0", "dr1", "dr2", "dr3", "dr6", "dr7"];

pub(super) fn debug_value(debug: &[u64; 6]) -> Value {
    Value::Map(DEBUG.iter().zip(debug).map(|(&name, &value)| (name.into(), value.into())).collect())
}

pub(super) fn debug_from(value: Option<&Value>) -> Result<[u64; 6], StateFault> {
    let value = value.ok_or_else(|| misfit("dr", "there"))?;
    no_more(value, "dr", &DEBUG)?;
    let mut debug = [0; 6];
    for (into, name) in debug.iter_mut().zip(DEBUG) {
        *into = part(value, "dr", name)?;
    }
    Ok(debug)
}

pub(super) fn msrs_value(msrs: &[(u32, u64)]) -> Value {
    Value::Map(msrs.iter().map(|&(index, value)| (msrs::name(index).into(), value.into())).collect())
}

pub(super) fn msrs_from(value: Option<&Value>) -> Result<Vec<(u32, u64)>, StateFault> {
    let Some(Value::Map(entries)) = value else { return Err(misfit("msrs", "a map")) };
    if entries.len() > MSRS_MAX {
        return Err(misfit("msrs", &format!("a map of at most {MSRS_MAX}")));
    }
    let mut found: Vec<(u32, u64)> = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let at = format!("msrs.{name}");
        let index = msrs::index(name).ok_or_else(|| misfit(&at, "the name of a register"))?;
        if found.iter().any(|(known, _)| *known == index) {
            return Err(misfit(&at, "there once only"));
        }
        found.push((index, u64::from_value(value, &at)?));
    }
    Ok(found)
}

pub(super) fn cpuid_from(value: Option<&Value>) -> Result<Arc<[Leaf]>, StateFault> {
    let leaves = value.and_then(Value::list).filter(|leaves| leaves.len() <= LEAVES_MAX);
    let leaves = leaves.ok_or_else(|| misfit("cpuid", &format!("a list of at most {LEAVES_MAX}")))?;
    leaves.iter().enumerate().map(|(n, leaf)| Leaf::from_value(leaf, &format!("cpuid[{n}]"))).collect()
}

/// The name of a register of the local APIC by its offset in 16 bytes (SDM vol. 3, table 11-1).
fn lapic_name(number: usize) -> String {
    let one = match number {
        0x02 => "id",
        0x03 => "version",
        0x08 => "tpr",
        0x09 => "apr",
        0x0a => "ppr",
        0x0d => "ldr",
        0x0e => "dfr",
        0x0f => "svr",
        0x10..=0x17 => return format!("isr{}", number - 0x10),
        0x18..=0x1f => return format!("tmr{}", number - 0x18),
        0x20..=0x27 => return format!("irr{}", number - 0x20),
        0x28 => "esr",
        0x2f => "lvt_cmci",
        0x30 => "icr_low",
        0x31 => "icr_high",
        0x32 => "lvt_timer",
        0x33 => "lvt_thermal",
        0x34 => "lvt_pmc",
        0x35 => "lvt_lint0",
        0x36 => "lvt_lint1",
        0x37 => "lvt_error",
        0x38 => "initial_count",
        APIC_TMCCT => "current_count",
        0x3e => "divide",
        _ => return format!("{:#x}", number << 4),
    };
    one.to_owned()
}

pub(super) fn lapic_value(lapic: &[u32; 64]) -> Value {
    let entry = |(number, value): (usize, &u32)| (lapic_name(number).into(), (*value).into());
    Value::Map(lapic.iter().enumerate().map(entry).collect())
}

pub(super) fn lapic_from(value: Option<&Value>) -> Result<Option<Box<[u32; 64]>>, StateFault> {
    let value = value.ok_or_else(|| misfit("lapic", "there"))?;
    if *value == Value::Nothing {
        return Ok(None);
    }
    let mut lapic = Box::new([0; 64]);
    let names: Vec<String> = (0..lapic.len()).map(lapic_name).collect();
    no_more(value, "lapic", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (into, name) in lapic.iter_mut().zip(&names) {
        *into = part(value, "lapic", name)?;
    }
    Ok(Some(lapic))
}
