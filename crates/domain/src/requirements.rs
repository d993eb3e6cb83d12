//! What a run needs and what a pool offers, and whether the two match.

use crate::state::text_enum;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

text_enum! {
    /// The kinds of place where a run can execute.
    DriverKind {
        /// In memory, for tests of everything above drivers.
        Sim = "sim",
        /// Namespaces on this host.
        Process = "process",
        /// A container of a Docker engine.
        Docker = "docker",
        /// A QEMU virtual machine.
        Qemu = "qemu",
        /// A Firecracker virtual machine.
        Firecracker = "firecracker",
        /// A Lima virtual machine.
        Lima = "lima",
        /// A Kubernetes pod.
        Kubernetes = "kubernetes",
    }
}

text_enum! {
    /// How strongly a sandbox is kept apart from its host; a later one is stronger.
    Isolation {
        /// None: a plain process group.
        Process = "process",
        /// Kernel namespaces and cgroups, one shared kernel.
        Namespace = "namespace",
        /// A virtual machine with a kernel of its own.
        Vm = "vm",
    }
}

text_enum! {
    /// What a sandbox may reach. In every case the guest's own channel to Ostler (gateway, `bd`) works.
    NetworkPolicy {
        /// Nothing but its own loopback.
        None = "none",
        /// What the template's [`crate::Egress`] names, and nothing else.
        Filtered = "filtered",
        /// What the host can reach.
        Open = "open",
    }
}

/// What a run needs from the sandbox that executes it. Empty needs nothing in particular.
///
/// Runs with equal requirements form one *class*; the queue is kept by class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requirements {
    /// Only a sandbox of the pool with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only a sandbox of this driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverKind>,
    /// Only a sandbox started from this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Machine architecture as in `uname -m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// At least this isolation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// At least this many CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// At least this much memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// At least this much disk, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
    /// Exactly this network policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPolicy>,
    /// Only a sandbox with this kernel: its name, or the beginning of its version, such as `6.1` for any 6.1.x.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Labels that the pool must carry with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Devices that must be there.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<String>,
}

/// What a pool's sandboxes have to offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Name of the pool.
    pub pool: String,
    /// Its driver.
    pub driver: DriverKind,
    /// The image they start from, if the driver has images.
    pub image: Option<String>,
    /// Machine architecture as in `uname -m`.
    pub arch: String,
    /// Isolation that the driver gives.
    pub isolation: Isolation,
    /// CPUs of one sandbox.
    pub cpus: u32,
    /// Memory of one sandbox, MiB.
    pub memory_mb: u64,
    /// Disk of one sandbox, MiB; `None` where it is not limited.
    pub disk_mb: Option<u64>,
    /// Network policy.
    pub network: NetworkPolicy,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Devices.
    pub devices: BTreeSet<String>,
    /// Kernels that they can run: first the one that they do unless another is asked for. Empty where none is known.
    pub kernels: Vec<KernelOffer>,
}

/// A kernel that sandboxes can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelOffer {
    /// Its name, by which a template can ask for it where machines have kernels of their own.
    pub name: String,
    /// Its version as in `uname -r`; `None` where it cannot be told.
    pub version: Option<String>,
}

impl KernelOffer {
    /// Whether it is meant by a name, or by the beginning of a version: `6.1` means 6.1 and 6.1.7, and not 6.10.
    pub fn is(&self, wanted: &str) -> bool {
        let begins = |version: &String| {
            let rest = version.strip_prefix(wanted).filter(|_| !wanted.is_empty());
            rest.is_some_and(|rest| {
                let number_goes_on = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
                !(number_goes_on(rest) && wanted.ends_with(|c: char| c.is_ascii_digit()))
            })
        };
        self.name == wanted || self.version.as_ref().is_some_and(begins)
    }
}

impl Offer {
    /// The kernel that is meant, as [`KernelOffer::is`] says: the one that sandboxes run by themselves if it can be that,
    /// otherwise one of that very name, otherwise the first.
    pub fn kernel(&self, wanted: &str) -> Option<&KernelOffer> {
        let own = self.kernels.first().filter(|kernel| kernel.is(wanted));
        let named = || self.kernels.iter().find(|kernel| kernel.name == wanted);
        own.or_else(named)
            .or_else(|| self.kernels.iter().find(|kernel| kernel.is(wanted)))
    }
}

impl Requirements {
    /// The canonical JSON: the same for equal requirements, the name of their class.
    pub fn canonical(&self) -> String {
        // A struct of plain values and ordered maps always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Everything in which `offer` falls short, one sentence each; empty when it satisfies all.
    pub fn unmet(&self, offer: &Offer) -> Vec<String> {
        let mut reasons = Vec::new();
        self.compare(offer, &mut |reason| reasons.push(reason.to_string()));
        reasons
    }

    /// Whether `offer` satisfies all: [`Self::unmet`] without the sentences.
    pub fn met_by(&self, offer: &Offer) -> bool {
        let mut met = true;
        self.compare(offer, &mut |_| met = false);
        met
    }

    fn compare(&self, offer: &Offer, short: &mut dyn FnMut(fmt::Arguments<'_>)) {
        let mut exact = |what: &str, of: &str, wanted: Option<&str>, has: &str| {
            if let Some(wanted) = wanted
                && wanted != has
            {
                short(format_args!("the {what}{of} is {has}, not {wanted}"));
            }
        };
        exact("pool", "", self.pool.as_deref(), &offer.pool);
        exact(
            "driver",
            "",
            self.driver.map(DriverKind::as_str),
            offer.driver.as_str(),
        );
        exact(
            "image",
            "",
            self.image.as_deref(),
            offer.image.as_deref().unwrap_or("none"),
        );
        exact("architecture", "", self.arch.as_deref(), &offer.arch);
        exact(
            "network policy",
            "",
            self.network.map(NetworkPolicy::as_str),
            offer.network.as_str(),
        );
        for (label, wanted) in &self.labels {
            let has = offer.labels.get(label).map_or("missing", String::as_str);
            exact("label ", label, Some(wanted), has);
        }
        if let Some(wanted) = self.isolation
            && wanted > offer.isolation
        {
            short(format_args!(
                "isolation is {}, less than {wanted}",
                offer.isolation
            ));
        }
        let mut at_least = |what: &str, wanted: Option<u64>, has: u64| {
            if let Some(wanted) = wanted
                && wanted > has
            {
                short(format_args!("{what} is {has}, less than {wanted}"));
            }
        };
        at_least(
            "the number of CPUs",
            self.cpus.map(u64::from),
            u64::from(offer.cpus),
        );
        at_least("memory (MiB)", self.memory_mb, offer.memory_mb);
        at_least("disk (MiB)", self.disk_mb, offer.disk_mb.unwrap_or(u64::MAX));
        for device in self.devices.difference(&offer.devices) {
            short(format_args!("the device {device} is missing"));
        }
        if let Some(wanted) = &self.kernel
            && offer.kernel(wanted).is_none()
        {
            let names: Vec<&str> = offer.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            match names[..] {
                [] => short(format_args!(
                    "its kernels are not known, and {wanted} is asked for"
                )),
                _ => short(format_args!("the kernel is {}, not {wanted}", names.join(" or "))),
            }
        }
    }

    /// The name of the kernel that must be started for this, where the one that the sandboxes of `offer` run by themselves
    /// is not the one. `None` also where there is no such kernel; that is for [`Requirements::unmet`] to say.
    pub fn other_kernel<'a>(&self, offer: &'a Offer) -> Option<&'a str> {
        let found = offer.kernel(self.kernel.as_deref()?)?;
        let own = offer.kernels.first()?;
        (found != own).then_some(found.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            pool: "small".into(),
            driver: DriverKind::Process,
            image: None,
            arch: "x86_64".into(),
            isolation: Isolation::Namespace,
            cpus: 2,
            memory_mb: 1024,
            disk_mb: None,
            network: NetworkPolicy::None,
            labels: BTreeMap::new(),
            devices: BTreeSet::new(),
            kernels: Vec::new(),
        }
    }

    #[test]
    fn a_kernel_is_asked_for_by_name_or_by_the_beginning_of_its_version() {
        let kernel = |name: &str, version: &str| KernelOffer {
            name: name.into(),
            version: Some(version.into()),
        };
        let mut offer = offer();
        let wants = |kernel: &str| Requirements {
            kernel: Some(kernel.into()),
            ..Requirements::default()
        };
        assert_eq!(
            wants("6.1").unmet(&offer),
            ["its kernels are not known, and 6.1 is asked for"]
        );
        offer.kernels = vec![
            kernel("stable", "6.1.0-56-cloud-amd64"),
            kernel("6.1.0-50-cloud-amd64", "6.1.0-50-cloud-amd64"),
            kernel("next", "6.12.3"),
        ];
        for (wanted, name) in [
            ("6.1", "stable"),
            ("stable", "stable"),
            ("6.1.0-5", ""),
            ("6.1.0-50", "6.1.0-50-cloud-amd64"),
            ("6", "stable"),
            ("6.12", "next"),
            ("6.12.3", "next"),
            ("", ""),
            ("6.2", ""),
        ] {
            let found = offer.kernel(wanted).map_or("", |kernel| kernel.name.as_str());
            assert_eq!(found, name, "{wanted}");
            assert_eq!(
                wants(wanted).unmet(&offer).is_empty(),
                !name.is_empty(),
                "{wanted}"
            );
        }
        assert_eq!(wants("6.1").other_kernel(&offer), None);
        assert_eq!(wants("6.12").other_kernel(&offer), Some("next"));
        assert_eq!(Requirements::default().other_kernel(&offer), None);
        assert_eq!(
            wants("6.2").unmet(&offer),
            ["the kernel is stable or 6.1.0-50-cloud-amd64 or next, not 6.2"]
        );
    }

    #[test]
    fn nothing_required_is_always_met() {
        assert!(Requirements::default().unmet(&offer()).is_empty());
        assert_eq!(Requirements::default().canonical(), "{}");
    }

    #[test]
    fn each_shortfall_is_named() {
        let wants = Requirements {
            driver: Some(DriverKind::Docker),
            cpus: Some(4),
            memory_mb: Some(1024),
            isolation: Some(Isolation::Vm),
            devices: ["kvm".to_owned()].into(),
            labels: [("gpu".to_owned(), "yes".to_owned())].into(),
            ..Requirements::default()
        };
        assert_eq!(
            wants.unmet(&offer()),
            [
                "the driver is process, not docker",
                "the label gpu is missing, not yes",
                "isolation is namespace, less than vm",
                "the number of CPUs is 2, less than 4",
                "the device kvm is missing",
            ]
        );
    }
}
