//! Sandboxes that are Firecracker virtual machines.
