//! Storage: records, changes, the run queue as traits, and the conformance suite.
