//! Calls about releases beside the live one.

use pontoon_api::Changed;
use pontoon_api::beside::{Beside, SetBeside};
use pontoon_model::{AppName, ReleaseNumber};
use reqwest::Method;

use super::{Call, Client, ClientError};

type Answer<T> = Result<T, ClientError>;

impl Client {
    /// What runs beside an app's live release, or will.
    pub async fn beside(&self, app: &AppName) -> Answer<Vec<Beside>> {
        self.fetch(Call::get(format!("apps/{app}/beside"))).await
    }

    /// A release runs beside the live one, or gets another share.
    pub async fn set_beside(&self, app: &AppName, release: ReleaseNumber, how: &SetBeside) -> Answer<Changed> {
        self.change(Call::change(Method::PUT, format!("apps/{app}/beside/{release}")).json(how)).await
    }

    /// It becomes the live one.
    pub async fn promote(&self, app: &AppName, release: ReleaseNumber) -> Answer<Changed> {
        self.change(Call::change(Method::POST, format!("apps/{app}/beside/{release}/promote"))).await
    }

    /// It runs no longer.
    pub async fn stop_beside(&self, app: &AppName, release: ReleaseNumber) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("apps/{app}/beside/{release}"))).await
    }
}
