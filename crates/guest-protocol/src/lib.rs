//! The gRPC protocol between Ostler and the program inside a sandbox.
//!
//! Everything here is generated from `proto/guest.proto`, which also holds the documentation. The file is append-only;
//! the test `published` fails when something that has been published is changed.

pub mod port;

/// Newest generation of the protocol in this build, told by `Health`.
pub const GENERATION: u32 = 3;

/// The whole protocol; generations only add to it.
#[expect(missing_docs, reason = "generated; the documentation is in the protocol file")]
#[expect(clippy::pedantic, reason = "generated")]
#[allow(unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("ostler.guest.v1");
}
