//! The kernels that templates can name.

use crate::error::Error;
use crate::kernel::version_of;
use crate::options::QemuOptions;
use ostler_domain::KernelOffer;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What distributions put in front of a kernel's version.
const PREFIX: &str = "vmlinuz-";

/// A kernel of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) image: PathBuf,
    pub(crate) modules: PathBuf,
    pub(crate) offer: KernelOffer,
}

/// The kernels that templates can name: first the driver's own, then the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue(Vec<Entry>);

impl Catalogue {
    /// Those of the options that are there now.
    pub(crate) fn read(options: &QemuOptions) -> Self {
        let named = options
            .kernels
            .iter()
            .map(|(name, file)| (name.clone(), file.image.clone(), file.modules.as_ref()));
        let found = in_dir(&options.kernel_dir)
            .filter(|(name, _)| !options.kernels.contains_key(name))
            .map(|(name, image)| (name, image, None));
        let mut entries: Vec<Entry> = named
            .chain(found)
            .filter(|(_, image, _)| image.is_file())
            .map(|(name, image, modules)| Entry {
                offer: KernelOffer {
                    name,
                    version: version_of(&image),
                },
                modules: modules.unwrap_or(&options.modules).clone(),
                image,
            })
            .collect();
        entries.sort_by(|a, b| {
            let newest = natural(version(b), version(a));
            newest.then_with(|| a.offer.name.cmp(&b.offer.name))
        });
        if let Some(own) = options.kernel.clone().or_else(|| newest(&options.kernel_dir)) {
            let there = entries.iter().position(|entry| entry.image == own);
            let first = match there {
                Some(at) => entries.remove(at),
                None => Entry {
                    offer: KernelOffer {
                        name: own.display().to_string(),
                        version: version_of(&own),
                    },
                    modules: options.modules.clone(),
                    image: own,
                },
            };
            entries.insert(0, first);
        }
        Self(entries)
    }

    /// The driver's own.
    pub(crate) fn own(&self, options: &QemuOptions) -> Option<&Entry> {
        let is_own = |entry: &&Entry| options.kernel.as_ref().is_none_or(|own| *own == entry.image);
        self.0.first().filter(is_own)
    }

    /// What a template means: a file, a name, or the beginning of a version, of which the first fits.
    pub(crate) fn find(&self, wanted: &str, options: &QemuOptions) -> Result<Entry, Error> {
        let by = |is: &dyn Fn(&Entry) -> bool| self.0.iter().find(|entry| is(entry)).cloned();
        if wanted.contains('/') {
            return Ok(
                by(&|entry| entry.image == Path::new(wanted)).unwrap_or_else(|| Entry {
                    image: wanted.into(),
                    modules: options.modules.clone(),
                    offer: KernelOffer {
                        name: wanted.to_owned(),
                        version: None,
                    },
                }),
            );
        }
        by(&|entry| entry.offer.name == wanted)
            .or_else(|| by(&|entry| entry.offer.is(wanted)))
            .ok_or_else(|| {
                let names: Vec<&str> = self.0.iter().map(|entry| entry.offer.name.as_str()).collect();
                let there = match names[..] {
                    [] => "there are none".to_owned(),
                    _ => format!("there are {}", names.join(", ")),
                };
                Error::Other(format!(
                    "there is no kernel {wanted}: {there}; others can be named in the settings, `drivers.qemu.kernels`"
                ))
            })
    }

    pub(crate) fn offers(&self) -> Vec<KernelOffer> {
        self.0.iter().map(|entry| entry.offer.clone()).collect()
    }
}

fn version(entry: &Entry) -> &str {
    entry.offer.version.as_deref().unwrap_or_default()
}

/// Names and images of the kernels in a directory.
fn in_dir(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    files.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let name = name.strip_prefix(PREFIX).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), entry.path()))
    })
}

/// The kernel of a directory that was put there last.
fn newest(dir: &Path) -> Option<PathBuf> {
    let changed = |path: &PathBuf| -> Option<SystemTime> { std::fs::metadata(path).ok()?.modified().ok() };
    in_dir(dir).map(|(_, path)| path).max_by_key(changed)
}

/// Compares texts with numbers in them by the numbers: 6.2 comes before 6.10.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, y) = (number(&mut a), number(&mut b));
        let order = x.cmp(&y);
        if order != Ordering::Equal || a.is_empty() && b.is_empty() {
            return order;
        }
        let (x, y) = (word(&mut a), word(&mut b));
        let order = x.cmp(y);
        if order != Ordering::Equal || a.is_empty() && b.is_empty() {
            return order;
        }
    }
}

/// Takes a number off the beginning; without any, none.
fn number(text: &mut &str) -> Option<u128> {
    let end = text.bytes().take(30).take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    *text = rest;
    digits.parse().ok()
}

/// Takes what is not a number.
fn word<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    *text = rest;
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::KernelFile;

    fn image(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
        image
    }

    #[test]
    fn kernels_are_those_of_the_directory_and_those_that_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for version in ["6.1.9-a", "6.1.10-a", "5.10.1-a", "6.12.3-a"] {
            std::fs::write(file(&format!("vmlinuz-{version}")), image(version)).unwrap();
        }
        std::fs::write(file("config-6.1.9-a"), "").unwrap();
        std::fs::write(file("vmlinuz-odd"), "odd").unwrap();
        std::fs::write(file("other"), image("6.6.0")).unwrap();
        let mut options = QemuOptions::new("x", dir.path(), file("guest"));
        options.kernel_dir = dir.path().to_owned();
        options.kernel = Some(file("vmlinuz-6.1.9-a"));
        let named = |image: &str, modules: Option<&str>| KernelFile {
            image: file(image),
            modules: modules.map(Into::into),
        };
        options.kernels.insert("mine".into(), named("other", Some("/m")));
        options
            .kernels
            .insert("5.10.1-a".into(), named("vmlinuz-5.10.1-a", None));
        options.kernels.insert("gone".into(), named("gone", None));
        let catalogue = Catalogue::read(&options);
        let names: Vec<String> = catalogue.offers().into_iter().map(|k| k.name).collect();
        assert_eq!(
            names,
            ["6.1.9-a", "6.12.3-a", "mine", "6.1.10-a", "5.10.1-a", "odd"]
        );
        assert_eq!(catalogue.own(&options).unwrap().offer.name, "6.1.9-a");

        let find = |wanted: &str| catalogue.find(wanted, &options).map(|k| k.image);
        assert_eq!(find("mine").unwrap(), file("other"));
        assert_eq!(find("6.1").unwrap(), file("vmlinuz-6.1.9-a"));
        assert_eq!(find("6.6").unwrap(), file("other"));
        assert_eq!(find("5").unwrap(), file("vmlinuz-5.10.1-a"));
        assert_eq!(find("/any/file").unwrap(), Path::new("/any/file"));
        let error = find("gone").unwrap_err().to_string();
        assert!(
            error.starts_with("there is no kernel gone: there are 6.1.9-a, 6.12.3-a, mine,"),
            "{error}"
        );
        let modules = |wanted: &str| catalogue.find(wanted, &options).unwrap().modules;
        assert_eq!(modules("mine"), Path::new("/m"));
        assert_eq!(modules(&file("other").display().to_string()), Path::new("/m"));
        assert_eq!(modules("odd"), options.modules);

        options.kernel = Some(file("away"));
        let offers = Catalogue::read(&options).offers();
        assert_eq!(offers[0].name, file("away").display().to_string());
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        for (less, more) in [
            ("6.2", "6.10"),
            ("6.1", "6.1.1"),
            ("", "1"),
            ("6.1.0-9-x", "6.1.0-10-x"),
            ("a", "b"),
        ] {
            assert_eq!(natural(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(natural(more, less), Ordering::Greater, "{less} {more}");
            assert_eq!(natural(more, more), Ordering::Equal);
        }
    }
}
