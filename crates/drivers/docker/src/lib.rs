//! The docker driver: sandboxes that are containers of a Docker engine on this host.
//!
//! The engine keeps everything that must survive the server: a container's name and labels hold the instance and the
//! sandbox's id. The only thing beside it is `<state_dir>/<id>/run`, a directory of this host in which the guest listens.

mod container;
mod driver;
mod engine;
mod events;
mod images;
mod options;

pub use driver::DockerDriver;
pub use images::{DockerImages, ImageOptions};
pub use options::DockerOptions;
