//! Calls about who belongs to the cluster.

use pontoon_api::Changed;
use pontoon_api::trust::{Ca, CreateJoinToken, JoinToken, Machine, RetireAuthority};
use pontoon_model::MachineRole;
use reqwest::Method;

use super::{Call, Client, ClientError};

type Answer<T> = Result<T, ClientError>;

impl Client {
    /// Tokens to join with.
    pub async fn join_tokens(&self) -> Answer<Vec<JoinToken>> {
        self.fetch(Call::get("join-tokens".into())).await
    }

    /// Makes one; its text is in the answer and nowhere else.
    pub async fn create_join_token(&self, token: &CreateJoinToken) -> Answer<JoinToken> {
        self.fetch(Call::change(Method::POST, "join-tokens".into()).json(token)).await
    }

    /// It lets nobody in any more.
    pub async fn revoke_join_token(&self, id: &str) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("join-tokens/{id}"))).await
    }

    /// Who belongs.
    pub async fn machines(&self) -> Answer<Vec<Machine>> {
        self.fetch(Call::get("machines".into())).await
    }

    /// Shuts a machine out.
    pub async fn revoke(&self, role: MachineRole, name: &str) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("machines/{role}/{name}"))).await
    }

    /// Who signs, and who still has a certificate of an older authority.
    pub async fn ca(&self) -> Answer<Ca> {
        self.fetch(Call::get("ca".into())).await
    }

    /// Makes another authority sign.
    pub async fn rotate_ca(&self) -> Answer<Changed> {
        self.change(Call::change(Method::POST, "ca/rotate".into())).await
    }

    /// Ends the trust in the one before.
    pub async fn retire_ca(&self, force: bool) -> Answer<Changed> {
        self.change(Call::change(Method::POST, "ca/retire".into()).json(&RetireAuthority { force })).await
    }
}
