//! The program inside a sandbox: exec, files, tunnel.
