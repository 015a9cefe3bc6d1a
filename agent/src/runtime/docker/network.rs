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
/// After as many it is nobody's who is at it.
const TIDY_EVERY: u32 = 10;

/// The id of the cluster's network, which is made when it is not there.
pub(super) async fn ensure(engine: &Docker, settings: &DockerSettings) -> Result<String, RuntimeError> {
    let name = name_of(settings);
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
        // Somebody else may have removed it, and nothing is on it yet.
        remove(engine, &made).await?;
    }
    Ok(chosen)
}

fn name_of(settings: &DockerSettings) -> String {
    format!("pontoon-{}", settings.cluster)
}

async fn oldest(engine: &Docker, name: &str) -> Result<Option<String>, RuntimeError> {
    Ok(all(engine, name).await?.into_iter().next())
}

/// Those of this name, the oldest first.
async fn all(engine: &Docker, name: &str) -> Result<Vec<String>, RuntimeError> {
    let filters = HashMap::from([("name", vec![name])]);
    let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
    let found = engine.list_networks(Some(options)).await.map_err(unreachable)?;
    // The filter also finds longer names.
    let mut same: Vec<_> = found.into_iter().filter(|network| network.name.as_deref() == Some(name)).collect();
    same.sort_by(|one, other| (&one.created, &one.id).cmp(&(&other.created, &other.id)));
    Ok(same.into_iter().filter_map(|network| network.id).collect())
}

/// Starts a container. While another agent of this engine makes the network too, the engine knows two of one name.
pub(super) async fn start(engine: &Docker, settings: &DockerSettings, container: &str) -> Result<(), EngineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match engine.start_container(container, None::<StartContainerOptions>).await {
            Err(error) if tries < AMBIGUOUS_TRIES && describe(&error).contains("is ambiguous") => {
                tokio::time::sleep(AMBIGUOUS_WAIT).await;
                if tries % TIDY_EVERY == 0
                    && let Err(error) = tidy(engine, settings).await
                {
                    tracing::warn!(%error, "two networks of one name cannot be looked at");
                }
            }
            started => return started,
        }
    }
}

/// Leaves one network of several. Who made one looked for others before, but one that was begun earlier may be there later, and
/// is older all the same.
async fn tidy(engine: &Docker, settings: &DockerSettings) -> Result<(), RuntimeError> {
    let same = all(engine, &name_of(settings)).await?;
    let Some((first, others)) = same.split_first() else { return Ok(()) };
    let mut all_gone = true;
    for other in others {
        all_gone &= remove(engine, other).await?;
    }
    // Containers keep theirs: then it is the oldest that goes.
    if !all_gone {
        remove(engine, first).await?;
    }
    Ok(())
}

/// Removes a network; whether it is gone, which one in use is not.
async fn remove(engine: &Docker, id: &str) -> Result<bool, RuntimeError> {
    match engine.remove_network(id).await {
        Ok(()) => Ok(true),
        Err(error) if status(&error) == Some(404) => Ok(true),
        Err(error) if matches!(status(&error), Some(403 | 409)) => Ok(false),
        Err(error) => Err(unreachable(error)),
    }
}

/// Removes the cluster's network unless a container is on it; with `caches`, the builds' cache volumes too.
pub(super) async fn leave(engine: &Docker, settings: &DockerSettings, caches: bool) -> Result<(), RuntimeError> {
    let name = name_of(settings);
    while let Some(id) = oldest(engine, &name).await? {
        if !remove(engine, &id).await? {
            break;
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
