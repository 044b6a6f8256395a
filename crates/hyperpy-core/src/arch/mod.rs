//! What depends on the processor architecture. One today.

pub mod x86_64;
