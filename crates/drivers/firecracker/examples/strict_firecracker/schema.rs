//! What the published description says about the bodies of requests.

use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::path::{Component, Path};

/// What a field may hold.
pub(crate) enum Kind {
    Text,
    Flag,
    /// A number within bounds.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Checked by who reads it.
    Object,
}

/// A field, and whether it must be there.
pub(crate) type Field = (&'static str, Kind, bool);

/// The fields of the bodies that this driver sends; `None` for a request that does not exist.
pub(crate) fn fields(method: &str, path: &str) -> Option<Vec<Field>> {
    use Kind::{Flag, Number, Object, Text, Word};
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    Some(match (method, path, first) {
        ("PUT", "/machine-config", _) => vec![
            ("vcpu_count", Number(1, 32), true),
            ("mem_size_mib", Number(1, 0xffff_ffff), true),
            ("smt", Flag, false),
            ("cpu_template", Text, false),
            ("track_dirty_pages", Flag, false),
            ("huge_pages", Word(&["None", "2M"]), false),
        ],
        ("PUT", "/boot-source", _) => vec![
            ("kernel_image_path", Text, true),
            ("boot_args", Text, false),
            ("initrd_path", Text, false),
        ],
        ("PUT", _, "drives") => vec![
            ("drive_id", Text, true),
            ("is_root_device", Flag, true),
            ("path_on_host", Text, true),
            ("is_read_only", Flag, true),
            ("partuuid", Text, false),
            ("cache_type", Word(&["Unsafe", "Writeback"]), false),
            ("io_engine", Word(&["Sync", "Async"]), false),
            ("rate_limiter", Object, false),
        ],
        ("PUT", _, "network-interfaces") => vec![
            ("iface_id", Text, true),
            ("host_dev_name", Text, true),
            ("guest_mac", Text, false),
        ],
        ("PUT", "/vsock", _) => vec![
            ("guest_cid", Number(3, 0xffff_fffe), true),
            ("uds_path", Text, true),
        ],
        ("PUT", "/actions", _) => vec![(
            "action_type",
            Word(&["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]),
            true,
        )],
        ("PATCH", "/vm", _) => vec![("state", Word(&["Paused", "Resumed"]), true)],
        ("PUT", "/snapshot/create", _) => vec![
            ("snapshot_path", Text, true),
            ("mem_file_path", Text, true),
            ("snapshot_type", Word(&["Full", "Diff"]), false),
        ],
        ("PUT", "/snapshot/load", _) => vec![
            ("snapshot_path", Text, true),
            ("mem_backend", Object, true),
            ("resume_vm", Flag, false),
            ("track_dirty_pages", Flag, false),
            ("network_overrides", Object, false),
            ("vsock_override", Object, false),
            ("clock_realtime", Flag, false),
        ],
        _ => return None,
    })
}

/// Checks an object against its fields.
pub(crate) fn check(body: &Map<String, Value>, fields: &[Field]) -> Result<(), String> {
    for name in body.keys() {
        if !fields.iter().any(|(known, ..)| known == name) {
            return Err(format!("unknown field `{name}`"));
        }
    }
    for (name, kind, required) in fields {
        let Some(value) = body.get(*name) else {
            if *required {
                return Err(format!("missing field `{name}`"));
            }
            continue;
        };
        let fine = match kind {
            Kind::Text => value.as_str().is_some_and(|s| !s.is_empty()),
            Kind::Flag => value.is_boolean(),
            Kind::Number(least, most) => value.as_u64().is_some_and(|n| (*least..=*most).contains(&n)),
            Kind::Word(words) => value.as_str().is_some_and(|s| words.contains(&s)),
            Kind::Object => value.is_object() || value.is_array(),
        };
        if !fine {
            return Err(format!("invalid value {value} of `{name}`"));
        }
    }
    Ok(())
}

/// A file in the machine's directory that can be opened by this user; nothing else exists in a jail.
pub(crate) fn openable(path: &str, write: bool) -> Result<(), String> {
    inside(path)?;
    OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map(|_| ())
        .map_err(|e| format!("{path}: {e}"))
}

/// No path may lead out.
pub(crate) fn inside(path: &str) -> Result<(), String> {
    let leads_out = Path::new(path)
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir));
    if leads_out {
        return Err(format!("{path}: outside of the jail"));
    }
    Ok(())
}
