//! What keeps a state from being put back here: another processor, other capabilities, another machine. Told all at once,
//! as lines for an error, before anything is changed.

use std::sync::Arc;

use super::{VcpuState, VmState};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::msrs;

/// What a vCPU can be given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// Its CPUID table.
    pub cpuid: Arc<[Leaf]>,
    /// Whether it has run: it keeps its table then.
    pub has_run: bool,
    /// Bytes of its XSAVE area.
    pub xsave: usize,
    /// Bits that can be set in XCR0; none where it has no XCR0.
    pub xcr0: Option<u64>,
    /// Model-specific registers that can be read and set.
    pub msrs: Arc<[u32]>,
    /// Whether interrupt controllers are in the kernel.
    pub irqchip: bool,
    /// Frequency of its time-stamp counter in kHz; 0 where it is not known.
    pub tsc_khz: u32,
    /// Whether that can be another.
    pub tsc_control: bool,
}

/// A frequency within this is the same: 250 parts per million, as KVM has it.
const TSC_TOLERANCE_PPM: u64 = 250;
/// No KVM scales to this, in kHz, or more; one may to less, by how much its processor can multiply (256 times on AMD), and refuses then.
const TSC_MOST_KHZ: u64 = 0x7fff_ffff;

/// What differs between a state and the machine that it is to be put back into, a line each; none if it fits.
#[must_use]
pub fn differences<'a>(
    vm: &VmState,
    vcpus: impl IntoIterator<Item = &'a VcpuState, IntoIter: ExactSizeIterator>,
    here: &[Shape],
) -> Vec<String> {
    let vcpus = vcpus.into_iter();
    let mut lines = Vec::new();
    if vcpus.len() != here.len() {
        lines.push(format!("vcpus: {} in the snapshot, {} here", vcpus.len(), here.len()));
    }
    let told = |yes: bool| if yes { "in the kernel" } else { "none" };
    let irqchip = here.first().is_some_and(|shape| shape.irqchip);
    if vm.irqchip.is_some() != irqchip {
        let (there, here) = (told(vm.irqchip.is_some()), told(irqchip));
        lines.push(format!("interrupt controllers: {there} in the snapshot, {here} here"));
    }
    for (id, (state, here)) in vcpus.zip(here).enumerate() {
        let of = |line: String| format!("vcpu {id}: {line}");
        lines.extend(of_vcpu(state, here).into_iter().map(of));
    }
    lines
}

fn of_vcpu(state: &VcpuState, here: &Shape) -> Vec<String> {
    let mut lines = of_cpuid(&state.cpuid, here);
    if state.lapic.is_some() != here.irqchip {
        let told = |yes: bool| if yes { "in the kernel" } else { "none" };
        lines.push(format!("local apic: {} in the snapshot, {} here", told(state.lapic.is_some()), told(here.irqchip)));
    }
    if state.xsave.len() != here.xsave {
        lines.push(format!("xsave area: {} bytes in the snapshot, {} here", state.xsave.len(), here.xsave));
    }
    let lacking = state.xcr0.unwrap_or(0) & !here.xcr0.unwrap_or(0);
    if lacking != 0 {
        lines.push(format!("xcr0: bits {lacking:#x} are set in the snapshot and cannot be here"));
    }
    for &(index, value) in &state.msrs {
        if !here.msrs.contains(&index) {
            lines.push(format!("msr {}: {value:#x} in the snapshot, cannot be set here", msr(index)));
        }
    }
    let (there, now) = (u64::from(state.tsc_khz), u64::from(here.tsc_khz));
    let near = there.abs_diff(now) * 1_000_000 <= now * TSC_TOLERANCE_PPM;
    let scales = here.tsc_control && there < TSC_MOST_KHZ;
    if there != 0 && now != 0 && !scales && !near {
        lines.push(format!("tsc: {there} kHz in the snapshot, {now} kHz here, and this host cannot scale it"));
    }
    lines
}

fn msr(index: u32) -> String {
    let name = msrs::name(index);
    if name.starts_with("0x") { name.into_owned() } else { format!("{name} ({index:#x})") }
}

/// A vCPU that has run has to have the same table. Another is given the state's: there it is only asked whether the
/// processor is of the same make, and has what the guest was told.
fn of_cpuid(there: &Arc<[Leaf]>, here: &Shape) -> Vec<String> {
    if same_cpuid(there, &here.cpuid) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let find = |table: &[Leaf], like: &Leaf| table.iter().find(|leaf| place(leaf) == place(like)).copied();
    for leaf in there.iter() {
        let now = find(&here.cpuid, leaf);
        let registers = steady(leaf).into_iter().zip(now.map_or([0; 4], |now| steady(&now)));
        for (number, (was, is)) in registers.enumerate() {
            let name = ["eax", "ebx", "ecx", "edx"].get(number).unwrap_or(&"");
            let at = format!("cpuid {:#x}.{:#x} {name}", leaf.leaf, leaf.subleaf);
            if here.has_run && was != is {
                lines.push(format!("{at}: {was:#010x} in the snapshot, {is:#010x} here"));
            } else if !here.has_run {
                let bits = needs(leaf, number);
                if bits == Needs::Same && was != is {
                    lines.push(format!("{at}: {was:#010x} in the snapshot, {is:#010x} here"));
                } else if bits == Needs::Bits && was & !is != 0 {
                    lines.push(format!("{at}: bits {:#x} in the snapshot are not here", was & !is));
                }
            }
        }
    }
    for leaf in here.cpuid.iter().filter(|leaf| here.has_run && find(there, leaf).is_none()) {
        lines.push(format!("cpuid {:#x}.{:#x}: not in the snapshot", leaf.leaf, leaf.subleaf));
    }
    lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Whatever it is.
    Nothing,
    /// Every bit that is set is a feature.
    Bits,
    /// It names the processor.
    Same,
}

/// What a register of CPUID (0: EAX) asks of the processor (SDM vol. 2A, CPUID; APM vol. 3, appendix E).
fn needs(leaf: &Leaf, register: usize) -> Needs {
    match (leaf.leaf, leaf.subleaf, register) {
        (0, _, 1..=3) => Needs::Same,
        (1 | 0x8000_0001, _, 2 | 3)
        | (7, 0, 1..=3)
        | (7, 1, 0)
        | (0xd, 0 | 1, 0)
        | (0x8000_0007, _, 3)
        | (0x8000_0008, _, 1) => Needs::Bits,
        _ => Needs::Nothing,
    }
}

fn place(leaf: &Leaf) -> (u32, u32) {
    (leaf.leaf, leaf.subleaf)
}

/// EAX to EDX without what follows the registers (SDM vol. 2A, CPUID): OSXSAVE, MONITOR, APIC, OSPKE, the sizes of what is
/// enabled in XCR0.
fn steady(leaf: &Leaf) -> [u32; 4] {
    let Leaf { eax, mut ebx, mut ecx, mut edx, .. } = *leaf;
    match place(leaf) {
        (1, _) => {
            ecx &= !(1 << 27 | 1 << 3);
            edx &= !(1 << 9);
        }
        (7, 0) => ecx &= !(1 << 4),
        (0xd, 0 | 1) => ebx = 0,
        _ => {}
    }
    [eax, ebx, ecx, edx]
}

/// Whether two tables are the same but for what follows the registers.
#[must_use]
pub(crate) fn same_cpuid(one: &Arc<[Leaf]>, other: &Arc<[Leaf]>) -> bool {
    let same = |(one, other): (&Leaf, &Leaf)| {
        (place(one), one.indexed, steady(one)) == (place(other), other.indexed, steady(other))
    };
    Arc::ptr_eq(one, other) || one.len() == other.len() && one.iter().zip(other.iter()).all(same)
}

#[cfg(test)]
#[path = "shape_test.rs"]
mod tests;
