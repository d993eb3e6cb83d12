//! The docker driver: sandboxes that are containers of a Docker engine on this host or another.
//!
//! The engine keeps everything that must survive the server: a container's name and labels hold the instance and the
//! sandbox's id. Beside it there is `<state_dir>/<id>`, which says that a start or a removal has begun.
//!
//! Where the engine sees this host's directories, the guest program is mounted into the container and listens in
//! `<state_dir>/<id>/run`. An engine elsewhere gets the guest as an archive, and connections go through the engine: to a
//! second process of the guest, which passes bytes on to its socket. The same is done for a limit of disk use, which a
//! mounted directory would escape.

mod address;
mod connect;
mod container;
mod driver;
mod engine;
mod events;
mod expiry;
mod images;
mod lifecycle;
mod options;
mod probe;
mod seed;
mod ssh;
mod transport;
mod usage;

pub use driver::DockerDriver;
pub use images::{DockerImages, ImageOptions};
pub use options::{DockerOptions, TlsFiles};
