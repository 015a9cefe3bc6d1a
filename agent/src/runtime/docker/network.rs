//! The bridge on which servos are: no traffic between containers.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::ListNetworksOptionsBuilder;

use super::{DockerSettings, RuntimeError, labels, unreachable};

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
