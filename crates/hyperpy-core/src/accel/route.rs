//! Where interrupts lead: from a gsi to an input of the in-kernel controllers, or to a message.

/// Where a gsi leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A pin of the I/O APIC, 0 to 23.
    IoApic {
        /// The gsi.
        gsi: u32,
        /// The pin.
        pin: u32,
    },
    /// An input of the pair of 8259 interrupt controllers, 0 to 15.
    Pic {
        /// The gsi.
        gsi: u32,
        /// The input.
        input: u32,
    },
    /// A message-signalled interrupt (SDM vol. 3, 11.11).
    Msi {
        /// The gsi.
        gsi: u32,
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
}

impl Route {
    /// The gsi that it is about.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        match *self {
            Self::IoApic { gsi, .. } | Self::Pic { gsi, .. } | Self::Msi { gsi, .. } => gsi,
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::IoApic { pin, .. } => write!(f, "I/O APIC pin {pin}"),
            Self::Pic { input, .. } => write!(f, "8259 input {input}"),
            Self::Msi { address, data, .. } => write!(f, "message {data:#x} to {address:#x}"),
        }
    }
}
