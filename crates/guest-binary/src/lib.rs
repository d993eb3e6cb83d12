//! The guest program as bytes, built statically for the host's architecture.
