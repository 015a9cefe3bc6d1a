//! What containers say about themselves, so that an agent that forgot everything knows them again.

use std::collections::HashMap;

use pontoon_model::{AppName, Digest, ServoId, ServoSpec};

use super::DockerSettings;
use crate::diff::Origin;

pub(super) const CLUSTER: &str = "pontoon.cluster";
pub(super) const HOST: &str = "pontoon.host";
pub(super) const SERVO: &str = "pontoon.servo";
pub(super) const BUILD: &str = "pontoon.build";
pub(super) const BUNDLE: &str = "pontoon.bundle";
const APP: &str = "pontoon.app";
const RELEASE: &str = "pontoon.release";
/// The deployment: which generation of the app's servos it belongs to.
const GENERATION: &str = "pontoon.generation";

/// Labels of everything of this agent.
pub(super) fn own(settings: &DockerSettings) -> HashMap<String, String> {
    HashMap::from([(CLUSTER.into(), settings.cluster.clone()), (HOST.into(), settings.host.to_string())])
}

/// Labels of a servo.
pub(super) fn of_servo(settings: &DockerSettings, spec: &ServoSpec) -> HashMap<String, String> {
    let mut labels = own(settings);
    labels.extend([
        (SERVO.into(), spec.id.0.to_string()),
        (APP.into(), spec.app.to_string()),
        (RELEASE.into(), spec.release.0.to_string()),
        (GENERATION.into(), spec.deployment.0.to_string()),
        (BUNDLE.into(), spec.bundle.digest.to_string()),
    ]);
    labels
}

/// The engine's filter for what is this agent's.
pub(super) fn filter(settings: &DockerSettings) -> HashMap<&'static str, Vec<String>> {
    let wanted = own(settings).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    HashMap::from([("label", wanted)])
}

/// Which servo a container is.
pub(super) fn servo(labels: &HashMap<String, String>) -> Option<ServoId> {
    labels.get(SERVO)?.parse().ok().map(ServoId)
}

/// What a container's servo was made from.
pub(super) fn origin(labels: &HashMap<String, String>) -> Option<Origin> {
    Some(Origin {
        app: AppName::new(labels.get(APP)?).ok()?,
        release: labels.get(RELEASE)?.parse().ok()?,
        deployment: labels.get(GENERATION)?.parse().ok()?,
        bundle: labels.get(BUNDLE)?.parse::<Digest>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;
    use pontoon_model::HostName;

    #[test]
    fn a_servo_is_known_again_by_its_labels() {
        let settings = DockerSettings {
            cluster: "dev".into(),
            host: HostName::new("h1").unwrap(),
            listen_ip: [127, 0, 0, 1].into(),
            temporary: "/tmp".into(),
            init: "/init".into(),
            ca_bundle: None,
        };
        let labels = of_servo(&settings, &spec(7));
        assert_eq!(servo(&labels), Some(ServoId(7)));
        assert_eq!(origin(&labels), Some(Origin::of(&spec(7))));
        let filter = &filter(&settings)["label"];
        assert!(filter.contains(&"pontoon.cluster=dev".into()) && filter.contains(&"pontoon.host=h1".into()));
        assert_eq!(servo(&HashMap::new()), None);
    }
}
