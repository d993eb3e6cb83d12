//! What a console said about its kernel.

use crate::MachineEnd;
use ostler_domain::KernelEnd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The kernel gave up.
    Panic,
    /// The kernel found itself broken and went on as far as it could: an oops, or a `BUG`.
    Oops,
    /// The kernel says that something is not as it should be.
    Warning,
    /// A processor, or a program in the kernel, that does not get on: a lockup, a blocked task, a stall of RCU.
    Hang,
    /// A program was killed for want of memory.
    OutOfMemory,
    /// The machine starts anew.
    Restart,
    /// The machine is switched off, or halted.
    PowerOff,
    /// There was nothing to start, or it was not what it should be. One that the kernel panics for is a [`Kind::Panic`];
    /// see [`Report::boot_failure`].
    BootFailure,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Panic,
        Self::Oops,
        Self::Warning,
        Self::Hang,
        Self::OutOfMemory,
        Self::Restart,
        Self::PowerOff,
        Self::BootFailure,
    ];

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "kernel panic",
            Self::Oops => "kernel oops",
            Self::Warning => "kernel warning",
            Self::Hang => "hang",
            Self::OutOfMemory => "out of memory",
            Self::Restart => "restart",
            Self::PowerOff => "power off",
            Self::BootFailure => "boot failure",
        }
    }
}

/// A program that was killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// Process id in the machine.
    pub pid: u32,
    /// Name, at most 15 bytes by the kernel's doing.
    pub name: String,
    /// Whether it was its cgroup that was out of memory, and not the machine.
    pub group: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// Time since the kernel began, microseconds, where the kernel says it.
    pub at_us: Option<u64>,
    /// What the kernel says, at most 500 bytes; of a panic only the reason.
    pub text: String,
    /// Who was killed.
    pub victim: Option<Victim>,
    /// The calls that led there and where they ran: at most 24 lines of 200 bytes.
    pub trace: Vec<String>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(at) = self.at_us {
            write!(f, " after {:.3} s", Duration::from_micros(at).as_secs_f64())?;
        }
        write!(f, ": {}", self.text)
    }
}

/// What a console said about its kernel, see [`super::Reader::report`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were told; of each kind only the first eight.
    pub events: Vec<Event>,
    /// How many of each kind there were.
    pub counts: BTreeMap<Kind, u64>,
    /// How many programs were killed for want of memory of the machine itself, and not of their cgroups.
    pub machine_out_of_memory: u64,
}

impl Report {
    /// How many there were.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// The first one.
    pub fn first(&self, kind: Kind) -> Option<&Event> {
        self.events.iter().find(|event| event.kind == kind)
    }

    /// Why nothing could be started: for what the kernel panicked, or else what it complained about.
    pub fn boot_failure(&self) -> Option<&Event> {
        let panicked =
            |event: &&Event| event.kind == Kind::Panic && super::kinds::is_boot_failure(&event.text);
        let panic = self.events.iter().find(panicked);
        panic.or_else(|| self.first(Kind::BootFailure))
    }

    /// How the kernel ended, given what is known of the machine: the worst that was seen, in the order panic, oops, hang, out
    /// of memory; then restart and power off. `None` when there was nothing of the kind: the end of what ran counts, or a
    /// time-out says that the machine hangs.
    pub fn end(&self, machine: Option<MachineEnd>) -> Option<KernelEnd> {
        let any = |kind| self.count(kind) > 0;
        let found = [
            (
                machine == Some(MachineEnd::Panic) || any(Kind::Panic),
                KernelEnd::Panic,
            ),
            (any(Kind::Oops), KernelEnd::Oops),
            (any(Kind::Hang), KernelEnd::Hang),
            (self.machine_out_of_memory > 0, KernelEnd::Oom),
            (
                machine == Some(MachineEnd::Reboot) || any(Kind::Restart),
                KernelEnd::Reboot,
            ),
            (
                machine == Some(MachineEnd::PowerOff) || any(Kind::PowerOff),
                KernelEnd::Poweroff,
            ),
        ];
        found.into_iter().find_map(|(is, end)| is.then_some(end))
    }

    /// One sentence for each kind that there was: the first of it, and how many more.
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |(kind, count): (&Kind, &u64)| {
            let first = self.first(*kind)?;
            Some(match count {
                1 => first.to_string(),
                _ => format!("{first} (and {} more)", count - 1),
            })
        };
        self.counts.iter().filter_map(sentence).collect()
    }
}
