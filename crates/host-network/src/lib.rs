//! Network namespaces, interfaces and packet filter of sandboxes on this host.
//!
//! A sandbox with a filtered network lives in a [`Slot`]: a network namespace with one end of a veth pair, whose other
//! end on the host has a name that begins with the instance's prefix. One nftables table per instance matches that
//! prefix, so that its rules are made once and are as many for a thousand sandboxes as for one; what a single sandbox
//! may reach directly are elements of one set.
//!
//! What the rules do with a packet from a sandbox:
//!
//! * DNS (UDP and TCP port 53, whatever the address) goes to this server's name server,
//! * what the sandbox's own list of addresses allows is let out, behind the host's address,
//! * any other TCP connection goes to this server's proxy, which is told where it was meant to go,
//! * everything else is refused: other UDP, ICMP, IPv6, spoofed senders, other sandboxes, services of the host.
//!
//! So with the server gone there is no way out but the allowed addresses, and none at all if the table were absent before
//! the interfaces, which it never is: it is loaded first, in one transaction, and put back when another program
//! flushes it.
//!
//! # Decisions
//!
//! * **Namespaces are made ahead but never used twice.** A namespace keeps counters, TCP metrics and ended connections of
//!   who used it, readable for the next tenant and not to be wiped one by one for certain. Making one takes some
//!   milliseconds beside the start of a sandbox, and not even those from the pool.
//! * **No IPv6 inside.** The sandbox's interface has none, so that programs turn to IPv4 at once; the rules refuse it as
//!   well. IPv6 destinations are reached through the proxy.
//! * **Nothing is kept in files.** The holder of a slot is noted in the alias of its interface, which lives and dies with
//!   it. A server that is killed at any instant finds all again by the names, which carry the instance.
//! * **The programs `ip` and `nft`** are used instead of netlink libraries: they are what administrators read the result
//!   with, a transaction of `nft` is text, and a call takes two to three milliseconds, none of them during a claim.

mod addresses;
mod command;
mod conntrack;
mod denied;
mod egress;
mod error;
mod host;
mod listen;
mod names;
mod namespace;
mod netlink;
mod network;
mod options;
mod rules;
mod slot;

pub use denied::{Denied, Protocol};
pub use egress::FilteredTraffic;
pub use error::NetworkError;
pub use host::Counters;
pub use listen::{Redirected, Traffic};
pub use network::HostNetwork;
pub use options::{NetworkOptions, Range};
pub use slot::Slot;
