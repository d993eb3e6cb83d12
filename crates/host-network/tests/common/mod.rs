//! A host of its own for each test: network namespaces in which an uplink leads to an "outside" that the test stages.
//! Nothing in them has a way to the network of this machine.

#![allow(clippy::unwrap_used, dead_code, reason = "tests")]

use async_trait::async_trait;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use ostler_domain::SandboxId;
use ostler_host_network::{Denied, HostNetwork, NetworkOptions, Redirected, Slot, Traffic};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// The outside's own address; it is the host's way out.
pub(crate) const ROUTER: &str = "198.51.100.2";
/// The host's address on that side.
pub(crate) const UPLINK: &str = "198.51.100.1";
/// A server outside, in a range that is not the public Internet.
pub(crate) const DATABASE: &str = "203.0.113.7";
/// A server outside with a public address (in these namespaces it belongs to the test).
pub(crate) const WEB: &str = "11.0.0.7";
/// The metadata service of clouds.
pub(crate) const METADATA: &str = "169.254.169.254";
/// What a probe sends, so that it is recognised wherever it arrives.
pub(crate) const MARK: &[u8] = b"ostler-probe";
/// Ports on which the outside answers, by TCP and by UDP.
pub(crate) const PORTS: [u16; 5] = [22, 53, 80, 443, 5432];

/// Ports on which the host answers.
pub(crate) const HOST_PORTS: [u16; 3] = [22, 5432, 8080];

const SHORT: Duration = Duration::from_millis(300);

/// Runs a test on such a host.
pub(crate) fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    if !ostler_test_kit::has(&[ostler_test_kit::Part::HostNetwork]) {
        return;
    }
    // Of this thread, and of all threads and programs that it starts.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = World::new();
    runtime.block_on(test(world));
}

pub(crate) fn sh(script: &str) -> String {
    let done = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        done.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

/// Does something in a namespace, on a thread of its own.
pub(crate) fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(namespace).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// The staged surroundings.
pub(crate) struct World {
    pub(crate) state: TempDir,
    arrived: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl World {
    fn new() -> Self {
        sh(&format!(
            "ip link set lo up
             ip netns add outside
             ip link add up0 type veth peer name eth0 netns outside
             ip addr add {UPLINK}/24 dev up0
             ip -6 addr add 2001:db8::1/64 dev up0 nodad
             ip link set up0 up
             ip -n outside link set lo up
             ip -n outside addr add {ROUTER}/24 dev eth0
             ip -n outside addr add {DATABASE}/32 dev eth0
             ip -n outside addr add {WEB}/32 dev eth0
             ip -n outside addr add {METADATA}/32 dev eth0
             ip -n outside -6 addr add 2001:db8::2/64 dev eth0 nodad
             ip -n outside link set eth0 up
             ip -n outside route add 10.0.0.0/8 via {UPLINK}
             ip route add default via {ROUTER}
             ip -6 route add default via 2001:db8::2"
        ));
        let arrived = Arc::default();
        let world = Self {
            state: tempfile::tempdir().unwrap(),
            arrived: Arc::clone(&arrived),
        };
        let outside = Path::new("/run/netns/outside");
        within(outside, || {
            let socket = packets();
            std::thread::spawn(move || sniff(socket, &arrived));
        });
        let addresses = [ROUTER, DATABASE, WEB, METADATA, "2001:db8::2"];
        within(outside, || serve("outside", &addresses, &PORTS));
        // Services of the host itself.
        serve("host", &[UPLINK, "127.0.0.1", "2001:db8::1"], &HOST_PORTS);
        world
    }

    /// A host network of a small pool.
    pub(crate) fn options(&self) -> NetworkOptions {
        let mut options = NetworkOptions::new("test", self.state.path());
        options.spare = 2;
        options
    }

    pub(crate) async fn open(&self) -> HostNetwork {
        HostNetwork::open(self.options()).await.unwrap()
    }

    /// What arrived outside and came from sandboxes: with the mark, or from an address of theirs, or a SYN or ICMP that
    /// nobody else here sends.
    pub(crate) fn arrived(&self) -> Vec<String> {
        // The last packet may be on its way.
        std::thread::sleep(Duration::from_millis(50));
        self.arrived
            .lock()
            .unwrap()
            .iter()
            .filter_map(|p| describe(p))
            .collect()
    }

    pub(crate) fn forget(&self) {
        std::thread::sleep(Duration::from_millis(50));
        self.arrived.lock().unwrap().clear();
    }
}

/// A socket that gets every packet of the namespace that it is made in.
fn packets() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: all arguments are integers; the descriptor is new.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, every);
        assert!(fd >= 0);
        std::os::fd::OwnedFd::from_raw_fd(fd)
    }
}

fn sniff(socket: std::os::fd::OwnedFd, arrived: &Mutex<Vec<Vec<u8>>>) {
    let mut file = File::from(socket);
    let mut buffer = [0; 4096];
    while let Ok(length) = file.read(&mut buffer) {
        arrived.lock().unwrap().push(buffer[..length].to_vec());
    }
}

/// A packet that a sandbox may have sent; `None` for the kernels' own chatter and for what the outside sends itself.
fn describe(packet: &[u8]) -> Option<String> {
    let marked = packet.windows(MARK.len()).any(|w| w == MARK);
    match packet.first()? >> 4 {
        4 => {
            let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
            let target = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
            let own = [ROUTER, DATABASE, WEB, METADATA]
                .iter()
                .any(|a| *a == source.to_string());
            (!own).then(|| format!("{source} > {target} protocol {} marked {marked}", packet[9]))
        }
        // Neighbour discovery and multicast reports are the kernels' own.
        6 if marked || packet.get(6) != Some(&58) && packet.get(6) != Some(&0) => {
            Some(format!("IPv6 next header {} marked {marked}", packet[6]))
        }
        _ => None,
    }
}

/// Answers everyone with a name: by TCP on all addresses of the namespace it is called in, by UDP on those named, so that
/// an answer comes from the address that was asked.
pub(crate) fn serve(name: &'static str, addresses: &[&str], ports: &[u16]) {
    for port in ports {
        if let Ok(listener) = TcpListener::bind(("::", *port)) {
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { return };
                    let peer = stream.peer_addr().unwrap();
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    let _gone = stream.write_all(format!("{name} sees {peer}").as_bytes());
                }
            });
        }
        for address in addresses {
            let socket = UdpSocket::bind((*address, *port)).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _gone = socket.send_to(format!("{name} sees {peer}").as_bytes(), peer);
                }
            });
        }
    }
}

/// What TCP to an address from within a slot brings; the error's kind otherwise.
pub(crate) fn tcp(slot: &Slot, to: &str) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    within(&slot.namespace, || {
        let mut stream = TcpStream::connect_timeout(&to, SHORT).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let mut text = String::new();
        let _sent = stream.write_all(MARK);
        match stream.read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(_) if !text.is_empty() => Ok(text),
            Err(e) => Err(e.to_string()),
        }
    })
}

/// What a datagram of some bytes to an address brings.
pub(crate) fn udp(slot: &Slot, to: &str, size: usize) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    within(&slot.namespace, || {
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let socket = UdpSocket::bind((any, 0)).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(SHORT)).unwrap();
        let mut payload = MARK.to_vec();
        payload.resize(size.max(MARK.len()), b'.');
        socket.connect(to).map_err(|e| e.to_string())?;
        socket.send(&payload).map_err(|e| e.to_string())?;
        let mut buffer = [0; 8192];
        let length = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// Sends a whole IPv4 packet from within a slot.
pub(crate) fn raw(slot: &Slot, packet: &[u8]) {
    let target = Ipv4Addr::from(*packet[16..].first_chunk::<4>().unwrap());
    within(&slot.namespace, || {
        // SAFETY: plain system calls; the structure outlives the call.
        unsafe {
            let fd = libc::socket(
                libc::AF_INET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::IPPROTO_RAW,
            );
            assert!(fd >= 0);
            let mut to: libc::sockaddr_in = std::mem::zeroed();
            to.sin_family = libc::AF_INET as u16;
            to.sin_addr.s_addr = u32::from(target).to_be();
            let _refused_is_fine = libc::sendto(
                fd,
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_in>() as u32,
            );
            libc::close(fd);
        }
    });
}

/// An IPv4 packet with a payload that begins with the mark.
pub(crate) fn packet(protocol: u8, source: &str, target: &str, head: &[u8], flags: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 77];
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(target.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(head);
    packet.extend(MARK);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// The head of a UDP datagram that carries the mark.
pub(crate) fn udp_head(port: u16) -> Vec<u8> {
    let mut head = 4000u16.to_be_bytes().to_vec();
    head.extend(port.to_be_bytes());
    head.extend((8 + MARK.len() as u16).to_be_bytes());
    head.extend([0, 0]);
    head
}

/// Serves as proxy and name server: says who asked for what.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) denied: Mutex<Vec<Denied>>,
}

#[async_trait]
impl Traffic for Server {
    async fn connection(&self, mut connection: Redirected) {
        let text = format!(
            "proxy for {} to {} asked {}",
            connection.sandbox, connection.destination, connection.to_proxy
        );
        let _gone = connection.stream.write_all(text.as_bytes()).await;
        let _gone = connection.stream.shutdown().await;
        // Until the client goes, so that no reset overtakes the text.
        let mut rest = Vec::new();
        let _gone = tokio::io::AsyncReadExt::read_to_end(&mut connection.stream, &mut rest).await;
    }

    async fn query(&self, sandbox: SandboxId, query: Vec<u8>, tcp: bool) -> Option<Vec<u8>> {
        Some(format!("names for {sandbox} {} {tcp}", query.len()).into_bytes())
    }

    fn denied(&self, denied: Denied) {
        self.denied.lock().unwrap().push(denied);
    }
}

impl Server {
    /// Serves a network until the token is cancelled.
    pub(crate) fn start(network: &Arc<HostNetwork>) -> (Arc<Self>, CancellationToken) {
        let (server, stop) = (Arc::new(Self::default()), CancellationToken::new());
        let (network, traffic, token) = (network.clone(), server.clone(), stop.clone());
        tokio::spawn(async move { network.listen(traffic, token).await.unwrap() });
        (server, stop)
    }

    /// Waits for a refused packet of this kind.
    pub(crate) async fn saw(&self, mut wanted: impl FnMut(&Denied) -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if self.denied.lock().unwrap().iter().any(&mut wanted) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}
