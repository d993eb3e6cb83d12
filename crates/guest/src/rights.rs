//! What a process may do: its user, its capabilities, and how it gives them up for good.

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::io;

/// Capabilities by number, as in capability.h.
const SETPCAP: u32 = 8;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
/// What root keeps in isolation: what concerns its own files, processes and network. Everything that reaches the kernel,
/// its devices or its mounts would be a way back.
const HARMLESS: &[u32] = &[
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW
    18, // SYS_CHROOT
    19, // SYS_PTRACE
    23, // SYS_NICE
    24, // SYS_RESOURCE
    31, // SETFCAP
];
/// `_LINUX_CAPABILITY_VERSION_3`
const VERSION: u32 = 0x2008_0522;

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Capabilities {
    pub(crate) const NONE: Self = Self(0);

    /// Those that this process can use now.
    pub(crate) fn effective() -> io::Result<Self> {
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let mut halves = [Half::default(); 2];
        // SAFETY: the kernel reads the header and writes two halves, for which there is room.
        let done =
            unsafe { libc::syscall(libc::SYS_capget, std::ptr::from_ref(&header), halves.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(
            u64::from(halves[0].effective) | u64::from(halves[1].effective) << 32,
        ))
    }

    /// Whether this process may make mounts and namespaces as it is.
    pub(crate) fn can_mount(self) -> bool {
        self.has(SYS_ADMIN)
    }

    fn has(self, one: u32) -> bool {
        self.0 & 1 << one != 0
    }

    /// Without those that only the making of isolated programs takes.
    pub(crate) fn without_makers(self) -> Self {
        Self(self.0 & !(1 << SYS_ADMIN | 1 << NET_ADMIN | 1 << SETPCAP))
    }

    /// What is left of them for an isolated program.
    pub(crate) fn isolated(self, own_network: bool) -> Self {
        let mut kept = HARMLESS.iter().fold(0, |all, one| all | 1 << one);
        if own_network {
            kept |= 1 << NET_ADMIN;
        }
        Self(self.0 & kept)
    }

    /// Gives up all others, also for whatever is executed later.
    pub(crate) fn keep_only(self) -> io::Result<()> {
        self.bound()?;
        self.set()
    }

    /// Makes them the most that anything executed later can have.
    fn bound(self) -> io::Result<()> {
        clear_ambient();
        for one in (0..64).filter(|&one| !self.has(one)) {
            // SAFETY: a call with numbers only.
            let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(one), 0, 0, 0) };
            match Errno::result(done) {
                Ok(_) => {}
                // There are no more.
                Err(Errno::EINVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set(self) -> io::Result<()> {
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let half = |bits: u32| Half {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        };
        let halves = [half(self.0 as u32), half((self.0 >> 32) as u32)];
        // SAFETY: the kernel reads the header and two halves.
        let done = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), halves.as_ptr()) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn clear_ambient() {
    // A kernel that knows no ambient capabilities has none to clear.
    // SAFETY: a call with numbers only.
    let _ = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
            0,
            0,
        )
    };
}

/// A user and groups by number: `UID:GID` or `UID:GID:GROUP,GROUP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl std::str::FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<u32>().map_err(|error| format!("`{text}`: {error}"));
        let mut parts = text.splitn(3, ':');
        let (Some(uid), Some(gid)) = (parts.next(), parts.next()) else {
            return Err(format!("`{text}` names no user and group"));
        };
        let groups = parts.next().filter(|groups| !groups.is_empty());
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
            groups: groups.map_or(Ok(Vec::new()), |all| all.split(',').map(number).collect())?,
        })
    }
}

impl User {
    /// Becomes that user for good, with no capability and no way to any.
    pub(crate) fn become_it(&self) -> io::Result<()> {
        if self.uid == 0 {
            return Err(io::Error::other("it would stay root"));
        }
        // While there is the right to do so.
        Capabilities::NONE.bound()?;
        let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
        setgroups(&groups)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        prctl::set_no_new_privs()?;
        Capabilities::NONE.set()?;
        match Capabilities::effective()? {
            Capabilities::NONE => Ok(()),
            left => Err(io::Error::other(format!("the capabilities {left:?} are left"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read() {
        let user = |text: &str| text.parse::<User>();
        let plain = user("7:8").unwrap();
        assert_eq!((plain.uid, plain.gid, plain.groups), (7, 8, Vec::new()));
        assert_eq!(user("7:8:9,10").unwrap().groups, [9, 10]);
        assert_eq!(user("7:8:").unwrap().groups, Vec::<u32>::new());
        for bad in ["", "7", "a:b", "7:8:x", "-1:2"] {
            assert!(user(bad).is_err(), "{bad}");
        }
        assert!(user("0:0").unwrap().become_it().is_err());
    }

    #[test]
    fn isolation_leaves_nothing_that_leads_out() {
        let all = Capabilities(u64::MAX);
        let kept = all.isolated(true);
        for dangerous in [
            2, 9, 14, 16, 17, 20, 21, 22, 25, 27, 32, 33, 34, 35, 36, 37, 38, 39, 40,
        ] {
            assert!(!kept.has(dangerous), "{dangerous}");
        }
        assert!(kept.has(0) && kept.has(NET_ADMIN));
        assert!(!all.isolated(false).has(NET_ADMIN));
        assert_eq!(Capabilities::NONE.isolated(true), Capabilities::NONE);
        assert!(!all.without_makers().can_mount());
    }
}
