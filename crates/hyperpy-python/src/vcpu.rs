//! Registers by name. The names are the SDM's; segments are tuples that `hyperpy.vcpu` gives names to.

use hyperpy_core::arch::x86_64::{DescriptorTable, Regs, Segment, Sregs};
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

macro_rules! registers {
    ($($name:ident)*) => {
        /// All general registers.
        pub(crate) fn regs_dict<'py>(py: Python<'py>, regs: &Regs) -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            $(dict.set_item(stringify!($name), regs.$name)?;)*
            Ok(dict)
        }

        /// The general register of a name.
        pub(crate) fn reg_mut<'a>(regs: &'a mut Regs, name: &str) -> PyResult<&'a mut u64> {
            match name {
                $(stringify!($name) => Ok(&mut regs.$name),)*
                _ => Err(unknown(name)),
            }
        }
    };
}
registers!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);

fn unknown(name: &str) -> PyErr {
    PyAttributeError::new_err(format!("no such register: {name}\n\nhint: rax to r15, rip and rflags"))
}

type SegmentFields = (u64, u32, u16, u8, bool, u8, bool, bool, bool, bool, bool, bool);

fn segment_fields(segment: &Segment) -> SegmentFields {
    let s = segment;
    (s.base, s.limit, s.selector, s.type_, s.present, s.dpl, s.db, s.s, s.l, s.g, s.avl, s.unusable)
}

fn segment_from_fields(fields: SegmentFields) -> Segment {
    let (base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable) = fields;
    Segment { base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable }
}

macro_rules! special_registers {
    (segments $($segment:ident)*; tables $($table:ident)*; plain $($plain:ident)*) => {
        /// All segment, table and control registers.
        pub(crate) fn sregs_dict<'py>(py: Python<'py>, sregs: &Sregs) -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            $(dict.set_item(stringify!($segment), segment_fields(&sregs.$segment))?;)*
            $(dict.set_item(stringify!($table), (sregs.$table.base, sregs.$table.limit))?;)*
            $(dict.set_item(stringify!($plain), sregs.$plain)?;)*
            Ok(dict)
        }

        /// Sets the register of a name.
        pub(crate) fn set_sreg(sregs: &mut Sregs, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
            match name {
                $(stringify!($segment) => sregs.$segment = segment_from_fields(value.extract()?),)*
                $(stringify!($table) => {
                    let (base, limit) = value.extract()?;
                    sregs.$table = DescriptorTable { base, limit };
                })*
                $(stringify!($plain) => sregs.$plain = value.extract()?,)*
                _ => return Err(unknown(name)),
            }
            Ok(())
        }
    };
}
special_registers!(segments cs ds es fs gs ss tr ldt; tables gdt idt; plain cr0 cr2 cr3 cr4 cr8 efer apic_base);
