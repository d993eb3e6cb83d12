//! The guest program over its socket, as the server uses it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod collect;
mod files;
mod isolation;
mod programs;
mod terminals;
mod trees;
mod tunnels;
mod world;
