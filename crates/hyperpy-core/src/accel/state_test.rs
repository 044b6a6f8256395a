//! States as plain data: with the manuals' names, back again, and never out of something else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

/// A state with something in every part.
fn full() -> (VmState, VcpuState) {
    let mut number = 0;
    let mut next = || {
        number += 0x0101;
        number
    };
    let mut state = VcpuState {
        pdptrs: Some([next(), next(), next(), next()]),
        xsave: (0..=255).collect(),
        xcr0: Some(next()),
        msrs: vec![(0x10, next()), (0xc000_0082, next()), (0xdead_beef, next()), (0x6e0, next())],
        debug: [next(), next(), next(), next(), next(), next()],
        lapic: Some(Box::new(std::array::from_fn(|n| u32::try_from(n).unwrap()))),
        mp_state: 3,
        tsc_khz: 2_000_000,
        cpuid: [Leaf { leaf: 7, subleaf: 1, indexed: true, eax: 1, ebx: 2, ecx: 3, edx: 4 }].as_slice().into(),
        ..VcpuState::default()
    };
    (state.regs.rax, state.regs.rflags) = (u64::MAX, 2);
    (state.sregs.cs.type_, state.sregs.cs.present, state.sregs.gdt.limit) = (11, true, 0xffff);
    (state.sregs.efer, state.sregs.apic_base) = (0xd01, 0xfee0_0900);
    (state.events.exception_nr, state.events.exception_payload, state.events.flags) = (14, 7, 0x3f);
    let mut chips = Box::<Irqchip>::default();
    (chips.pics[1].irq_base, chips.ioapic.redirtbl[23], chips.pit.channels[2].count) = (0x28, 1 << 16, 0x1000);
    (VmState { irqchip: Some(chips), clock_ns: Some(5) }, state)
}

#[test]
fn test_state_goes_to_plain_data_and_back_without_a_change() {
    let (vm, vcpu) = full();
    assert_eq!(VmState::from_value(&vm.value()).unwrap(), vm);
    assert_eq!(VcpuState::from_value(&vcpu.value()).unwrap(), vcpu);
    let bare = (VmState::default(), VcpuState::default());
    assert_eq!(VmState::from_value(&bare.0.value()).unwrap(), bare.0);
    assert_eq!(VcpuState::from_value(&bare.1.value()).unwrap(), bare.1);
}

#[test]
fn test_state_as_plain_data_has_the_names_of_the_manuals() {
    let (vm, vcpu) = full();
    let (vm, vcpu) = (vm.value(), vcpu.value());
    let at = |value: &Value, path: &str| {
        path.split('/').try_fold(value.clone(), |value, name| match name.parse::<usize>() {
            Ok(nth) => value.list().and_then(|list| list.get(nth).cloned()),
            Err(_) => value.get(name).cloned(),
        })
    };
    for (path, number) in [
        ("regs/rax", u64::MAX),
        ("sregs/cs/type", 11),
        ("sregs/gdtr/limit", 0xffff),
        ("sregs/IA32_EFER", 0xd01),
        ("sregs/IA32_APIC_BASE", 0xfee0_0900),
        ("msrs/IA32_TSC", 0x0606),
        ("msrs/IA32_LSTAR", 0x0707),
        ("msrs/0xdeadbeef", 0x0808),
        ("msrs/IA32_TSC_DEADLINE", 0x0909),
        ("dr/dr7", 0x0f0f),
        ("lapic/tpr", 8),
        ("lapic/irr1", 0x21),
        ("lapic/lvt_timer", 0x32),
        ("lapic/0x3f0", 0x3f),
        ("events/exception_nr", 14),
        ("cpuid/0/ecx", 3),
    ] {
        assert_eq!(at(&vcpu, path), Some(number.into()), "{path}");
    }
    for (path, number) in [
        ("irqchip/pics/1/irq_base", 0x28_u64),
        ("irqchip/ioapic/redirtbl/23", 1 << 16),
        ("irqchip/pit/channels/2/count", 0x1000),
        ("clock_ns", 5),
    ] {
        assert_eq!(at(&vm, path), Some(number.into()), "{path}");
    }
}

type Entries = Vec<(Box<str>, Value)>;

/// Everything that a value becomes by one change: a part that is gone, is there twice, has another name or is something else.
fn changed(value: &Value) -> Vec<Value> {
    let others = [
        Value::Nothing,
        Value::Bool(true),
        Value::Int(-1),
        Value::Int(i128::from(u64::MAX) + 1),
        Value::Float(0.5),
        "text".into(),
        Value::Bytes(Box::default()),
        Value::List(vec![Value::Nothing; 3]),
        Value::Map(Vec::new()),
    ];
    let mut all: Vec<Value> = others.into_iter().filter(|other| other != value).collect();
    match value {
        Value::Map(entries) => {
            for (n, (name, inner)) in entries.iter().enumerate() {
                let with = |change: &dyn Fn(&mut Entries)| {
                    let mut entries = entries.clone();
                    change(&mut entries);
                    Value::Map(entries)
                };
                all.push(with(&|entries| drop(entries.remove(n))));
                all.push(with(&|entries| entries.push((name.clone(), inner.clone()))));
                all.push(with(&|entries| entries[n].0 = "ra".into()));
                all.extend(changed(inner).into_iter().map(|other| with(&|entries| entries[n].1 = other.clone())));
            }
        }
        Value::List(values) => {
            for (n, inner) in values.iter().enumerate() {
                let with = |change: &dyn Fn(&mut Vec<Value>)| {
                    let mut values = values.clone();
                    change(&mut values);
                    Value::List(values)
                };
                all.push(with(&|values| drop(values.remove(n))));
                all.extend(changed(inner).into_iter().map(|other| with(&|values| values[n] = other.clone())));
            }
        }
        _ => {}
    }
    all
}

// fault row 26
#[test]
fn test_state_from_plain_data_with_one_thing_changed_is_refused_or_is_what_it_says() {
    let (vm, vcpu) = full();
    let mut refused = 0;
    for value in changed(&vm.value()) {
        match VmState::from_value(&value) {
            Ok(state) => assert_eq!(state.value(), value),
            Err(StateFault::Misfit(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    for value in changed(&vcpu.value()) {
        match VcpuState::from_value(&value) {
            Ok(state) => assert_eq!(state.value(), value),
            Err(StateFault::Misfit(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 2_000, "{refused}");
}

#[test]
fn test_state_that_is_refused_says_where() {
    let (_, vcpu) = full();
    let told = |name: &str, value: Value| {
        let Value::Map(mut entries) = vcpu.value() else { unreachable!() };
        entries.iter_mut().filter(|(known, _)| **known == *name).for_each(|(_, entry)| *entry = value.clone());
        VcpuState::from_value(&Value::Map(entries)).unwrap_err().to_string()
    };
    assert_eq!(told("mp_state", (-1_i8).into()), "its state does not fit: mp_state is not a number that fits into u32");
    assert_eq!(told("regs", Value::Map(Vec::new())), "its state does not fit: regs.rax is missing");
    let msrs = |name: &str| Value::map([(name, 1_u8.into())]);
    assert_eq!(told("msrs", msrs("0x10")), "its state does not fit: msrs.0x10 is not the name of a register");
    let many = (0..2_000_u32).map(|n| (format!("{:#x}", 0x5000_0000 + n).into(), n.into())).collect();
    assert_eq!(told("msrs", Value::Map(many)), "its state does not fit: msrs is not a map of at most 1024");
    let leaves = Value::List(vec![Leaf::default().value(); 257]);
    assert_eq!(told("cpuid", leaves), "its state does not fit: cpuid is not a list of at most 256");
}

#[test]
fn test_hash_is_the_same_in_every_version() {
    let (vm, vcpu) = full();
    assert_eq!((vm.hash(), vcpu.hash()), (2_005_621_916_686_980_576, 11_397_463_090_867_120_811));
}

#[test]
fn test_hash_tells_every_part_apart_but_what_counts_by_itself() {
    let (vm, vcpu) = full();
    let mut same = vcpu.clone();
    same.msrs[0].1 = 7; // IA32_TSC
    same.lapic.as_mut().unwrap()[0x39] = 7; // the current count
    assert_eq!(same.hash(), vcpu.hash());
    assert_eq!(VmState { clock_ns: Some(6), ..vm.clone() }.hash(), vm.hash());
    type Edit = fn(&mut VcpuState);
    let edits: [Edit; 15] = [
        |state| state.regs.rip = 1,
        |state| state.sregs.cs.avl = true,
        |state| state.sregs.cr3 = 1,
        |state| state.pdptrs = None,
        |state| state.xsave[9] = 0,
        |state| state.xcr0 = None,
        |state| state.msrs[1].1 = 1,
        |state| state.msrs[1].0 = 1,
        |state| state.msrs.truncate(3),
        |state| state.events.nmi_masked = 1,
        |state| state.debug[5] = 1,
        |state| state.lapic.as_mut().unwrap()[1] = 0,
        |state| state.lapic = None,
        |state| state.mp_state = 0,
        |state| state.cpuid = std::sync::Arc::default(),
    ];
    let mut seen = vec![vcpu.hash()];
    for edit in edits {
        let mut other = vcpu.clone();
        edit(&mut other);
        assert!(!seen.contains(&other.hash()), "{}", seen.len());
        seen.push(other.hash());
    }
    let mut other = vm.clone();
    other.irqchip.as_mut().unwrap().pit.channels[0].gate = 1;
    assert_ne!(other.hash(), vm.hash());
    assert_ne!(VmState { irqchip: None, ..vm.clone() }.hash(), vm.hash());
}
