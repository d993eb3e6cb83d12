//! What a sandbox is to the engine.

use crate::options::DockerOptions;
use bollard::models::{
    ContainerCreateBody, ContainerState, DeviceMapping, HostConfig, HostConfigLogConfig, Mount, MountType,
    RestartPolicy, RestartPolicyNameEnum,
};
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::{DriverStatus, ExitInfo};
use std::collections::HashMap;
use std::path::Path;

/// Label with the instance.
pub(crate) const INSTANCE: &str = "ostler.instance";
/// Label with the sandbox's id.
pub(crate) const SANDBOX: &str = "ostler.sandbox";

pub(crate) const GUEST: &str = "/ostler/guest";
pub(crate) const RUN: &str = "/run/ostler";
pub(crate) const WORKSPACE: &str = "/workspace";

/// What installing packages and changing the user inside takes; everything else of root is given up.
const CAPABILITIES: &[&str] = &["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];

/// What making isolated programs takes; the guest takes them from programs.
const NESTED: &[&str] = &["SYS_ADMIN", "NET_ADMIN", "SETPCAP"];

/// The guest's log is for finding faults only and must not fill the engine's disk.
const LOG_SIZE: &str = "1m";

/// Name of the container.
pub(crate) fn name(instance: &str, id: SandboxId) -> String {
    format!("ostler-{instance}-{id}")
}

/// The container of a sandbox. `run` is the directory of this host in which its guest listens; without one the guest and
/// what it needs are put into the container.
pub(crate) fn body(
    options: &DockerOptions,
    id: SandboxId,
    template: &SandboxTemplate,
    run: Option<&Path>,
) -> ContainerCreateBody {
    let mut env: Vec<String> = template.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    env.push(format!("OSTLER_SANDBOX={id}"));
    // Claude Code refuses to work unattended as root unless it is told that it is in a sandbox.
    if !template.env.contains_key("IS_SANDBOX") {
        env.push("IS_SANDBOX=1".into());
    }
    let mut mounts = Vec::new();
    if let Some(run) = run {
        mounts.push(mount(&options.guest.display().to_string(), GUEST, false));
        mounts.push(mount(&run.display().to_string(), RUN, true));
    }
    mounts.extend(
        template
            .mounts
            .iter()
            .map(|m| mount(&m.source, &m.target, m.writable)),
    );
    let memory = (template.memory_mb << 20) as i64;
    let nested = |given: &'static [&'static str]| if options.nested { given } else { &[] };
    let command = ["--run", RUN, "--workspace", WORKSPACE];
    let command = command.iter().chain(nested(&["--nested", "--filter"]));
    let security = ["no-new-privileges"]
        .iter()
        .chain(nested(&["apparmor=unconfined"]));
    let devices = template.devices.iter().filter_map(|name| {
        let path = options.devices.get(name)?;
        Some(DeviceMapping {
            path_on_host: Some(path.clone()),
            path_in_container: Some(path.clone()),
            cgroup_permissions: Some("rw".into()),
        })
    });
    let size = |mb| HashMap::from([("size".to_owned(), format!("{mb}m"))]);
    ContainerCreateBody {
        hostname: Some(id.to_string().replace('_', "-")),
        image: template.image.clone(),
        user: template.user.clone(),
        entrypoint: Some(vec![GUEST.into()]),
        cmd: Some(owned(command)),
        env: Some(env),
        working_dir: Some(WORKSPACE.into()),
        labels: Some(HashMap::from([
            (INSTANCE.to_owned(), options.instance.clone()),
            (SANDBOX.to_owned(), id.to_string()),
        ])),
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            network_mode: Some(
                match template.network {
                    NetworkPolicy::None | NetworkPolicy::Filtered => "none",
                    NetworkPolicy::Open => "bridge",
                }
                .into(),
            ),
            nano_cpus: Some(i64::from(template.cpus) * 1_000_000_000),
            memory: Some(memory),
            // Memory and swap together: no swap.
            memory_swap: Some(memory),
            devices: Some(devices.collect()),
            storage_opt: template.disk_mb.map(size),
            pids_limit: Some(i64::from(options.max_processes)),
            cap_drop: Some(vec!["ALL".into()]),
            cap_add: Some(owned(CAPABILITIES.iter().chain(nested(NESTED)))),
            security_opt: Some(owned(security)),
            // The guest is the first process and reaps.
            init: Some(false),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                ..RestartPolicy::default()
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), LOG_SIZE.to_owned()),
                    ("max-file".to_owned(), "1".to_owned()),
                ])),
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn owned<'a>(texts: impl Iterator<Item = &'a &'static str>) -> Vec<String> {
    texts.map(|&text| text.to_owned()).collect()
}

fn mount(source: &str, target: &str, writable: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(!writable),
        ..Mount::default()
    }
}

/// What the engine's account of a container means. A code above 128 is how the engine tells a signal.
pub(crate) fn status(state: Option<&ContainerState>) -> DriverStatus {
    let Some(state) = state else {
        return DriverStatus::Exited(ExitInfo::default());
    };
    if state.running == Some(true) {
        return DriverStatus::Running;
    }
    DriverStatus::Exited(exit(
        state.exit_code.map(|c| c as i32),
        state.oom_killed == Some(true),
    ))
}

/// How the first process ended. The engine's word on memory is about any process of the container, so it explains the end
/// only of one that was killed.
pub(crate) fn exit(code: Option<i32>, any_out_of_memory: bool) -> ExitInfo {
    let signal = code.filter(|c| *c > 128).map(|c| c - 128);
    ExitInfo {
        code: code.filter(|_| signal.is_none()),
        signal,
        out_of_memory: any_out_of_memory && signal == Some(9),
        machine: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::DriverKind;

    #[test]
    fn the_ends_of_containers_are_told_apart() {
        let state = |running, exit_code, oom_killed| ContainerState {
            running: Some(running),
            exit_code: Some(exit_code),
            oom_killed: Some(oom_killed),
            ..ContainerState::default()
        };
        assert_eq!(status(Some(&state(true, 0, false))), DriverStatus::Running);
        let ended = |exit_code, oom| match status(Some(&state(false, exit_code, oom))) {
            DriverStatus::Exited(exit) => (exit.code, exit.signal, exit.out_of_memory),
            other => panic!("{other:?}"),
        };
        assert_eq!(ended(3, false), (Some(3), None, false));
        assert_eq!(ended(3, true), (Some(3), None, false));
        assert_eq!(ended(137, false), (None, Some(9), false));
        assert_eq!(ended(137, true), (None, Some(9), true));
    }

    #[test]
    fn limits_and_privileges_are_asked_of_the_engine() {
        let options = DockerOptions::new("i", "/state", "/guest");
        let mut template = SandboxTemplate::new(DriverKind::Docker);
        template.cpus = 2;
        template.memory_mb = 512;
        let run = Some(Path::new("/state/x/run"));
        let host = body(&options, SandboxId::new(), &template, run)
            .host_config
            .unwrap();
        assert_eq!(host.nano_cpus, Some(2_000_000_000));
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(512 << 20), Some(512 << 20))
        );
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!((host.storage_opt, host.devices), (None, Some(Vec::new())));
        assert_eq!(host.mounts.unwrap().len(), 2);
    }

    #[test]
    fn user_devices_and_disk_are_asked_of_the_engine() {
        let mut options = DockerOptions::new("i", "/state", "/guest");
        options.devices.insert("kvm".into(), "/dev/kvm".into());
        let mut template = SandboxTemplate::new(DriverKind::Docker);
        template.user = Some("1000:1000".into());
        template.devices.insert("kvm".into());
        template.disk_mb = Some(300);
        let body = body(&options, SandboxId::new(), &template, None);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let host = body.host_config.unwrap();
        assert_eq!(host.storage_opt.unwrap()["size"], "300m");
        let device = &host.devices.unwrap()[0];
        assert_eq!(device.path_on_host.as_deref(), Some("/dev/kvm"));
        // Nothing of this host is seen.
        assert_eq!(host.mounts, Some(Vec::new()));
    }
}
