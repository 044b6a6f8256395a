//! Levels put back, here and in KVM.
