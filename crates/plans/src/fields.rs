//! The fields of a test with alternatives: kernel, report, requirements, matrix.

use crate::tree::SCALAR;
use crate::values::{Pairs, Scalar, Template, TextOrList, Whole};
use ostler_domain::{DriverKind, Isolation, KernelEnd, NetworkPolicy, ReportFormat};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// Which driver runs a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runner(pub(crate) Option<DriverKind>);

/// What can stand for a runner.
pub(crate) const RUNNERS: &[&str] = &[
    "auto",
    "sim",
    "process",
    "docker",
    "qemu",
    "firecracker",
    "lima",
    "kubernetes",
];

impl<'de> Deserialize<'de> for Runner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Runner;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {}", RUNNERS.join(", "))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Runner, E> {
                match text {
                    "auto" => Ok(Runner(None)),
                    _ => text
                        .parse()
                        .map(|driver| Runner(Some(driver)))
                        .map_err(|_| E::unknown_variant(text, RUNNERS)),
                }
            }
        }
        deserializer.deserialize_any(Name)
    }
}

/// A positive number that fits the columns of the stores.
pub(crate) type Amount = Whole<1, { u32::MAX as i64 }>;

/// What the sandbox of a test must have: [`ostler_domain::Requirements`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requires {
    pub(crate) pool: Option<String>,
    pub(crate) driver: Option<Template<DriverKind>>,
    pub(crate) image: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) isolation: Option<Template<Isolation>>,
    pub(crate) cpus: Option<Template<Amount>>,
    pub(crate) memory_mb: Option<Template<Amount>>,
    pub(crate) disk_mb: Option<Template<Amount>>,
    pub(crate) network: Option<Template<NetworkPolicy>>,
    pub(crate) labels: Option<BTreeMap<String, Scalar>>,
    pub(crate) devices: Option<Vec<String>>,
    pub(crate) kernel: Option<Scalar>,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelField(pub(crate) KernelTable);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelTable {
    pub(crate) name: Scalar,
    pub(crate) args: Option<TextOrList>,
    pub(crate) expect: Option<Template<KernelEnd>>,
}

impl<'de> Deserialize<'de> for KernelField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = KernelField;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a kernel or a table with `name`")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<KernelField, E> {
                Ok(KernelField(KernelTable {
                    name: Scalar(name.to_owned()),
                    args: None,
                    expect: None,
                }))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<KernelField, D::Error> {
                inner.deserialize_any(self)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KernelField, A::Error> {
                KernelTable::deserialize(MapAccessDeserializer::new(map)).map(KernelField)
            }
        }
        deserializer.deserialize_newtype_struct(SCALAR, Either)
    }
}

/// Where a report is found, and its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReportField(pub(crate) ReportTable);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportTable {
    pub(crate) path: String,
    pub(crate) format: Option<ReportFormat>,
}

impl<'de> Deserialize<'de> for ReportField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ReportField;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a glob, \"stdout\", \"console\", or a table with `path` and `format`")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<ReportField, E> {
                Ok(ReportField(ReportTable {
                    path: path.to_owned(),
                    format: None,
                }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ReportField, A::Error> {
                ReportTable::deserialize(MapAccessDeserializer::new(map)).map(ReportField)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Axes in the order of the text, and what is left out or added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) axes: Vec<(String, Vec<String>)>,
    pub(crate) include: Vec<Pairs>,
    pub(crate) exclude: Vec<Pairs>,
}

impl<'de> Deserialize<'de> for Matrix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Matrix;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of axes, each a list of values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Matrix, A::Error> {
                let mut matrix = Matrix::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "include" => matrix.include = map.next_value()?,
                        "exclude" => matrix.exclude = map.next_value()?,
                        _ => {
                            let values: Vec<Scalar> = map.next_value()?;
                            matrix.axes.push((key, values.into_iter().map(|v| v.0).collect()));
                        }
                    }
                }
                Ok(matrix)
            }
        }
        deserializer.deserialize_map(Table)
    }
}
