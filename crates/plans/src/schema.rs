//! JSON Schema of the text of a plan, for editors and for programs that write plans.
//!
//! Written by hand, because most fields take several forms (a number, a text, a template); a test holds its fields
//! against those that are read.

use crate::fields::RUNNERS;
use crate::limits;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy};
use serde_json::{Map, Value, json};

/// The schema (JSON Schema 2020-12) of a plan in any of its formats.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ostler test plan",
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "tests"],
        "properties": {
            "name": text("Name of the plan; with the name of a test its identity for history."),
            "project": text("Project whose workspace the tests get."),
            "branch": text("Branch of the project."),
            "fail_fast": { "type": "boolean", "description": "Whether the first failure cancels what did not begin." },
            "max_parallel": whole("How many tests may run at a time.", 1, 100_000),
            "labels": table("Words about the plan, for lists and filters."),
            "env": table("Environment variables of all tests."),
            "matrix": described("Matrix of all tests that have none of their own.", &json!({ "$ref": "#/$defs/matrix" })),
            "defaults": described("What tests have in common: any field but `name`.", &json!({ "$ref": "#/$defs/test" })),
            "tests": {
                "type": "array",
                "minItems": 1,
                "maxItems": limits::TESTS,
                "items": { "$ref": "#/$defs/test", "required": ["name"] },
            },
        },
        "$defs": {
            "scalar": { "type": ["string", "number", "boolean"] },
            "template": { "type": "string", "pattern": r"\$\{matrix\." },
            "period": { "anyOf": [
                { "type": "string", "pattern": r"^\s*([0-9]+(ms|s|m|h|d))+\s*$" },
                { "type": "number", "minimum": 0 },
            ] },
            "test": test(),
            "requires": requires(),
            "matrix": matrix(),
            "kernel": kernel(),
            "report": report(),
        },
    })
}

fn test() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": text("Name, unique in the plan."),
            "run": described("A text for `sh -c`, or a list: program and arguments.", &json!({ "anyOf": [
                { "type": "string" },
                { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/scalar" } },
            ] })),
            "script": text("Content of a file to execute, instead of `run`."),
            "env": table("Environment variables."),
            "cwd": text("Working directory, relative to the workspace unless absolute."),
            "stdin": text("Standard input."),
            "timeout": templated("Longest run time: \"90s\", \"5m\" or a number of seconds.", &json!({ "$ref": "#/$defs/period" })),
            "priority": templated("Higher ones first.", &whole("", -1000, 1000)),
            "retries": templated("How often it may be tried again.", &whole("", 0, 10)),
            "retry_delay": templated("Pause before a retry.", &json!({ "$ref": "#/$defs/period" })),
            "needs": list("Tests that must have passed: a name, or `name [axis=value]`.", &json!({ "type": "string" })),
            "runner": templated("Which driver runs it.", &json!({ "enum": RUNNERS })),
            "requires": described("What its sandbox must have.", &json!({ "$ref": "#/$defs/requires" })),
            "image": text("Image of its sandbox."),
            "kernel": described("Kernel to boot.", &json!({ "$ref": "#/$defs/kernel" })),
            "isolation": templated("`test`: fresh namespaces in a warm sandbox; `sandbox`: a new sandbox per test; `none`.",
                &json!({ "enum": ["test", "sandbox", "none"], "default": "test" })),
            "network": templated("`none`, or that of its sandbox.", &json!({ "enum": ["none", "sandbox"], "default": "none" })),
            "artifacts": list("Globs of files to keep, relative to the workspace.", &json!({ "type": "string" })),
            "artifact_limits": {
                "type": "object",
                "additionalProperties": false,
                "description": "Bounds for what is kept.",
                "properties": {
                    "max_files": whole("Most files.", 0, 1_000_000),
                    "max_bytes": described("Most bytes: a number, or \"10MiB\".", &json!({ "anyOf": [
                        { "type": "integer", "minimum": 0 },
                        { "type": "string", "pattern": "^\\s*[0-9]+\\s*(B|kB|MB|GB|KiB|MiB|GiB)?\\s*$" },
                    ] })),
                },
            },
            "reports": list("Reports with results of single cases.", &json!({ "$ref": "#/$defs/report" })),
            "shards": templated("Into how many parts it is split.", &whole("", 1, 1000)),
            "items": list("What the parts share, by how long each took before; a part finds its own in OSTLER_SHARD_ITEMS.",
                &json!({ "type": "string" })),
            "quarantined": templated("Its failure is known and counts for nothing.", &json!({ "type": "boolean" })),
            "allow_failure": templated("Its failure does not fail the plan.", &json!({ "type": "boolean" })),
            "tags": list("Words for filters.", &json!({ "type": "string" })),
            "matrix": described("Its own matrix; `{}` for none.", &json!({ "$ref": "#/$defs/matrix" })),
        },
    })
}

fn requires() -> Value {
    let names = |all: Vec<&str>| json!({ "enum": all });
    let drivers = names(DriverKind::ALL.iter().map(|d| d.as_str()).collect());
    let isolations = names(Isolation::ALL.iter().map(|d| d.as_str()).collect());
    let networks = names(NetworkPolicy::ALL.iter().map(|d| d.as_str()).collect());
    let amount = |what: &str| templated(what, &whole("", 1, i64::from(u32::MAX)));
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "pool": text("Only this pool."),
            "driver": templated("Only this driver.", &drivers),
            "image": text("Only this image."),
            "arch": text("Architecture as in `uname -m`."),
            "isolation": templated("At least this isolation.", &isolations),
            "cpus": amount("At least this many CPUs."),
            "memory_mb": amount("At least this much memory, MiB."),
            "disk_mb": amount("At least this much disk, MiB."),
            "network": templated("Exactly this network policy.", &networks),
            "labels": table("Labels of the pool."),
            "devices": list("Devices that must be there.", &json!({ "type": "string" })),
            "kernel": described("Version of the running kernel: \"6.1\" is any 6.1.x.", &json!({ "$ref": "#/$defs/scalar" })),
        },
    })
}

fn kernel() -> Value {
    let ends =
        json!({ "enum": ["exit", "panic", "oops", "reboot", "poweroff", "oom", "hang"], "default": "exit" });
    json!({ "anyOf": [
        { "type": ["string", "number"] },
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["name"],
            "properties": {
                "name": described("A known kernel, or a path in the workspace.", &json!({ "$ref": "#/$defs/scalar" })),
                "args": described("Words for its command line.", &json!({ "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "$ref": "#/$defs/scalar" } },
                ] })),
                "expect": templated("The end that counts as success.", &ends),
            },
        },
    ] })
}

fn report() -> Value {
    json!({ "anyOf": [
        { "type": "string" },
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["path"],
            "properties": {
                "path": text("A glob relative to the workspace, `stdout` or `console`."),
                "format": { "enum": ["junit", "tap", "ktap", "libtest", "nextest"] },
            },
        },
    ] })
}

fn matrix() -> Value {
    let pairs =
        json!({ "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/scalar" } });
    json!({
        "type": "object",
        "description": "Axes, each a list of values; every combination is a test of its own.",
        "properties": {
            "include": list("Values to add to the combinations that they fit, or combinations to add.", &pairs),
            "exclude": list("Combinations to leave out.", &pairs),
        },
        "additionalProperties": { "type": "array", "minItems": 1, "uniqueItems": true, "items": { "$ref": "#/$defs/scalar" } },
    })
}

fn described(what: &str, schema: &Value) -> Value {
    let mut all: Map<String, Value> = schema.as_object().cloned().unwrap_or_default();
    all.insert("description".to_owned(), what.into());
    Value::Object(all)
}

fn text(what: &str) -> Value {
    json!({ "type": "string", "description": what })
}

fn whole(what: &str, min: i64, max: i64) -> Value {
    let mut schema = json!({ "type": "integer", "minimum": min, "maximum": max });
    if !what.is_empty() {
        schema["description"] = what.into();
    }
    schema
}

fn table(what: &str) -> Value {
    json!({ "type": "object", "description": what, "additionalProperties": { "$ref": "#/$defs/scalar" } })
}

fn list(what: &str, items: &Value) -> Value {
    json!({ "type": "array", "description": what, "items": items })
}

/// A value, or a text with `${matrix.…}`.
fn templated(what: &str, value: &Value) -> Value {
    json!({ "description": what, "anyOf": [value, { "$ref": "#/$defs/template" }] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{KernelTable, ReportTable, Requires};
    use crate::file::{Limits, PlanFile, TestSpec};
    use serde::de::value::Error;
    use serde::de::{Deserialize, Deserializer, Visitor};

    /// Tells the fields that a derived struct asks for.
    struct Asked<'a>(&'a mut Vec<String>);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("not a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields.iter().map(|field| (*field).to_owned()));
            Err(serde::de::Error::custom("that is enough"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
            option seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn same_fields<'de, T: Deserialize<'de>>(schema: &Value, what: &str) {
        let mut read = Vec::new();
        assert!(T::deserialize(Asked(&mut read)).is_err());
        read.sort();
        let mut written: Vec<String> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        written.sort();
        assert_eq!(read, written, "{what}");
    }

    #[test]
    fn it_has_the_fields_that_are_read() {
        let all = schema();
        same_fields::<PlanFile>(&all, "plan");
        same_fields::<TestSpec>(&test(), "test");
        same_fields::<Limits>(&test()["properties"]["artifact_limits"], "artifact_limits");
        same_fields::<Requires>(&requires(), "requires");
        same_fields::<KernelTable>(&kernel()["anyOf"][1], "kernel");
        same_fields::<ReportTable>(&report()["anyOf"][1], "report");
    }

    #[test]
    fn requirements_are_those_of_the_domain() {
        let mut domain = Vec::new();
        assert!(ostler_domain::Requirements::deserialize(Asked(&mut domain)).is_err());
        domain.sort();
        let ours: Vec<String> = requires()["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(domain, ours);
    }

    #[test]
    fn runners_are_the_drivers_and_auto() {
        let drivers: Vec<&str> = DriverKind::ALL.iter().map(|d| d.as_str()).collect();
        assert_eq!(RUNNERS[0], "auto");
        assert_eq!(RUNNERS[1..], drivers);
    }

    #[test]
    fn it_changes_only_on_purpose() {
        insta::assert_json_snapshot!(schema());
    }
}
