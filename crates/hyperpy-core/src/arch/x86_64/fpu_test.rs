//! Registers in XSAVE areas: every one at its place, initial states, and areas that are too short.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn all_different() -> Fpu {
    let mut fpu = Fpu { fcw: 0x27f, fsw: 0x3800, ftw: 0x81, fop: 0x7ff, mxcsr: 0x1fa0, ..Fpu::default() };
    fpu.ymm_high = Some([0; 16]);
    let names: Vec<_> = fpu.names().skip(5).collect();
    for (n, name) in (1..).zip(&names) {
        assert!(fpu.set(name, Wide { low: n << 64 | n, high: n + 0x1000 }), "{name}");
    }
    fpu
}

#[test]
fn test_fpu_written_into_an_area_is_read_back() {
    let fpu = all_different();
    for len in [4096, 832] {
        let mut area = vec![0; len];
        fpu.into_area(&mut area, Some(576));
        assert_eq!(Fpu::from_area(&area, Some(576)), fpu);
        // Each at the place that the SDM gives it.
        assert_eq!(&area[..8], &[0x7f, 0x02, 0x00, 0x38, 0x81, 0, 0xff, 0x07]);
        assert_eq!(area[24..28], 0x1fa0_u32.to_le_bytes());
        assert_eq!(area[32 + 7 * 16..][..16], fpu.st[7].to_le_bytes());
        assert_eq!(area[160 + 15 * 16..][..16], fpu.xmm[15].to_le_bytes());
        assert_eq!(area[576 + 15 * 16..][..16], fpu.ymm_high.unwrap()[15].to_le_bytes());
        assert_eq!(area[512], 0b111);
        assert_eq!(area[28..32], [0; 4]);
    }
}

#[test]
fn test_fpu_component_that_the_header_leaves_out_is_in_its_initial_state() {
    let mut area = vec![0xaa; 4096];
    area[512..520].fill(0);
    area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    area[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    let initial = Fpu { mxcsr_mask: 0xffff, ymm_high: Some([0; 16]), ..Fpu::default() };
    assert_eq!(Fpu::from_area(&area, Some(576)), initial);
    area[512] = 0b010;
    assert_eq!(Fpu::from_area(&area, Some(576)), Fpu { xmm: [u128::from_le_bytes([0xaa; 16]); 16], ..initial });
}

#[test]
fn test_fpu_other_components_of_an_area_are_left_alone() {
    let mut area = vec![0x55; 4096];
    area[512..520].copy_from_slice(&0xe0_u64.to_le_bytes());
    Fpu { ymm_high: None, ..all_different() }.into_area(&mut area, Some(576));
    assert_eq!(area[512..520], 0xe3_u64.to_le_bytes());
    assert!(area[520..].iter().all(|&byte| byte == 0x55));
}

#[test]
fn test_fpu_of_an_area_of_any_length_never_panics() {
    for len in 0..900 {
        let mut area = vec![0xff; len];
        let fpu = Fpu::from_area(&area, Some(576));
        fpu.into_area(&mut area, Some(usize::MAX - 8));
        assert_eq!(area.len(), len);
    }
}

#[test]
fn test_register_name_that_is_none_is_refused() {
    let mut fpu = all_different();
    for name in ["", "st", "st8", "xmm16", "ymm16", "xmm01", "xmm-1", "zmm0", "0", "st99999999999999999999", "ſt0"] {
        assert!(!fpu.set(name, Wide::default()) && fpu.get(name).is_none(), "{name}");
    }
    fpu.ymm_high = None;
    assert!(!fpu.set("ymm0", Wide::default()) && fpu.get("ymm0").is_none());
}

#[test]
fn test_ymm_set_holds_xmm_as_its_low_half_and_xmm_set_leaves_the_high_half() {
    let mut fpu = Fpu { ymm_high: Some([0; 16]), ..Fpu::default() };
    assert!(fpu.set("ymm3", Wide { low: 1, high: 2 }));
    assert_eq!(fpu.get("xmm3"), Some((Wide { low: 1, high: 0 }, 16)));
    assert!(fpu.set("xmm3", Wide { low: 9, high: 7 }));
    assert_eq!(fpu.get("ymm3"), Some((Wide { low: 9, high: 2 }, 32)));
}

#[test]
fn test_ymm_offset_is_cpuids_and_none_without_avx() {
    let leaf = Leaf { leaf: 0xd, subleaf: 2, indexed: true, eax: 256, ebx: 576, ecx: 0, edx: 0 };
    assert_eq!(ymm_offset(&[leaf]), Some(576));
    assert_eq!(ymm_offset(&[Leaf { eax: 0, ..leaf }]), None);
    assert_eq!(ymm_offset(&[Leaf { ebx: 100, ..leaf }]), None);
    assert_eq!(ymm_offset(&[Leaf { subleaf: 3, ..leaf }]), None);
}

#[test]
fn test_settled_areas_of_the_same_registers_are_the_same_bytes() {
    let avx = Leaf { leaf: 0xd, subleaf: 2, indexed: true, eax: 256, ebx: 576, ..Leaf::default() };
    let area = |xstate_bv: u8, change: &[(usize, u8)]| {
        let mut area = vec![0; 832];
        area[512] = xstate_bv;
        change.iter().for_each(|&(at, byte)| area[at] = byte);
        settle(&mut area, &[avx]);
        area
    };
    for said in 0..8 {
        assert_eq!(area(said, &[]), area(0b11, &[]), "{said}");
    }
    assert_eq!(area(0b111, &[(831, 1)])[512], 0b111);
    assert_eq!(area(0b011, &[(831, 1)])[512], 0b011);
    // A component of which nothing is known stays as it is.
    assert_eq!(area(0b1000, &[])[512], 0b1011);
    settle(&mut [], &[avx]);
}
