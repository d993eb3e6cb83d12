//! The relay between standard input and output and a socket.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

fn relay(socket: &std::path::Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ostler-guest"))
        .arg("connect")
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn bytes_go_both_ways_until_one_end_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut child = relay(&socket);
    // It waits a moment for a guest that is only starting.
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut guest, _) = listener.accept().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut greeting = [0; 10];
    output.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"connected\n");
    input.write_all(b"no line feed").unwrap();
    let mut asked = [0; 12];
    guest.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"no line feed");
    guest.write_all(b"nor here").unwrap();
    let mut answer = [0; 8];
    output.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"nor here");
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(guest.read(&mut asked).unwrap(), 0);

    let mut child = relay(&socket);
    let (mut guest, _) = listener.accept().unwrap();
    let words = std::thread::spawn(move || guest.write_all(&vec![7; 1 << 20]));
    // Standard input is still open; what the guest said last is not lost.
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 10 + (1 << 20));
    words.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_guest_that_does_not_listen_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = relay(&dir.path().join("none")).wait_with_output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("none: No such file"), "{said}");
}
