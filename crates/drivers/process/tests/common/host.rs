//! A host of its own for a test, made of namespaces that have no way to the network of this machine.

#![allow(dead_code, reason = "for some tests only")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::io::Write;

pub(crate) const OUTSIDE: &str = "203.0.113.7";

pub(crate) fn sh(script: &str) -> String {
    let done = std::process::Command::new("sh")
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A host of its own for this thread and all that it starts, with an uplink to a server outside.
pub(crate) fn own_host() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh(&format!(
        "ip link set lo up
         ip netns add outside
         ip link add up0 type veth peer name eth0 netns outside
         ip addr add 198.51.100.1/24 dev up0
         ip link set up0 up
         ip -n outside link set lo up
         ip -n outside addr add 198.51.100.2/24 dev eth0
         ip -n outside addr add {OUTSIDE}/32 dev eth0
         ip -n outside link set eth0 up
         ip route add default via 198.51.100.2"
    ));
    let outside = std::fs::File::open("/run/netns/outside").unwrap();
    let (ready, when) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        setns(outside, CloneFlags::CLONE_NEWNET).unwrap();
        let listeners = [443, 5432].map(|port| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap());
        ready.send(()).unwrap();
        for listener in listeners {
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let _gone = stream.unwrap().write_all(b"outside\n");
                }
            });
        }
    });
    when.recv().unwrap();
}
