//! The jailer: checks its command line, makes the directories and cgroups, gives up its rights, becomes Firecracker.
//!
//! It enters the machine's directory without making it the root of the file system: this program is linked to libraries of
//! the host. That no path leads out is checked where paths are used.

use std::fs::{self, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// A machine's name: letters, digits and hyphens, at most 64.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let fine = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fine {
        Ok(())
    } else {
        Err(format!("invalid instance id {id}"))
    }
}

#[derive(Default)]
struct Options {
    id: Option<String>,
    exec_file: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    base: Option<String>,
    version: Option<String>,
    parent: Option<String>,
    netns: Option<String>,
    cgroups: Vec<String>,
    daemonize: bool,
    forwarded: Vec<String>,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        if flag == "--" {
            options.forwarded = rest.cloned().collect();
            break;
        }
        if flag == "--daemonize" {
            options.daemonize = true;
            continue;
        }
        let mut value = || {
            rest.next()
                .cloned()
                .ok_or_else(|| format!("{flag} needs a value"))
        };
        let place = match flag.as_str() {
            "--id" => &mut options.id,
            "--exec-file" => &mut options.exec_file,
            "--uid" => &mut options.uid,
            "--gid" => &mut options.gid,
            "--chroot-base-dir" => &mut options.base,
            "--cgroup-version" => &mut options.version,
            "--parent-cgroup" => &mut options.parent,
            "--netns" => &mut options.netns,
            "--cgroup" => {
                options.cgroups.push(value()?);
                continue;
            }
            _ => return Err(format!("unexpected argument {flag}")),
        };
        if place.replace(value()?).is_some() {
            return Err(format!("{flag} twice"));
        }
    }
    Ok(options)
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if arguments == ["--version"] {
        println!("Jailer v1.15.0\n");
        return Ok(());
    }
    let options = parse(arguments)?;
    let need =
        |value: &Option<String>, flag: &str| value.clone().ok_or_else(|| format!("{flag} is required"));
    let text = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
    let id = need(&options.id, "--id")?;
    check_id(&id)?;
    let number = |value: String| value.parse::<u32>().map_err(|e| format!("{value}: {e}"));
    let uid = number(need(&options.uid, "--uid")?)?;
    let gid = number(need(&options.gid, "--gid")?)?;
    if uid == 0 || gid == 0 {
        return Err("a machine of root's, in these tests".to_owned());
    }
    if options.daemonize || options.netns.is_some() {
        return Err("this driver asks for no daemon and no network namespace".to_owned());
    }
    let exec = fs::canonicalize(need(&options.exec_file, "--exec-file")?).map_err(|e| e.to_string())?;
    let name = exec.file_name().ok_or("no file name")?.to_owned();
    let base = need(&options.base, "--chroot-base-dir")?;
    let base = fs::canonicalize(&base).map_err(|e| text(Path::new(&base), e))?;
    let machine = base.join(&name).join(&id);
    let root = machine.join("root");
    fs::create_dir_all(&root).map_err(|e| text(&root, e))?;
    // For the test that looks at the command line.
    fs::write(machine.join("arguments"), arguments.join("\n")).map_err(|e| text(&machine, e))?;
    let copy = root.join(&name);
    {
        let mut from = fs::File::open(&exec).map_err(|e| text(&exec, e))?;
        let mut to = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .mode(0o755)
            .open(&copy)
            .map_err(|e| text(&copy, e))?;
        std::io::copy(&mut from, &mut to).map_err(|e| text(&copy, e))?;
    }
    chown(&copy, Some(uid), Some(gid)).map_err(|e| text(&copy, e))?;
    groups(&options, &id, &name.to_string_lossy())?;
    for dir in ["", "dev", "dev/net", "run"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir)
            .and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o700)))
            .and_then(|()| chown(&dir, Some(uid), Some(gid)))
            .map_err(|e| text(&dir, e))?;
    }
    let pid = root.join(format!("{}.pid", name.to_string_lossy()));
    fs::write(&pid, std::process::id().to_string()).map_err(|e| text(&pid, e))?;
    std::env::set_current_dir(&root).map_err(|e| text(&root, e))?;
    let error = Command::new(Path::new(".").join(&name))
        .args(["--id", &id, "--start-time-us", "1", "--start-time-cpu-us", "1"])
        .args(["--parent-cpu-time-us", "1"])
        .args(&options.forwarded)
        .env_clear()
        .uid(uid)
        .gid(gid)
        .exec();
    Err(format!("cannot become Firecracker: {error}"))
}

fn groups(options: &Options, id: &str, name: &str) -> Result<(), String> {
    if options.cgroups.is_empty() {
        return Ok(());
    }
    let parent = options.parent.as_deref().unwrap_or(name);
    let leads_out = |path: &str| {
        Path::new(path)
            .components()
            .any(|c| !matches!(c, Component::Normal(_)))
    };
    if leads_out(parent) {
        return Err(format!("invalid parent cgroup {parent}"));
    }
    let version = options.version.as_deref().unwrap_or("1");
    let mounts = fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
    for setting in &options.cgroups {
        let parts: Vec<&str> = setting.split('=').collect();
        let [file, value] = parts[..] else {
            return Err(format!("invalid cgroup {setting}"));
        };
        let controller = file
            .split_once('.')
            .ok_or("a cgroup's file without a controller")?
            .0;
        if leads_out(file) || value.is_empty() {
            return Err(format!("invalid cgroup {setting}"));
        }
        let dir = mounts
            .lines()
            .find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let found = match version {
                    "1" => fields[2] == "cgroup" && fields[3].split(',').any(|o| o == controller),
                    _ => fields[2] == "cgroup2",
                };
                found.then(|| PathBuf::from(fields[1]))
            })
            .ok_or_else(|| format!("no hierarchy for {controller}"))?
            .join(parent)
            .join(id);
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for (file, value) in [
            (file, value.to_owned()),
            ("cgroup.procs", std::process::id().to_string()),
        ] {
            fs::write(dir.join(file), &value)
                .map_err(|e| format!("{}/{file} = {value}: {e}", dir.display()))?;
        }
    }
    Ok(())
}
