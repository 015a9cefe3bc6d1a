//! Containers of servos.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerSummary, ContainerSummaryStateEnum,
    EndpointSettings, HostConfig, HostConfigLogConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use pontoon_model::{CpuMillis, MemoryBytes, ServoId, ServoSpec, Size};

use super::{DockerRuntime, INSIDE_PORT, USER, describe, labels, network, status, unreachable};
use crate::runtime::{Found, FoundState, Launch, RuntimeError, shell};

/// Enough for a web server with threads; a fork bomb ends at it.
const PIDS: i64 = 256;
/// Where the supervisor is inside a servo.
const INIT_INSIDE: &str = "/.pontoon/init";
/// The engine kills and answers within this time after a grace is over.
const STOP_MARGIN: Duration = Duration::from_secs(30);

impl DockerRuntime {
    pub(super) fn servo_name(&self, servo: ServoId) -> String {
        format!("pontoon-{}-{servo}", self.settings.cluster)
    }

    pub(super) async fn list_servos(&self) -> Result<Vec<Found>, RuntimeError> {
        let mut filter = self.mine();
        filter.entry("label").or_default().push(labels::SERVO.into());
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        let containers = self.engine.list_containers(Some(options)).await.map_err(unreachable)?;
        let mut found = Vec::with_capacity(containers.len());
        for container in containers {
            let labels = container.labels.clone().unwrap_or_default();
            let Some(servo) = labels::servo(&labels) else { continue };
            let state = match container.state {
                Some(ContainerSummaryStateEnum::REMOVING) => continue,
                Some(
                    ContainerSummaryStateEnum::RUNNING
                    | ContainerSummaryStateEnum::PAUSED
                    | ContainerSummaryStateEnum::RESTARTING
                    | ContainerSummaryStateEnum::STOPPING,
                ) if !self.just_ended.contains(servo) => FoundState::Running,
                _ => match self.ended(servo).await? {
                    Some(state) => state,
                    None => continue,
                },
            };
            found.push(Found {
                servo,
                origin: labels::origin(&labels),
                state,
                port: published(&container),
                probe: address(container.network_settings.and_then(|settings| settings.networks)),
                limits_enforced: true,
            });
        }
        Ok(found)
    }

    /// How a servo that does not run ended; none when its container is gone by now.
    async fn ended(&self, servo: ServoId) -> Result<Option<FoundState>, RuntimeError> {
        let Some(container) = self.inspect(servo).await? else { return Ok(None) };
        let state = container.state.unwrap_or_default();
        if state.running == Some(true) {
            return Ok(Some(FoundState::Running));
        }
        Ok(Some(ended(&state)))
    }

    async fn inspect(&self, servo: ServoId) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.engine.inspect_container(&self.servo_name(servo), None::<InspectContainerOptions>).await {
            Ok(container) => Ok(Some(container)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(unreachable(error)),
        }
    }

    pub(super) async fn start_servo(&self, launch: Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        let failed = |error: EngineError| RuntimeError::Start { servo, why: describe(&error) };
        match self.create(&launch).await? {
            Ok(()) => {}
            // Left by a start that broke off: it is ours by its name, and was never reported.
            Err(error) if status(&error) == Some(409) => {
                self.remove_servo(servo).await?;
                self.create(&launch).await?.map_err(failed)?;
            }
            // The image or the network was removed by hand since it was made.
            Err(error) if status(&error) == Some(404) => {
                self.images.forget(launch.spec.bundle.digest);
                self.renew_network().await?;
                self.create(&launch).await?.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let mut started = self.run(&launch).await;
        if matches!(&started, Err(RuntimeError::Start { why, .. }) if is_network_gone(why)) {
            // The engine notices only now that the network was removed by hand.
            self.remove_servo(servo).await?;
            self.renew_network().await?;
            self.create(&launch).await?.map_err(failed)?;
            started = self.run(&launch).await;
        }
        if started.is_err() {
            // Its port binding or its network is part of the container, so the next try needs a new one.
            self.remove_servo(servo).await?;
        }
        started
    }

    pub(super) async fn restart_servo(&self, launch: Launch) -> Result<Found, RuntimeError> {
        let started = self.run(&launch).await;
        if started.is_err() {
            self.remove_servo(launch.spec.id).await?;
        }
        started
    }

    async fn create(&self, launch: &Launch) -> Result<Result<(), EngineError>, RuntimeError> {
        let image = self.images.ensure(&self.engine, &self.settings, launch).await?;
        let options = CreateContainerOptionsBuilder::default().name(&self.servo_name(launch.spec.id)).build();
        let body = self.body(launch, image);
        Ok(self.engine.create_container(Some(options), body).await.map(|_| ()))
    }

    async fn run(&self, launch: &Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        let name = self.servo_name(servo);
        network::start(&self.engine, &self.settings, &name).await.map_err(|error| {
            let why = describe(&error);
            let taken = why.contains("already allocated") || why.contains("address already in use");
            match launch.port {
                Some(port) if taken => RuntimeError::PortTaken(port),
                _ => RuntimeError::Start { servo, why },
            }
        })?;
        let container = match launch.port {
            Some(_) => self.inspect(servo).await?,
            None => None,
        };
        // One that ended at once has no address any more; that it ended is what counts.
        let state = match container.as_ref().and_then(|container| container.state.clone()) {
            Some(state) if state.running == Some(false) => ended(&state),
            _ => FoundState::Running,
        };
        let networks = container.and_then(|container| container.network_settings?.networks);
        Ok(Found {
            servo,
            origin: Some(crate::diff::Origin::of(&launch.spec)),
            state,
            port: launch.port,
            probe: address(networks),
            limits_enforced: true,
        })
    }

    fn body(&self, launch: &Launch, image: String) -> ContainerCreateBody {
        let spec = &launch.spec;
        let inside = format!("{INSIDE_PORT}/tcp");
        let bindings = launch.port.map(|port| {
            let binding =
                PortBinding { host_ip: Some(self.settings.listen_ip.to_string()), host_port: Some(port.to_string()) };
            HashMap::from([(inside.clone(), Some(vec![binding]))])
        });
        let command = ["--", "/bin/sh", "-c", &shell::script(&spec.command)].map(String::from).to_vec();
        ContainerCreateBody {
            image: Some(image),
            user: Some(USER.into()),
            env: Some(environment(spec)),
            entrypoint: Some(vec![INIT_INSIDE.into()]),
            cmd: Some(command),
            working_dir: Some("/app".into()),
            labels: Some(labels::of_servo(&self.settings, spec)),
            exposed_ports: launch.port.map(|_| vec![inside]),
            stop_timeout: Some(spec.grace.as_secs() as i64),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:{INIT_INSIDE}:ro", self.settings.init.display())]),
                port_bindings: bindings,
                network_mode: Some(self.network()),
                log_config: Some(log_config(if spec.one_off { ONE_OFF_LOG_FILE } else { LOG_FILE })),
                // The agent restarts, with its own waits.
                restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() }),
                ..limits(spec.size, self.cores)
            }),
            ..Default::default()
        }
    }

    pub(super) async fn stop_servo(&self, servo: ServoId, grace: Duration) -> Result<(), RuntimeError> {
        let engine = self.engine.clone().with_timeout(grace + STOP_MARGIN);
        let options = StopContainerOptionsBuilder::default().t(grace.as_secs() as i32).build();
        match engine.stop_container(&self.servo_name(servo), Some(options)).await {
            Ok(()) => Ok(()),
            // Not running, or not there.
            Err(error) if matches!(status(&error), Some(304 | 404)) => Ok(()),
            Err(error) => Err(RuntimeError::Stop { servo, why: describe(&error) }),
        }
    }

    pub(super) async fn remove_servo(&self, servo: ServoId) -> Result<(), RuntimeError> {
        self.remove_container(&self.servo_name(servo))
            .await
            .map_err(|error| RuntimeError::Stop { servo, why: describe(&error) })
    }

    /// Removes a container with its anonymous volumes, ended or not, there or not.
    pub(super) async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.remove_container(name, Some(options)).await {
            Ok(()) => Ok(()),
            // Not there, or being removed by somebody else.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How a container that does not run ended.
fn ended(state: &ContainerState) -> FoundState {
    let never_started = state.started_at.as_deref().is_none_or(|at| at.starts_with("0001-"));
    let code = state.exit_code.filter(|_| !never_started).and_then(|code| i32::try_from(code).ok());
    FoundState::Ended { code, out_of_memory: state.oom_killed == Some(true) }
}

/// The bounds of every container of ours.
pub(super) fn limits(size: Size, cores: u32) -> HostConfig {
    let (MemoryBytes(memory), CpuMillis(cpu)) = (size.memory, size.cpu);
    let memory = i64::try_from(memory).unwrap_or(i64::MAX);
    HostConfig {
        memory: Some(memory),
        // Memory and swap together: no swap, or one app would slow all others.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(cpu.min(cores * 1000)) * 1_000_000),
        pids_limit: Some(PIDS),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ..Default::default()
    }
}

/// What is kept of a servo's or build's output, in two files: its newest 10 MB.
pub(super) const LOG_FILE: &str = "5m";
/// Of a one-off's: somebody waits for all of it, and a reader that is slower than the writer must find it.
const ONE_OFF_LOG_FILE: &str = "100m";

/// Readable through the API, and bounded: two files of `file` each.
pub(super) fn log_config(file: &str) -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(HashMap::from([("max-size".into(), file.into()), ("max-file".into(), "2".into())])),
    }
}

fn is_network_gone(why: &str) -> bool {
    why.contains("network") && why.contains("not found")
}

fn environment(spec: &ServoSpec) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let inside = INSIDE_PORT.to_string();
    env.insert("PORT", &inside);
    env.entry("HOME").or_insert("/app");
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn published(container: &ContainerSummary) -> Option<u16> {
    container.ports.iter().flatten().find(|port| port.private_port == INSIDE_PORT)?.public_port
}

fn address(networks: Option<HashMap<String, EndpointSettings>>) -> Option<SocketAddr> {
    let ip = networks?.into_values().find_map(|endpoint| endpoint.ip_address?.parse::<IpAddr>().ok())?;
    Some(SocketAddr::new(ip, INSIDE_PORT))
}
