//! The guest's life: its sockets, its tools, its end.

use crate::exec::{Execs, home, tools};
use crate::isolation::{Maker, Setup, View};
use crate::rights::{Capabilities, User};
use crate::service::Service;
use crate::tunnels::Tunnels;
use crate::{CONTROL_SOCKET, TOOLS, filter, serial, vsock};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use nix::sys::prctl::{set_child_subreaper, set_dumpable};
use nix::unistd::geteuid;
use ostler_guest_protocol::v1::guest_server::GuestServer;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const SOCKET: &str = "guest.sock";
/// Grace period of programs when the guest itself is asked to end by a signal.
const GRACE: Duration = Duration::from_secs(2);
/// Time for the last reply to be sent.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// After a listener failed, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest message from the server, which may hold what a program reads on standard input.
const MESSAGE: usize = 16 * 1024 * 1024;
/// Bytes on their way in one stream, and on one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Where the guest works.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directory of the guest's sockets and of output that does not fit in memory; made if missing.
    pub run: PathBuf,
    /// Where programs start unless told otherwise; made if missing.
    pub workspace: PathBuf,
    /// Name of the serial port over which the server comes, in a virtual machine.
    pub port: Option<String>,
    /// vsock port on which the server comes instead, in a virtual machine that has such a device.
    pub vsock: Option<u32>,
    /// Whom the guest and its programs run as, where it is started as root; it gives up all other rights.
    pub user: Option<User>,
    /// Whether the guest and its programs run under the filter of system calls.
    pub filter: bool,
    /// The guest was given CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_SETPCAP only to make isolated programs; they are given up
    /// for everything else.
    pub nested: bool,
}

/// Serves until it is asked to end, by the protocol or by SIGTERM or SIGINT. All programs end with it. Fails if the
/// directories or sockets cannot be made.
pub fn serve(options: &Options) -> io::Result<()> {
    let (dir, workspace) = (absolute(&options.run)?, absolute(&options.workspace)?);
    let maker = give_up_rights(options, &dir, &workspace)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(options, dir, workspace, maker))
}

/// Starts what makes isolated programs, which needs rights, and gives them up then. That one could not be started is for
/// those who ask for isolation.
fn give_up_rights(options: &Options, run: &Path, workspace: &Path) -> io::Result<Result<Maker, String>> {
    let given = Capabilities::effective()?;
    let usual = match (&options.user, options.nested) {
        (Some(_), _) => Capabilities::NONE,
        (None, true) => given.without_makers(),
        (None, false) => given,
    };
    let maker = Maker::start(&Setup {
        view: View {
            run: run.to_owned(),
            workspace: workspace.to_owned(),
            home: home().into(),
            root: options.user.is_none() && geteuid().is_root() && given.can_mount(),
        },
        user: options.user.as_ref(),
        usual,
        filter: options.filter,
    });
    if let Some(user) = &options.user {
        user.become_it()?;
        // The change took it; programs and the server look at the guest in /proc as at any other.
        set_dumpable(true)?;
    }
    if options.nested {
        usual.keep_only()?;
    }
    if options.filter {
        filter::put_on()?;
    }
    Ok(maker.map_err(|error| format!("no process for it can be started: {error}")))
}

async fn run(
    options: &Options,
    run: PathBuf,
    workspace: PathBuf,
    maker: Result<Maker, String>,
) -> io::Result<()> {
    // As the first process of a sandbox it is that anyway.
    set_child_subreaper(true)?;
    install_tools(&run)?;
    let control = listen(&run.join(CONTROL_SOCKET))?;
    let gateway = TcpListener::bind(("127.0.0.1", 0)).await?;
    let gateway_url = format!("http://{}", gateway.local_addr()?);
    let egress = TcpListener::bind(("127.0.0.1", 0)).await?;
    let egress_url = format!("http://{}", egress.local_addr()?);
    let tunnels = Arc::new(Tunnels::default());
    tokio::spawn(Arc::clone(&tunnels).serve_unix(control, "control"));
    tokio::spawn(Arc::clone(&tunnels).serve_tcp(gateway, "gateway"));
    tokio::spawn(Arc::clone(&tunnels).serve_tcp(egress, "egress"));
    let execs = Arc::new(Execs::new(run.clone(), workspace.clone(), maker));
    let service = Service {
        started: Instant::now(),
        workspace,
        gateway_url,
        egress_url,
        execs: Arc::clone(&execs),
        tunnels,
        end: CancellationToken::new(),
    };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Last, as whoever sees it may connect.
    let socket = listen(&run.join(SOCKET))?;
    tokio::select! {
        never = accept(socket, &service) => never,
        never = accept_port(options.port.as_deref(), &service) => never,
        never = accept_vsock(options.vsock, &service) => never,
        never = execs.reap() => never,
        () = service.end.cancelled() => {
            tokio::time::sleep(LAST_WORDS).await;
            Ok(())
        }
        _asked = async { tokio::select! { asked = term.recv() => asked, asked = int.recv() => asked } } => {
            // Ended programs must be reaped meanwhile.
            tokio::select! {
                () = execs.end_all(GRACE) => Ok(()),
                never = execs.reap() => never,
            }
        }
    }
}

fn absolute(dir: &Path) -> io::Result<PathBuf> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(named)?;
    dir.canonicalize().map_err(named)
}

/// The tools are this program by other names.
fn install_tools(run: &Path) -> io::Result<()> {
    let (own, dir) = (std::env::current_exe()?, tools(run));
    std::fs::create_dir_all(&dir)?;
    for tool in TOOLS {
        let link = dir.join(tool);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(&own, &link)?,
        }
    }
    Ok(())
}

/// Listens in place of an earlier guest. Whoever sees the socket can connect: it gets its name last. The directory says
/// who may come near.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(named)?;
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o666)).map_err(named)?;
    std::fs::rename(&new, path).map_err(named)?;
    Ok(listener)
}

async fn accept(socket: UnixListener, service: &Service) -> io::Result<()> {
    let server = server(service);
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        tokio::spawn(connection(stream, server.clone()));
    }
}

async fn accept_port(port: Option<&str>, service: &Service) -> io::Result<()> {
    let Some(port) = port else {
        return std::future::pending().await;
    };
    let server = server(service);
    serial::accept(port, |stream| {
        tokio::spawn(connection(stream, server.clone()));
    })
    .await
}

async fn accept_vsock(port: Option<u32>, service: &Service) -> io::Result<()> {
    let Some(port) = port else {
        return std::future::pending().await;
    };
    let server = server(service);
    vsock::accept(port, |stream| {
        tokio::spawn(connection(stream, server.clone()));
    })
    .await
}

fn server(service: &Service) -> GuestServer<Service> {
    GuestServer::new(service.clone())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE)
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: GuestServer<Service>,
) {
    // A client that breaks the connection has its reasons; the guest goes on.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(server))
        .await;
}
