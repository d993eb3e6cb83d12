//! Settings of the drivers.
//!
//! `process = false` is short for a section `[drivers.process]` with `enabled = false`, in files and in the environment.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Which drivers the server has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DriverSettings {
    /// The simulated driver, which executes a handful of built-in programs in memory: for trying the server out.
    pub(crate) sim: bool,
    /// Sandboxes made of namespaces and cgroups of this host.
    #[serde(deserialize_with = "short")]
    pub(crate) process: ProcessSettings,
    /// Sandboxes that are containers of a Docker engine.
    #[serde(deserialize_with = "short")]
    pub(crate) docker: DockerSettings,
    /// Sandboxes that are QEMU virtual machines.
    #[serde(deserialize_with = "short")]
    pub(crate) qemu: QemuSettings,
    /// Sandboxes that are Firecracker virtual machines.
    #[serde(deserialize_with = "short")]
    pub(crate) firecracker: FirecrackerSettings,
}

/// Whether a driver is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// If it works here.
    #[default]
    Auto,
    /// The server does not start without it.
    Yes,
    /// It is not looked at.
    No,
}

/// How the process driver keeps sandboxes apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Separation {
    /// By namespaces. Without bubblewrap there is no process driver.
    #[default]
    Namespaces,
    /// By namespaces where bubblewrap works, otherwise not at all.
    Auto,
    /// Not at all: the operator's explicit wish only.
    Plain,
}

/// The process driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProcessSettings {
    /// Whether it is used.
    pub(crate) enabled: Enabled,
    /// How sandboxes are kept apart.
    pub(crate) separation: Separation,
    /// Whether CPU time and memory must be limited.
    pub(crate) limits: bool,
    /// Most processes and threads in one sandbox.
    pub(crate) max_processes: u32,
    /// Devices of this host that templates may ask for: names in /dev.
    pub(crate) devices: BTreeSet<String>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            enabled: Enabled::Auto,
            separation: Separation::Namespaces,
            limits: true,
            max_processes: 4096,
            devices: BTreeSet::new(),
        }
    }
}

/// The docker driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DockerSettings {
    /// Whether it is used.
    pub(crate) enabled: Enabled,
    /// The engine, `unix://PATH`; that of `DOCKER_HOST`, or else the usual socket, when absent.
    pub(crate) engine: Option<String>,
    /// Image of the pool that is made at the first start, if that pool is one of containers.
    pub(crate) image: Option<String>,
    /// Most processes and threads in one sandbox.
    pub(crate) max_processes: u32,
    /// Most starts at once at one engine.
    pub(crate) starts: usize,
    /// Whether images that an engine does not have are pulled.
    pub(crate) pull: bool,
    /// Devices of the engine's host that templates may ask for: names in /dev.
    pub(crate) devices: BTreeSet<String>,
    /// Whether programs can be isolated from each other within a container.
    pub(crate) nested: bool,
    /// Further engines, by the names of their hosts.
    pub(crate) hosts: BTreeMap<String, EngineSettings>,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            enabled: Enabled::Auto,
            engine: None,
            image: None,
            max_processes: 4096,
            starts: 4,
            pull: false,
            devices: BTreeSet::new(),
            nested: false,
            hosts: BTreeMap::new(),
        }
    }
}

/// A Docker engine on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EngineSettings {
    /// The engine: `tcp://HOST:PORT`, `ssh://[USER@]HOST[:PORT]`, or `unix://PATH` of a socket that is forwarded from there.
    pub(crate) engine: String,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificates: Option<PathBuf>,
}

/// The qemu driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QemuSettings {
    /// Whether it is used.
    pub(crate) enabled: Enabled,
    /// QEMU for this host's architecture: a path, or a name in `PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<PathBuf>,
    /// Kernel for templates that name none; the newest in `kernel_dir` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,
    /// Directory whose files `vmlinuz-NAME` are kernels that templates can name.
    pub(crate) kernel_dir: PathBuf,
    /// Directory with one directory of modules for each version of a kernel.
    pub(crate) modules: PathBuf,
    /// `kvm` or `tcg`; found out by booting when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accelerator: Option<String>,
    /// How many times as long tests of kernels may take where processors are emulated.
    pub(crate) slowdown: NonZeroU32,
    /// Further kernels that templates can name.
    pub(crate) kernels: BTreeMap<String, KernelSettings>,
}

/// A kernel that templates can name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelSettings {
    /// The image.
    pub(crate) image: PathBuf,
    /// Directory of its modules, as that of all kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) modules: Option<PathBuf>,
}

impl Default for QemuSettings {
    fn default() -> Self {
        Self {
            enabled: Enabled::Auto,
            program: None,
            kernel: None,
            kernel_dir: PathBuf::from("/boot"),
            modules: PathBuf::from("/lib/modules"),
            accelerator: None,
            slowdown: const { NonZeroU32::new(5).unwrap() },
            kernels: BTreeMap::new(),
        }
    }
}

/// The firecracker driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FirecrackerSettings {
    /// Whether it is used.
    pub(crate) enabled: Enabled,
    /// The Firecracker program: a path, or a name in `PATH`.
    pub(crate) program: PathBuf,
    /// Its jailer: a path, or a name in `PATH`.
    pub(crate) jailer: PathBuf,
    /// Whether virtual machines run in the jailer unless a template says otherwise.
    pub(crate) jailed: bool,
    /// Kernel for templates that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,
    /// Archive for initial RAM disks, such as with the modules that the kernel needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initrd: Option<PathBuf>,
}

impl Default for FirecrackerSettings {
    fn default() -> Self {
        Self {
            enabled: Enabled::Auto,
            program: "firecracker".into(),
            jailer: "jailer".into(),
            jailed: true,
            kernel: None,
            initrd: None,
        }
    }
}

/// A section that may be given as the value of its `enabled` alone.
trait Section: Default + for<'de> Deserialize<'de> {
    fn with(enabled: Enabled) -> Self;
}

macro_rules! sections {
    ($($settings:ty),*) => {$(
        impl Section for $settings {
            fn with(enabled: Enabled) -> Self {
                Self {
                    enabled,
                    ..Self::default()
                }
            }
        }
    )*};
}
sections!(ProcessSettings, DockerSettings, QemuSettings, FirecrackerSettings);

const CHOICES: &str = "`true`, `false` or \"auto\"";

fn short<'de, T: Section, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Either<T>(PhantomData<T>);
    impl<'de, T: Section> Visitor<'de> for Either<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{CHOICES}, or a section")
        }
        fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
            Word.visit_bool(value).map(T::with)
        }
        fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
            Word.visit_str(value).map(T::with)
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Either(PhantomData))
}

struct Word;

impl Visitor<'_> for Word {
    type Value = Enabled;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CHOICES)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Enabled, E> {
        Ok(if value { Enabled::Yes } else { Enabled::No })
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Enabled, E> {
        match value {
            "auto" => Ok(Enabled::Auto),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(value), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Enabled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Word)
    }
}

impl Serialize for Enabled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
        }
    }
}
