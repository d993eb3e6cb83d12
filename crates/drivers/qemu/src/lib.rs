//! Sandboxes that are QEMU virtual machines.
