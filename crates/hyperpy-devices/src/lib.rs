//! Stock devices.
