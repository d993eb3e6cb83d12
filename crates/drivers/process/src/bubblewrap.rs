//! The bubblewrap command line: what a sandbox sees of this host.
//!
//! The view is built from nothing: the programs in /usr, a handful of files of /etc without any secret, private /proc,
//! /dev and /tmp. A server that is root lets the guest run as a user of its own without any privilege (one that no other
//! sandbox and nothing on the host has), since a process of user 0 would be root to the kernel in many places even
//! without capabilities. It changes the user itself, after it has started what makes isolated programs, for which bubblewrap
//! leaves it the rights. Where writable directories of the host are mounted, it runs as their owner instead, since nobody
//! else could use them. Any other server needs a user namespace anyway; the guest is then user 1000 inside and the
//! server's user outside. Further user namespaces are forbidden by the filter of system calls, which the guest puts on.

use crate::layout::SandboxDir;
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_host_network::Slot;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the guest sees itself.
pub(crate) const GUEST: &str = "/ostler/guest";
/// Where the guest's sockets are, seen from inside.
pub(crate) const RUN: &str = "/run/ostler";
pub(crate) const WORKSPACE: &str = "/workspace";
const HOME: &str = "/home/agent";

/// User inside where a user namespace maps it to the server's own.
const MAPPED_UID: u32 = 1000;

/// First of the 65 536 user ids that sandboxes of a server that is root run as: above the ranges that distributions,
/// containers and systemd hand out, below 2³¹.
const FIRST_UID: u32 = 0x7000_0000;

/// What of /etc is shown; each must be harmless to read for anybody. Names that are absent are left out.
const ETC: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "inputrc",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "python3",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// A bubblewrap that works here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bubblewrap {
    pub(crate) program: PathBuf,
    /// Whether the server is root, so that the guest changes the user inside.
    pub(crate) root: bool,
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    uid: u32,
    gid: u32,
}

/// The user of a sandbox whose server is root: one of its own, or the owner of all its writable mounts. The error says
/// which mount has no owner that could be used.
pub(crate) fn user_below_root(id: SandboxId, template: &SandboxTemplate) -> Result<Ids, String> {
    let mut owner: Option<Ids> = None;
    for mount in template.mounts.iter().filter(|m| m.writable) {
        let source = &mount.source;
        let found = std::fs::metadata(source).map_err(|e| format!("a mount of {source}: {e}"))?;
        let found = Ids {
            uid: found.uid(),
            gid: found.gid(),
        };
        if found.uid == 0 {
            return Err(format!(
                "a writable mount of {source}, which belongs to root: give it to another user, as whom the sandbox \
                 then runs"
            ));
        }
        if owner.is_some_and(|o| o != found) {
            return Err(format!(
                "a writable mount of {source}, which has another owner than the other writable mounts"
            ));
        }
        owner = Some(found);
    }
    // The end of an id is random; two sandboxes with the same user would merely share the kernel's per-user quotas.
    let text = id.to_string();
    let tail = text
        .bytes()
        .rev()
        .take(8)
        .fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    let own = FIRST_UID + (tail & 0xffff);
    Ok(owner.unwrap_or(Ids { uid: own, gid: own }))
}

/// Environment of the guest.
pub(crate) fn environment(id: SandboxId, template: &SandboxTemplate, home: &str) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        (
            "PATH",
            "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
        ),
        ("HOME", home),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(template.env.clone());
    env.insert(ostler_sandbox::detached::MARKER.to_owned(), id.to_string());
    env
}

/// Makes what the sandbox sees of its own directory, with the right owner.
pub(crate) fn prepare(
    id: SandboxId,
    dir: &SandboxDir,
    user: Option<Ids>,
    slot: Option<&Slot>,
) -> io::Result<()> {
    let (shown, group) = user.map_or((MAPPED_UID, MAPPED_UID), |u| (u.uid, u.gid));
    for (name, mode) in [
        ("run", 0o700),
        ("workspace", 0o755),
        ("home", 0o700),
        ("tmp", 0o1777),
    ] {
        let path = place(dir, name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let etc = dir.join("etc");
    std::fs::DirBuilder::new().mode(0o755).create(&etc)?;
    let names = slot.map(|s| ("resolv.conf", format!("nameserver {}\n", s.gateway)));
    let files = [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:{shown}:{group}:agent:{HOME}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        (
            "group",
            format!("root:x:0:\nagent:x:{group}:\nnogroup:x:65534:\n"),
        ),
        (
            "hosts",
            format!(
                "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {}\n",
                hostname(id)
            ),
        ),
    ];
    for (name, text) in files.into_iter().chain(names) {
        std::fs::write(etc.join(name), text)?;
        std::fs::set_permissions(etc.join(name), std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Where a directory that the sandbox sees is: its sockets are this server's, its files may be on a disk of their own.
fn place(dir: &SandboxDir, name: &str) -> PathBuf {
    if name == "run" {
        dir.join(name)
    } else {
        dir.files().join(name)
    }
}

/// The file of a device that a template may name.
fn device(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

/// Whether this host has it. A name is no path, so that nothing but what is directly in `/dev` can be meant; a disk is no
/// device for programs, but a way around all files.
pub(crate) fn has_device(name: &str) -> bool {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !name.is_empty()
        && name.bytes().all(is_name)
        && std::fs::symlink_metadata(device(name)).is_ok_and(|m| m.file_type().is_char_device())
}

impl Bubblewrap {
    /// The user to change to inside; `None` where the server's user is mapped.
    pub(crate) fn user(&self, id: SandboxId, template: &SandboxTemplate) -> Result<Option<Ids>, String> {
        self.root.then(|| user_below_root(id, template)).transpose()
    }

    /// Everything after the name of the program. It may hold secrets of the template's environment, so it is given
    /// through a descriptor and never on the command line.
    pub(crate) fn arguments(
        &self,
        id: SandboxId,
        dir: &SandboxDir,
        template: &SandboxTemplate,
        guest: &Path,
        slot: Option<&Slot>,
    ) -> Vec<OsString> {
        let mut args = Arguments::default();
        // A slot's namespace is entered before.
        args.isolate(self, template.network != NetworkPolicy::Open && slot.is_none());
        args.add(["--hostname", &hostname(id)]);
        args.system(template.network == NetworkPolicy::Open);
        for name in &template.devices {
            args.0
                .extend(["--dev-bind".into(), device(name).into(), device(name).into()]);
        }
        for (name, target) in [
            ("run", RUN),
            ("workspace", WORKSPACE),
            ("home", HOME),
            ("tmp", "/tmp"),
        ] {
            args.mount("--bind", place(dir, name), target);
        }
        args.mount("--bind", place(dir, "tmp"), "/var/tmp");
        for name in ["passwd", "group", "hosts"]
            .into_iter()
            .chain(slot.map(|_| "resolv.conf"))
        {
            args.mount("--ro-bind", dir.join("etc").join(name), &format!("/etc/{name}"));
        }
        args.mount("--ro-bind", guest, GUEST);
        for mount in &template.mounts {
            let kind = if mount.writable { "--bind" } else { "--ro-bind" };
            args.mount(kind, &mount.source, &mount.target);
        }
        args.add(["--remount-ro", "/", "--chdir", WORKSPACE, "--clearenv"]);
        for (name, value) in environment(id, template, HOME) {
            args.add(["--setenv", &name, &value]);
        }
        args.0
    }

    /// The command inside.
    pub(crate) fn command(user: Option<Ids>, template: &SandboxTemplate) -> Vec<OsString> {
        let mut args = Arguments::default();
        args.add([GUEST, "--run", RUN, "--workspace", WORKSPACE, "--filter"]);
        if let Some(user) = user {
            // The groups of its devices, where those are not open to everybody.
            let groups: Vec<String> = template
                .devices
                .iter()
                .filter_map(|name| std::fs::metadata(device(name)).ok())
                // Where its group may not use it, being in that group, such as root's, would only open other things.
                .filter(|m| m.mode() & 0o006 != 0o006 && m.mode() & 0o060 != 0 && m.gid() != 0)
                .map(|m| m.gid().to_string())
                .collect();
            args.add([
                "--user",
                &format!("{}:{}:{}", user.uid, user.gid, groups.join(",")),
            ]);
        }
        args.0
    }
}

/// Name of the host inside.
fn hostname(id: SandboxId) -> String {
    id.to_string().replace('_', "-")
}

/// Arguments under construction.
#[derive(Default)]
pub(crate) struct Arguments(pub(crate) Vec<OsString>);

impl Arguments {
    pub(crate) fn add<const N: usize>(&mut self, args: [&str; N]) {
        self.0.extend(args.iter().map(OsString::from));
    }

    /// A bind mount. The directories above its target are made open to all: bubblewrap's own choice is for its user
    /// only, who may be root.
    fn mount(&mut self, kind: &str, source: impl AsRef<OsStr>, target: &str) {
        let mut parents: Vec<&Path> = Path::new(target).ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            self.add(["--perms", "0755", "--dir"]);
            self.0.push(parent.into());
        }
        self.0
            .extend([OsStr::new(kind), source.as_ref(), OsStr::new(target)].map(OsStr::to_owned));
    }

    /// Namespaces and privileges.
    pub(crate) fn isolate(&mut self, bubblewrap: &Bubblewrap, own_network: bool) {
        self.add([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]);
        if own_network {
            self.add(["--unshare-net"]);
        }
        if bubblewrap.root {
            // What changing the user and making the namespaces of isolated programs takes; the guest gives all of it up.
            self.add(["--cap-drop", "ALL", "--cap-add", "CAP_SETUID"]);
            self.add(["--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]);
            self.add(["--cap-add", "CAP_SYS_ADMIN"]);
        } else {
            let uid = MAPPED_UID.to_string();
            self.add([
                "--unshare-user",
                "--uid",
                &uid,
                "--gid",
                &uid,
                "--cap-drop",
                "ALL",
            ]);
        }
        self.add(["--as-pid-1", "--new-session"]);
    }

    /// Programs, libraries and the harmless part of /etc, with the host's name servers or without.
    pub(crate) fn system(&mut self, name_servers: bool) {
        self.add(["--ro-bind", "/usr", "/usr"]);
        for name in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            match std::fs::read_link(name) {
                Ok(target) => self
                    .0
                    .extend(["--symlink".into(), target.into_os_string(), name.into()]),
                Err(_) => self.add(["--ro-bind-try", name, name]),
            }
        }
        for name in ETC.iter().chain(name_servers.then_some(&"resolv.conf")) {
            let path = format!("/etc/{name}");
            if Path::new(&path).exists() {
                self.mount("--ro-bind", &path, &path);
            }
        }
        self.add(["--proc", "/proc", "--dev", "/dev"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::DriverKind;

    #[test]
    fn users_of_sandboxes_differ_and_stay_in_their_range() {
        let template = SandboxTemplate::new(DriverKind::Process);
        let uids: std::collections::BTreeSet<u32> = (0..100)
            .map(|_| user_below_root(SandboxId::new(), &template).unwrap().uid)
            .collect();
        assert!(uids.len() > 90, "only {} different", uids.len());
        assert!(uids.iter().all(|u| (FIRST_UID..FIRST_UID + 0x1_0000).contains(u)));
    }

    #[test]
    fn writable_mounts_decide_the_user_and_root_is_none() {
        let mut template = SandboxTemplate::new(DriverKind::Process);
        let mut with = |source: &str| {
            template.mounts.push(ostler_domain::Mount {
                source: source.to_owned(),
                target: "/mnt".into(),
                writable: true,
            });
            user_below_root(SandboxId::new(), &template)
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let owner = std::fs::metadata(path).unwrap().uid();
        match with(path) {
            Ok(ids) => assert_eq!((ids.uid, owner != 0), (owner, true)),
            Err(why) => assert!(owner == 0 && why.contains("belongs to root"), "{why}"),
        }
        assert!(with("/usr").is_err());
    }

    #[test]
    fn the_template_cannot_take_the_marker() {
        let id = SandboxId::new();
        let mut template = SandboxTemplate::new(DriverKind::Process);
        template
            .env
            .insert(ostler_sandbox::detached::MARKER.into(), "other".into());
        template.env.insert("HOME".into(), "/elsewhere".into());
        let env = environment(id, &template, HOME);
        assert_eq!(env[ostler_sandbox::detached::MARKER], id.to_string());
        assert_eq!(env["HOME"], "/elsewhere");
    }
}
