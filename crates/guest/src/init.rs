//! The guest as the first process of a virtual machine: everything between the kernel and the service.
//!
//! It comes with an initial RAM disk that holds nothing else but the modules that the machine needs and a description of
//! the machine. It mounts the root drive, puts itself into it, and is executed again from there, with the kernel's first
//! file system left behind. What goes wrong is said on the console, which the server reads, and ends the machine.

use nix::fcntl::OFlag;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::{chdir, chroot, sethostname};
use ostler_guest_protocol::port;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where the description is, in the initial RAM disk.
const DESCRIPTION: &str = "/ostler.json";
/// Where the modules are, in the order in which they are loaded.
const MODULES: &str = "/modules";
/// Where the root drive is mounted before it becomes the root.
const ROOT: &str = "/root";
/// Where this program goes then.
const PLACE: &str = "run/ostler-guest";
/// The network interface of a machine that has one.
const INTERFACE: &str = "eth0";
const RUN: &str = "/run/ostler";
const WORKSPACE: &str = "/workspace";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel finds its devices while this runs.
const DEVICE_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(2);
/// `EXT4_IOC_RESIZE_FS` and `BLKGETSIZE64` of the kernel.
const RESIZE_EXT4: nix::libc::Ioctl = 0x4008_6610;
const SIZE_OF_DEVICE: nix::libc::Ioctl = 0x8008_1272;

/// What the driver says of the machine.
#[derive(Debug, Deserialize)]
struct Machine {
    hostname: String,
    /// End at once: the driver only wants to know whether the kernel starts.
    #[serde(default)]
    trial: bool,
    /// Whether there is a second drive.
    #[serde(default)]
    data: bool,
    #[serde(default)]
    network: Option<Network>,
    /// vsock port on which the server comes; over the serial port when absent.
    #[serde(default)]
    vsock: Option<u32>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Addresses of the one network interface.
#[derive(Debug, Deserialize)]
struct Network {
    address: Ipv4Addr,
    prefix: u32,
    gateway: Ipv4Addr,
    name_server: Ipv4Addr,
}

/// Does everything, and is executed again as the service. Never returns.
pub fn init() -> ! {
    let Err(error) = begin();
    eprintln!("ostler-guest: this machine cannot start: {error}");
    power_off()
}

/// Writes everything to the drives and ends the machine.
pub fn power_off() -> ! {
    nix::unistd::sync();
    // Programs may still have files open; the next mount then replays the journal.
    let _busy = mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        None::<&str>,
    );
    let error = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("ostler-guest: the machine does not end: {error:?}");
    // The end of the first process is the end of the machine, too.
    std::process::exit(1);
}

fn begin() -> io::Result<Infallible> {
    let none = MsFlags::empty();
    mounted("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")?;
    mounted("proc", "/proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "")?;
    mounted("sysfs", "/sys", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "")?;
    let text = fs::read(DESCRIPTION).map_err(|e| named(DESCRIPTION, &e))?;
    let machine: Machine = serde_json::from_slice(&text)?;
    load_modules()?;
    if machine.trial {
        eprintln!("ostler-guest: the kernel starts");
        power_off();
    }
    drive("vda", ROOT)?;
    let root = Path::new(ROOT);
    let inside = |name: &str| root.join(name.trim_start_matches('/'));
    for (name, mode) in [
        ("dev", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("run", 0o755),
        ("tmp", 0o1777),
    ] {
        directory(&inside(name), mode)?;
    }
    if machine.data {
        directory(&inside("data"), 0o755)?;
        drive("vdb", "/root/data")?;
    }
    // What programs write to /tmp stays on the drive: memory is the scarcer of the two.
    mounted(
        "tmpfs",
        "/root/run",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=0755",
    )?;
    for (name, options) in [("pts", "mode=0620,ptmxmode=0666,gid=5"), ("shm", "mode=1777")] {
        let at = format!("/dev/{name}");
        directory(Path::new(&at), 0o755)?;
        let kind = if name == "pts" { "devpts" } else { "tmpfs" };
        mounted(kind, &at, MsFlags::MS_NOSUID, options)?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, Path::new("/dev").join(link))?;
    }
    sethostname(&machine.hostname)?;
    interface("lo", Ipv4Addr::LOCALHOST, 8)?;
    if let Some(network) = &machine.network {
        interface(INTERFACE, network.address, network.prefix)?;
        default_route(network.gateway)?;
        // A link may lead to what does not exist, or out of the drive.
        let resolv = inside("etc/resolv.conf");
        let _absent_is_fine = fs::remove_file(&resolv);
        fs::write(&resolv, format!("nameserver {}\n", network.name_server))
            .map_err(|e| named(&resolv.display().to_string(), &e))?;
    }

    directory(&inside(PLACE), 0o755)?;
    let program = Path::new("/").join(PLACE).join("ostler-guest");
    let copy = inside(PLACE).join("ostler-guest");
    fs::copy("/init", &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    // It stays in memory as long as it has a name.
    fs::remove_file("/init")?;
    fs::remove_file(DESCRIPTION)?;
    let _absent_is_fine = fs::remove_dir_all(MODULES);
    for name in ["/dev", "/proc", "/sys"] {
        mount(
            Some(name),
            &inside(name),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )?;
    }
    chdir(ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        none | MsFlags::MS_SHARED | MsFlags::MS_REC,
        None::<&str>,
    )?;

    let way = match machine.vsock {
        Some(port) => ["--vsock".to_owned(), port.to_string()],
        None => ["--port".to_owned(), port::NAME.to_owned()],
    };
    let error = Command::new(&program)
        .args(["--run", RUN, "--workspace", WORKSPACE])
        .args(way)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/sh"),
            ("LANG", "C.UTF-8"),
        ])
        .envs(&machine.env)
        .exec();
    Err(named(&program.display().to_string(), &error))
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn mounted(kind: &str, at: &str, flags: MsFlags, options: &str) -> io::Result<()> {
    directory(Path::new(at), 0o755)?;
    match mount(Some(kind), at, Some(kind), flags, Some(options)) {
        // The kernel may have mounted its devices itself.
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(error) => Err(named(&format!("mounting {kind} at {at}"), &error.into())),
    }
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(named(&path.display().to_string(), &error)),
    }
}

/// One after the other, as each may need those before it.
fn load_modules() -> io::Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(MODULES)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    for path in files {
        let file = File::open(&path)?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(named(&path.display().to_string(), &error.into())),
        }
    }
    Ok(())
}

/// Mounts a drive, or its first partition, and lets its file system grow to the size of the drive.
fn drive(name: &str, at: &str) -> io::Result<()> {
    let device = PathBuf::from("/dev").join(name);
    let end = Instant::now() + DEVICE_LIMIT;
    while !device.exists() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("there is no drive {name}")));
        }
        std::thread::sleep(STEP);
    }
    directory(Path::new(at), 0o755)?;
    let partition = PathBuf::from(format!("/dev/{name}1"));
    let mut tried = Vec::new();
    for source in [device, partition].into_iter().filter(|d| d.exists()) {
        match mount(Some(&source), at, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>) {
            Ok(()) => {
                if let Err(error) = grow(&source, at) {
                    eprintln!("ostler-guest: the file system at {at} stays as small as it is: {error}");
                }
                return Ok(());
            }
            Err(error) => tried.push(format!("{}: {error}", source.display())),
        }
    }
    Err(io::Error::other(format!(
        "the drive {name} cannot be mounted as ext4 ({}): is it an ext4 file system, and is it whole?",
        tried.join(", ")
    )))
}

fn grow(device: &Path, at: &str) -> io::Result<()> {
    let mut size = 0u64;
    let disk = File::open(device)?;
    // SAFETY: the kernel writes one u64, for which there is room.
    if unsafe { nix::libc::ioctl(disk.as_raw_fd(), SIZE_OF_DEVICE, &raw mut size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let now = nix::sys::statvfs::statvfs(at)?;
    let block = now.block_size().max(1024);
    // The count of blocks leaves out those of the file system itself, so near the size is the size.
    let wanted = size / block;
    if wanted <= now.blocks() + now.blocks() / 8 {
        return Ok(());
    }
    let root = File::options()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(at)?;
    // SAFETY: the kernel reads one u64.
    if unsafe { nix::libc::ioctl(root.as_raw_fd(), RESIZE_EXT4, &raw const wanted) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn address(ip: Ipv4Addr) -> nix::libc::sockaddr {
    let mut address = nix::libc::sockaddr {
        sa_family: nix::libc::AF_INET as u16,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data[2..6].iter_mut().zip(ip.octets()) {
        *to = from as nix::libc::c_char;
    }
    address
}

fn control<T>(request: nix::libc::c_ulong, argument: &T) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: each request reads the structure that it is called with, which lives until the call is over.
    let done = unsafe {
        nix::libc::ioctl(
            socket.as_raw_fd(),
            request as nix::libc::Ioctl,
            std::ptr::from_ref(argument),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn about(name: &str) -> nix::libc::ifreq {
    // SAFETY: a structure of numbers and arrays of them, for which zero is a value.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as nix::libc::c_char;
    }
    request
}

/// Gives the network interface another hardware address; does nothing in a machine without one.
pub(crate) fn hardware_address(bytes: &[u8]) -> io::Result<()> {
    let Ok(bytes) = <&[u8; 6]>::try_from(bytes) else {
        return Err(io::Error::other("it must have six bytes"));
    };
    if !Path::new("/sys/class/net").join(INTERFACE).exists() {
        return Ok(());
    }
    let mut request = about(INTERFACE);
    let mut address = nix::libc::sockaddr {
        sa_family: nix::libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(bytes) {
        *to = *from as nix::libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    control(nix::libc::SIOCSIFHWADDR as nix::libc::c_ulong, &request)
}

/// Gives an interface its address and brings it up.
fn interface(name: &str, ip: Ipv4Addr, prefix: u32) -> io::Result<()> {
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0));
    let mut request = about(name);
    let explain = |e: io::Error| named(&format!("the network interface {name}"), &e);
    request.ifr_ifru.ifru_addr = address(ip);
    control(nix::libc::SIOCSIFADDR as nix::libc::c_ulong, &request).map_err(explain)?;
    request.ifr_ifru.ifru_netmask = address(mask);
    control(nix::libc::SIOCSIFNETMASK as nix::libc::c_ulong, &request).map_err(explain)?;
    up(name).map_err(explain)
}

/// Brings an interface up.
pub(crate) fn up(name: &str) -> io::Result<()> {
    let mut request = about(name);
    request.ifr_ifru.ifru_flags = (nix::libc::IFF_UP | nix::libc::IFF_RUNNING) as i16;
    control(nix::libc::SIOCSIFFLAGS as nix::libc::c_ulong, &request)
}

fn default_route(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: a structure of numbers and a null pointer, for which zero is a value.
    let mut route: nix::libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(gateway);
    route.rt_flags = nix::libc::RTF_UP | nix::libc::RTF_GATEWAY;
    control(nix::libc::SIOCADDRT as nix::libc::c_ulong, &route).map_err(|e| named("the route", &e))
}
