//! Tests of kernels: four of them boot and report, and each way in which one can end is told.

use crate::support::{Cli, Done, id};
use crate::{machines, server};
use ostler_test_kit::{LeakGuard, MachineKernels, MachineParts, git, repository, require};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const SPIN: &str = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))\nwhile True: pass";
const HOG: &str = "kept = []\nwhile True: kept.append(bytearray(1 << 20))";
const RESTART: &str = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)";
/// What leaves its session, its parent and all it has got behind.
const STAYS: &str =
    "(setsid sh -c 'trap \"\" TERM HUP; (while :; do sleep 3001; done) & while :; do sleep 3001; done' &)";

/// The beginning of a report, and a panic.
const BREAK: &str = "for line in 'KTAP version 1' 1..2 'ok 1 before'; do echo \"$line\" > /dev/kmsg; done\n\
                     echo c > /proc/sysrq-trigger";

/// A server with four kernels and two that are none, and a pool without warm machines.
async fn with_kernels(data: &Path, files: &Path, settings: &[(&str, &str)]) -> Cli {
    let kernels = MachineKernels::find().unwrap();
    let mut damaged = std::fs::read(kernels.image(&kernels.versions[0])).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4096].fill(0x55);
    let (damaged_file, text_file) = (files.join("damaged"), files.join("text"));
    std::fs::write(&damaged_file, damaged).unwrap();
    std::fs::write(&text_file, "no kernel").unwrap();
    let mut server = server(data)
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_DRIVERS__QEMU__KERNEL_DIR", &kernels.dir)
        .env("OSTLER_DRIVERS__QEMU__KERNELS__DAMAGED__IMAGE", &damaged_file)
        .env("OSTLER_DRIVERS__QEMU__KERNELS__TEXT__IMAGE", &text_file)
        .env("OSTLER_EXECUTOR__SLOTS", "2");
    for (name, value) in settings {
        server = server.env(name, value);
    }
    let cli = Cli(server.start().await);
    let drive = MachineParts::find().unwrap().root_drive.display().to_string();
    cli.ok(&machines("kernels", &drive, &["--target", "0", "--max", "2"]));
    cli
}

/// A plan as text; each test has a name, a kernel, a command and more lines.
fn plan(tests: &[(&str, &str, &str, &str)]) -> String {
    let mut plan = "name = \"kernels\"\n".to_owned();
    for (name, kernel, run, more) in tests {
        write!(
            plan,
            "\n[[tests]]\nname = \"{name}\"\nkernel = {kernel}\nrun = '''{run}\n'''\n{more}\n"
        )
        .unwrap();
    }
    plan
}

fn run(cli: &Cli, files: &Path, plan: &str, more: &[&str]) -> (Done, BTreeMap<String, Value>) {
    let file = files.join("plan.toml");
    std::fs::write(&file, plan).unwrap();
    let arguments = [&["test", "run", file.to_str().unwrap()], more].concat();
    let done = cli.run(&arguments);
    let shown = cli.json(&["test", "show", "kernels"]);
    let tests = shown["tests"].as_array().unwrap().iter();
    let tests = tests.map(|test| (test["name"].as_str().unwrap().to_owned(), test.clone()));
    (done, tests.collect())
}

/// A file that a test left.
fn artifact(cli: &Cli, files: &Path, test: &str, path: &str) -> String {
    let dir = files.join("saved");
    cli.ok(&[
        "test",
        "artifacts",
        "kernels",
        test,
        "--output",
        dir.to_str().unwrap(),
    ]);
    let content = std::fs::read_to_string(dir.join(path)).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    content
}

/// For hangs that are seen soon, on machines that are slow.
const HEALTH: [(&str, &str); 4] = [
    ("OSTLER_SANDBOXES__HEALTH_SECONDS", "1"),
    ("OSTLER_SANDBOXES__HEALTH_LIMIT_SECONDS", "3"),
    ("OSTLER_SANDBOXES__HEALTH_FAILURES", "4"),
    ("OSTLER_SANDBOXES__START_SECONDS", "240"),
];

fn expecting(kernel: &str, end: &str) -> String {
    format!("{{ name = \"{kernel}\", expect = \"{end}\" }}")
}

fn python(text: &str) -> String {
    format!("echo begun\npython3 -c '{text}'")
}

/// What hangs the whole machine. Kernels from 6.12 on leave other programs some time in any case.
fn spin() -> String {
    "echo -1 > /proc/sys/kernel/sched_rt_runtime_us\n".to_owned() + &python(SPIN)
}

/// A test that passed, and how its kernel ended.
fn passed(test: &Value, end: &str) {
    let is = (&test["status"], &test["kernel_end"], &test["failure"]);
    assert_eq!(is, (&"succeeded".into(), &end.into(), &Value::Null), "{test}");
}

/// A test that failed, how its kernel ended, whose fault it was, and what it says.
fn failed(test: &Value, end: &Value, failure: &str, says: &[&str]) {
    let is = (&test["status"], &test["kernel_end"], &test["failure"]);
    assert_eq!(is, (&"failed".into(), end, &failure.into()), "{test}");
    let error = test["error"].as_str().unwrap();
    for words in says {
        assert!(error.contains(words), "no `{words}`: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suite_on_four_kernels_of_which_one_panics_and_one_hangs() {
    require!(Qemu);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut guard = LeakGuard::new(dir.path());
    let mut cli = with_kernels(dir.path(), files.path(), &HEALTH).await;
    let versions = MachineKernels::find().unwrap().versions;
    let old = &versions[0];
    let plain = |kernel: &str| format!("\"{kernel}\"");
    let suite = "exec > /dev/console\necho KTAP version 1; echo 1..3\n\
                 test \"$(uname -r)\" = \"${matrix.kernel}\" && echo ok 1 version || echo not ok 1 version\n\
                 grep -q ext4 /proc/filesystems && echo ok 2 ext4 || echo not ok 2 ext4\necho 'ok 3 odd # SKIP not today'";
    let matrix = format!("reports = [\"console\"]\nmatrix = {{ kernel = {versions:?} }}");
    let console = "reports = [\"console\"]\nartifacts = [\"left/*\"]";
    let left = "artifacts = [\"*.txt\"]";
    let tests: [(&str, &str, &str, &str); 4] = [
        ("hangs", &plain(old), &spin(), ""),
        ("suite", "\"${matrix.kernel}\"", suite, &matrix),
        ("panics", &plain(old), BREAK, console),
        ("fails", &plain(old), "echo words > a.txt; exit 7", left),
    ];
    let junit = files.path().join("out.xml");
    let (done, found) = run(
        &cli,
        files.path(),
        &plan(&tests),
        &["--junit", junit.to_str().unwrap()],
    );
    assert_eq!(done.code, 1, "{done:?}");
    println!("{}", done.out);
    for version in &versions {
        let name = format!("suite [kernel={version}]");
        passed(&found[&name], "exit");
        let cases = serde_json::json!({ "passed": 2, "failed": 0, "skipped": 1, "errors": 0 });
        assert_eq!(found[&name]["cases"], cases, "{}", found[&name]);
        let log = artifact(&cli, files.path(), &name, "ostler/console.log");
        assert!(log.contains("ok 2 ext4"), "{log}");
    }
    let panics = &found["panics"];
    let says = ["kernel panic after ", ": sysrq triggered crash"];
    failed(panics, &"panic".into(), "test", &says);
    assert_eq!(panics["cases"]["passed"], 1, "{panics}");
    let problems = panics["problems"].to_string();
    assert!(
        problems.contains("left/*") && problems.contains("2 tests were planned, 1 ran"),
        "{problems}"
    );
    let log = artifact(&cli, files.path(), "panics", "ostler/console.log");
    assert!(
        log.contains("ok 1 before") && log.contains("Kernel panic - not syncing"),
        "{log}"
    );
    let cases = artifact(&cli, files.path(), "panics", "ostler/cases.jsonl");
    assert!(cases.contains("before"), "{cases}");
    failed(&found["hangs"], &"hang".into(), "test", &[]);
    assert_eq!(cli.run(&["test", "logs", "kernels", "hangs"]).out, "begun\n");
    failed(
        &found["fails"],
        &"exit".into(),
        "test",
        &["the program exited with code 7"],
    );
    assert_eq!(artifact(&cli, files.path(), "fails", "a.txt"), "words\n");
    let again = found.values().filter(|test| test["attempt"] != 1).count();
    assert_eq!(again, 0, "none was tried again: {found:#?}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    // The cases of the suites, the one that was told before the panic, and the ends of the three that failed.
    let told = versions.len() * 3 + 1 + 3;
    assert_eq!(xml.matches("<testcase").count(), told, "{xml}");
    assert!(xml.contains("sysrq triggered crash"), "{xml}");
    assert!(cli.0.stop().await.success());
    guard.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_may_be_expected_to_end_in_any_way() {
    require!(Qemu);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut guard = LeakGuard::new(dir.path());
    let mut cli = with_kernels(dir.path(), files.path(), &HEALTH).await;
    let versions = MachineKernels::find().unwrap().versions;
    let (old, new) = (&versions[0], versions.last().unwrap());
    let unbootable = "{ name = \"damaged\", args = \"earlyprintk=serial\" }";
    let rootless =
        format!("{{ name = \"{new}\", args = [\"rdinit=/none\", \"init=/none\"], expect = \"panic\" }}");
    let tests: [(&str, &str, &str, &str); 8] = [
        ("hangs", &expecting(old, "hang"), &spin(), ""),
        (
            "panics",
            &expecting(new, "panic"),
            BREAK,
            "reports = [\"console\"]",
        ),
        ("does not panic", &expecting(new, "panic"), "true", ""),
        ("out of memory", &expecting(old, "oom"), &python(HOG), ""),
        ("restarts", &expecting(old, "reboot"), &python(RESTART), ""),
        ("damaged", unbootable, "true", ""),
        ("no kernel", "\"text\"", "true", ""),
        ("without a root", &rootless, "true", ""),
    ];
    let (done, found) = run(&cli, files.path(), &plan(&tests), &[]);
    assert_eq!(done.code, 1, "{done:?}");
    println!("{}", done.out);
    passed(&found["panics"], "panic");
    assert_eq!(found["panics"]["cases"]["passed"], 1, "{}", found["panics"]);
    failed(
        &found["does not panic"],
        &"exit".into(),
        "test",
        &["a panic was expected of its kernel, which goes on"],
    );
    passed(&found["hangs"], "hang");
    passed(&found["out of memory"], "oom");
    passed(&found["restarts"], "reboot");
    failed(
        &found["damaged"],
        &"hang".into(),
        "test",
        &[
            "the kernel damaged did not boot: ",
            "its console ends with:",
            "System halted",
        ],
    );
    let says = ["text is no kernel: it begins neither like a bzImage"];
    failed(&found["no kernel"], &Value::Null, "job", &says);
    let says = ["did not boot: kernel panic after", "its console ends with:"];
    failed(&found["without a root"], &"panic".into(), "test", &says);
    assert!(cli.0.stop().await.success());
    guard.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_can_be_a_file_of_the_project_and_its_boot_the_test() {
    require!(Qemu);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut cli = with_kernels(dir.path(), files.path(), &HEALTH[3..]).await;
    let kernels = MachineKernels::find().unwrap();
    let version = kernels.versions.last().unwrap();
    let origin = files.path().join("tools");
    repository(&origin, &[("words", "there\n")]);
    std::fs::create_dir(origin.join("images")).unwrap();
    std::fs::copy(kernels.image(version), origin.join("images/bzImage")).unwrap();
    git(&origin, &["add", "--all"]);
    git(&origin, &["commit", "-q", "-m", "Second"]);
    cli.ok(&["project", "add", origin.to_str().unwrap(), "--name", "tools"]);
    let tests = plan(&[
        ("of the project", "\"images/bzImage\"", "uname -r; cat words", ""),
        ("absent", "\"images/none\"", "true", ""),
        ("no image", "\"./words\"", "true", ""),
        ("text", "\"../tools/words\"", "true", ""),
    ]);
    let kernel = format!(
        "kernel = {{ name = \"{version}\", args = \"rdinit=/none init=/none\", expect = \"panic\" }}"
    );
    let text = format!("project = \"tools\"\n{tests}\n[[tests]]\nname = \"boot\"\n{kernel}\n");
    let (done, found) = run(&cli, files.path(), &text, &[]);
    assert_eq!(done.code, 1, "{done:?}");
    let own = &found["of the project"];
    assert_eq!(
        (&own["status"], &own["kernel_end"]),
        (&"succeeded".into(), &"exit".into()),
        "{own}"
    );
    let logs = cli.run(&["test", "logs", "kernels", "of the project"]);
    assert_eq!(logs.out, format!("{version}\nthere\n"), "{logs:?}");
    let boot = &found["boot"];
    assert_eq!(
        (&boot["status"], &boot["kernel_end"]),
        (&"succeeded".into(), &"panic".into()),
        "{boot}"
    );
    for (name, why) in [
        ("absent", "there is no file images/none"),
        ("no image", "must be relative, without empty parts, `.` and `..`"),
        ("text", "must be relative"),
    ] {
        let test = &found[name];
        assert_eq!(
            (&test["status"], &test["failure"]),
            (&"failed".into(), &"job".into()),
            "{test}"
        );
        assert!(test["error"].as_str().unwrap().contains(why), "{test}");
    }
    assert!(cli.0.stop().await.success());
}

/// Processes of QEMU that this server has started.
fn machines_of(data: &Path) -> usize {
    let data = data.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let runs = |process: &std::fs::DirEntry| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let place = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("qemu-system") && place.starts_with(data)
    };
    processes.filter(runs).count()
}

fn all_gone(data: &Path) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while machines_of(data) > 0 {
        assert!(std::time::Instant::now() < end, "a machine is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_machine_is_left_after_a_time_out_a_cancel_or_a_crash() {
    require!(Qemu);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut guard = LeakGuard::new(dir.path());
    let mut cli = with_kernels(dir.path(), files.path(), &HEALTH[3..]).await;
    let version = MachineKernels::find().unwrap().versions[0].clone();
    let kernel = format!("\"{version}\"");
    let stays = format!("{STAYS}; {STAYS}; echo runs; wait; sleep 3001");

    // By the time-out, which is longer where processors are emulated: the kernel is well.
    let late = plan(&[("late", &kernel, &stays, "timeout = 12")]);
    let (done, found) = run(&cli, files.path(), &late, &[]);
    let late = &found["late"];
    let told = format!("{done:?}");
    let emulated = told.contains("5 times as late as asked for, since its processors are emulated");
    let took = late["duration_us"].as_u64().unwrap() / 1000;
    assert_eq!(took > 13_000, emulated, "{took} ms: {told}");
    assert_eq!((done.code, &late["status"]), (1, &"timed_out".into()), "{done:?}");
    assert_eq!(
        (&late["kernel_end"], &late["failure"]),
        (&Value::Null, &"test".into()),
        "{late}"
    );
    assert_eq!(cli.run(&["test", "logs", "kernels", "late"]).out, "runs\n");
    all_gone(dir.path());

    // By a cancel, after the server was killed and has come back.
    let file = files.path().join("plan.toml");
    let text = plan(&[
        ("long", &kernel, &stays, ""),
        // This one needs no kernel of its own, and is kept apart inside its machine.
        ("isolated", &kernel, &stays, "runner = \"qemu\""),
    ]);
    let second = text.rfind("kernel = ").unwrap();
    let text = text[..second].to_owned() + &text[second..].replacen(&format!("kernel = {kernel}\n"), "", 1);
    std::fs::write(&file, text).unwrap();
    let plan = id(&cli.ok(&["test", "run", "-d", file.to_str().unwrap()]), "pln_");
    for test in ["long", "isolated"] {
        cli.until(&["test", "show", &plan], |_| {
            cli.run(&["test", "logs", &plan, test]).out == "runs\n"
        });
    }
    assert_eq!(machines_of(dir.path()), 2);
    cli.0.kill_9();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(machines_of(dir.path()), 2, "they outlive their server");
    cli.0.start_again().await;
    let shown = cli.until(&["test", "show", &plan], |shown| {
        shown["tests"]
            .as_array()
            .unwrap()
            .iter()
            .all(|test| test["status"] == "running")
    });
    assert!(
        shown["tests"]
            .as_array()
            .unwrap()
            .iter()
            .all(|test| test["attempt"] == 1),
        "they were adopted: {shown:#}"
    );
    cli.ok(&["test", "cancel", &plan]);
    let shown = cli.until(&["test", "show", &plan], |shown| {
        shown["plan"]["status"] == "cancelled"
    });
    assert_eq!(shown["tests"][0]["failure"], Value::Null, "{shown:#}");
    all_gone(dir.path());
    assert!(cli.0.stop().await.success());
    guard.check();
}
