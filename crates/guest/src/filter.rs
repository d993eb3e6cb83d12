//! System calls that no program in a sandbox may make.
//!
//! A list of what is forbidden, in the spirit of container engines' defaults: what makes or enters namespaces (which would
//! give a program rights in the kernel that it has nowhere else), what mounts, what loads code into the kernel, what
//! changes the whole host, and interfaces whose bugs have been the usual ways out. Most of it would be refused anyway
//! without privileges; the filter keeps it refused where the kernel's own check has a hole.
//!
//! The guest itself puts it on, once what makes isolated programs has been started, which needs some of these calls and
//! executes nothing before it has put the filter on as well.
//!
//! Written as a filter program by hand: it is a dozen lines, while a library would bring its own language for them and
//! cannot say that the calls of another ABI (32 bit, x32), whose numbers differ, are refused as a whole.

use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
};

use std::io;

/// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the first argument, on machines with the lower byte first.
const FIRST_ARGUMENT: u32 = 16;

/// Every flag of `clone` that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// From this number on a call is of the x32 ABI.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const THIS_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const THIS_ARCHITECTURE: u32 = 0xc000_00b7;

/// Answered with "not permitted".
const FORBIDDEN: &[libc::c_long] = &[
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Code in the kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    // The whole host.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    // Shared with other sandboxes, or known for their bugs.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The filter as the kernel takes it.
fn program() -> Vec<sock_filter> {
    let answer = |code: i32| SECCOMP_RET_ERRNO | code as u32;
    let mut all: Vec<sock_filter> = Vec::new();
    let load = |all: &mut Vec<sock_filter>, offset| {
        // SAFETY: both only fill in a structure of numbers.
        all.push(unsafe { BPF_STMT((BPF_LD | BPF_W | BPF_ABS) as u16, offset) });
    };
    let end = |all: &mut Vec<sock_filter>, with| {
        // SAFETY: as above.
        all.push(unsafe { BPF_STMT((BPF_RET | BPF_K) as u16, with) });
    };
    // Compares what was loaded; skips the next instruction where it does not agree, or where it does.
    let unless = |all: &mut Vec<sock_filter>, test, with, negated: bool| {
        let (yes, no) = if negated { (1, 0) } else { (0, 1) };
        // SAFETY: as above.
        all.push(unsafe { BPF_JUMP((BPF_JMP | test | BPF_K) as u16, with, yes, no) });
    };
    load(&mut all, ARCHITECTURE);
    unless(&mut all, BPF_JEQ, THIS_ARCHITECTURE, true);
    end(&mut all, answer(libc::ENOSYS));
    load(&mut all, NUMBER);
    #[cfg(target_arch = "x86_64")]
    {
        unless(&mut all, BPF_JGE, X32, false);
        end(&mut all, answer(libc::ENOSYS));
    }
    // Its flags are in memory, where a filter cannot look; programs then turn to `clone`.
    unless(&mut all, BPF_JEQ, libc::SYS_clone3 as u32, false);
    end(&mut all, answer(libc::ENOSYS));
    for number in FORBIDDEN {
        unless(&mut all, BPF_JEQ, *number as u32, false);
        end(&mut all, answer(libc::EPERM));
    }
    // Of these the first argument decides.
    for (number, test, with) in [
        (libc::SYS_clone, BPF_JSET, NAMESPACES),
        // Sockets to the hypervisor, and to other machines on it, which no network namespace holds back.
        (libc::SYS_socket, BPF_JEQ, libc::AF_VSOCK as u32),
    ] {
        // Past the four instructions that follow, where it is another call.
        // SAFETY: as above.
        all.push(unsafe { BPF_JUMP((BPF_JMP | BPF_JEQ | BPF_K) as u16, number as u32, 0, 4) });
        load(&mut all, FIRST_ARGUMENT);
        unless(&mut all, test, with, false);
        end(&mut all, answer(libc::EPERM));
        end(&mut all, SECCOMP_RET_ALLOW);
    }
    end(&mut all, SECCOMP_RET_ALLOW);
    all
}

/// Puts the filter on this process and all that come from it, and takes from them every way to more rights by `exec`.
pub(crate) fn put_on() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let mut all = program();
    let filter = libc::sock_fprog {
        len: all.len() as u16,
        filter: all.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the program, which lives until the call is over.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
            std::ptr::from_ref(&filter),
            0,
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
