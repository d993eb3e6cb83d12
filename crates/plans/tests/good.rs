//! Plans that are right, and what they stand for.

use ostler_domain::{
    DriverKind, Isolation, KernelEnd, NetworkPolicy, ReportFormat, ReportSource, TestIsolation, TestNetwork,
};
use ostler_plans::{Format, Plan, PlannedCommand, test_key};

fn toml(text: &str) -> Plan {
    Plan::parse(text, Format::Toml).unwrap_or_else(|errors| panic!("{errors}"))
}

fn yaml(text: &str) -> Plan {
    Plan::parse(text, Format::Yaml).unwrap_or_else(|errors| panic!("{errors}"))
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.tests.iter().map(|test| test.name.as_str()).collect()
}

const FULL: &str = r##"
name = "nightly"
project = "kernel-tools"
branch = "main"
fail_fast = true
max_parallel = 8
labels = { team = "core", week = 47 }
env = { CI = true, LEVEL = "plan" }

[defaults]
timeout = "5m"
retries = 1
env = { LEVEL = "defaults", A = "a" }
requires = { cpus = 2, labels = { zone = "a" } }

[[tests]]
name = "build"
run = "make -j2"

[[tests]]
name = "unit"
run = ["cargo", "nextest", "run", 7]
needs = ["build"]
timeout = 90
priority = -5
retries = 3
retry_delay = "1m30s"
cwd = "crate"
stdin = "yes\n"
env = { LEVEL = "test" }
runner = "docker"
image = "debian:12"
requires = { memory_mb = 512, network = "filtered", labels = { disk = "ssd" }, devices = ["kvm"], kernel = 6.10 }
isolation = "sandbox"
network = "sandbox"
artifacts = ["target/**/*.xml", "logs/{a,b}.txt"]
artifact_limits = { max_files = 100, max_bytes = "10MiB" }
reports = ["junit/*.xml", { path = "stdout", format = "nextest" }, "console"]
quarantined = true
allow_failure = true
tags = ["slow"]
shards = 2

[[tests]]
name = "boot"
script = "#!/bin/sh\necho ok\n"
kernel = { name = "vmlinuz/${matrix.kernel}", args = "panic=1 quiet", expect = "${matrix.end}" }
requires = { arch = "${matrix.arch}", isolation = "vm", cpus = "${matrix.cpus}" }
needs = ["build"]
[tests.matrix]
kernel = ["6.1", 6.10]
arch = ["x86_64", "aarch64"]
exclude = [{ kernel = "6.1", arch = "aarch64" }]
include = [{ end = "panic", cpus = 3 }, { kernel = 5.15, arch = "riscv64", end = "reboot", cpus = 1 }]
"##;

#[test]
fn every_field() {
    let plan = toml(FULL);
    assert_eq!(
        (plan.name.as_str(), plan.branch.as_deref()),
        ("nightly", Some("main"))
    );
    assert_eq!((plan.fail_fast, plan.max_parallel), (true, Some(8)));
    assert_eq!(plan.labels["week"], "47");
    assert_eq!(
        names(&plan),
        [
            "build",
            "unit [shard=1/2]",
            "unit [shard=2/2]",
            "boot [kernel=6.1, arch=x86_64]",
            "boot [kernel=6.10, arch=x86_64]",
            "boot [kernel=6.10, arch=aarch64]",
            "boot [kernel=5.15, arch=riscv64, end=reboot, cpus=1]",
        ]
    );
    let unit = &plan.tests[2];
    assert_eq!(unit.key, test_key("nightly", "unit [shard=2/2]"));
    assert_eq!(
        unit.command,
        Some(PlannedCommand::Argv(
            ["cargo", "nextest", "run", "7"].map(str::to_owned).into()
        ))
    );
    let env: Vec<(&str, &str)> = unit.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        env,
        [
            ("A", "a"),
            ("CI", "true"),
            ("LEVEL", "test"),
            ("OSTLER_SHARD_COUNT", "2"),
            ("OSTLER_SHARD_INDEX", "2")
        ]
    );
    assert_eq!((unit.timeout_ms, unit.priority), (Some(90_000), -5));
    assert_eq!((unit.retries, unit.retry_delay_ms), (3, 90_000));
    assert_eq!(unit.needs, [0]);
    assert_eq!(unit.requires.driver, Some(DriverKind::Docker));
    assert_eq!(unit.requires.image.as_deref(), Some("debian:12"));
    assert_eq!(
        (unit.requires.cpus, unit.requires.memory_mb),
        (Some(2), Some(512))
    );
    assert_eq!(unit.requires.network, Some(NetworkPolicy::Filtered));
    assert_eq!(unit.requires.labels.len(), 2, "labels of defaults and test");
    assert!(unit.requires.devices.contains("kvm"));
    assert_eq!(unit.requires.kernel.as_deref(), Some("6.10"));
    assert_eq!(
        (unit.isolation, unit.network),
        (TestIsolation::Sandbox, TestNetwork::Sandbox)
    );
    assert_eq!(unit.artifact_limits.max_bytes, Some(10 << 20));
    assert_eq!(unit.reports[0].source, ReportSource::Files("junit/*.xml".into()));
    assert_eq!(
        (&unit.reports[1].source, unit.reports[1].format),
        (&ReportSource::Stdout, Some(ReportFormat::Nextest))
    );
    assert_eq!(unit.reports[2].source, ReportSource::Console);
    assert!(unit.quarantined && unit.allow_failure);

    let boot = &plan.tests[4];
    assert_eq!(boot.matrix["kernel"], "6.10");
    assert_eq!(boot.requires.arch.as_deref(), Some("x86_64"));
    assert_eq!(
        (boot.requires.cpus, boot.requires.isolation),
        (Some(3), Some(Isolation::Vm))
    );
    let kernel = boot.kernel.as_ref().unwrap();
    assert_eq!(
        (kernel.name.as_str(), kernel.expect),
        ("vmlinuz/6.10", KernelEnd::Panic)
    );
    assert_eq!(kernel.args, ["panic=1", "quiet"]);
    assert_eq!(
        (boot.isolation, boot.network),
        (TestIsolation::Test, TestNetwork::None)
    );
    assert_eq!(plan.tests[6].kernel.as_ref().unwrap().expect, KernelEnd::Reboot);
}

#[test]
fn a_plan_survives_being_stored() {
    let plan = toml(FULL);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn yaml_keeps_versions_and_copies_anchors() {
    let plan = yaml(
        "name: p\ntests:\n- name: a\n  run: |\n    echo one\n    echo two\n  env: &e {V: 6.10, N: 0x10, T: \"true\", E: ''}\n\
         - {name: b, run: [x], env: *e, timeout: }\n",
    );
    assert_eq!(
        plan.tests[0].command,
        Some(PlannedCommand::Shell("echo one\necho two\n".into()))
    );
    assert_eq!(plan.tests[1].env["V"], "6.10");
    assert_eq!(plan.tests[1].env["N"], "16");
    assert_eq!(plan.tests[1].timeout_ms, None);
}

#[test]
fn what_is_needed_comes_first_and_otherwise_the_order_of_the_text() {
    let plan = yaml(
        "name: p\ntests:\n- {name: z, run: x, needs: [m]}\n- {name: a, run: x}\n- {name: m, run: x}\n- {name: b, run: x}\n",
    );
    assert_eq!(names(&plan), ["a", "m", "z", "b"]);
    assert_eq!(plan.tests[2].needs, [1]);
}

#[test]
fn needs_select_by_suffix() {
    let plan = toml(
        "name = 'p'\nmatrix = { k = [1, 2], a = ['x', 'y'] }\n\
         [[tests]]\nname = 'b'\nrun = 'x'\nshards = 2\n\
         [[tests]]\nname = 'same'\nrun = 'x'\nneeds = ['b [k=${matrix.k}, a=${matrix.a}]']\n\
         [[tests]]\nname = 'one'\nrun = 'x'\nmatrix = {}\nneeds = ['b [k=2, a=y, shard=2/2]', 'b [a=x, shard=1/2]']\n",
    );
    let needs = |name: &str| {
        let test = plan.tests.iter().find(|t| t.name == name).unwrap();
        test.needs
            .iter()
            .map(|i| plan.tests[*i as usize].name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        needs("same [k=2, a=x]"),
        ["b [k=2, a=x, shard=1/2]", "b [k=2, a=x, shard=2/2]"]
    );
    assert_eq!(
        needs("one"),
        [
            "b [k=1, a=x, shard=1/2]",
            "b [k=2, a=x, shard=1/2]",
            "b [k=2, a=y, shard=2/2]"
        ]
    );
}

#[test]
fn shells_keep_their_own_variables() {
    let plan = toml(
        "name = 'p'\n[[tests]]\nname = 't'\nrun = 'echo ${HOME} $${matrix.k} ${matrix.k}${matrix.x}'\n\
         matrix = { k = ['a', 'b'], include = [{ k = 'b', x = '!' }] }\n",
    );
    let run = |i: usize| match &plan.tests[i].command {
        Some(PlannedCommand::Shell(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(run(0), "echo ${HOME} ${matrix.k} a");
    assert_eq!(run(1), "echo ${HOME} ${matrix.k} b!");
}

#[test]
fn the_rules_of_include_are_those_of_github_actions() {
    // The example of their documentation, with its result.
    let plan = yaml(
        "name: p\ntests:\n- name: t\n  run: x\n  matrix:\n    fruit: [apple, pear]\n    animal: [cat, dog]\n    include:\n\
         \x20   - color: green\n    - {color: pink, animal: cat}\n    - {fruit: apple, shape: circle}\n    - fruit: banana\n\
         \x20   - {fruit: banana, animal: cat}\n",
    );
    let values: Vec<String> = plan
        .tests
        .iter()
        .map(|t| {
            t.matrix
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        values,
        [
            "animal=cat color=pink fruit=apple shape=circle",
            "animal=dog color=green fruit=apple shape=circle",
            "animal=cat color=pink fruit=pear",
            "animal=dog color=green fruit=pear",
            "fruit=banana",
            "animal=cat fruit=banana",
        ]
    );
}

#[test]
fn a_kernel_may_be_all_there_is_to_do() {
    let plan = toml("name = 'p'\n[[tests]]\nname = 't'\nkernel = { name = 'linux', expect = 'panic' }\n");
    assert_eq!(plan.tests[0].command, None);
}

#[test]
fn a_hundred_thousand_tests_in_one_chain() {
    let mut text = String::from("name: p\ntests:\n");
    for i in 0..ostler_plans::limits::TESTS {
        let need = if i == 0 {
            String::new()
        } else {
            format!(", needs: [t{}]", i - 1)
        };
        text.extend(["- {name: t", &i.to_string(), ", run: x", &need, "}\n"]);
    }
    let plan = yaml(&text);
    assert_eq!(plan.tests.len(), 100_000);
    assert_eq!(plan.tests[99_999].needs, [99_998]);
}

#[test]
fn keys_are_stable() {
    assert_eq!(test_key("plan", "test [a=1]"), "e38e49222ec4c405c92a6d4bdb1f6d6e");
    assert_ne!(test_key("ab", "c"), test_key("a", "bc"));
}

#[test]
fn every_part_knows_all_items_and_its_own_number() {
    let plan = toml(
        "name = 'p'\n[[tests]]\nname = 'unit'\nrun = 'x'\nshards = 2\nitems = ['${matrix.k}/a', 'b c']\nmatrix = {k = [1, 2]}",
    );
    assert_eq!(plan.tests.len(), 4);
    for test in &plan.tests {
        assert_eq!(test.items, [format!("{}/a", test.matrix["k"]), "b c".to_owned()]);
    }
}
