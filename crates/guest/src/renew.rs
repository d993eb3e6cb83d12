//! What a machine that was restored from a snapshot must not have in common with its copies: the time, the state of the
//! random number generator, the name, the address of the network interface.
//!
//! Only the first process of a kernel of its own may do that: in a container it would be done to the host.

use crate::init;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use ostler_guest_protocol::v1::{RenewReply, RenewRequest};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

/// Most random bytes that are taken.
const SEED: usize = 4096;
/// The namespace of processes in which a kernel starts, see PROC_PID_INIT_INO in the kernel's `proc_ns.h`.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
/// Of random(4): add bytes to the pool and count them, and give what is in the pool to the generator at once.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Renews what is asked for, as far as it can.
pub(crate) fn renew(request: &RenewRequest) -> RenewReply {
    let mut reply = RenewReply::default();
    let own = own_kernel();
    let mut attempt = |asked: bool, what: &str, done: &dyn Fn() -> io::Result<()>| {
        if !asked {
            return false;
        }
        let result = if own {
            done()
        } else {
            Err(io::Error::other("this sandbox has no kernel of its own"))
        };
        if let Err(error) = &result {
            reply.refused.push(format!("{what} cannot be renewed: {error}"));
        }
        result.is_ok()
    };
    let clock = attempt(request.unix_us != 0, "the clock", &|| step_clock(request.unix_us));
    let random = attempt(!request.seed.is_empty(), "the random numbers", &|| {
        mix(&request.seed)
    });
    let named = attempt(!request.hostname.is_empty(), "the host name", &|| {
        Ok(nix::unistd::sethostname(&request.hostname)?)
    });
    attempt(
        !request.hardware_address.is_empty(),
        "the address of the network interface",
        &|| init::hardware_address(&request.hardware_address),
    );
    RenewReply {
        clock,
        random,
        named,
        ..reply
    }
}

/// Whether this is the first process of its kernel.
fn own_kernel() -> bool {
    std::process::id() == 1
        && std::fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() == FIRST_NAMESPACE)
}

fn step_clock(unix_us: i64) -> io::Result<()> {
    let nanoseconds = unix_us.rem_euclid(1_000_000) * 1000;
    let time = TimeSpec::new(unix_us.div_euclid(1_000_000), nanoseconds);
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// Copies of one machine would draw the same numbers until the kernel has gathered new noise.
fn mix(seed: &[u8]) -> io::Result<()> {
    if seed.len() > SEED {
        return Err(io::Error::other(format!("a seed has at most {SEED} bytes")));
    }
    let mut urandom = File::options().write(true).open("/dev/urandom")?;
    // `struct rand_pool_info`: bits, bytes, content; the kernel copies that many bytes.
    let mut pool = vec![seed.len() as u32 * 8, seed.len() as u32];
    for word in seed.chunks(4) {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        pool.push(u32::from_ne_bytes(bytes));
    }
    let fd = urandom.as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel reads no further than the length in the structure says.
    let added = unsafe { libc::ioctl(fd, RNDADDENTROPY, pool.as_ptr()) };
    if added != 0 {
        // Not counted, but mixed in all the same.
        urandom.write_all(seed)?;
    }
    // SAFETY: the call has no argument.
    if unsafe { libc::ioctl(fd, RNDRESEEDCRNG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_among_others_changes_nothing() {
        let request = RenewRequest {
            unix_us: 1,
            seed: vec![1, 2, 3].into(),
            hostname: "never".into(),
            hardware_address: vec![2, 0, 0, 0, 0, 1].into(),
        };
        let reply = renew(&request);
        assert!(!reply.clock && !reply.random && !reply.named);
        assert_eq!(reply.refused.len(), 4, "{reply:?}");
        assert_eq!(renew(&RenewRequest::default()), RenewReply::default());
    }

    #[test]
    fn a_seed_that_is_too_long_is_refused() {
        let error = mix(&vec![0; SEED + 1]).unwrap_err();
        assert!(error.to_string().contains("4096"), "{error}");
    }
}
