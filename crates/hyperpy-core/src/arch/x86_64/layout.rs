//! Where things are on the PC platform that machines present: guest-physical addresses, ports and gsis.
//!
//! RAM below 4 GiB ends at [`MMIO_HOLE_START`]; the rest continues at [`HIGH_RAM_START`]. What the kernel answers itself is in
//! [`KERNELS`]: no exit comes of it.

use crate::bus::Space;

/// First gpa of the hole that RAM leaves for devices below 4 GiB.
pub const MMIO_HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// Physical addresses have at most 52 bits (SDM vol. 3, 4.1.4); this is the first that no processor has.
pub const GPA_END: u64 = 1 << 52;
/// BIOS data area: segment of the extended one, a word.
pub const BDA_EBDA_SEGMENT: u64 = 0x40e;
/// BIOS data area: memory from 0 in KiB, a word.
pub const BDA_BASE_MEMORY: u64 = 0x413;
/// Global descriptor table that loaders write, in bytes from gpa 0.
pub const GDT_START: u64 = 0x500;
/// Linux boot parameters ("zero page"), one page.
pub const BOOT_PARAMS_START: u64 = 0x7000;
/// Initial stack pointer of loaded images.
pub const BOOT_STACK_POINTER: u64 = 0x8ff0;
/// Page tables that loaders write, up to [`PAGE_TABLES_END`].
pub const PAGE_TABLES_START: u64 = 0x9000;
/// End of the loaders' page tables: a PML4, a PDPT and four page directories for 4 GiB.
pub const PAGE_TABLES_END: u64 = 0xf000;
/// What PVH and Multiboot kernels are told, up to [`INFO_END`].
pub const INFO_START: u64 = 0x1_0000;
/// End of that area.
pub const INFO_END: u64 = 0x2_0000;
/// Kernel command line.
pub const CMDLINE_START: u64 = 0x2_0000;
/// Most bytes of a kernel command line, with its NUL.
pub const CMDLINE_MAX: usize = 0x1_0000;
/// Extended BIOS data area: end of conventional memory in the E820 map.
pub const EBDA_START: u64 = 0x9_fc00;
/// ACPI tables, in the BIOS area that the E820 map reserves.
pub const ACPI_START: u64 = 0xe_0000;
/// Identifier of the virtual machine's generation, 16 bytes: behind the RSDP, which has 36 of the area's first 64.
pub const GENERATION_START: u64 = ACPI_START + 40;
/// MP table, in the second half of the BIOS area, which is searched for it.
pub const MP_TABLE_START: u64 = 0xf_0000;
/// End of the BIOS area.
pub const BIOS_END: u64 = 0x10_0000;
/// Where kernels are loaded that do not ask for a place.
pub const KERNEL_START: u64 = 0x10_0000;
/// Where firmware ends.
pub const FIRMWARE_END: u64 = 0x1_0000_0000;
/// Most bytes of firmware: below it are KVM's own pages.
pub const FIRMWARE_MOST: u64 = 16 << 20;
/// Identity map page (KVM_SET_IDENTITY_MAP_ADDR).
pub const IDENTITY_MAP_START: u64 = 0xfeff_c000;
/// Task state segment pages that Intel processors want, three pages (KVM_SET_TSS_ADDR).
pub const TSS_START: u64 = 0xfeff_d000;
/// End of the pages that KVM keeps for itself.
pub const KVM_PAGES_END: u64 = 0xff00_0000;
/// I/O APIC registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Local APIC registers.
pub const LAPIC_START: u64 = 0xfee0_0000;

/// COM1 ports, 8.
pub const COM1_PORT: u16 = 0x3f8;
/// COM1 gsi.
pub const COM1_GSI: u32 = 4;
/// CMOS index and data ports, 2.
pub const CMOS_PORT: u16 = 0x70;
/// RTC gsi.
pub const RTC_GSI: u32 = 8;
/// i8042 data port; its command port is 4 above.
pub const I8042_PORT: u16 = 0x60;
/// PM1a event block, 4 ports (ACPI 4.8.3.1).
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// PM1a control block, 2 ports (ACPI 4.8.3.2).
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// PM timer, 4 ports (ACPI 4.8.3.3).
pub const PM_TIMER_PORT: u16 = 0x608;
/// Reset control register (ACPI RESET_REG), 1 port.
pub const RESET_PORT: u16 = 0xcf9;
/// ACPI system control interrupt.
pub const SCI_GSI: u32 = 9;
/// Edge that tells of a new generation: the last pin of the I/O APIC.
pub const GENERATION_GSI: u32 = 23;
/// Debug exit port of the usual test kernels.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Debug console port.
pub const DEBUG_CONSOLE_PORT: u16 = 0xe9;
/// fw_cfg selector and data ports, 2.
pub const FW_CFG_PORT: u16 = 0x510;

/// A range that the kernel has for itself, where nothing else can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRange {
    /// The bus.
    pub space: Space,
    /// Its first address.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What is there.
    pub name: &'static str,
    /// Whether it is there only with interrupt controllers.
    pub with_irqchip: bool,
}

const fn port(base: u64, len: u64, name: &'static str) -> KernelRange {
    KernelRange { space: Space::Pio, base, len, name, with_irqchip: true }
}

const fn page(base: u64, name: &'static str) -> KernelRange {
    KernelRange { space: Space::Mmio, base, len: 0x1000, name, with_irqchip: true }
}

/// Every range that the kernel has for itself (kernel: arch/x86/kvm/i8259.c, i8254.c, ioapic.c, lapic.c).
pub const KERNELS: [KernelRange; 8] = [
    port(0x20, 2, "8259 (in the kernel)"),
    port(0x40, 4, "pit (in the kernel)"),
    port(0x61, 1, "pit speaker (in the kernel)"),
    port(0xa0, 2, "8259 (in the kernel)"),
    port(0x4d0, 2, "8259 elcr (in the kernel)"),
    page(IOAPIC_START, "I/O APIC (in the kernel)"),
    page(LAPIC_START, "local APIC (in the kernel)"),
    KernelRange {
        space: Space::Mmio,
        base: IDENTITY_MAP_START,
        len: KVM_PAGES_END - IDENTITY_MAP_START,
        name: "pages that KVM keeps for itself",
        with_irqchip: false,
    },
];

/// The first of them that shares an address with a range of a bus.
#[must_use]
pub fn kernels_at(space: Space, base: u64, len: u64, irqchip: bool) -> Option<&'static KernelRange> {
    let last = base.saturating_add(len.saturating_sub(1));
    let over = |own: &&KernelRange| own.space == space && own.base <= last && base < own.base + own.len;
    KERNELS.iter().filter(|own| irqchip || !own.with_irqchip).find(over)
}
