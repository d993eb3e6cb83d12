//! A host of its own for a test, and an outside around it: network namespaces from which nothing leads to the network of
//! this machine. The addresses are of ranges for documentation, of private ones, and of the metadata service.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The host's address on the side of the outside.
pub(crate) const HOST: &str = "198.51.100.1";
/// What the allowed domain has.
pub(crate) const WEB: &str = "192.0.2.10";
/// What nobody is allowed to reach.
pub(crate) const EVIL: &str = "192.0.2.66";
/// The allowed address.
pub(crate) const DATABASE: &str = "203.0.113.7";
pub(crate) const NAMES: &str = "203.0.113.53";
pub(crate) const METADATA: &str = "169.254.169.254";
pub(crate) const SIX: &str = "2001:db8::2";
/// A port of a service of the host, on all of its addresses.
pub(crate) const SERVICE: u16 = 8080;
/// The name of an abstract socket of the host.
const ABSTRACT: &str = "ostler-escape-test";
/// What attempts send.
const MARK: &[u8] = b"ostler-probe";

const PRIVATE: [&str; 3] = ["10.99.0.1", "172.16.9.9", "192.168.77.1"];
const PORTS: [u16; 7] = [22, 80, 443, 5353, 5432, 8443, 9999];

/// What was seen outside.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    packets: Mutex<Vec<Vec<u8>>>,
    /// What web servers were told, by the address and port that was asked.
    said: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
    questions: Mutex<Vec<String>>,
}

pub(crate) struct Stage {
    pub(crate) seen: Arc<Seen>,
    /// What leaves this machine for one of the stage's addresses, or with the mark of an attempt.
    uplink: Arc<Mutex<Vec<Vec<u8>>>>,
}

pub(crate) fn sh(script: &str) -> String {
    let done = Command::new("sh").args(["-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

impl Stage {
    /// Moves this thread, and all threads and programs that it starts from now on, to a host of its own.
    pub(crate) fn enter() -> Self {
        let uplink = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        sniff(Arc::clone(&uplink), of_the_stage);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        std::fs::create_dir_all("/run/netns").unwrap();
        mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        sh(&format!(
            "ip link set lo up
             ip netns add outside
             ip link add up0 type veth peer name eth0 netns outside
             ip addr add {HOST}/24 dev up0
             ip -6 addr add 2001:db8::1/64 dev up0 nodad
             ip link set up0 up
             ip -n outside link set lo up
             ip -n outside addr add 198.51.100.2/24 dev eth0
             for a in {WEB} {EVIL} {DATABASE} {NAMES} {METADATA} {}; do ip -n outside addr add $a/32 dev eth0; done
             ip -n outside -6 addr add {SIX}/64 dev eth0 nodad
             ip -n outside -6 addr add fd00:ec2::254/128 dev eth0 nodad
             ip -n outside link set eth0 up
             ip route add default via 198.51.100.2
             ip -6 route add default via {SIX}",
            PRIVATE.join(" ")
        ));
        let seen = Arc::<Seen>::default();
        let world = Arc::clone(&seen);
        within(Path::new("/run/netns/outside"), move || {
            let packets = Arc::clone(&world);
            let all = packet_socket();
            std::thread::spawn(move || {
                read_packets(all, |packet| {
                    packets.packets.lock().unwrap().push(packet.to_vec());
                });
            });
            for port in PORTS {
                web_server("outside", port, &world);
                for address in [WEB, EVIL, DATABASE, METADATA, SIX, "fd00:ec2::254"] {
                    datagrams("outside", address, port);
                }
            }
            name_server(&world);
        });
        // The neighbours' link-local addresses take a moment.
        let six: SocketAddr = format!("[{SIX}]:443").parse().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect_timeout(&six, Duration::from_millis(200)).is_err() {
            assert!(Instant::now() < end, "IPv6 is not staged");
        }
        web_server("host", SERVICE, &seen);
        for address in [HOST, "127.0.0.1"] {
            datagrams("host", address, SERVICE);
        }
        let name = std::os::unix::net::SocketAddr::from_abstract_name(ABSTRACT).unwrap();
        let listener = std::os::unix::net::UnixListener::bind_addr(&name).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _gone = (&stream).write_all(b"host sees you");
            }
        });
        Self { seen, uplink }
    }

    /// What arrived that must not have: packets, words and questions.
    pub(crate) fn escaped(&self, allowed: impl Fn(&str, u16) -> bool) -> Vec<String> {
        // The last packet may be on its way.
        std::thread::sleep(Duration::from_millis(100));
        let mut found: Vec<String> = Vec::new();
        for packet in self.seen.packets.lock().unwrap().iter() {
            found.extend(escaped(packet, &allowed));
        }
        for (asked, words) in self.seen.said.lock().unwrap().iter() {
            let text = String::from_utf8_lossy(words);
            if text.contains("evil") || text.contains("deadbeef") {
                found.push(format!("{asked} was told {text:?}"));
            }
        }
        for question in self.seen.questions.lock().unwrap().iter() {
            if question.contains("evil") || question.contains("deadbeef") {
                found.push(format!("the name server was asked for {question}"));
            }
        }
        for packet in self.uplink.lock().unwrap().iter() {
            found.push(format!("on a real interface: {packet:?}"));
        }
        found.sort();
        found.dedup();
        found
    }

    pub(crate) fn forget(&self) {
        std::thread::sleep(Duration::from_millis(100));
        self.seen.packets.lock().unwrap().clear();
        self.seen.said.lock().unwrap().clear();
        self.seen.questions.lock().unwrap().clear();
    }
}

/// Does something in a namespace, on a thread of its own.
fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(namespace).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A socket that gets every packet of the namespace that it is made in.
fn packet_socket() -> File {
    let every = SockProtocol::EthAll;
    socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        every,
    )
    .unwrap()
    .into()
}

fn read_packets(mut socket: File, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.read(&mut buffer) {
        keep(&buffer[..length]);
    }
}

fn sniff(to: Arc<Mutex<Vec<Vec<u8>>>>, wanted: fn(&[u8]) -> bool) {
    let socket = packet_socket();
    std::thread::spawn(move || {
        read_packets(socket, |packet| {
            if wanted(packet) {
                to.lock().unwrap().push(packet.to_vec());
            }
        });
    });
}

fn has(packet: &[u8], words: &[u8]) -> bool {
    packet.windows(words.len()).any(|w| w == words)
}

fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    (packet.first()? >> 4 == 4).then_some(())?;
    Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?))
}

/// Traffic of this stage on a real interface; other programs of this machine have the loopback.
fn of_the_stage(packet: &[u8]) -> bool {
    let to_stage = destination(packet).is_some_and(|to| {
        let to = to.to_string();
        [WEB, EVIL, DATABASE, NAMES].contains(&to.as_str())
    });
    to_stage || has(packet, MARK) && destination(packet).is_some_and(|to| !to.is_loopback())
}

/// What a packet is that came to the outside and should not have.
fn escaped(packet: &[u8], allowed: impl Fn(&str, u16) -> bool) -> Option<String> {
    match packet.first()? >> 4 {
        4 => {
            let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?).to_string();
            let to = destination(packet)?.to_string();
            let own = [WEB, EVIL, DATABASE, NAMES, METADATA, "198.51.100.2"]
                .iter()
                .chain(&PRIVATE)
                .any(|a| *a == source);
            let (protocol, head) = (packet[9], usize::from(packet[0] & 15) * 4);
            let port = packet
                .get(head + 2..head + 4)
                .map_or(0, |p| u16::from_be_bytes([p[0], p[1]]));
            // That nobody listens for an answer any more is told by the host's kernel itself.
            let told = protocol == 1 && packet.get(head) == Some(&3);
            let fine = own || told || matches!(protocol, 6 | 17) && allowed(&to, port);
            (!fine).then(|| format!("{source} > {to}:{port} protocol {protocol}"))
        }
        // Neighbour discovery and multicast reports are the kernels' own.
        6 if has(packet, MARK) || ![58, 0].contains(packet.get(6)?) => {
            let own = packet.get(8..24)? == [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
            (!own).then(|| format!("IPv6, next header {}", packet[6]))
        }
        _ => None,
    }
}

/// Answers every request, and whatever else is said, with its name, on all addresses of the namespace it is called in.
fn web_server(name: &'static str, port: u16, seen: &Arc<Seen>) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let _gone = converse(name, stream, &seen);
            });
        }
    });
}

fn converse(name: &str, mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let (peer, asked) = (stream.peer_addr()?, stream.local_addr()?);
    let asked = SocketAddr::new(asked.ip().to_canonical(), asked.port());
    let name = if asked.ip().to_string() == METADATA {
        "inner"
    } else {
        name
    };
    let mut buffer = [0; 8192];
    loop {
        let length = stream.read(&mut buffer)?;
        let words = buffer[..length].to_vec();
        let head_only = words.starts_with(b"HEAD");
        seen.said.lock().unwrap().push((asked, words));
        if length == 0 {
            return Ok(());
        }
        let body = if head_only {
            String::new()
        } else {
            format!("{name} sees {peer}")
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes())?;
    }
}

fn datagrams(name: &'static str, address: &str, port: u16) {
    let socket = UdpSocket::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _gone = socket.send_to(format!("{name} sees {peer}").as_bytes(), peer);
        }
    });
}

/// Knows the names of the stage. One has another address each time it is asked for.
fn name_server(seen: &Arc<Seen>) {
    let turn = Arc::new(AtomicU32::new(0));
    let udp = UdpSocket::bind((NAMES, 53)).unwrap();
    let (world, turns) = (Arc::clone(seen), Arc::clone(&turn));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length], &world, &turns) {
                let _gone = udp.send_to(&answer, peer);
            }
        }
    });
    let tcp = TcpListener::bind((NAMES, 53)).unwrap();
    let world = Arc::clone(seen);
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_ok()
                && let Some(answer) = answer(&question, &world, &turn)
            {
                let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                framed.extend(answer);
                let _gone = stream.write_all(&framed);
            }
        }
    });
}

fn answer(query: &[u8], seen: &Seen, turn: &AtomicU32) -> Option<Vec<u8>> {
    let (mut name, mut at) = (String::new(), 12);
    while let length @ 1.. = usize::from(*query.get(at)?) {
        let label = query.get(at + 1..at + 1 + length)?;
        name.push_str(&String::from_utf8_lossy(label));
        name.push('.');
        at += 1 + length;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    seen.questions.lock().unwrap().push(name.clone());
    let flips = || {
        if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            WEB
        } else {
            METADATA
        }
    };
    let address: Option<Ipv4Addr> = match name.as_str() {
        "web.test" => Some(WEB),
        "rebind.test" => Some(METADATA),
        "inside.test" => Some("127.0.0.1"),
        "private.test" => Some(PRIVATE[0]),
        "flip.test" if kind == 1 => Some(flips()),
        // Whoever asks for anything else is answered, too, so that a tunnel would work.
        _ => Some(EVIL),
    }
    .filter(|_| kind == 1)
    .map(|text| text.parse().unwrap());
    let mut answer = query[..2].to_vec();
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(&query[12..at + 5]);
    if let Some(address) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
