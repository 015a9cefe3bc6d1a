//! The REST API's calls, one method each.

use std::collections::BTreeMap;
use std::path::Path;

use pontoon_api::requests::{AppRequests, TailLine};
use pontoon_api::{
    App, Audit, Balancer, Build, ChangeEnv, ChangeLabels, Changed, Controller, CreateApp, CreateToken, CreatedToken,
    Deployment, Host, MembershipChanged, Release, Rollback, Route, RunOneOff, Servo, SetScale, Source, StartBuild,
    Status, Token, TransferLeader, Upgrade,
};
use pontoon_model::labels::Labels;
use pontoon_model::{AppName, BuildId, ControllerName, DeploymentId, ReleaseNumber, ServoId, TokenId};
use reqwest::Method;

use super::{Body, ByteStream, Call, Client, ClientError, EventStream, LineStream, LogStream, Sent};

/// Which records of the audit are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditSpan {
    /// None that is older (Unix milliseconds).
    pub since: Option<u64>,
    /// None that is newer.
    pub until: Option<u64>,
    /// At most so many, 1 to 1,000.
    pub limit: u32,
    /// Where there are more, the oldest of them; otherwise the newest.
    pub oldest: bool,
}

/// The rows of a list, or the one row that was asked for, or why not.
type Answer<T> = Result<T, ClientError>;

impl Client {
    /// The cluster at a glance.
    pub async fn status(&self) -> Answer<Status> {
        self.fetch(Call::get("status".into())).await
    }

    /// All apps.
    pub async fn apps(&self) -> Answer<Vec<App>> {
        self.fetch(Call::get("apps".into())).await
    }

    /// Makes an app.
    pub async fn create_app(&self, name: &AppName) -> Answer<App> {
        self.fetch(Call::change(Method::POST, "apps".into()).json(&CreateApp { name: name.clone() })).await
    }

    /// One app.
    pub async fn app(&self, app: &AppName) -> Answer<App> {
        self.fetch(Call::get(format!("apps/{app}"))).await
    }

    /// All that the controllers agree on, with the bundles if asked for.
    pub async fn backup(&self, bundles: bool) -> Answer<ByteStream> {
        self.open_bytes(Call::get("backup".into()).with("bundles", bundles)).await
    }

    /// Removes an app and all that belongs to it.
    pub async fn destroy_app(&self, app: &AppName) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("apps/{app}"))).await
    }

    /// Uploads packed source of `size` bytes.
    pub async fn upload(&self, app: &AppName, archive: &Path, size: u64, sent: Sent) -> Answer<Source> {
        let mut call = Call::change(Method::POST, format!("apps/{app}/source"));
        call.body = Body::Archive { path: archive.to_owned(), size, sent };
        self.fetch(call).await
    }

    /// Builds uploaded source, to be live or to run beside what is.
    pub async fn start_build(&self, app: &AppName, build: &StartBuild) -> Answer<Build> {
        self.fetch(Call::change(Method::POST, format!("apps/{app}/builds")).json(build)).await
    }

    /// One build.
    pub async fn build(&self, app: &AppName, build: BuildId) -> Answer<Build> {
        self.fetch(Call::get(format!("apps/{app}/builds/{build}"))).await
    }

    /// What a build writes, from its beginning until it ends.
    pub async fn build_log(&self, app: &AppName, build: BuildId) -> Answer<LogStream> {
        self.open(Call::get(format!("apps/{app}/builds/{build}/log")).with("follow", true)).await
    }

    /// One deployment.
    pub async fn deployment(&self, app: &AppName, deployment: DeploymentId) -> Answer<Deployment> {
        self.fetch(Call::get(format!("apps/{app}/deployments/{deployment}"))).await
    }

    /// An app's releases, newest first.
    pub async fn releases(&self, app: &AppName) -> Answer<Vec<Release>> {
        self.fetch(Call::get(format!("apps/{app}/releases"))).await
    }

    /// Makes an older release live again.
    pub async fn rollback(&self, app: &AppName, to: Option<ReleaseNumber>) -> Answer<Changed> {
        self.change(Call::change(Method::POST, format!("apps/{app}/rollback")).json(&Rollback { to })).await
    }

    /// Replaces an app's servos.
    pub async fn restart(&self, app: &AppName) -> Answer<Changed> {
        self.change(Call::change(Method::POST, format!("apps/{app}/restart"))).await
    }

    /// Changes number or size of one process type's servos.
    pub async fn set_scale(&self, app: &AppName, scale: &SetScale) -> Answer<Changed> {
        self.change(Call::change(Method::PUT, format!("apps/{app}/scale")).json(scale)).await
    }

    /// An app's environment.
    pub async fn env(&self, app: &AppName) -> Answer<BTreeMap<String, String>> {
        self.fetch(Call::get(format!("apps/{app}/env"))).await
    }

    /// Changes an app's environment.
    pub async fn change_env(&self, app: &AppName, change: &ChangeEnv) -> Answer<Changed> {
        self.change(Call::change(Method::PATCH, format!("apps/{app}/env")).json(change)).await
    }

    /// An app's labels.
    pub async fn labels(&self, app: &AppName) -> Answer<Labels> {
        self.fetch(Call::get(format!("apps/{app}/labels"))).await
    }

    /// Changes an app's labels.
    pub async fn change_labels(&self, app: &AppName, change: &ChangeLabels) -> Answer<Changed> {
        self.change(Call::change(Method::PATCH, format!("apps/{app}/labels")).json(change)).await
    }

    /// Runs a command once.
    pub async fn run_one_off(&self, app: &AppName, command: &str) -> Answer<Servo> {
        let body = RunOneOff { command: command.to_owned() };
        self.fetch(Call::change(Method::POST, format!("apps/{app}/run")).json(&body)).await
    }

    /// An app's servos.
    pub async fn servos(&self, app: &AppName) -> Answer<Vec<Servo>> {
        self.fetch(Call::get(format!("apps/{app}/servos"))).await
    }

    /// One servo.
    pub async fn servo(&self, app: &AppName, servo: ServoId) -> Answer<Servo> {
        self.fetch(Call::get(format!("apps/{app}/servos/{servo}"))).await
    }

    /// Ends a one-off servo.
    pub async fn end_one_off(&self, app: &AppName, servo: ServoId) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("apps/{app}/servos/{servo}"))).await
    }

    /// What a servo writes, from its beginning until it ends.
    pub async fn servo_log(&self, app: &AppName, servo: ServoId) -> Answer<LogStream> {
        self.open(Call::get(format!("apps/{app}/servos/{servo}/log")).with("follow", true)).await
    }

    /// What all servos of an app wrote: the last `tail` lines of each, and with `follow` what comes.
    pub async fn logs(&self, app: &AppName, follow: bool, tail: Option<u32>) -> Answer<LogStream> {
        let mut call = Call::get(format!("apps/{app}/logs"));
        if follow {
            call = call.with("follow", true);
        }
        if let Some(tail) = tail {
            call = call.with("tail", tail);
        }
        self.open(call).await
    }

    /// What changes, from after an index or from now on.
    pub async fn events(&self, from: Option<u64>) -> Answer<EventStream> {
        let call = Call::get("events".into());
        self.open_events(match from {
            Some(from) => call.with("from", from),
            None => call,
        })
        .await
    }

    /// The token that this client sends.
    pub async fn own_token(&self) -> Answer<Token> {
        self.fetch(Call::get("token".into())).await
    }

    /// All tokens.
    pub async fn tokens(&self) -> Answer<Vec<Token>> {
        self.fetch(Call::get("tokens".into())).await
    }

    /// Makes a token.
    pub async fn create_token(&self, token: &CreateToken) -> Answer<CreatedToken> {
        self.fetch(Call::change(Method::POST, "tokens".into()).json(token)).await
    }

    /// Ends a token.
    pub async fn revoke_token(&self, id: TokenId) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("tokens/{id}"))).await
    }

    /// What was asked of the controllers.
    pub async fn audit(&self, span: &AuditSpan) -> Answer<Audit> {
        let mut call = Call::get("audit".into()).with("limit", span.limit);
        for (name, bound) in [("since", span.since), ("until", span.until)] {
            if let Some(bound) = bound {
                call = call.with(name, bound);
            }
        }
        if span.oldest {
            call = call.with("order", "oldest");
        }
        self.fetch(call).await
    }

    /// All hosts.
    pub async fn hosts(&self) -> Answer<Vec<Host>> {
        self.fetch(Call::get("hosts".into())).await
    }

    /// What is in the way of upgrading Pontoon itself.
    pub async fn upgrade(&self) -> Answer<Upgrade> {
        self.fetch(Call::get("upgrade".into())).await
    }

    /// All controllers.
    pub async fn controllers(&self) -> Answer<Vec<Controller>> {
        self.fetch(Call::get("controllers".into())).await
    }

    /// Removes a controller for good; its key is revoked, unless `keep_trust`.
    pub async fn remove_controller(
        &self,
        name: &ControllerName,
        force: bool,
        keep_trust: bool,
    ) -> Answer<MembershipChanged> {
        let mut call = Call::change(Method::DELETE, format!("controllers/{name}"));
        // An older controller does not know what is not asked for.
        if force {
            call = call.with("force", true);
        }
        if keep_trust {
            call = call.with("keep_trust", true);
        }
        self.fetch(call).await
    }

    /// Lets a controller vote that follows only.
    pub async fn promote_controller(&self, name: &ControllerName) -> Answer<MembershipChanged> {
        self.fetch(Call::change(Method::POST, format!("controllers/{name}/promote"))).await
    }

    /// Hands leadership over.
    pub async fn transfer_leader(&self, to: Option<&ControllerName>) -> Answer<MembershipChanged> {
        self.fetch(Call::change(Method::POST, "leader".into()).json(&TransferLeader { to: to.cloned() })).await
    }

    /// All balancers.
    pub async fn balancers(&self) -> Answer<Vec<Balancer>> {
        self.fetch(Call::get("balancers".into())).await
    }

    /// All routes, and how busy they are.
    pub async fn routes(&self) -> Answer<Vec<Route>> {
        self.fetch(Call::get("routes".into()).with("load", true)).await
    }

    /// How many requests an app has.
    pub async fn requests(&self, app: &AppName) -> Answer<AppRequests> {
        self.fetch(Call::get(format!("apps/{app}/requests"))).await
    }

    /// Requests of an app as they are answered; only those with a status, or of a class such as `5xx`.
    pub async fn tail_requests(&self, app: &AppName, status: Option<&str>) -> Answer<LineStream<TailLine>> {
        let call = Call::get(format!("apps/{app}/requests/tail"));
        self.open(match status {
            Some(status) => call.with("status", status),
            None => call,
        })
        .await
    }

    pub(super) async fn change(&self, call: Call) -> Answer<Changed> {
        let changed: Changed = self.fetch(call).await?;
        self.saw(changed.index);
        Ok(changed)
    }
}
