//! Sequences of operations, and what is known of the tests in them.

use crate::programs::What;
use ostler_domain::DriverKind;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// How long a test that does not end may take.
pub(crate) const TIMEOUT_MS: u64 = 200;

/// A pool of the world: name, driver, CPUs, memory and a label.
pub(crate) struct Place {
    pub(crate) pool: &'static str,
    pub(crate) kind: DriverKind,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) label: &'static str,
}

pub(crate) const PLACES: [Place; 3] = [
    Place {
        pool: "small",
        kind: DriverKind::Sim,
        cpus: 1,
        memory_mb: 256,
        label: "small",
    },
    Place {
        pool: "large",
        kind: DriverKind::Sim,
        cpus: 4,
        memory_mb: 4096,
        label: "large",
    },
    Place {
        pool: "other",
        kind: DriverKind::Lima,
        cpus: 2,
        memory_mb: 1024,
        label: "other",
    },
];
/// Sandboxes that a pool may have, unless an operation says otherwise.
pub(crate) const MAX: u32 = 2;

/// What a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Cpus(u32),
    Memory(u64),
    Label(&'static str),
    Pool(&'static str),
    /// As `requires.driver`, or as the `runner` of the test.
    Kind(DriverKind, bool),
}

impl Need {
    pub(crate) fn met_by(self, place: &Place) -> bool {
        match self {
            Self::Nothing => true,
            Self::Cpus(cpus) => place.cpus >= cpus,
            Self::Memory(memory) => place.memory_mb >= memory,
            Self::Label(label) => place.label == label,
            Self::Pool(pool) => place.pool == pool,
            Self::Kind(kind, _) => place.kind == kind,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TestShape {
    pub(crate) what: What,
    pub(crate) need: Need,
    pub(crate) priority: i32,
    pub(crate) retries: u32,
    pub(crate) ms: u64,
    pub(crate) bytes: usize,
    /// Which of the tests before it it needs, counted round.
    pub(crate) after: Option<usize>,
    pub(crate) allow_failure: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct PlanShape {
    pub(crate) tests: Vec<TestShape>,
    pub(crate) max_parallel: Option<u32>,
    pub(crate) fail_fast: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Submit(PlanShape),
    /// A plan with a test that no pool can execute.
    Impossible,
    Cancel(Index),
    Rerun(Index, bool),
    /// Changes how many sandboxes a pool may have and keeps warm.
    Pool(Index, u32, u32),
    Fill,
    /// Ends a sandbox in which a program is being executed.
    CrashSandbox(Index),
    FailStarts(u32),
    /// Kills the server now.
    Kill,
    /// Kills the server some steps later, and perhaps the next one, too, some steps after its start.
    KillAt(u16, Option<u16>),
    /// Stops the server and starts it again.
    Restart,
    Wait(u64),
}

pub(crate) fn program_name(plan: &str, test: usize) -> String {
    format!("{plan}/t{test}")
}

impl PlanShape {
    /// Its text.
    pub(crate) fn text(&self, name: &str) -> String {
        let tests: Vec<Value> = self
            .tests
            .iter()
            .enumerate()
            .map(|(at, test)| test.json(name, at))
            .collect();
        let mut plan = json!({ "name": name, "tests": tests, "fail_fast": self.fail_fast });
        if let Some(most) = self.max_parallel {
            plan["max_parallel"] = json!(most);
        }
        plan.to_string()
    }
}

impl TestShape {
    fn json(&self, plan: &str, at: usize) -> Value {
        let mut test = json!({
            "name": format!("t{at}"),
            "run": [
                self.what.program(),
                program_name(plan, at),
                format!("{:?}", self.what),
                self.ms.to_string(),
                self.bytes.to_string(),
            ],
            "priority": self.priority,
            "retries": self.retries,
            "allow_failure": self.allow_failure,
        });
        if !self.what.ends_by_itself() && self.what != What::Crash {
            test["timeout"] = json!(format!("{TIMEOUT_MS}ms"));
        }
        if let Some(after) = self.after
            && at > 0
        {
            test["needs"] = json!([format!("t{}", after % at)]);
        }
        match self.need {
            Need::Nothing => {}
            Need::Cpus(cpus) => test["requires"] = json!({ "cpus": cpus }),
            Need::Memory(memory) => test["requires"] = json!({ "memory_mb": memory }),
            Need::Label(label) => test["requires"] = json!({ "labels": { "size": label } }),
            Need::Pool(pool) => test["requires"] = json!({ "pool": pool }),
            Need::Kind(kind, true) => test["runner"] = json!(kind.as_str()),
            Need::Kind(kind, false) => test["requires"] = json!({ "driver": kind.as_str() }),
        }
        test
    }
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        10 => Just(What::Pass),
        3 => Just(What::Fail),
        3 => Just(What::Flaky),
        1 => Just(What::Hang),
        1 => Just(What::Crash),
    ]
}

fn need() -> impl Strategy<Value = Need> {
    prop_oneof![
        6 => Just(Need::Nothing),
        1 => Just(Need::Cpus(2)),
        1 => Just(Need::Memory(2048)),
        1 => Just(Need::Label("small")),
        1 => Just(Need::Pool("large")),
        1 => Just(Need::Kind(DriverKind::Lima, true)),
        1 => Just(Need::Kind(DriverKind::Sim, false)),
    ]
}

pub(crate) fn test() -> impl Strategy<Value = TestShape> {
    (
        what(),
        need(),
        -2..3_i32,
        0..2_u32,
        0..40_u64,
        prop_oneof![Just(0_usize), 1..2000_usize, Just(100_000)],
        option::weighted(0.3, 0..6_usize),
        prop::bool::weighted(0.15),
    )
        .prop_map(
            |(what, need, priority, retries, ms, bytes, after, allow_failure)| TestShape {
                what,
                need,
                priority,
                retries,
                ms,
                bytes,
                after,
                allow_failure,
            },
        )
}

fn plan() -> impl Strategy<Value = PlanShape> {
    (
        vec(test(), 1..7),
        option::weighted(0.25, 1..4_u32),
        prop::bool::weighted(0.15),
    )
        .prop_map(|(tests, max_parallel, fail_fast)| PlanShape {
            tests,
            max_parallel,
            fail_fast,
        })
}

pub(crate) fn operations() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => plan().prop_map(Op::Submit),
        1 => Just(Op::Impossible),
        2 => any::<Index>().prop_map(Op::Cancel),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(plan, failed)| Op::Rerun(plan, failed)),
        1 => (any::<Index>(), 1..4_u32, select(vec![0, 0, 1])).prop_map(|(pool, max, warm)| Op::Pool(pool, max, warm)),
        1 => Just(Op::Fill),
        1 => any::<Index>().prop_map(Op::CrashSandbox),
        1 => (1..3_u32).prop_map(Op::FailStarts),
        1 => Just(Op::Kill),
        6 => (1..60_u16, option::of(1..25_u16)).prop_map(|(steps, again)| Op::KillAt(steps, again)),
        1 => Just(Op::Restart),
        3 => (1..80_u64).prop_map(Op::Wait),
    ];
    // Without a plan there is nothing to see.
    (plan(), vec(op, 3..10)).prop_map(|(first, mut more)| {
        more.insert(0, Op::Submit(first));
        more
    })
}
