//! Reading a console as it comes.

use super::kinds::{Meaning, PANIC, meaning, said, victim};
use super::lines::{Lines, text};
use super::records::{Record, records};
use super::report::{Event, Kind, Report};

/// Most events of a kind that are kept; all are counted.
const EVENTS: u64 = 8;
/// Longest text of an event, bytes.
const TEXT: usize = 500;
/// Most lines of a trace, and the longest of them in bytes.
const TRACE: usize = 24;
const TRACE_LINE: usize = 200;
/// How many records after the first of an oops its number comes at the latest.
const NUMBER_WITHIN: u32 = 16;

/// Reads a console as it comes. Holds at most one line of 4 KiB and a report of some ten kilobytes.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    lines: Lines,
    found: Found,
}

#[derive(Debug, Clone, Default)]
struct Found {
    report: Report,
    /// Whether the kernel puts times in front of what it says.
    timed: bool,
    open: Option<Open>,
}

/// The event that is being told of.
#[derive(Debug, Clone, Copy)]
struct Open {
    kind: Kind,
    /// Its place in the report, unless there are too many of them.
    index: Option<usize>,
    /// Records since.
    age: u32,
    /// Whether it has its number, of those that get one.
    numbered: bool,
}

impl Reader {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(line) = self.lines.push(*byte) {
                self.found.line(&line);
            }
        }
    }

    /// What was said until now; of a line that has not ended, what there is of it.
    pub fn report(&self) -> Report {
        let mut found = self.found.clone();
        found.line(self.lines.unfinished());
        found.report
    }
}

impl Found {
    fn line(&mut self, line: &[u8]) {
        for record in records(&text(line)) {
            self.record(record);
        }
    }

    fn record(&mut self, record: Record<'_>) {
        self.timed |= record.at.is_some();
        let meaning = meaning(record.text);
        // A panic may be all that gets out, in the middle of what a program writes.
        if self.timed && record.at.is_none() && meaning != Meaning::Begins(Kind::Panic) {
            return;
        }
        if let Some(open) = &mut self.open {
            open.age = open.age.saturating_add(1);
        }
        match meaning {
            Meaning::Begins(kind) => self.begin(kind, record, false),
            Meaning::Dies => match &mut self.open {
                Some(open) if open.kind == Kind::Oops && !open.numbered && open.age <= NUMBER_WITHIN => {
                    open.numbered = true;
                }
                _ => self.begin(Kind::Oops, record, true),
            },
            Meaning::Ends => self.open = None,
            Meaning::Detail => self.detail(record.text),
            Meaning::Nothing => {}
        }
    }

    fn begin(&mut self, kind: Kind, record: Record<'_>, numbered: bool) {
        let report = &mut self.report;
        let count = report.counts.entry(kind).or_default();
        *count += 1;
        let kept = *count <= EVENTS;
        self.open = Some(Open {
            kind,
            index: kept.then_some(report.events.len()),
            age: 0,
            numbered,
        });
        let text = said(record.text);
        let victim = victim(text).filter(|_| kind == Kind::OutOfMemory);
        if kind == Kind::OutOfMemory && victim.as_ref().is_none_or(|victim| !victim.group) {
            report.machine_out_of_memory += 1;
        }
        if !kept {
            return;
        }
        let text = match text.split_once(PANIC) {
            Some((_, reason)) => reason.trim_start_matches([':', ' ']),
            None => text,
        };
        report.events.push(Event {
            kind,
            at_us: record
                .at
                .map(|at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX)),
            text: cut(text, TEXT),
            victim,
            trace: Vec::new(),
        });
    }

    fn detail(&mut self, text: &str) {
        let index = self.open.and_then(|open| open.index);
        let event = index.and_then(|index| self.report.events.get_mut(index));
        if let Some(event) = event.filter(|event| event.trace.len() < TRACE) {
            event.trace.push(cut(text.trim_end(), TRACE_LINE));
        }
    }
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::KernelEnd;

    fn read(text: &str) -> Report {
        let mut reader = Reader::default();
        reader.push(text.as_bytes());
        reader.report()
    }

    #[test]
    fn an_oops_is_one_event_with_its_trace_and_the_panic_after_it_another() {
        let report = read(
            "[    2.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008\n\
             [    2.000001] #PF: supervisor write access in kernel mode\n\
             [    2.000002] Oops: 0002 [#1] PREEMPT SMP PTI\n\
             [    2.000003] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0\n\
             [    2.000004] RIP: 0010:broken+0x5/0x10 [module]\n\
             [    2.000005] Code: 00\n\
             [    2.000006] Call Trace:\n\
             [    2.000007]  <TASK>\n\
             [    2.000008]  do_one_initcall+0x59/0x220\n\
             [    2.000009] ---[ end trace 0000000000000000 ]---\n\
             [    2.000010] RIP: 0010:later+0x5/0x10\n\
             [    2.100000] Kernel panic - not syncing: Fatal exception\n\
             [    2.100001] Kernel Offset: disabled\n\
             [    2.100002] ---[ end Kernel panic - not syncing: Fatal exception ]---\n",
        );
        assert_eq!((report.count(Kind::Oops), report.count(Kind::Panic)), (1, 1));
        let oops = report.first(Kind::Oops).unwrap();
        assert_eq!(oops.at_us, Some(2_000_000));
        assert_eq!(
            oops.trace,
            [
                "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0",
                "RIP: 0010:broken+0x5/0x10 [module]",
                "Call Trace:",
                " do_one_initcall+0x59/0x220",
            ]
        );
        assert_eq!(report.first(Kind::Panic).unwrap().text, "Fatal exception");
        assert_eq!(report.end(None), Some(KernelEnd::Panic));
        assert_eq!(report.boot_failure(), None);
    }

    #[test]
    fn an_oops_without_a_first_line_counts_too() {
        let report = read(
            "[    1.000000] kernel BUG at mm/slub.c:1!\n[    1.000000] invalid opcode: 0000 [#1] SMP\n\
             [    2.000000] kernel BUG at mm/slub.c:1!\n[    2.000000] invalid opcode: 0000 [#2] SMP\n\
             [    3.000000] general protection fault: 0000 [#3] SMP\n[    4.000000] divide error: 0000 [#4] SMP\n",
        );
        assert_eq!(report.count(Kind::Oops), 4);
        assert_eq!(report.end(None), Some(KernelEnd::Oops));
    }

    #[test]
    fn programs_that_write_to_the_console_are_not_the_kernel() {
        let report = read(
            "[    0.000000] Linux\nBUG: in my program\nWARNING: mind the step\nreboot: Restarting system\n",
        );
        assert_eq!(report, Report::default());
        // Where the kernel says no times, nothing else can be done.
        assert_eq!(read("BUG: soft lockup - CPU#0 stuck\n").count(Kind::Hang), 1);
        // In the middle of what somebody else writes, and without an end.
        let report = read("[    0.000000] Linux\nlogin: [    5.000000] Kernel panic - not syncing: x\x1b[0m");
        assert_eq!(report.first(Kind::Panic).unwrap().text, "x");
        let report = read("[    0.000000] Linux\nlogin: Kernel panic - not syncing: y");
        assert_eq!(report.first(Kind::Panic).unwrap().text, "y");
    }

    #[test]
    fn only_the_first_are_kept_and_all_are_counted() {
        let line = "[    1.000000] WARNING: CPU: 0 PID: 1 at x.c:1\n[    1.000000]  f+0x1/0x2\n";
        let report = read(&line.repeat(1000));
        assert_eq!((report.count(Kind::Warning), report.events.len()), (1000, 8));
        assert_eq!(report.end(None), None, "a warning is no end");
        assert_eq!(
            report.sentences(),
            ["kernel warning after 1.000 s: WARNING: CPU: 0 PID: 1 at x.c:1 (and 999 more)"]
        );
        let long = format!("[    1.000000] BUG: {}\n", "ü".repeat(3000)) + &line.repeat(100);
        let report = read(&long);
        assert!(report.events[0].text.len() <= TEXT);
        assert!(report.events.iter().all(|event| event.trace.len() <= TRACE));
    }

    #[test]
    fn a_cgroup_without_memory_is_not_the_machine() {
        let group = "[    1.000000] Memory cgroup out of memory: Killed process 5 (x) total-vm:1kB\n";
        let report = read(group);
        assert_eq!((report.count(Kind::OutOfMemory), report.end(None)), (1, None));
        let report = read(&format!(
            "{group}[    1.000000] Out of memory: Killed process 6 (y) total-vm:1kB\n"
        ));
        assert_eq!(
            (report.count(Kind::OutOfMemory), report.end(None)),
            (2, Some(KernelEnd::Oom))
        );
    }
}
