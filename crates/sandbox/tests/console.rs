//! Reading consoles: whatever bytes come, in whatever pieces, the report is the same, bounded and true.

#![allow(clippy::unwrap_used, reason = "tests")]

use ostler_domain::KernelEnd;
use ostler_sandbox::console::{Kind, Reader, Report, plain};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Report {
    let mut reader = Reader::default();
    reader.push(bytes);
    reader.report()
}

fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Report {
    let mut reader = Reader::default();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(cut % (rest.len() + 1));
        reader.push(piece);
        // Asking in between changes nothing.
        reader.report();
        rest = after;
    }
    reader.push(rest);
    reader.report()
}

fn is_bounded(report: &Report) {
    for kind in Kind::ALL {
        let kept = report.events.iter().filter(|event| event.kind == kind).count() as u64;
        assert_eq!(kept, report.count(kind).min(8), "{kind:?}");
    }
    let clean = |text: &str| !text.chars().any(|c| c.is_control() && c != '\t');
    for event in &report.events {
        assert!(event.text.len() <= 500 && clean(&event.text), "{event:?}");
        assert!(event.trace.len() <= 24, "{event:?}");
        assert!(
            event.trace.iter().all(|line| line.len() <= 200 && clean(line)),
            "{event:?}"
        );
    }
}

/// What a kernel says, and what kind of event it is.
const SAID: &[(&str, Option<Kind>)] = &[
    ("Linux version 6.1.0", None),
    (
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
        Some(Kind::Panic),
    ),
    (
        "---[ end Kernel panic - not syncing: Attempted to kill init! ]---",
        None,
    ),
    (
        "BUG: unable to handle page fault for address: ffffffffdeadbeef",
        Some(Kind::Oops),
    ),
    ("kernel BUG at mm/slub.c:435!", Some(Kind::Oops)),
    (
        "WARNING: CPU: 1 PID: 7 at net/core/dev.c:1 f+0x1/0x2 [m]",
        Some(Kind::Warning),
    ),
    (
        "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [test:123]",
        Some(Kind::Hang),
    ),
    (
        "INFO: task test:123 blocked for more than 120 seconds.",
        Some(Kind::Hang),
    ),
    (
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        Some(Kind::Hang),
    ),
    (
        "Out of memory: Killed process 123 (test) total-vm:1kB, anon-rss:1kB",
        Some(Kind::OutOfMemory),
    ),
    ("oom_reaper: reaped process 123 (test), now anon-rss:0kB", None),
    ("reboot: Restarting system", Some(Kind::Restart)),
    ("reboot: Power down", Some(Kind::PowerOff)),
    (" do_one_initcall+0x59/0x220", None),
    ("Call Trace:", None),
    ("ok 1 - a test", None),
];

/// How a line of the kernel can be put.
fn dressed() -> impl Strategy<Value = (Vec<u8>, Option<Kind>)> {
    let said = 0..SAID.len();
    let prefix = prop_oneof![
        Just("[    1.234567] "),
        Just("[12345.678901][    T1] "),
        Just("[    0.000001] [   C3] "),
        Just("<6>[    3.000000] "),
    ];
    let before = prop_oneof![
        Just(""),
        Just("\x1b[0m"),
        Just("login: "),
        Just("\0\x07"),
        Just("\x1b[31mred\x1b[0m "),
        Just("half a line of a program "),
    ];
    let end = prop_oneof![
        Just("\n"),
        Just("\r\n"),
        Just("\r\r\n"),
        Just("\x1b[m\n"),
        Just("\n\n")
    ];
    (said, prefix, before, end).prop_map(|(said, prefix, before, end)| {
        let (text, kind) = SAID[said];
        (format!("{before}{prefix}{text}{end}").into_bytes(), kind)
    })
}

fn scraps() -> impl Strategy<Value = Vec<u8>> {
    let scrap = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::sample::select(vec![
            "[    1.000000] ",
            "[",
            "]",
            "[#1]",
            "\x1b",
            "\x1b[",
            "\x1b]",
            "\r",
            "\n",
            "BUG: ",
            "Kernel panic - not syncing",
            ": ",
            "Out of memory: Killed process ",
            "1 (",
            ") total-vm",
            "---[ end ",
            "+0x1/0x2",
            "Oops: 0002 [#1]",
            "WARNING: ",
            "INFO: task ",
            " blocked for more than ",
            "reboot: Restarting system",
            "ü",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        Just(vec![b'x'; 5000]),
    ];
    proptest::collection::vec(scrap, 0..60).prop_map(|scraps| scraps.concat())
}

proptest! {
    #[test]
    fn pieces_make_no_difference(bytes in scraps(), cuts in proptest::collection::vec(0usize..500, 0..40)) {
        let whole = read(&bytes);
        is_bounded(&whole);
        prop_assert_eq!(&in_pieces(&bytes, &cuts), &whole);
        let bytewise = vec![1; bytes.len().min(300)];
        prop_assert_eq!(&in_pieces(&bytes, &bytewise), &whole);
    }

    #[test]
    fn nothing_is_overlooked_and_nothing_made_up(lines in proptest::collection::vec(dressed(), 0..60)) {
        let bytes: Vec<u8> = lines.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let report = read(&bytes);
        is_bounded(&report);
        for kind in Kind::ALL {
            let said = lines.iter().filter(|(_, of)| *of == Some(kind)).count() as u64;
            prop_assert_eq!(report.count(kind), said, "{:?}", kind);
        }
        // The end of the last line need not come.
        let cut = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        prop_assert_eq!(read(cut), report);
    }

    #[test]
    fn plain_text_is_plain(bytes in scraps()) {
        let text = plain(&bytes);
        prop_assert!(!text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{:?}", text);
    }
}

/// What Debian's kernels for clouds said in QEMU, with `loglevel=5`. The oops is of a module with a broken instruction.
#[test]
fn what_real_kernels_say_is_understood() {
    let consoles = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/consoles");
    for (name, end, kind, text, trace) in [
        (
            "linux-6.1-panic",
            KernelEnd::Panic,
            Kind::Panic,
            "sysrq triggered crash",
            "sysrq_handle_crash+0x",
        ),
        (
            "linux-6.12-panic",
            KernelEnd::Panic,
            Kind::Panic,
            "sysrq triggered crash",
            "sysrq_handle_crash+0x",
        ),
        (
            "linux-6.1-noinit",
            KernelEnd::Panic,
            Kind::Panic,
            "VFS: Unable to mount root fs",
            "prepare_namespace+0x",
        ),
        (
            "linux-6.1-oops",
            KernelEnd::Oops,
            Kind::Oops,
            "invalid opcode: 0000 [#1]",
            "RIP: 0010:pvpanic_pci_driver_init",
        ),
        (
            "linux-6.1-oom",
            KernelEnd::Oom,
            Kind::OutOfMemory,
            "Out of memory: Killed process 78 (init)",
            "",
        ),
        (
            "linux-6.1-reboot",
            KernelEnd::Reboot,
            Kind::Restart,
            "Restarting system",
            "",
        ),
        (
            "linux-6.1-off",
            KernelEnd::Poweroff,
            Kind::PowerOff,
            "Power down",
            "",
        ),
    ] {
        let bytes = std::fs::read(format!("{consoles}/{name}.log")).unwrap();
        let report = read(&bytes);
        assert_eq!(report.end(None), Some(end), "{name}: {report:?}");
        assert_eq!(report.count(kind), 1, "{name}: {report:?}");
        let event = report.first(kind).unwrap();
        assert!(
            event.text.starts_with(text) && event.at_us.is_some(),
            "{name}: {event:?}"
        );
        assert!(
            trace.is_empty() || event.trace.iter().any(|line| line.contains(trace)),
            "{name}: {event:?}"
        );
        assert_eq!(
            report.boot_failure().is_some(),
            name == "linux-6.1-noinit",
            "{name}"
        );
        assert_eq!(report.count(Kind::Warning), 0, "{name}");
    }
}

#[test]
fn much_is_read_in_time() {
    // Four megabytes that look like something at every byte.
    for unit in [
        "[",
        "[    1.000000] BUG: ",
        "[#1] ",
        "Kernel panic - not syncing",
        "\x1b[",
        "[    ",
    ] {
        let bytes = unit.repeat((4 << 20) / unit.len()).into_bytes();
        let begun = std::time::Instant::now();
        is_bounded(&read(&bytes));
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(20), "{unit}: {took:?}");
    }
}
