//! The files that a program leaves, as an archive.
//!
//! Programs may be hostile and may still run: every name is opened below the directory in which it was found, and links
//! are not followed. Nothing but the way to the present file is held in memory, so that there may be any number of files.

use crate::files::header;
use crate::glob::Glob;
use crate::isolation::Kept;
use bytes::Bytes;
use futures::Stream;
use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstatat};
use ostler_guest_protocol::v1::collect_problem::Kind;
use ostler_guest_protocol::v1::{CollectFrame, CollectProblem, CollectRequest, CollectSummary};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const PIECE: usize = 64 * 1024;
/// Pieces on their way.
const PIECES: usize = 4;
/// Most patterns.
const GLOBS: usize = 1000;
/// Most files if the caller does not say.
const FILES: u64 = 1_000_000;
/// Most problems that are told.
const PROBLEMS: usize = 1000;
/// Directories within each other; each is open while its content is looked at.
const DEPTH: usize = 128;

type Pieces = mpsc::Sender<Result<CollectFrame, Status>>;

/// Starts to collect. `kept` are the directories of an isolated program; without any the files are those of the sandbox.
pub(crate) fn collect(
    request: &CollectRequest,
    kept: Vec<Kept>,
    workspace: &Path,
) -> Result<impl Stream<Item = Result<CollectFrame, Status>> + Send + 'static, Status> {
    if request.globs.len() > GLOBS {
        return Err(Status::invalid_argument(format!(
            "at most {GLOBS} patterns can be given"
        )));
    }
    let globs: Vec<Glob> = request
        .globs
        .iter()
        .map(|glob| Glob::new(glob))
        .collect::<Result<_, _>>()
        .map_err(Status::invalid_argument)?;
    let root = if request.root.is_empty() {
        workspace.to_owned()
    } else {
        PathBuf::from(&request.root)
    };
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !root.is_absolute() || !root.components().all(plain) {
        return Err(Status::invalid_argument(format!(
            "`{}` must be an absolute path without `..`",
            root.display()
        )));
    }
    let top = top(&root, kept, workspace)?;
    let most = |given: u64, usual: u64| if given == 0 { usual } else { given };
    let limits = Limits {
        files: most(request.max_files, FILES),
        bytes: most(request.max_bytes, u64::MAX),
        total: most(request.max_total, u64::MAX),
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE, Sink(pieces.clone())));
        // Not every reader knows GNU's way to write files with holes, and none needs it.
        archive.sparse(false);
        let mut walk = Walk {
            globs,
            limits,
            archive,
            summary: CollectSummary::default(),
        };
        let last = match walk.all(top).and_then(|()| walk.end()) {
            Ok(summary) => Ok(CollectFrame {
                summary: Some(summary),
                ..CollectFrame::default()
            }),
            Err(error) => Err(Status::aborted(format!("{}: {error}", root.display()))),
        };
        // The receiver is gone when the caller is.
        let _ = pieces.blocking_send(last);
    });
    Ok(ReceiverStream::new(receiver))
}

/// The directory to begin with. That it is below one that programs cannot replace is made sure by the kernel.
fn top(root: &Path, kept: Vec<Kept>, workspace: &Path) -> Result<OwnedFd, Status> {
    let of_program = !kept.is_empty();
    let base = kept
        .into_iter()
        .filter(|(path, _)| root.starts_with(path))
        .max_by_key(|(path, _)| path.as_os_str().len());
    let opened = match base {
        Some((path, handle)) => below(
            &handle,
            root.strip_prefix(path).unwrap_or(root),
            OFlag::O_DIRECTORY,
        ),
        None if of_program => {
            return Err(Status::invalid_argument(format!(
                "{} is not below the workspace, the home directory or /tmp of the program",
                root.display()
            )));
        }
        None => {
            if let Ok(rest) = root.strip_prefix(workspace) {
                File::open(workspace)
                    .map_err(|_| Errno::ENOENT)
                    .and_then(|base| below(&base, rest, OFlag::O_DIRECTORY))
            } else {
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
                    .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
                openat2(AT_FDCWD, root, how)
            }
        }
    };
    opened.map_err(|error| match error {
        Errno::ENOENT => Status::not_found(format!("directory {}", root.display())),
        error => Status::failed_precondition(format!("{} cannot be read: {error}", root.display())),
    })
}

/// Opens what is below a directory and reached without any link.
fn below(base: &impl AsFd, name: &(impl nix::NixPath + ?Sized), flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    if name.is_empty() {
        openat2(base, c".", how)
    } else {
        openat2(base, name, how)
    }
}

struct Limits {
    files: u64,
    bytes: u64,
    total: u64,
}

struct Walk<W: Write> {
    globs: Vec<Glob>,
    limits: Limits,
    archive: tar::Builder<W>,
    summary: CollectSummary,
}

impl<W: Write> Walk<W> {
    /// Fails when nobody takes the archive any more.
    fn all(&mut self, top: OwnedFd) -> io::Result<()> {
        let mut path: Vec<Vec<u8>> = Vec::new();
        let mut open = vec![Dir::from_fd(top)?.into_iter()];
        while let Some(entries) = open.last_mut() {
            let Some(entry) = entries.next() else {
                open.pop();
                path.pop();
                continue;
            };
            let name = match entry {
                Ok(entry) => CString::from(entry.file_name()),
                Err(error) => {
                    self.problem(&path, Kind::Unreadable, &error.to_string());
                    open.pop();
                    path.pop();
                    continue;
                }
            };
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            path.push(name.as_bytes().to_vec());
            let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            let matches = self.globs.iter().any(|glob| glob.matches(&parts));
            let inner = self.globs.iter().any(|glob| glob.may_match_below(&parts));
            if matches || inner {
                let deep = open.len() >= DEPTH;
                let Some(parent) = open.last() else { break };
                match self.look(parent, &name, &path, matches, inner && !deep)? {
                    Seen::Directory(dir) => {
                        open.push(dir);
                        continue;
                    }
                    Seen::Skipped if inner && deep => {
                        self.problem(
                            &path,
                            Kind::Unreadable,
                            "too deep: 128 directories are within each other",
                        );
                    }
                    Seen::Skipped => {}
                    Seen::Enough => return Ok(()),
                }
            }
            path.pop();
        }
        Ok(())
    }

    fn look(
        &mut self,
        parent: &OwningIter,
        name: &CString,
        path: &[Vec<u8>],
        matches: bool,
        inner: bool,
    ) -> io::Result<Seen> {
        let stat = match fstatat(borrowed(parent), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It vanished.
            Err(Errno::ENOENT) => return Ok(Seen::Skipped),
            Err(error) => {
                self.problem(path, Kind::Unreadable, &error.to_string());
                return Ok(Seen::Skipped);
            }
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            if !inner {
                return Ok(Seen::Skipped);
            }
            let dir = below(&borrowed(parent), name.as_c_str(), OFlag::O_DIRECTORY).and_then(Dir::from_fd);
            return Ok(match dir {
                Ok(dir) => Seen::Directory(dir.into_iter()),
                Err(Errno::ENOENT) => Seen::Skipped,
                Err(error) => {
                    self.problem(path, Kind::Unreadable, &error.to_string());
                    Seen::Skipped
                }
            });
        }
        if !matches {
            return Ok(Seen::Skipped);
        }
        if kind == SFlag::S_IFLNK {
            self.problem(path, Kind::Symlink, "");
            return Ok(Seen::Skipped);
        }
        if kind != SFlag::S_IFREG {
            self.problem(path, Kind::Special, "");
            return Ok(Seen::Skipped);
        }
        let opened = below(&borrowed(parent), name.as_c_str(), OFlag::empty()).map_err(io::Error::from);
        let opened = opened.and_then(|fd| {
            let file = File::from(fd);
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match opened {
            Ok((file, metadata)) if metadata.is_file() => self.add(file, &metadata, path),
            // It became something else meanwhile.
            Ok(_) => {
                self.problem(path, Kind::Special, "");
                Ok(Seen::Skipped)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Seen::Skipped),
            Err(error) => {
                self.problem(path, Kind::Unreadable, &error.to_string());
                Ok(Seen::Skipped)
            }
        }
    }

    fn add(&mut self, file: File, metadata: &std::fs::Metadata, path: &[Vec<u8>]) -> io::Result<Seen> {
        let size = metadata.len();
        if size > self.limits.bytes {
            self.problem(path, Kind::Large, &format!("{size} bytes"));
            return Ok(Seen::Skipped);
        }
        if self.summary.files >= self.limits.files {
            self.problem(
                path,
                Kind::Many,
                &format!("{} files are the limit", self.limits.files),
            );
            self.summary.cut = true;
            return Ok(Seen::Enough);
        }
        if size > self.limits.total - self.summary.bytes {
            let why = format!("{size} bytes, with {} before", self.summary.bytes);
            self.problem(path, Kind::Many, &why);
            return Ok(Seen::Skipped);
        }
        let mut header = header(metadata);
        header.set_size(size);
        let name: Vec<&OsStr> = path.iter().map(|part| OsStr::from_bytes(part)).collect();
        let mut content = Whole {
            file,
            left: size,
            short: None,
        };
        self.archive
            .append_data(&mut header, name.iter().collect::<PathBuf>(), &mut content)?;
        self.summary.files += 1;
        self.summary.bytes += size;
        if let Some(why) = content.short {
            self.problem(path, Kind::Changed, &why);
        }
        Ok(Seen::Skipped)
    }

    fn problem(&mut self, path: &[Vec<u8>], kind: Kind, detail: &str) {
        if self.summary.problems.len() >= PROBLEMS {
            self.summary.more_problems += 1;
            return;
        }
        self.summary.problems.push(CollectProblem {
            path: String::from_utf8_lossy(&path.join(&b'/')).into_owned(),
            kind: kind.into(),
            detail: detail.to_owned(),
        });
    }

    /// Ends the archive.
    fn end(&mut self) -> io::Result<CollectSummary> {
        self.archive.finish()?;
        self.archive.get_mut().flush()?;
        Ok(std::mem::take(&mut self.summary))
    }
}

fn borrowed(dir: &OwningIter) -> BorrowedFd<'_> {
    // SAFETY: it is open as long as what it is borrowed from.
    unsafe { BorrowedFd::borrow_raw(dir.as_raw_fd()) }
}

enum Seen {
    Directory(OwningIter),
    Skipped,
    /// No more files may be added.
    Enough,
}

/// A file of exactly the length that it had at first: the archive has said so already.
struct Whole {
    file: File,
    left: u64,
    short: Option<String>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = if self.short.is_some() {
            0
        } else {
            self.file.read(buffer).unwrap_or_else(|error| {
                self.short = Some(error.to_string());
                0
            })
        };
        let n = if n > 0 {
            n
        } else {
            let missing = || format!("{} bytes were missing", self.left);
            self.short.get_or_insert_with(missing);
            buffer.fill(0);
            buffer.len()
        };
        self.left -= n as u64;
        Ok(n)
    }
}

/// Sends what is written to it.
struct Sink(Pieces);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = &data[..data.len().min(PIECE)];
        let frame = CollectFrame {
            data: Bytes::copy_from_slice(piece),
            ..CollectFrame::default()
        };
        self.0
            .blocking_send(Ok(frame))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
