//! One phase: a container that is held by a connection, a script in it, and its changes as a layer.

use super::{ANSWER, BUILDER, CONTAINER, DockerImages, LAYER, call, engine, host, short, status, within};
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerStateStatusEnum, ExecConfig, HostConfig,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    InspectContainerOptions, StartContainerOptions,
};
use futures::StreamExt;
use ostler_sandbox::images::{BuildLog, ImageError};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// How often it is looked whether another's build of the same phase has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A container that was made and not started for this long belongs to a server that was killed in between.
const NEVER_STARTED: Duration = Duration::from_secs(60);
/// Where a build finds what belongs to this host. It is memory, which no layer holds.
const HOST: &str = "/run/ostler-build";
/// Lines of the log in an error.
const TAIL: usize = 20;

/// What a phase makes.
pub(super) struct Made {
    pub(super) repository: String,
    pub(super) hash: String,
    pub(super) labels: HashMap<String, String>,
}

impl DockerImages {
    /// Makes the image of a phase unless it is there, and gives its name. `suite` says that packages are needed.
    pub(super) async fn phase(
        &self,
        name: &str,
        parent: &str,
        script: &str,
        made: Made,
        suite: Option<&str>,
        log: &BuildLog,
    ) -> Result<String, ImageError> {
        let tag = format!("{}:{}", made.repository, short(&made.hash));
        if self.has(&tag).await? {
            log.say(&format!("{name}: there already"));
            return Ok(tag);
        }
        let container = format!("{CONTAINER}{}", short(&made.hash));
        let Some(held) = self.reserve(&container, parent, &tag, name, log).await? else {
            log.say(&format!("{name}: made by another build"));
            return Ok(tag);
        };
        log.say(&format!("{name}: begins"));
        let started = Instant::now();
        let work = async {
            self.give_host_files(&container, suite, log).await?;
            self.execute(&container, name, script, log).await?;
            self.commit(&container, made).await
        };
        let done = match tokio::time::timeout(self.options.phase_limit, work).await {
            Ok(done) => done,
            Err(_) => Err(ImageError::TimedOut {
                phase: name.to_owned(),
                limit: self.options.phase_limit,
                tail: log.last(TAIL),
            }),
        };
        drop(held);
        let removed = self.remove_container(&container).await;
        done?;
        if let Err(error) = removed {
            tracing::warn!(%error, "a container of a build was not removed; the next start does it");
        }
        log.say(&format!(
            "{name}: done in {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        Ok(tag)
    }

    /// Makes and starts the container of a phase; `None` when another has made the image meanwhile.
    async fn reserve(
        &self,
        container: &str,
        parent: &str,
        tag: &str,
        name: &str,
        log: &BuildLog,
    ) -> Result<Option<AttachContainerResults>, ImageError> {
        let began = Instant::now();
        let mut waiting = false;
        loop {
            let options = CreateContainerOptionsBuilder::default().name(container).build();
            let action = format!("make a container of {parent}");
            let create = self.api.create_container(Some(options), self.body(parent));
            match within(LAYER, &action, create).await? {
                Ok(_) => break,
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(engine(action)(error)),
            }
            if !waiting {
                log.say(&format!("{name}: waiting for another build of it"));
                waiting = true;
            }
            if began.elapsed() > self.options.phase_limit {
                return Err(ImageError::TimedOut {
                    phase: name.to_owned(),
                    limit: self.options.phase_limit,
                    tail: format!("another build of it goes on: see `docker logs {container}`"),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if self.has(tag).await? {
                return Ok(None);
            }
            let inspect = self
                .api
                .inspect_container(container, None::<InspectContainerOptions>);
            if let Ok(Ok(found)) = tokio::time::timeout(ANSWER, inspect).await
                && found.state.and_then(|state| state.status) == Some(ContainerStateStatusEnum::CREATED)
                && began.elapsed() > NEVER_STARTED
            {
                self.remove_container(container).await?;
            }
        }
        // The other may have been done between the look and the reservation.
        let start = async {
            if self.has(tag).await? {
                return Ok(None);
            }
            self.start(container).await.map(Some)
        };
        let started = start.await;
        if !matches!(started, Ok(Some(_))) {
            self.remove_container(container).await?;
        }
        started
    }

    async fn start(&self, container: &str) -> Result<AttachContainerResults, ImageError> {
        let options = AttachContainerOptionsBuilder::default()
            .stdin(true)
            .stdout(true)
            .stream(true)
            .build();
        // Before the start: from then on it lives only as long as this connection.
        let attach = self.api.attach_container(container, Some(options));
        let held = call("hold a container", attach).await?;
        let start = self.api.start_container(container, None::<StartContainerOptions>);
        call("start a container", start).await?;
        Ok(held)
    }

    fn body(&self, parent: &str) -> ContainerCreateBody {
        ContainerCreateBody {
            image: Some(parent.to_owned()),
            // Ends when its input does.
            entrypoint: Some(vec!["/bin/cat".into()]),
            cmd: Some(Vec::new()),
            user: Some("0".into()),
            working_dir: Some("/".into()),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            labels: Some(HashMap::from([(
                BUILDER.to_owned(),
                self.options.instance.clone(),
            )])),
            host_config: Some(HostConfig {
                // Packages come from where this host reaches them.
                network_mode: Some("host".into()),
                auto_remove: Some(true),
                tmpfs: Some(HashMap::from([(
                    HOST.to_owned(),
                    "rw,size=64m,mode=0755".to_owned(),
                )])),
                security_opt: Some(vec!["no-new-privileges".into()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// Puts this host's package sources and certificates where the script finds them.
    async fn give_host_files(
        &self,
        container: &str,
        suite: Option<&str>,
        log: &BuildLog,
    ) -> Result<(), ImageError> {
        let mirror = self.options.mirror.clone();
        let suite = suite.map(str::to_owned);
        let made =
            tokio::task::spawn_blocking(move || host::archive(HOST, mirror.as_deref(), suite.as_deref()));
        let archive = made
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(ImageError::io("gathering the package sources of this host"))?;
        let command = [
            "tar",
            "--extract",
            "--file=-",
            "--directory",
            HOST,
            "--no-same-owner",
        ];
        let code = self
            .exec(container, &command, Vec::new(), Some(archive), log)
            .await?;
        if code == 0 {
            Ok(())
        } else {
            Err(failed("prepare", code, log))
        }
    }

    async fn execute(
        &self,
        container: &str,
        name: &str,
        script: &str,
        log: &BuildLog,
    ) -> Result<(), ImageError> {
        let code = self
            .exec(
                container,
                &["/bin/sh", "-euc", script],
                host::environment(HOST),
                None,
                log,
            )
            .await?;
        if code == 0 {
            Ok(())
        } else {
            Err(failed(name, code, log))
        }
    }

    /// Executes a program to its end and gives its exit code.
    async fn exec(
        &self,
        container: &str,
        command: &[&str],
        env: Vec<String>,
        input: Option<Vec<u8>>,
        log: &BuildLog,
    ) -> Result<i64, ImageError> {
        let config = ExecConfig {
            attach_stdin: Some(input.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
            env: Some(env),
            user: Some("0".into()),
            ..ExecConfig::default()
        };
        let exec = call("prepare a step", self.api.create_exec(container, config))
            .await?
            .id;
        let started = self.api.start_exec(&exec, None::<StartExecOptions>);
        let StartExecResults::Attached {
            mut output,
            input: mut writer,
        } = call("start a step", started).await?
        else {
            return Err(ImageError::Engine {
                action: "start a step".into(),
                message: "it was not attached".into(),
            });
        };
        let feed = async {
            if let Some(bytes) = input {
                // A program that ends before it has read all says so by its code.
                let _ = writer.write_all(&bytes).await;
                let _ = writer.shutdown().await;
            }
        };
        let read = async {
            while let Some(piece) = output.next().await {
                match piece.map_err(engine("read the output of a step"))? {
                    LogOutput::StdOut { message }
                    | LogOutput::StdErr { message }
                    | LogOutput::Console { message }
                    | LogOutput::StdIn { message } => log.write(&message),
                }
            }
            Ok(())
        };
        let ((), read) = tokio::join!(feed, read);
        read?;
        let ended = call("ask how a step ended", self.api.inspect_exec(&exec)).await?;
        // Without a code the container went away with the program in it.
        Ok(ended.exit_code.unwrap_or(137))
    }

    async fn commit(&self, container: &str, made: Made) -> Result<(), ImageError> {
        let options = CommitContainerOptionsBuilder::default()
            .container(container)
            .repo(&made.repository)
            .tag(short(&made.hash))
            .pause(true)
            .build();
        // What is not said here is taken from the container, which is set up for building.
        let config = ContainerConfig {
            entrypoint: Some(Vec::new()),
            cmd: Some(vec!["/bin/bash".into()]),
            working_dir: Some("/workspace".into()),
            labels: Some(made.labels),
            ..ContainerConfig::default()
        };
        let action = "write a layer";
        let commit = self.api.commit_container(options, config);
        within(LAYER, action, commit).await?.map_err(engine(action))?;
        Ok(())
    }
}

fn failed(phase: &str, code: i64, log: &BuildLog) -> ImageError {
    ImageError::Phase {
        phase: phase.to_owned(),
        code,
        tail: log.last(TAIL),
    }
}
