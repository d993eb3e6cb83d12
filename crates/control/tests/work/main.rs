//! The state machine of tasks and subtasks, over a real store and real git repositories. There is no executor here: the
//! test takes the runs from the queue and does what a planner, a worker or the checks would do.

#![allow(clippy::unwrap_used, reason = "test code")]

mod flow;
mod people;
mod planning;
mod races;
mod walk;
mod working;
mod world;
