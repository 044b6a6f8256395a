//! x87, SSE and AVX registers, and where they lie in an XSAVE area.
//!
//! The legacy region is that of FXSAVE (SDM vol. 1, 10.5.1), the header follows at byte 512, and the upper halves of the
//! YMM registers at the offset that CPUID.(EAX=0xD,ECX=2):EBX tells (SDM vol. 1, 13.4). A component that the header does not name
//! is in its initial state, whatever its bytes are. Nothing here touches KVM.

use super::cpuid::Leaf;

/// Bytes of the legacy region.
const LEGACY: usize = 512;
/// XSTATE_BV: which components the area holds.
const XSTATE_BV: usize = LEGACY;
/// Component 0: x87.
const X87: u64 = 1;
/// Component 1: the XMM registers, with MXCSR.
const SSE: u64 = 1 << 1;
/// Component 2: upper halves of the YMM registers.
const AVX: u64 = 1 << 2;
/// The control word that FNINIT sets.
const FCW_INITIAL: u16 = 0x37f;
/// MXCSR_MASK of a processor that stores none (SDM vol. 1, 11.6.6).
const MXCSR_MASK_DEFAULT: u32 = 0xffbf;

/// Registers of the x87 FPU and the vector units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fpu {
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// x87 tag word, abridged: a bit for each physical register that is not empty.
    pub ftw: u8,
    /// Last x87 opcode, 11 bits.
    pub fop: u16,
    /// Control and status of SSE.
    pub mxcsr: u32,
    /// Bits of MXCSR that this processor lets a program set; it is not to be changed.
    pub mxcsr_mask: u32,
    /// ST0 to ST7, 80 bits each.
    pub st: [u128; 8],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// Upper halves of YMM0 to YMM15, where the processor has AVX.
    pub ymm_high: Option<[u128; 16]>,
}

impl Default for Fpu {
    fn default() -> Self {
        Self {
            fcw: FCW_INITIAL,
            fsw: 0,
            ftw: 0,
            fop: 0,
            mxcsr: 0x1f80,
            mxcsr_mask: MXCSR_MASK_DEFAULT,
            st: [0; 8],
            xmm: [0; 16],
            ymm_high: None,
        }
    }
}

/// Offset of the upper YMM halves in an XSAVE area of this processor, if it has them.
#[must_use]
pub fn ymm_offset(leaves: &[Leaf]) -> Option<usize> {
    let leaf = leaves.iter().find(|leaf| (leaf.leaf, leaf.subleaf) == (0xd, 2))?;
    (leaf.eax >= 256 && leaf.ebx as usize >= LEGACY + 64).then_some(leaf.ebx as usize)
}

/// Says of an XSAVE area which components are in use as a processor is free to say it or not (XINUSE, SDM vol. 1, 13.6): x87 and SSE
/// always are, since MXCSR is put back with these alone; others are unless they are zero, as after a reset. So the same registers are
/// the same bytes.
pub fn settle(area: &mut [u8], leaves: &[Leaf]) {
    let is_zero = |component: u32| {
        let leaf = leaves.iter().find(|leaf| (leaf.leaf, leaf.subleaf) == (0xd, component));
        leaf.filter(|leaf| leaf.eax > 0 && leaf.ebx as usize >= LEGACY + 64).is_some_and(|leaf| {
            let from = leaf.ebx as usize;
            let bytes = area.get(from..from.saturating_add(leaf.eax as usize));
            bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        })
    };
    let unused = (2..63).filter(|&component| is_zero(component)).fold(0_u64, |bits, component| bits | 1 << component);
    let used = (X87 | SSE).to_le_bytes();
    for ((byte, clear), set) in area.iter_mut().skip(XSTATE_BV).zip(unused.to_le_bytes()).zip(used) {
        *byte = *byte & !clear | set;
    }
}

impl Fpu {
    /// The registers in an XSAVE area, or in a bare FXSAVE one (`area` of 512 bytes), with the upper YMM halves at `ymm`.
    #[must_use]
    pub fn from_area(area: &[u8], ymm: Option<usize>) -> Self {
        let held = if area.len() > LEGACY { field(area, XSTATE_BV, 8) } else { u128::from(X87 | SSE) };
        let holds = |component: u64| held & u128::from(component) != 0;
        let mut fpu = Self::default();
        #[allow(clippy::cast_possible_truncation)] // each is read at its own width
        {
            // MXCSR is in the area whatever XSTATE_BV says (SDM vol. 1, 13.8.1).
            fpu.mxcsr = field(area, 24, 4) as u32;
            fpu.mxcsr_mask = match field(area, 28, 4) as u32 {
                0 => MXCSR_MASK_DEFAULT,
                mask => mask,
            };
            if holds(X87) {
                fpu.fcw = field(area, 0, 2) as u16;
                fpu.fsw = field(area, 2, 2) as u16;
                fpu.ftw = field(area, 4, 1) as u8;
                fpu.fop = field(area, 6, 2) as u16;
                fill(&mut fpu.st, |n| field(area, 32 + 16 * n, 10));
            }
        }
        if holds(SSE) {
            fill(&mut fpu.xmm, |n| field(area, 160 + 16 * n, 16));
        }
        fpu.ymm_high = ymm.map(|offset| {
            let mut high = [0; 16];
            if holds(AVX) {
                fill(&mut high, |n| field(area, offset.saturating_add(16 * n), 16));
            }
            high
        });
        fpu
    }

    /// Writes the registers into such an area; what else is there stays.
    pub fn into_area(&self, area: &mut [u8], ymm: Option<usize>) {
        put(area, 0, 2, self.fcw.into());
        put(area, 2, 2, self.fsw.into());
        put(area, 4, 1, self.ftw.into());
        put(area, 6, 2, self.fop.into());
        put(area, 24, 4, self.mxcsr.into());
        for (n, value) in self.st.iter().enumerate() {
            put(area, 32 + 16 * n, 10, *value);
        }
        for (n, value) in self.xmm.iter().enumerate() {
            put(area, 160 + 16 * n, 16, *value);
        }
        let mut held = X87 | SSE;
        if let (Some(offset), Some(high)) = (ymm, &self.ymm_high) {
            held |= AVX;
            for (n, value) in high.iter().enumerate() {
                put(area, offset.saturating_add(16 * n), 16, *value);
            }
        }
        if area.len() > LEGACY {
            let before = field(area, XSTATE_BV, 8);
            put(area, XSTATE_BV, 8, before | u128::from(held));
        }
    }

    /// The value of a register by its name, with its width in bytes.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(Wide, usize)> {
        let small = |value: u128, width| Some((Wide { low: value, high: 0 }, width));
        match name {
            "fcw" => small(self.fcw.into(), 2),
            "fsw" => small(self.fsw.into(), 2),
            "ftw" => small(self.ftw.into(), 1),
            "fop" => small(self.fop.into(), 2),
            "mxcsr" => small(self.mxcsr.into(), 4),
            _ => match place(name)? {
                ("st", n) => small(*self.st.get(n)?, 10),
                ("xmm", n) => small(*self.xmm.get(n)?, 16),
                ("ymm", n) => Some((Wide { low: *self.xmm.get(n)?, high: *self.ymm_high.as_ref()?.get(n)? }, 32)),
                _ => None,
            },
        }
    }

    /// Sets the register of a name; false if there is none. What is above its width is dropped.
    #[allow(clippy::cast_possible_truncation)] // said above
    pub fn set(&mut self, name: &str, value: Wide) -> bool {
        match name {
            "fcw" => self.fcw = value.low as u16,
            "fsw" => self.fsw = value.low as u16,
            "ftw" => self.ftw = value.low as u8,
            "fop" => self.fop = value.low as u16,
            "mxcsr" => self.mxcsr = value.low as u32,
            _ => return self.set_numbered(name, value).is_some(),
        }
        true
    }

    fn set_numbered(&mut self, name: &str, value: Wide) -> Option<()> {
        match place(name)? {
            ("st", n) => *self.st.get_mut(n)? = value.low & ((1 << 80) - 1),
            ("xmm", n) => *self.xmm.get_mut(n)? = value.low,
            ("ymm", n) => {
                *self.ymm_high.as_mut()?.get_mut(n)? = value.high;
                *self.xmm.get_mut(n)? = value.low;
            }
            _ => return None,
        }
        Some(())
    }

    /// The names of all registers, in the order of the SDM.
    pub fn names(&self) -> impl Iterator<Item = String> + use<> {
        let ymm = if self.ymm_high.is_some() { 16 } else { 0 };
        let numbered = [("st", 8), ("xmm", 16), ("ymm", ymm)];
        let plain = ["fcw", "fsw", "ftw", "fop", "mxcsr"].map(str::to_owned);
        plain
            .into_iter()
            .chain(numbered.into_iter().flat_map(|(kind, count)| (0..count).map(move |n| format!("{kind}{n}"))))
    }
}

/// The value of a register of up to 256 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wide {
    /// Bits 0 to 127.
    pub low: u128,
    /// Bits 128 to 255.
    pub high: u128,
}

/// "xmm12" is ("xmm", 12); numbers have no leading zeros.
fn place(name: &str) -> Option<(&str, usize)> {
    let (kind, number) = name.split_at_checked(name.find(|c: char| c.is_ascii_digit())?)?;
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    Some((kind, number.parse().ok()?))
}

fn fill(into: &mut [u128], from: impl Fn(usize) -> u128) {
    for (n, value) in into.iter_mut().enumerate() {
        *value = from(n);
    }
}

/// A little-endian field, 0 where the area ends before it.
fn field(area: &[u8], offset: usize, width: usize) -> u128 {
    let mut bytes = [0; 16];
    if let (Some(into), Some(from)) = (bytes.get_mut(..width), area.get(offset..offset.saturating_add(width))) {
        into.copy_from_slice(from);
    }
    u128::from_le_bytes(bytes)
}

fn put(area: &mut [u8], offset: usize, width: usize, value: u128) {
    let bytes = value.to_le_bytes();
    if let (Some(into), Some(from)) = (area.get_mut(offset..offset.saturating_add(width)), bytes.get(..width)) {
        into.copy_from_slice(from);
    }
}

#[cfg(test)]
#[path = "fpu_test.rs"]
mod tests;
