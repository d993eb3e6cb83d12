//! The driver trait, the guest client, and the driver conformance suite.
