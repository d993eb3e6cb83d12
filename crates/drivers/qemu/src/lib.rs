//! The QEMU driver: sandboxes that are virtual machines, with KVM where it works and without where it does not.
//!
//! A machine is one QEMU process, which has a session and a cgroup of its own and outlives the server. It starts a kernel
//! with an initial RAM disk made here: the guest program, the modules that the machine needs, and a description of the
//! machine. The template's root drive is only read; what is written goes to a layer of the machine's own. The way to the
//! guest is one virtio serial port, over which connections are multiplexed, since vsock is not to be had everywhere.
//!
//! QEMU is not trusted: it runs as a user of its own without any rights where the server is root, may start no programs,
//! and can write nothing but the files in `vm`.
//!
//! ```text
//! <state_dir>/<id>/machine.json   written before anything is started: instance, cgroups, what is baked in
//!                  process.json   QEMU's process id with its start time, once started
//!                  exit.json      how QEMU ended, where the server saw it
//!                  end.json       how the machine ended, where QEMU told the server
//!                  console.<n>    what the kernel and the guest said from byte n on: the last two of them
//!                  qemu.log       standard error of QEMU
//!                  vm/            QEMU's own: sockets and drives
//!            snapshots/<name>/    memory, drives, and what was baked in
//!            accelerator.json     whether KVM works, found out by booting
//! ```

mod accelerator;
mod catalogue;
mod console;
mod driver;
mod drives;
mod error;
mod events;
mod initrd;
mod kernel;
mod key;
mod launch;
mod layout;
mod modules;
mod mux;
mod options;
mod parts;
mod probe;
mod programs;
mod qmp;
mod snapshot;
mod start;
mod teardown;
mod usage;
mod user;

pub use driver::QemuDriver;
pub use options::{Accelerator, KernelFile, QemuOptions};
