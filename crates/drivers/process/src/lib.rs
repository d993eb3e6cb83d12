//! The process driver: sandboxes made of namespaces and cgroups of this host, without a daemon.
//!
//! A sandbox is a bubblewrap process whose child is the guest, the first process of a PID namespace of its own. Both are
//! children of this process only by birth: they have a session of their own and outlive the server. What is needed to
//! find them again is in the sandbox's directory, and its presence is what makes a sandbox exist:
//!
//! ```text
//! <state_dir>/<id>/sandbox.json   written before anything is started: instance, mode, cgroups
//!                  process.json   process ids with their start times, once started
//!                  bwrap.json     what bubblewrap says: the guest's process id, later its exit code
//!                  log            standard error of bubblewrap and the guest
//!                  etc/           the few files of /etc that are made for the sandbox
//!                  run/           /run/ostler: the guest's sockets
//!                  workspace/ home/ tmp/   or disk.img with disk/, where the size of these three is limited
//! ```
//!
//! Where bubblewrap is absent or does not work, sandboxes are plain processes and the capabilities say so.

mod bubblewrap;
mod disk;
mod driver;
mod launch;
mod layout;
mod options;
mod plain;
mod probe;
mod teardown;

pub use driver::ProcessDriver;
pub use options::{Mode, ProcessOptions};
