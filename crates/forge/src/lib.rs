//! Git operations, worktrees, merge requests of the local forge, and the issue graph.
