//! How the end of a kernel compares with what its test expects.

use ostler_domain::{Kernel, KernelEnd};
use ostler_sandbox::MachineEnd;
use ostler_sandbox::console::{Event, Kind, Report};

/// What is known of a machine in the end.
pub(super) struct Found<'a> {
    pub(super) kernel: &'a Kernel,
    /// Whether there is anything to do besides the boot.
    pub(super) commands: bool,
    /// How the kernel ended; `None` where it did not, and the time was over.
    pub(super) end: Option<KernelEnd>,
    /// Whether its guest has ever answered.
    pub(super) booted: bool,
    /// How it was seen that it does not answer.
    pub(super) silent: Option<String>,
    pub(super) report: Report,
    pub(super) last_words: String,
    /// Whether its machine is of no use any more.
    pub(super) gone: bool,
}

/// How the end of a kernel compares with what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It did not end by itself, and was not to.
    Exit,
    /// As expected.
    Expected,
    /// Not as expected, and why.
    Wrong(String),
}

impl Found<'_> {
    /// How the kernel ended by what its console and its machine say; that it hangs counts only where `hangs` says so.
    pub(super) fn said(&self, machine: Option<MachineEnd>, hangs: bool) -> Option<KernelEnd> {
        let mut report = self.report.clone();
        if !hangs {
            report.counts.remove(&Kind::Hang);
        }
        report.end(machine)
    }

    /// How its end compares with what was expected.
    pub(super) fn verdict(&self) -> Verdict {
        let expected = self.kernel.expect;
        match self.end {
            // Of a test of what comes after the boot it cannot be the end that is meant.
            end if !self.booted && (self.commands || end != Some(expected)) => {
                Verdict::Wrong(self.unbooted())
            }
            Some(KernelEnd::Exit) | None if expected == KernelEnd::Exit => Verdict::Exit,
            Some(end) if end == expected => Verdict::Expected,
            Some(_) if expected == KernelEnd::Exit => Verdict::Wrong(self.sentence()),
            Some(KernelEnd::Exit) | None => Verdict::Wrong(format!(
                "{} was expected of its kernel, which goes on",
                in_words(expected)
            )),
            Some(_) => Verdict::Wrong(format!(
                "{} was expected of its kernel; instead: {}",
                in_words(expected),
                self.sentence()
            )),
        }
    }

    fn unbooted(&self) -> String {
        let why = match (self.report.boot_failure(), self.end) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(KernelEnd::Hang) | None) => self.silent.clone().unwrap_or_default(),
            (None, Some(_)) => self.sentence(),
        };
        let name = &self.kernel.name;
        match self.last_words.as_str() {
            "" => format!("the kernel {name} did not boot: {why}; its console is empty"),
            words => format!("the kernel {name} did not boot: {why}; its console ends with:\n{words}"),
        }
    }

    /// How it ended, in a sentence.
    pub(super) fn sentence(&self) -> String {
        let first = |kind: Kind| self.report.first(kind).map(Event::to_string);
        let (told, plainly) = match self.end {
            Some(KernelEnd::Panic) => (first(Kind::Panic), "its kernel panicked"),
            Some(KernelEnd::Oops) => (first(Kind::Oops), "its kernel is broken"),
            Some(KernelEnd::Oom) => (first(Kind::OutOfMemory), "its machine ran out of memory"),
            Some(KernelEnd::Hang) => (first(Kind::Hang), "its machine hangs"),
            Some(KernelEnd::Reboot) => (None, "its machine was restarted from inside"),
            Some(KernelEnd::Poweroff) => (None, "its machine was switched off from inside"),
            Some(KernelEnd::Exit) | None => (None, "its machine goes on"),
        };
        let told = told.unwrap_or_else(|| plainly.to_owned());
        match &self.silent {
            Some(why) if self.end == Some(KernelEnd::Hang) => format!("{told}: {why}"),
            _ => told,
        }
    }
}

const fn in_words(end: KernelEnd) -> &'static str {
    match end {
        KernelEnd::Exit => "the end of its command",
        KernelEnd::Panic => "a panic",
        KernelEnd::Oops => "an oops",
        KernelEnd::Reboot => "a restart",
        KernelEnd::Poweroff => "a power-off",
        KernelEnd::Oom => "want of memory",
        KernelEnd::Hang => "a hang",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_sandbox::console::Reader;

    fn found<'a>(kernel: &'a Kernel, end: Option<KernelEnd>, console: &str) -> Found<'a> {
        let mut reader = Reader::default();
        reader.push(console.as_bytes());
        Found {
            kernel,
            commands: true,
            end,
            booted: true,
            silent: None,
            report: reader.report(),
            last_words: console.to_owned(),
            gone: false,
        }
    }

    fn expecting(expect: KernelEnd) -> Kernel {
        Kernel {
            name: "6.1".into(),
            args: Vec::new(),
            expect,
        }
    }

    #[test]
    fn only_what_was_expected_is_as_expected() {
        for expected in KernelEnd::ALL {
            let kernel = expecting(*expected);
            for end in KernelEnd::ALL.iter().copied().map(Some).chain([None]) {
                let verdict = found(&kernel, end, "").verdict();
                let nothing = matches!(end, None | Some(KernelEnd::Exit));
                match verdict {
                    Verdict::Exit => assert!(nothing && *expected == KernelEnd::Exit),
                    Verdict::Expected => assert_eq!((end, nothing), (Some(*expected), false)),
                    Verdict::Wrong(why) => {
                        assert!(end != Some(*expected), "{why}");
                        assert!(
                            !nothing || why.ends_with("was expected of its kernel, which goes on"),
                            "{why}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_console_says_how_it_came_about() {
        let kernel = expecting(KernelEnd::Exit);
        let panic = "[    2.500000] Kernel panic - not syncing: sysrq triggered crash\n";
        let found_panic = found(&kernel, Some(KernelEnd::Panic), panic);
        let why = "kernel panic after 2.500 s: sysrq triggered crash";
        assert_eq!(found_panic.verdict(), Verdict::Wrong(why.into()));
        let kernel = expecting(KernelEnd::Reboot);
        let instead = found(&kernel, Some(KernelEnd::Panic), panic).verdict();
        let wanted = format!("a restart was expected of its kernel; instead: {why}");
        assert_eq!(instead, Verdict::Wrong(wanted));
        let hang = Found {
            silent: Some("no answer within 5s".into()),
            ..found(&kernel, Some(KernelEnd::Hang), "")
        };
        assert_eq!(hang.sentence(), "its machine hangs: no answer within 5s");
    }

    #[test]
    fn a_hang_that_passes_is_no_end() {
        let kernel = expecting(KernelEnd::Exit);
        let console = "[   22.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]\n";
        let found = found(&kernel, None, console);
        assert_eq!(found.said(None, true), Some(KernelEnd::Hang));
        assert_eq!(found.said(None, false), None);
        assert_eq!(
            found.said(Some(MachineEnd::Reboot), false),
            Some(KernelEnd::Reboot)
        );
    }

    #[test]
    fn a_kernel_that_does_not_boot_is_no_expected_end() {
        let kernel = expecting(KernelEnd::Panic);
        let console =
            "[    1.000000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        let boot = Found {
            booted: false,
            commands: false,
            ..found(&kernel, Some(KernelEnd::Panic), console)
        };
        assert_eq!(boot.verdict(), Verdict::Expected, "the boot is the test");
        let unbooted = |end, console: &str| {
            let found = Found {
                booted: false,
                silent: Some("it does not answer".into()),
                ..found(&kernel, end, console)
            };
            match found.verdict() {
                Verdict::Wrong(why) => why,
                other => panic!("{other:?}"),
            }
        };
        let why = unbooted(Some(KernelEnd::Panic), console);
        assert!(
            why.starts_with("the kernel 6.1 did not boot: kernel panic after 1.000 s: VFS: Unable"),
            "{why}"
        );
        assert!(why.ends_with(console), "{why}");
        assert_eq!(
            unbooted(Some(KernelEnd::Hang), ""),
            "the kernel 6.1 did not boot: it does not answer; its console is empty"
        );
    }
}
