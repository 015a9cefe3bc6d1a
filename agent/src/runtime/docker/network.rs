//! What the containers of a cluster share: the bridge, without traffic between containers, and the builds' caches.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::{
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
};

use super::{DockerSettings, EngineError, RuntimeError, describe, labels, status, unreachable};

/// Two networks of one name are there for as long as it takes an agent to make one, look and remove it again.
const AMBIGUOUS_WAIT: Duration = Duration::from_millis(100);
/// As many looks as an engine under load may need.
const AMBIGUOUS_TRIES: u32 = 50;

/// The id of the cluster's network, which is made when it is not there.
pub(super) async fn ensure(engine: &Docker, settings: &DockerSettings) -> Result<String, RuntimeError> {
    let name = format!("pontoon-{}", settings.cluster);
    if let Some(id) = oldest(engine, &name).await? {
        return Ok(id);
    }
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".into()),
        options: Some(HashMap::from([("com.docker.network.bridge.enable_icc".into(), "false".into())])),
        labels: Some(HashMap::from([(labels::CLUSTER.into(), settings.cluster.clone())])),
        ..Default::default()
    };
    let made = engine.create_network(request).await.map_err(unreachable)?.id;
    // The engine allows two networks of one name, and another agent may have made it at the same moment.
    let chosen = oldest(engine, &name).await?.unwrap_or_else(|| made.clone());
    if chosen != made {
        engine.remove_network(&made).await.map_err(unreachable)?;
    }
    Ok(chosen)
}

async fn oldest(engine: &Docker, name: &str) -> Result<Option<String>, RuntimeError> {
    let filters = HashMap::from([("name", vec![name])]);
    let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
    let found = engine.list_networks(Some(options)).await.map_err(unreachable)?;
    // The filter also finds longer names.
    let same = found.into_iter().filter(|network| network.name.as_deref() == Some(name));
    let first = same.min_by(|one, other| (&one.created, &one.id).cmp(&(&other.created, &other.id)));
    Ok(first.and_then(|network| network.id))
}

/// Starts a container. While another agent of this engine makes the network too, the engine knows two of one name.
pub(super) async fn start(engine: &Docker, container: &str) -> Result<(), EngineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match engine.start_container(container, None::<StartContainerOptions>).await {
            Err(error) if tries < AMBIGUOUS_TRIES && describe(&error).contains("is ambiguous") => {
                tokio::time::sleep(AMBIGUOUS_WAIT).await;
            }
            started => return started,
        }
    }
}

/// Removes the cluster's network unless a container is on it; with `caches`, the builds' cache volumes too.
pub(super) async fn leave(engine: &Docker, settings: &DockerSettings, caches: bool) -> Result<(), RuntimeError> {
    let name = format!("pontoon-{}", settings.cluster);
    while let Some(id) = oldest(engine, &name).await? {
        match engine.remove_network(&id).await {
            Ok(()) => {}
            // In use, or removed by another agent at this moment.
            Err(error) if matches!(status(&error), Some(403 | 404 | 409)) => break,
            Err(error) => return Err(unreachable(error)),
        }
    }
    if caches {
        let prefix = format!("{name}-cache-");
        let filters = HashMap::from([("name", vec![prefix.clone()])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let found = engine.list_volumes(Some(options)).await.map_err(unreachable)?;
        // The filter also finds names that merely contain it.
        let ours = found.volumes.into_iter().flatten().filter(|volume| volume.name.starts_with(&prefix));
        for volume in ours {
            match engine.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await {
                Ok(()) => {}
                Err(error) if matches!(status(&error), Some(404 | 409)) => {}
                Err(error) => return Err(unreachable(error)),
            }
        }
    }
    Ok(())
}
