//! The driver conformance suite over the strict server, with the real guest.
//!
//! One case is left out: `the_root_of_the_host_is_out_of_reach` looks for a kernel of the machine's own, and what stands in
//! for machines here has the host's. That limits come from a machine's size cannot be seen here either; it is the cgroups
//! that the jailer makes which limit.

mod common;

ostler_sandbox::driver_conformance! { @each common::Machines::new();
    programs_run_and_tell_how_they_ended
    environment_and_directory_are_as_asked
    the_environment_of_the_server_stays_outside
    a_restarted_server_goes_on_without_a_gap
    removing_is_idempotent
    nothing_is_left_of_what_ran_in_it
    the_same_id_is_not_started_twice
    many_start_and_end_at_the_same_time
    a_crash_is_announced
    a_crash_after_a_restart_is_announced
    a_failed_start_leaves_nothing
    a_start_given_up_midway_can_be_removed
    what_cannot_be_enforced_is_refused
    sandboxes_do_not_see_each_other
    without_a_network_there_is_no_route
    memory_is_limited
    cpu_time_is_limited
    pausing_stops_everything
}
