//! The gRPC protocol between Ostler and the program inside a sandbox.
