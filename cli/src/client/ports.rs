//! Calls about ports of balancers.

use pontoon_api::Changed;
use pontoon_api::ports::{AddPort, Port};
use pontoon_model::AppName;
use reqwest::Method;

use super::{Call, Client, ClientError};

type Answer<T> = Result<T, ClientError>;

impl Client {
    /// The ports of all apps, or of one.
    pub async fn ports(&self, app: Option<&AppName>) -> Answer<Vec<Port>> {
        let call = Call::get("ports".into());
        self.fetch(match app {
            Some(app) => call.with("app", app),
            None => call,
        })
        .await
    }

    /// A process shall be reached at a port.
    pub async fn add_port(&self, app: &AppName, port: &AddPort) -> Answer<Port> {
        self.fetch(Call::change(Method::POST, format!("apps/{app}/ports")).json(port)).await
    }

    /// No longer.
    pub async fn remove_port(&self, app: &AppName, port: u16) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("apps/{app}/ports/{port}"))).await
    }
}
