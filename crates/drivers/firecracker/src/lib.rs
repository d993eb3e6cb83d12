//! The Firecracker driver: sandboxes that are virtual machines, each with a Firecracker process and a jail of its own.
//!
//! A machine boots a kernel with a copy of the template's root drive and with an initial RAM disk of this driver, by which
//! the guest program is its first process, whatever is on the drive. It has no network interface: the guest listens on vsock port [`GUEST_PORT`], which Firecracker offers as a unix socket,
//! and everything goes through that. Machines outlive the server. What is needed to find them again is in the sandbox's
//! directory, and its presence is what makes a sandbox exist:
//!
//! ```text
//! <state_dir>/<id>/sandbox.json   written before anything is started: instance, user, directories, what is baked in
//!                  process.json   process id with its start time, once started
//!                  ended.json     how it ended, where a server saw that
//!                  jail/<program>/<machine>/root/   the machine's directory, in the jailer's layout
//!                  root/          the machine's directory without a jailer
//! <state_dir>/snapshots/<name>/   see `snapshot`
//! ```
//!
//! In the machine's directory are the kernel, its drives and its two sockets, always under the same names, by which
//! Firecracker is told of them.

mod api;
mod cgroups;
mod driver;
mod error;
mod files;
mod initrd;
mod key;
mod launch;
mod layout;
mod machine;
mod options;
mod probe;
mod refusals;
mod snapshot;
mod start;
mod teardown;
mod usage;
mod version;
mod vsock;

pub use driver::FirecrackerDriver;
pub use options::FirecrackerOptions;
pub use vsock::GUEST_PORT;
