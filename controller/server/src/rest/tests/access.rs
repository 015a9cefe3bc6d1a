//! Who may ask what: tokens, their scopes, what of them is seen, and what the audit keeps.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use http::HeaderMap;
use pontoon_core::{Command, State, command};
use pontoon_kit::clock;
use pontoon_model::{Digest, Timestamp};

use super::*;
use crate::tokens::adopt;

/// Addresses of clients that are not known yet.
static ADDRESSES: AtomicU32 = AtomicU32::new(0x0A00_0000);

fn fresh_address() -> IpAddr {
    Ipv4Addr::from_bits(ADDRESSES.fetch_add(1, Ordering::Relaxed)).into()
}

pub(super) struct Answered {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Value,
}

impl Answered {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("no error")
    }

    fn said(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Fixture {
    /// With the apps `shop` and `blog`, once the token of the file is the first one.
    pub(super) async fn with_apps() -> Self {
        let api = Self::start().await;
        for app in ["shop", "blog"] {
            assert_eq!(api.call(Method::POST, "/v1/apps", json!({"name": app})).await.0, 200);
        }
        let (proposer, feed) = (api.api.proposer.clone(), api.api.feed.clone());
        let adopting = adopt(api.api.token.unwrap().digest(), proposer, feed, api.api.leadership.clone());
        tokio::time::timeout(ELECTED, adopting).await.expect("a first token");
        api
    }

    /// A token that is in the state; its id and itself.
    pub(super) async fn token(&self, scopes: &[&str], ttl: Option<Duration>) -> (String, String) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let token = format!("a token of a test {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let hash = Digest::of(token.as_bytes());
        let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        let command = command::CreateApiToken { hash, name: "test".into(), scopes, ttl };
        let (outcomes, index) = self.api.propose_all(extract::Key::none(), vec![Command::from(command)]).await.unwrap();
        outcomes[0].as_ref().unwrap();
        let state = extract::state_at(&self.api.feed, index).await.unwrap();
        (state.api_token_of(&hash).unwrap().id.to_string(), token)
    }

    /// One request with a token, or none, from an address.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        from: IpAddr,
    ) -> Answered {
        let answer = self.open(method, path, token, body, from).await;
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answered { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The same, with the body still to be read.
    async fn open(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        from: IpAddr,
    ) -> axum::response::Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.header(CONTENT_TYPE, "application/json").body(body).unwrap();
        self.app.answer(request, from).await
    }

    fn state(&self) -> Arc<State> {
        self.api.feed.snapshot()
    }
}

/// What each scope may do, by hand: of `admin`, `read`, `deploy:shop`, `deploy:blog`. The paths name shop.
const MATRIX: &[(&str, &str, &str)] = &[
    ("GET", "/v1/status", "yes yes yes yes"),
    ("GET", "/v1/apps", "yes yes yes yes"),
    ("POST", "/v1/apps", "yes no no no"),
    ("GET", "/v1/apps/{app}", "yes yes yes no"),
    ("DELETE", "/v1/apps/{app}", "yes no no no"),
    ("POST", "/v1/apps/{app}/source", "yes no yes no"),
    ("POST", "/v1/apps/{app}/builds", "yes no yes no"),
    ("GET", "/v1/apps/{app}/builds/{build}", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/builds/{build}/log", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/deployments/{deployment}", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/releases", "yes yes yes no"),
    ("POST", "/v1/apps/{app}/rollback", "yes no yes no"),
    ("POST", "/v1/apps/{app}/restart", "yes no yes no"),
    ("PUT", "/v1/apps/{app}/scale", "yes no yes no"),
    ("GET", "/v1/apps/{app}/env", "yes no yes no"),
    ("PATCH", "/v1/apps/{app}/env", "yes no yes no"),
    ("GET", "/v1/apps/{app}/labels", "yes yes yes no"),
    ("PATCH", "/v1/apps/{app}/labels", "yes no yes no"),
    ("PATCH", "/v1/labels", "yes no yes no"),
    ("POST", "/v1/apps/{app}/run", "yes no yes no"),
    ("GET", "/v1/apps/{app}/servos", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/servos/{servo}", "yes yes yes no"),
    ("DELETE", "/v1/apps/{app}/servos/{servo}", "yes no yes no"),
    ("GET", "/v1/apps/{app}/servos/{servo}/log", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/logs", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/requests", "yes yes yes no"),
    ("GET", "/v1/apps/{app}/requests/tail", "yes yes yes no"),
    ("GET", "/v1/events", "yes yes yes yes"),
    ("GET", "/v1/domains", "yes yes yes yes"),
    ("POST", "/v1/apps/{app}/domains", "yes no yes no"),
    ("DELETE", "/v1/apps/{app}/domains", "yes no yes no"),
    ("GET", "/v1/apps/{app}/traffic", "yes yes yes no"),
    ("PATCH", "/v1/apps/{app}/traffic", "yes no yes no"),
    ("GET", "/v1/apps/{app}/beside", "yes yes yes no"),
    ("PUT", "/v1/apps/{app}/beside/{release}", "yes no yes no"),
    ("POST", "/v1/apps/{app}/beside/{release}/promote", "yes no yes no"),
    ("DELETE", "/v1/apps/{app}/beside/{release}", "yes no yes no"),
    ("GET", "/v1/ports", "yes yes yes yes"),
    ("POST", "/v1/apps/{app}/ports", "yes no yes no"),
    ("DELETE", "/v1/apps/{app}/ports/{port}", "yes no yes no"),
    ("GET", "/v1/certificates", "yes yes no no"),
    ("POST", "/v1/certificates", "yes no no no"),
    ("DELETE", "/v1/certificates/{fingerprint}", "yes no no no"),
    ("GET", "/v1/acme", "yes yes no no"),
    ("PUT", "/v1/acme", "yes no no no"),
    ("DELETE", "/v1/acme", "yes no no no"),
    ("POST", "/v1/acme/retry", "yes no no no"),
    ("GET", "/v1/hosts", "yes yes no no"),
    ("GET", "/v1/controllers", "yes yes no no"),
    ("DELETE", "/v1/controllers/{controller}", "yes no no no"),
    ("POST", "/v1/controllers/{controller}/promote", "yes no no no"),
    ("POST", "/v1/leader", "yes no no no"),
    ("GET", "/v1/join-tokens", "yes no no no"),
    ("POST", "/v1/join-tokens", "yes no no no"),
    ("DELETE", "/v1/join-tokens/{id}", "yes no no no"),
    ("GET", "/v1/machines", "yes yes no no"),
    ("GET", "/v1/upgrade", "yes yes no no"),
    ("DELETE", "/v1/machines/{role}/{name}", "yes no no no"),
    ("GET", "/v1/ca", "yes yes no no"),
    ("POST", "/v1/ca/rotate", "yes no no no"),
    ("POST", "/v1/ca/retire", "yes no no no"),
    ("GET", "/v1/balancers", "yes yes no no"),
    ("GET", "/v1/routes", "yes yes yes yes"),
    ("GET", "/v1/token", "yes yes yes yes"),
    ("GET", "/v1/tokens", "yes no no no"),
    ("POST", "/v1/tokens", "yes no no no"),
    ("DELETE", "/v1/tokens/{token}", "yes no no no"),
    ("GET", "/v1/audit", "yes no no no"),
    ("GET", "/v1/backup", "yes no no no"),
];

/// Bodies that get as far as the question whose app it is.
fn body(path: &str) -> Option<Value> {
    (path == "/v1/labels").then(|| json!([{"app": "shop", "set": {"team": "blue"}}]))
}

#[tokio::test]
async fn every_endpoint_lets_in_exactly_the_scopes_of_the_matrix() {
    let rows: std::collections::BTreeSet<_> = MATRIX.iter().map(|row| (row.0, row.1)).collect();
    let table = Endpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path())).collect();
    assert_eq!(rows, table, "the matrix has a row for each endpoint, and no other");
    assert_eq!(rows.len(), MATRIX.len());

    let api = Fixture::with_apps().await;
    let (_, expired) = api.token(&["admin"], Some(Duration::from_millis(1))).await;
    let (id, revoked) = api.token(&["admin"], None).await;
    assert_eq!(api.call(Method::DELETE, &format!("/v1/tokens/{id}"), None).await.0, 200);
    let ends = api.state().api_token_of(&Digest::of(expired.as_bytes())).unwrap().expires_at.unwrap();
    while Timestamp(clock::unix_millis()) < ends {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (read, shop) = (api.token(&["read"], None).await.1, api.token(&["deploy:shop"], None).await.1);
    let blog = api.token(&["deploy:blog"], None).await.1;
    let known = [TOKEN, &read, &shop, &blog];
    let unknown = [
        ("none", None, "no token"),
        ("wrong", Some("a token that nobody made"), "not valid"),
        ("expired", Some(expired.as_str()), "has expired"),
        ("revoked", Some(revoked.as_str()), "was revoked"),
    ];
    // What destroys comes last, and the admin's turn after the others'.
    let (mut cells, mut last) = (0, Vec::new());
    for row @ (method, path, allowed) in MATRIX {
        let given = path.replace("{app}", "shop");
        let numbered = [
            "{build}",
            "{deployment}",
            "{servo}",
            "{id}",
            "{name}",
            "{controller}",
            "{fingerprint}",
            "{port}",
            "{release}",
        ];
        let given = numbered.iter().fold(given, |path, part| path.replace(part, "7"));
        let given = given.replace("{token}", "t999").replace("{role}", "agent");
        for (kind, token, part) in unknown {
            let answer = api.ask(method, &given, token, body(path), fresh_address()).await;
            let found = (answer.status, answer.code());
            assert!(found == (401, "unauthorized") && answer.said().contains(part), "{row:?} {kind}: {}", answer.body);
            cells += 1;
        }
        let allowed: Vec<&str> = allowed.split(' ').collect();
        assert_eq!(allowed.len(), known.len(), "{row:?}");
        for (at, token) in known.iter().enumerate().skip(1) {
            cell(&api, method, &given, token, body(path), allowed[at] == "yes").await;
            cells += 1;
        }
        assert_eq!(allowed[0], "yes", "an admin may do everything");
        last.push((*method == "DELETE", *method, given, body(path)));
    }
    last.sort_by_key(|row| row.0);
    for (_, method, path, body) in last {
        cell(&api, method, &path, TOKEN, body, true).await;
        cells += 1;
    }
    assert_eq!(cells, Endpoint::ALL.len() * 8);
}

/// Whether the scope was enough is all that is asked: what else is wrong with the request, the handler says.
async fn cell(api: &Fixture, method: &str, path: &str, token: &str, body: Option<Value>, allowed: bool) {
    let answer = api.open(method, path, Some(token), body, HERE).await;
    let status = answer.status().as_u16();
    if allowed {
        assert!(
            ![401, 403, 404, 405, 429, 500].contains(&status) || has_reached(path, status),
            "{method} {path} {token}: {status}"
        );
        return;
    }
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let said: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status, &said["error"]["code"]), (403, &json!("forbidden")), "{method} {path} {token}: {said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("this needs"), "{said}");
}

/// What is asked for by an id that is not there was looked for.
fn has_reached(path: &str, status: u16) -> bool {
    status == 404 && ["/7", "/7/log", "/7/promote", "/t999"].iter().any(|end| path.ends_with(end))
}

#[tokio::test]
async fn a_name_in_another_spelling_and_head_requests_are_no_way_around_a_scope() {
    let api = Fixture::with_apps().await;
    let (shop, read) = (api.token(&["deploy:shop"], None).await.1, api.token(&["read"], None).await.1);
    for (method, path, token) in [
        ("GET", "/v1/apps/%62log/env", &shop),
        ("GET", "/v1/apps/%73hop/env", &shop),
        ("GET", "/v1/apps//env", &shop),
        ("HEAD", "/v1/apps/shop/env", &read),
        ("HEAD", "/v1/tokens", &read),
    ] {
        let answer = api.open(method, path, Some(token), None, HERE).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path}");
    }
    for path in ["/v1/apps/shop/../blog/env", "/v1//apps/blog/env", "/v1/apps/shop/env/"] {
        let answer = api.open("GET", path, Some(&shop), None, HERE).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(api.open("HEAD", "/v1/apps/shop/env", Some(&shop), None, HERE).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_token_of_the_file_counts_until_there_are_tokens_and_then_like_any_other() {
    let api = Fixture::start().await;
    let first = api.call(Method::GET, "/v1/token", None).await;
    assert_eq!((first.0, &first.1["name"], &first.1["scopes"]), (200, &json!("first"), &json!(["admin"])));
    assert_eq!(api.call(Method::GET, "/v1/tokens", None).await.1, json!([]));
    drop(api);

    let api = Fixture::with_apps().await;
    let tokens = api.call(Method::GET, "/v1/tokens", None).await.1;
    assert_eq!((tokens.as_array().unwrap().len(), &tokens[0]["name"]), (1, &json!("first")), "{tokens}");
    assert!(!tokens.to_string().contains(TOKEN) && tokens[0].get("hash").is_none());
    let path = format!("/v1/tokens/{}", tokens[0]["id"]);
    let kept = api.call(Method::DELETE, &path, None).await;
    assert!(code(&kept) == (409, "conflict") && kept.1.to_string().contains("the last"), "{kept:?}");

    let made = api.call(Method::POST, "/v1/tokens", json!({"name": "mine", "scopes": ["admin"]})).await;
    let (mine, index) = (made.1["token"].as_str().expect("the token"), &made.1["index"]);
    assert!(mine.len() > 64 && index.is_u64() && made.1["expires_at"].is_null(), "{made:?}");
    assert_eq!(api.ask("DELETE", &path, Some(mine), None, HERE).await.status, 200);
    let refused = api.ask("GET", "/v1/status", Some(TOKEN), None, HERE).await;
    assert_eq!((refused.status, refused.code()), (401, "unauthorized"), "the file's token was revoked");
    assert_eq!(refused.headers.get("www-authenticate").unwrap(), "Bearer");
    assert_eq!(api.ask("GET", "/v1/token", Some(mine), None, HERE).await.body["name"], "mine");
}

#[tokio::test]
async fn a_token_is_shown_once_and_what_is_wrong_with_it_is_said() {
    let api = Fixture::with_apps().await;
    let asked = json!({"scopes": ["deploy:shop", "read"], "ttl_seconds": 3600});
    let made = api.call(Method::POST, "/v1/tokens", asked).await;
    assert_eq!((&made.1["name"], &made.1["expired"]), (&json!("read deploy:shop"), &json!(false)), "{made:?}");
    let hour = made.1["expires_at"].as_u64().unwrap() - made.1["created_at"].as_u64().unwrap();
    assert_eq!(hour, 3_600_000);
    for (body, status, part) in [
        (json!({"scopes": []}), 400, "scopes"),
        (json!({"scopes": ["write"]}), 400, "not a scope"),
        (json!({"scopes": ["deploy:nope"]}), 404, "nope"),
        (json!({"scopes": ["read"], "name": " "}), 400, "token name"),
        (json!({"scopes": ["read"], "ttl_seconds": 0}), 400, "above zero"),
        (json!({"scopes": ["read"], "ttl_seconds": u64::MAX}), 400, "ten years"),
        (json!({"scopes": ["read"], "until": 1}), 400, "until"),
    ] {
        let refused = api.call(Method::POST, "/v1/tokens", body).await;
        assert!(refused.0 == status && refused.1.to_string().contains(part), "{part}: {refused:?}");
    }
    let request = || {
        Request::post("/v1/tokens")
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", "0189d6a4-3f00-7000-8000-0123456789ab")
            .body(Body::from(r#"{"scopes": ["read"]}"#))
            .unwrap()
    };
    assert_eq!(api.send(request()).await.0, StatusCode::OK);
    let before = api.state().api_tokens().count();
    let (status, body) = api.send(request()).await;
    let said = String::from_utf8_lossy(&body).into_owned();
    assert!(status == StatusCode::CONFLICT && said.contains("shown only once"), "{status} {said}");
    assert_eq!(api.state().api_tokens().count(), before);
    assert_eq!(code(&api.call(Method::DELETE, "/v1/tokens/nothing", None).await), (400, "invalid"));
}

#[tokio::test]
async fn lists_status_and_events_show_a_deploy_token_its_app_only() {
    let api = Fixture::with_apps().await;
    let shop = api.token(&["deploy:shop"], None).await.1;
    let show = async |path: &str| api.ask("GET", path, Some(&shop), None, HERE).await.body;
    let apps = show("/v1/apps").await;
    assert_eq!((apps.as_array().unwrap().len(), &apps[0]["name"]), (1, &json!("shop")), "{apps}");
    let status = show("/v1/status").await;
    assert_eq!((&status["apps"], &status["leader"]), (&json!(1), &json!("a")), "{status}");
    assert!(!status["problems"].to_string().contains("host"), "{status}");
    let routes = show("/v1/routes").await;
    assert_eq!((routes.as_array().unwrap().len(), &routes[0]["app"]), (1, &json!("shop")), "{routes}");

    // A list of labels is taken as a whole or not at all.
    let items = json!([{"app": "shop", "set": {"a": "1"}}, {"app": "blog", "set": {"a": "1"}}]);
    let refused = api.ask("PATCH", "/v1/labels", Some(&shop), Some(items), HERE).await;
    assert!(refused.status == 403 && refused.said().contains("deploy:blog"), "{}", refused.body);
    assert_eq!(api.call(Method::GET, "/v1/apps/shop/labels", None).await.1, json!({}));

    // From the beginning: both apps, a level, a build of each that goes with its app.
    for app in ["blog", "shop"] {
        let source = api.upload(app, archive(&[("index.html", app)])).await.1;
        let path = format!("/v1/apps/{app}/builds");
        assert_eq!(api.call(Method::POST, &path, json!({"source": source["digest"]})).await.0, 200);
    }
    api.call(Method::DELETE, "/v1/apps/blog", None).await;
    let read = api.token(&["read"], None).await.1;
    api.call(Method::PATCH, "/v1/apps/shop/labels", json!({"set": {"last": "one"}})).await;
    let mut all = api.events(&read).await;
    assert!(all.iter().any(|change| change["key"] == "blog") && all.iter().any(|change| change["table"] == "cluster"));
    let gone: Vec<_> =
        all.iter().filter(|change| change["row"].is_null()).map(|change| change["table"].clone()).collect();
    assert_eq!(gone, ["apps", "builds"], "{all:?}");
    all.retain(|change| change["key"] == "shop" || change["row"]["app"] == "shop");
    assert_eq!(api.events(&shop).await, all);
}

impl Fixture {
    /// Every changed row that a token's owner is told of, up to the label `last`.
    pub(super) async fn events(&self, token: &str) -> Vec<Value> {
        let answer = self.open("GET", "/v1/events?from=0", Some(token), None, HERE).await;
        let mut events = Events { body: answer.into_body(), text: String::new() };
        let mut changes = Vec::new();
        loop {
            let (_, _, data) = events.next().await;
            changes.extend(data["changes"].as_array().unwrap().clone());
            if changes.iter().any(|change| change["row"]["labels"]["last"] == "one") {
                return changes;
            }
        }
    }
}

#[tokio::test]
async fn the_streams_of_a_token_end_when_it_is_revoked() {
    let api = Fixture::with_apps().await;
    let (id, token) = api.token(&["deploy:shop"], None).await;
    let events = api.open("GET", "/v1/events", Some(&token), None, HERE).await;
    let logs = api.open("GET", "/v1/apps/shop/logs?follow=true", Some(&token), None, HERE).await;
    assert_eq!((events.status(), logs.status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(api.call(Method::DELETE, &format!("/v1/tokens/{id}"), None).await.0, 200);
    for stream in [events, logs] {
        tokio::time::timeout(ELECTED, stream.into_body().collect()).await.expect("the stream ends").unwrap();
    }
}

#[tokio::test]
async fn an_address_that_sends_wrong_tokens_is_not_looked_at_for_a_while_and_others_are() {
    let api = Fixture::with_apps().await;
    let (bad, good) = (fresh_address(), fresh_address());
    for n in 0..10 {
        let answer = api.ask("GET", "/v1/status", Some(&format!("guess {n}")), None, bad).await;
        assert_eq!(answer.status, 401, "{n}");
    }
    for token in ["guess 11", TOKEN] {
        let answer = api.ask("GET", "/v1/status", Some(token), None, bad).await;
        assert_eq!((answer.status, answer.code()), (429, "too_many_failures"));
        let wait: u64 = answer.headers.get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let started = Instant::now();
    assert_eq!(api.ask("GET", "/v1/status", Some(TOKEN), None, good).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn every_change_that_was_asked_for_is_in_the_audit_without_any_secret() {
    let api = Fixture::with_apps().await;
    let (from, since) = (fresh_address(), clock::unix_millis());
    let shop = api.token(&["deploy:shop"], None).await;
    api.ask("PATCH", "/v1/apps/shop/env", Some(&shop.1), Some(json!({"set": {"KEY": "hush"}})), from).await;
    api.ask("POST", "/v1/apps", Some(&shop.1), Some(json!({"name": "more"})), from).await;
    api.ask("POST", "/v1/apps/shop/rollback", Some(&shop.1), Some(json!({})), from).await;
    api.ask("GET", "/v1/apps/shop", Some(&shop.1), None, from).await;
    api.ask("GET", "/v1/apps/shop", Some("a wrong token"), None, from).await;
    let made = api.call(Method::POST, "/v1/tokens", json!({"scopes": ["read"]})).await.1;

    let audit = api.call(Method::GET, &format!("/v1/audit?since={since}"), None).await.1;
    assert_eq!(audit["missing"], json!([]));
    let words = |record: &Value| -> BTreeMap<&str, Value> {
        ["action", "app", "status", "error"].into_iter().map(|field| (field, record[field].clone())).collect()
    };
    let line = |action: &str, app: Option<&str>, status: u16, error: Option<&str>| {
        BTreeMap::from([
            ("action", json!(action)),
            ("app", json!(app)),
            ("status", json!(status)),
            ("error", json!(error)),
        ])
    };
    let records = audit["records"].as_array().unwrap();
    let found: Vec<_> = records.iter().map(words).collect();
    let expected = [
        line("ChangeEnv", Some("shop"), 200, None),
        line("CreateApp", None, 403, Some("forbidden")),
        line("Rollback", Some("shop"), 409, Some("conflict")),
        line("WrongToken", None, 401, None),
        line("CreateToken", None, 200, None),
    ];
    assert_eq!(found, expected, "{audit}");
    let first = &records[0];
    assert_eq!((&first["from"], &first["controller"]), (&json!(from.to_string()), &json!("a")));
    assert_eq!((format!("t{}", first["token"]), &first["token_name"]), (shop.0, &json!("test")));
    assert!(first["index"].is_u64() && first["method"] == "PATCH" && first["path"] == "/v1/apps/shop/env", "{first}");
    assert_eq!(records[4]["index"], made["index"]);
    let whole = std::fs::read_to_string(api.folder.path().join("audit/audit.jsonl")).unwrap();
    for secret in ["hush", "a wrong token", shop.1.as_str(), TOKEN, made["token"].as_str().unwrap()] {
        assert!(!whole.contains(secret), "{secret}: {whole}");
    }
    let last = api.call(Method::GET, "/v1/audit?limit=1", None).await.1;
    assert_eq!(last["records"].as_array().unwrap().len(), 1);
    let actions = async |query: &str| -> Vec<String> {
        let audit = api.call(Method::GET, &format!("/v1/audit?since={since}&{query}"), None).await.1;
        let records = audit["records"].as_array().unwrap().iter();
        records.map(|record| record["action"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(actions("limit=2&order=oldest").await, ["ChangeEnv", "CreateApp"]);
    assert_eq!(actions(&format!("limit=1&until={}", records[1]["at"])).await.len(), 1);
    let all_before: Vec<_> =
        records.iter().filter(|record| record["at"].as_u64() <= records[2]["at"].as_u64()).collect();
    assert_eq!(actions(&format!("until={}", records[2]["at"])).await.len(), all_before.len());
    for query in ["limit=0", "limit=1001", "since=yesterday", "order=any", "since=2&until=1"] {
        assert_eq!(api.call(Method::GET, &format!("/v1/audit?{query}"), None).await.0, 400, "{query}");
    }
}

/// They would live for thirty days more than was asked for.
#[tokio::test]
async fn tokens_end_when_they_were_asked_to_after_a_clock_was_fast() {
    let api = Fixture::with_apps().await;
    let (early, made) = (json!({"scopes": ["read"], "ttl_seconds": 86_400}), clock::unix_millis());
    let early = api.call(Method::POST, "/v1/tokens", early).await.1;
    let clock_problems = async || -> Vec<String> {
        let status = api.call(Method::GET, "/v1/status", None).await.1;
        let problems = status["problems"].as_array().unwrap().iter();
        problems.map(|problem| problem.as_str().unwrap().to_owned()).filter(|said| said.contains("clock")).collect()
    };
    assert_eq!(clock_problems().await, [""; 0]);
    api.api.feed.run_ahead(Duration::from_secs(30 * 86_400));
    let asked = json!({"scopes": ["read"], "ttl_seconds": 600});
    let token = api.call(Method::POST, "/v1/tokens", asked).await.1;
    let tokens = api.call(Method::GET, "/v1/tokens", None).await.1;
    let listed = tokens.as_array().unwrap().last().unwrap();
    for row in [&token, listed] {
        let left = Duration::from_millis(row["expires_at"].as_u64().unwrap().saturating_sub(made));
        assert!((590..700).contains(&left.as_secs()), "{left:?}: {row}");
    }
    let problems = clock_problems().await;
    assert!(problems.len() == 1 && problems[0].contains("720 h ahead"), "{problems:?}");
    let secret = token["token"].as_str().unwrap();
    let answer = async |secret| api.ask("GET", "/v1/apps", Some(secret), None, fresh_address()).await.status;
    assert_eq!(answer(secret).await, 200);
    assert_eq!(answer(early["token"].as_str().unwrap()).await, 401, "a day has gone by");
    api.api.feed.run_ahead(Duration::from_secs(600));
    assert_eq!(answer(secret).await, 401, "and so have ten minutes");
}

#[tokio::test]
async fn the_use_of_a_token_is_noted_once_an_hour_and_costs_no_write_of_its_own() {
    let api = Fixture::with_apps().await;
    let token = api.token(&["read"], None).await;
    for _ in 0..3 {
        assert_eq!(api.ask("GET", "/v1/token", Some(&token.1), None, HERE).await.status, 200);
    }
    let index = api.state().index();
    api.api.uses.commit(&api.api.proposer).await;
    let state = extract::state_at(&api.api.feed, index + 1).await.unwrap();
    let noted = |state: &State, token: &str| state.api_token_of(&Digest::of(token.as_bytes())).unwrap().last_used_at;
    assert!(noted(&state, &token.1).is_some());
    assert_eq!(state.index(), index + 1, "one entry for all uses");
    assert_eq!(api.ask("GET", "/v1/token", Some(&token.1), None, HERE).await.status, 200);
    api.api.uses.commit(&api.api.proposer).await;
    assert_eq!(api.state().index(), index + 1, "the next use is no news for an hour");
}
