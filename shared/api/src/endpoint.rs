//! Every endpoint, with what it asks of the token. The server builds its router from this table, so that an endpoint
//! without a row cannot be reached, and a row without a handler does not compile.

/// What a request's token must allow.
///
/// | | `admin` | `read` | `deploy:APP` |
/// |---|---|---|---|
/// | `Any` | yes | yes | yes, and sees what is of APP |
/// | `Read` | yes | yes | no |
/// | `ReadApp` | yes | yes | if the path names APP |
/// | `OwnApp` | yes | no | if the path names APP |
/// | `OwnApps` | yes | no | if every app of the body is APP |
/// | `Admin` | yes | no | no |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// To be valid; who may see one app only sees what is that app's.
    Any,
    /// To read what is the cluster's: its machines.
    Read,
    /// To read the app in the path.
    ReadApp,
    /// To do with the app in the path what its owner does, and to read its environment.
    OwnApp,
    /// To own every app in the body; the handler looks.
    OwnApps,
    /// Everything.
    Admin,
}

macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident: $method:ident $path:literal, $needs:ident;)*) => {
        /// One method of one path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Endpoint {
            $($(#[$doc])* #[doc = concat!("`", stringify!($method), " ", $path, "`")] $name,)*
        }

        impl Endpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, as the audit calls it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Its HTTP method.
            pub fn method(self) -> &'static str {
                match self { $(Self::$name => stringify!($method),)* }
            }

            /// Its path, with what varies in braces.
            pub fn path(self) -> &'static str {
                match self { $(Self::$name => $path,)* }
            }

            /// What it asks of the token.
            pub fn needs(self) -> Needs {
                match self { $(Self::$name => Needs::$needs,)* }
            }
        }
    };
}

endpoints! {
    ShowStatus: GET "/v1/status", Any;
    ListApps: GET "/v1/apps", Any;
    CreateApp: POST "/v1/apps", Admin;
    ShowApp: GET "/v1/apps/{app}", ReadApp;
    DestroyApp: DELETE "/v1/apps/{app}", Admin;
    UploadSource: POST "/v1/apps/{app}/source", OwnApp;
    StartBuild: POST "/v1/apps/{app}/builds", OwnApp;
    ShowBuild: GET "/v1/apps/{app}/builds/{build}", ReadApp;
    BuildLog: GET "/v1/apps/{app}/builds/{build}/log", ReadApp;
    ShowDeployment: GET "/v1/apps/{app}/deployments/{deployment}", ReadApp;
    ListReleases: GET "/v1/apps/{app}/releases", ReadApp;
    Rollback: POST "/v1/apps/{app}/rollback", OwnApp;
    Restart: POST "/v1/apps/{app}/restart", OwnApp;
    SetScale: PUT "/v1/apps/{app}/scale", OwnApp;
    ShowEnv: GET "/v1/apps/{app}/env", OwnApp;
    ChangeEnv: PATCH "/v1/apps/{app}/env", OwnApp;
    ShowLabels: GET "/v1/apps/{app}/labels", ReadApp;
    ChangeLabels: PATCH "/v1/apps/{app}/labels", OwnApp;
    ChangeManyLabels: PATCH "/v1/labels", OwnApps;
    RunOneOff: POST "/v1/apps/{app}/run", OwnApp;
    ListServos: GET "/v1/apps/{app}/servos", ReadApp;
    ShowServo: GET "/v1/apps/{app}/servos/{servo}", ReadApp;
    EndOneOff: DELETE "/v1/apps/{app}/servos/{servo}", OwnApp;
    ServoLog: GET "/v1/apps/{app}/servos/{servo}/log", ReadApp;
    AppLogs: GET "/v1/apps/{app}/logs", ReadApp;
    ShowRequests: GET "/v1/apps/{app}/requests", ReadApp;
    TailRequests: GET "/v1/apps/{app}/requests/tail", ReadApp;
    FollowEvents: GET "/v1/events", Any;
    ListDomains: GET "/v1/domains", Any;
    AddDomain: POST "/v1/apps/{app}/domains", OwnApp;
    RemoveDomain: DELETE "/v1/apps/{app}/domains", OwnApp;
    ShowTraffic: GET "/v1/apps/{app}/traffic", ReadApp;
    ChangeTraffic: PATCH "/v1/apps/{app}/traffic", OwnApp;
    ListBeside: GET "/v1/apps/{app}/beside", ReadApp;
    SetBeside: PUT "/v1/apps/{app}/beside/{release}", OwnApp;
    PromoteBeside: POST "/v1/apps/{app}/beside/{release}/promote", OwnApp;
    StopBeside: DELETE "/v1/apps/{app}/beside/{release}", OwnApp;
    ListPorts: GET "/v1/ports", Any;
    AddPort: POST "/v1/apps/{app}/ports", OwnApp;
    RemovePort: DELETE "/v1/apps/{app}/ports/{port}", OwnApp;
    ListCertificates: GET "/v1/certificates", Read;
    PutCertificate: POST "/v1/certificates", Admin;
    RemoveCertificate: DELETE "/v1/certificates/{fingerprint}", Admin;
    ShowAcme: GET "/v1/acme", Read;
    SetAcme: PUT "/v1/acme", Admin;
    EndAcme: DELETE "/v1/acme", Admin;
    RetryOrders: POST "/v1/acme/retry", Admin;
    ListHosts: GET "/v1/hosts", Read;
    ListControllers: GET "/v1/controllers", Read;
    RemoveController: DELETE "/v1/controllers/{controller}", Admin;
    PromoteController: POST "/v1/controllers/{controller}/promote", Admin;
    TransferLeader: POST "/v1/leader", Admin;
    ListBalancers: GET "/v1/balancers", Read;
    ListRoutes: GET "/v1/routes", Any;
    ShowOwnToken: GET "/v1/token", Any;
    ListTokens: GET "/v1/tokens", Admin;
    CreateToken: POST "/v1/tokens", Admin;
    ListJoinTokens: GET "/v1/join-tokens", Admin;
    CreateJoinToken: POST "/v1/join-tokens", Admin;
    RevokeJoinToken: DELETE "/v1/join-tokens/{id}", Admin;
    ListMachines: GET "/v1/machines", Read;
    RevokeMachine: DELETE "/v1/machines/{role}/{name}", Admin;
    ShowCa: GET "/v1/ca", Read;
    RotateCa: POST "/v1/ca/rotate", Admin;
    RetireCa: POST "/v1/ca/retire", Admin;
    CheckUpgrade: GET "/v1/upgrade", Read;
    ShowAudit: GET "/v1/audit", Admin;
    Backup: GET "/v1/backup", Admin;
    RevokeToken: DELETE "/v1/tokens/{token}", Admin;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_row_is_there_once_and_names_an_app_where_it_asks_about_one() {
        let rows: BTreeSet<_> = Endpoint::ALL.iter().map(|row| (row.path(), row.method())).collect();
        assert_eq!(rows.len(), Endpoint::ALL.len());
        for row in Endpoint::ALL {
            let of_app = row.path().starts_with("/v1/apps/{app}");
            assert!(of_app || !matches!(row.needs(), Needs::ReadApp | Needs::OwnApp), "{row:?}");
            // Reading is never a change, and no change is open to who may only read.
            assert!(row.method() == "GET" || matches!(row.needs(), Needs::OwnApp | Needs::OwnApps | Needs::Admin));
        }
    }
}
