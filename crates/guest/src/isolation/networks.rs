//! Network namespaces of programs that have one of their own.
//!
//! The kernel takes longer to make and to remove one than for everything else that isolates a program, and most programs
//! never use it. One that was not used is as good as new: no packet has gone over any of its interfaces, no socket is left
//! in it, and nobody without rights can change anything else of it. The first process of a program that has ended looks
//! whether this is so and hands it back, for the next. Where programs may be root, who can change more, there is a new one
//! for each.

use super::receive;
use super::view::named;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most that wait for a program.
const SPARE: usize = 8;

/// Those that wait for a program, and the way back.
pub(super) struct Networks {
    spare: Vec<OwnedFd>,
    back: OwnedFd,
    /// For first processes; `None` where none is handed back.
    way_back: Option<OwnedFd>,
}

/// What one program gets.
pub(super) struct Given {
    own: bool,
    /// `None`: it is to be made with the first process.
    network: Option<OwnedFd>,
    way_back: Option<OwnedFd>,
}

impl Networks {
    pub(super) fn new(root: bool) -> io::Result<Self> {
        let (back, way_back) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok(Self {
            spare: Vec::new(),
            back,
            way_back: (!root).then_some(way_back),
        })
    }

    /// Of the next program.
    pub(super) fn give(&mut self, own: bool) -> Given {
        let way_back = self.way_back.as_ref().filter(|_| own);
        Given {
            own,
            network: own.then(|| self.spare.pop()).flatten(),
            // Without it the network goes with the program.
            way_back: way_back.and_then(|way| way.try_clone().ok()),
        }
    }

    /// Takes what was handed back.
    pub(super) fn take_back(&mut self) {
        while let Ok((message, fds)) = receive(&self.back, 1, MsgFlags::MSG_DONTWAIT) {
            if message.is_empty() {
                return;
            }
            self.spare.extend(fds);
        }
        self.spare.truncate(SPARE);
    }
}

/// Readable when something was handed back.
impl AsFd for Networks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.back.as_fd()
    }
}

impl Given {
    /// Whether the first process is to be started in a new one.
    pub(super) fn to_be_made(&self) -> bool {
        self.own && self.network.is_none()
    }

    /// Enters it, or makes the new one usable: by the first process. Returns what hands it back.
    pub(super) fn enter(self) -> io::Result<Option<WayBack>> {
        if !self.own {
            return Ok(None);
        }
        let network = if let Some(network) = self.network {
            setns(&network, CloneFlags::CLONE_NEWNET)
                .map_err(|error| named("a network that was used before", &error.into()))?;
            network
        } else {
            crate::init::up("lo").map_err(|error| named("the loopback interface", &error))?;
            File::open("/proc/self/ns/net")?.into()
        };
        Ok(self.way_back.map(|way| WayBack { network, way }))
    }
}

/// Hands a network back.
pub(super) struct WayBack {
    network: OwnedFd,
    way: OwnedFd,
}

impl WayBack {
    /// By the first process, when nothing else is left of the program: if it is as good as new.
    pub(super) fn hand_over(self) {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}"));
        let (Ok(interfaces), Ok(sockets)) = (read("dev"), read("sockstat")) else {
            return;
        };
        if unused(&interfaces, &sockets) {
            let sent: nix::Result<usize> = sendmsg::<()>(
                self.way.as_raw_fd(),
                &[IoSlice::new(b"n")],
                &[ControlMessage::ScmRights(&[self.network.as_raw_fd()])],
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                None,
            );
            // There are enough, or nobody is left who wants it: it goes with this process.
            let _: Result<_, Errno> = sent;
        }
    }
}

/// From the kernel's own counts: of each interface, and of sockets.
fn unused(interfaces: &str, sockets: &str) -> bool {
    let silent = |line: &str| {
        let numbers = line.split_once(':').map(|(_, numbers)| numbers);
        numbers.is_some_and(|numbers| numbers.split_whitespace().all(|number| number == "0"))
    };
    let mut interfaces = interfaces.lines().skip(2).peekable();
    interfaces.peek().is_some() && interfaces.all(silent) && sockets.lines().next() == Some("sockets: used 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_used_is_as_good_as_new() {
        let heads = "Inter-|   Receive\n face |bytes    packets\n";
        let quiet = format!("{heads}    lo:       0       0    0\n sit0:  0 0 0\n");
        let none = "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\n";
        assert!(unused(&quiet, none));
        assert!(!unused(&quiet.replace("sit0:  0 0", "sit0:  0 1"), none));
        assert!(!unused(&quiet, &none.replace("used 0", "used 1")));
        for garbage in ["", heads, "a\nb\nc"] {
            assert!(!unused(garbage, none), "{garbage}");
            assert!(!unused(&quiet, garbage), "{garbage}");
        }
    }
}
