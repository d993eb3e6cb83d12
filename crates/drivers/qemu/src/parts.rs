//! What machines are made with, found out once: QEMU, kernels, and what runs the processors.

use crate::accelerator::{self, Found};
use crate::driver::Inner;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::probe;
use ostler_domain::SandboxTemplate;
use ostler_sandbox::Finding;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most kernels that are kept with their modules, some ten MiB each.
const KERNELS: usize = 8;

impl Inner {
    pub(crate) async fn qemu(&self) -> Result<&(PathBuf, String), Error> {
        self.qemu.get_or_try_init(|| probe::qemu(&self.options)).await
    }

    pub(crate) async fn kernel(&self, template: Option<&SandboxTemplate>) -> Result<Arc<Kernel>, Error> {
        let named = template.and_then(|template| template.kernel.as_deref());
        let entry = match named {
            Some(wanted) => self.catalogue.find(wanted, &self.options)?,
            None => self.catalogue.own(&self.options).cloned().ok_or_else(|| {
                Error::Other(
                    "there is no kernel for its machines: install one (apt-get install linux-image-cloud-amd64), or \
                     name one in the settings or the template"
                        .into(),
                )
            })?,
        };
        let is_it = |kernel: &&Arc<Kernel>| kernel.path == entry.image && kernel.modules_dir == entry.modules;
        let mut kernels = self.kernels.lock().await;
        let known = kernels
            .iter()
            .position(|kernel| is_it(&kernel))
            .map(|at| kernels.remove(at));
        let kernel = match known.filter(|kernel| kernel.is_current()) {
            Some(kernel) => kernel,
            None => Arc::new(self.load(&entry.image, &entry.modules).await?),
        };
        kernels.insert(0, kernel.clone());
        kernels.truncate(KERNELS);
        Ok(kernel)
    }

    async fn load(&self, image: &Path, modules: &Path) -> Result<Kernel, Error> {
        Kernel::load(image, modules, &self.options.guest)
            .await
            .map_err(|e| Error::Other(format!("its kernel cannot be used: {e}")))
    }

    /// What runs the processors, found out with the driver's own kernel, or with `other` where it has none.
    pub(crate) async fn accelerator(&self, other: &Kernel) -> Result<&Found, Error> {
        let (program, version) = self.qemu().await?;
        let only = self.options.accelerator;
        let find = async || {
            let own = self.kernel(None).await.ok();
            let kernel = own.as_deref().unwrap_or(other);
            accelerator::find(program, version, kernel, only, &self.options.state_dir).await
        };
        self.accelerator.get_or_try_init(find).await
    }

    /// What was found, for whoever asks why something does not start.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let finding = |subject: &str, result: Result<String, Error>| Finding {
            subject: subject.to_owned(),
            ok: result.is_ok(),
            detail: result.unwrap_or_else(|why| why.to_string()),
        };
        let qemu = self
            .qemu()
            .await
            .map(|(path, version)| format!("{}: {version}", path.display()));
        let mut findings = vec![finding("QEMU", qemu)];
        findings.extend(probe::tools(&self.options).await);
        let kernel = self.kernel(None).await;
        let accelerator = match &kernel {
            Ok(kernel) => self.accelerator(kernel).await.map(|found| match &found.without_kvm {
                None => format!("KVM works: a kernel started in {} ms", found.boot_ms),
                Some(why) => format!(
                    "without KVM ({why}): a kernel started in {} ms; programs are many times slower. A host whose \
                     virtualisation is switched on, with the right to use /dev/kvm, is faster",
                    found.boot_ms
                ),
            }),
            Err(_) => Err(Error::Other("not looked for: there is no kernel to boot".into())),
        };
        findings.push(finding(
            "kernel",
            kernel.map(|k| {
                let version = k.version.as_deref().unwrap_or("of unknown version");
                format!("{} {version}, with {} modules", k.path.display(), k.modules)
            }),
        ));
        findings.push(finding("processors", accelerator));
        for (name, file) in &self.options.kernels {
            if !file.image.is_file() {
                let why = format!("there is no {}: name another, or remove it", file.image.display());
                findings.push(finding(&format!("kernel {name}"), Err(Error::Other(why))));
            }
        }
        findings
    }
}
