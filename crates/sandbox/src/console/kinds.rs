//! What kind of event a record of the kernel tells of. The phrases are those of Linux 4.19 to 6.18 on x86 and arm64.

use super::report::{Kind, Victim};

/// What is said of a kernel that cannot go on, by itself or in the middle of a line.
pub(super) const PANIC: &str = "Kernel panic - not syncing";
/// What its report ends with.
const END: &str = "---[ end ";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The beginning of an event.
    Begins(Kind),
    /// The second line of an oops, which has its number: of the one that began shortly before, or else of one by itself.
    Dies,
    /// The end of what is said about the last event.
    Ends,
    /// A line of what is said about an event.
    Detail,
    /// Nothing of interest.
    Nothing,
}

/// The meaning of a record, without those who say it: `watchdog: `.
pub(super) fn meaning(text: &str) -> Meaning {
    let text = said(text);
    let starts = |with: &[&str]| with.iter().any(|start| text.starts_with(start));
    let has = |what: &str| text.contains(what);
    if has(END) || starts(&["------------[ cut here ]"]) {
        return Meaning::Ends;
    }
    if has(PANIC) {
        return Meaning::Begins(Kind::Panic);
    }
    let hang = starts(&["BUG: soft lockup", "BUG: workqueue lockup"])
        || has("detected hard LOCKUP")
        || text.starts_with("INFO: task ") && has(" blocked for more than ")
        || text.starts_with("INFO: rcu") && has(" stall");
    if hang {
        return Meaning::Begins(Kind::Hang);
    }
    if victim(text).is_some() || starts(&["Out of memory and no killable processes"]) {
        return Meaning::Begins(Kind::OutOfMemory);
    }
    if starts(&["BUG: ", "kernel BUG at ", "Unable to handle kernel "]) {
        return Meaning::Begins(Kind::Oops);
    }
    if starts(&["Oops: ", "Internal error: "]) || is_numbered(text) {
        return Meaning::Dies;
    }
    if starts(&["WARNING: ", "UBSAN: "]) {
        return Meaning::Begins(Kind::Warning);
    }
    if starts(&["Restarting system", "Resetting"]) {
        return Meaning::Begins(Kind::Restart);
    }
    if starts(&["Power down", "Power Off", "System halted"]) {
        return Meaning::Begins(Kind::PowerOff);
    }
    if starts(&[
        "-- System halted",
        "No bootable device",
        "VFS: Cannot open root device",
    ]) {
        return Meaning::Begins(Kind::BootFailure);
    }
    let is_frame = has("+0x") && has("/0x");
    if is_frame
        || starts(&[
            "CPU: ",
            "RIP: ",
            "Call Trace:",
            "Call trace:",
            "pc : ",
            "lr : ",
            "task:",
        ])
    {
        return Meaning::Detail;
    }
    Meaning::Nothing
}

/// What is said, without the part of the kernel that says it.
pub(super) fn said(text: &str) -> &str {
    const WHO: [&str; 6] = [
        "watchdog: ",
        "NMI watchdog: ",
        "rcu: ",
        "reboot: ",
        "sysrq: ",
        "SysRq : ",
    ];
    let mut text = text.trim();
    while let Some(rest) = WHO.iter().find_map(|who| text.strip_prefix(who)) {
        text = rest.trim_start();
    }
    text
}

/// `invalid opcode: 0000 [#1] SMP`: what the processor refused, a code, and the how manieth time the kernel is broken.
fn is_numbered(text: &str) -> bool {
    let Some((before, after)) = text.split_once(" [#") else {
        return false;
    };
    let is_code = |word: &str| (1..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
    let code = before.rsplit(' ').next().unwrap_or_default();
    let number = after.bytes().take_while(u8::is_ascii_digit).count();
    before.contains(": ") && is_code(code) && number > 0 && after[number..].starts_with(']')
}

/// Whether a panic is of a kernel that did not find what it was to start.
pub(super) fn is_boot_failure(panic: &str) -> bool {
    [
        "VFS: Unable to mount root",
        "No working init found",
        "No init found",
        "Requested init ",
    ]
    .iter()
    .any(|start| panic.starts_with(start))
}

/// Who was killed for want of memory: `Out of memory: Killed process 12 (name) total-vm:...`.
pub(super) fn victim(text: &str) -> Option<Victim> {
    let (group, rest) = match text.strip_prefix("Memory cgroup out of memory") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("Out of memory")?),
    };
    // Before 5.2 the kernel says what it is about to do.
    let killed = ["Killed process ", "Kill process "];
    let (_, rest) = killed.iter().find_map(|words| rest.split_once(words))?;
    let (number, rest) = rest.split_once(' ')?;
    let number = number.trim_end_matches(',');
    // A name may have parentheses of its own; nothing after it has any but the score of old kernels, which has none either.
    let name = rest.strip_prefix('(')?;
    let end = [") total-vm", ") score "]
        .iter()
        .find_map(|end| name.find(end))
        .or_else(|| name.find(')'))?;
    Some(Victim {
        pid: number.parse().ok()?,
        name: name[..end].to_owned(),
        group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_of_the_kernel_are_told_apart() {
        use Kind::*;
        for (text, kind) in [
            ("Kernel panic - not syncing: sysrq triggered crash", Panic),
            (
                "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
                Hang,
            ),
            ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 3", Hang),
            ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 2", Hang),
            ("INFO: task sh:12 blocked for more than 120 seconds.", Hang),
            ("rcu: INFO: rcu_sched self-detected stall on CPU", Hang),
            ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Hang),
            ("INFO: rcu_sched detected stalls on CPUs/tasks:", Hang),
            (
                "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
                Hang,
            ),
            (
                "Out of memory: Killed process 12 (python3) total-vm:1kB, anon-rss:1kB",
                OutOfMemory,
            ),
            (
                "Out of memory: Kill process 12 (x) score 900 or sacrifice child",
                OutOfMemory,
            ),
            (
                "Memory cgroup out of memory: Killed process 12 (x) total-vm:1kB",
                OutOfMemory,
            ),
            (
                "Out of memory (oom_kill_allocating_task): Killed process 3, (x) total-vm:1kB",
                OutOfMemory,
            ),
            (
                "BUG: kernel NULL pointer dereference, address: 0000000000000000",
                Oops,
            ),
            ("BUG: KASAN: slab-out-of-bounds in f+0x1/0x2", Oops),
            ("kernel BUG at fs/ext4/inode.c:2703!", Oops),
            (
                "Unable to handle kernel paging request at virtual address ffff",
                Oops,
            ),
            ("WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2", Warning),
            ("UBSAN: shift-out-of-bounds in x.c:1:2", Warning),
            ("reboot: Restarting system with command 'x'", Restart),
            ("sysrq: Resetting", Restart),
            ("reboot: Power down", PowerOff),
            ("reboot: System halted", PowerOff),
            (" -- System halted", BootFailure),
        ] {
            assert_eq!(meaning(text), Meaning::Begins(kind), "{text}");
        }
        for text in [
            "Oops: 0002 [#1] PREEMPT SMP PTI",
            "Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#2] SMP",
            "invalid opcode: 0000 [#1] SMP",
        ] {
            assert_eq!(meaning(text), Meaning::Dies, "{text}");
        }
        for text in [
            "---[ end Kernel panic - not syncing: x ]---",
            "---[ end trace 0000000000000000 ]---",
        ] {
            assert_eq!(meaning(text), Meaning::Ends, "{text}");
        }
        for text in [
            "Command line: panic=-1 oops=panic",
            "x invoked oom-killer: gfp_mask=0x1, order=0, oom_score_adj=0",
            "oom_reaper: reaped process 12 (x), now anon-rss:0kB",
            "INFO: lockdep is turned off.",
            // Said after the other one.
            "reboot: machine restart",
            "rcu: Hierarchical RCU implementation.",
            "issue: see [#12]",
            "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
            "watchdog: Delayed init of the lockup detector failed: -22",
        ] {
            assert_eq!(meaning(text), Meaning::Nothing, "{text}");
        }
    }

    #[test]
    fn a_victim_has_its_whole_name() {
        let killed = victim("Out of memory: Killed process 77 (a) b) (c) total-vm:1kB, UID:0").unwrap();
        assert_eq!(
            (killed.pid, killed.name.as_str(), killed.group),
            (77, "a) b) (c", false)
        );
        let killed = victim("Memory cgroup out of memory: Killed process 3 (x) total-vm:1kB").unwrap();
        assert!(killed.group);
        for bad in [
            "Out of memory: Killed process x (y)",
            "Out of memory",
            "Out of memory: Killed process 1 y",
        ] {
            assert_eq!(victim(bad), None, "{bad}");
        }
    }
}
