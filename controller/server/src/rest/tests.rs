//! The API as a function from request to answer, over the consensus of a single controller.

mod access;
mod backup;
mod beside;
mod edge;
mod ports;
mod serving;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use pontoon_kit::{Authority, Credentials, Role};
use pontoon_model::ControllerId;
use serde_json::{Value, json};

use super::*;
use crate::raft::{Compaction, ConsensusConfig, Member, Timing};
use crate::sealing::{SealingKeeper, SealingKeys};
use crate::sessions::AgentDirectory;

/// Where requests come from.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const TOKEN: &str = "a token for tests only";
/// An election of one takes half a second; a busy machine several.
const ELECTED: Duration = Duration::from_secs(20);

struct Fixture {
    app: Rest,
    api: Api,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Fixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Authority::create().unwrap().issue(Role::Controller, "a").unwrap();
        let (id, name): (_, ControllerName) = (ControllerId(1), "a".parse().unwrap());
        // Alone, it never calls anybody: the address is not listened on.
        let grpc = SocketAddr::from(([127, 0, 0, 1], 1));
        let member = Member { id, name: name.clone(), grpc };
        let started = Consensus::start(ConsensusConfig {
            id,
            name: name.clone(),
            data_dir: folder.path().to_owned(),
            members: vec![member],
            credentials: Credentials::new(identity).unwrap(),
            timing: Timing::lan(),
            auto_timing: false,
            joins: false,
            remembered: Vec::new(),
            was_member: false,
            compaction: Compaction::default(),
        });
        let (consensus, _service) = started.await.unwrap();
        let mut leadership = consensus.leadership();
        tokio::time::timeout(ELECTED, leadership.wait_for(|now| now.leading)).await.expect("elected").unwrap();
        let (peers, config_name) = (consensus.peers(), name.clone());
        let store = BlobStore::open(folder.path()).unwrap();
        let (shutdown, sealing) = (CancellationToken::new(), SealingKeys::open(folder.path()).unwrap());
        let keeper = SealingKeeper {
            own: id,
            keys: sealing.clone(),
            feed: consensus.feed(),
            proposer: consensus.proposer(),
            reads: consensus.reads(),
            leadership: consensus.leadership(),
            peers: peers.clone(),
        };
        tokio::spawn(keeper.run(shutdown.clone()));
        let api = Api::new(ApiParts {
            name,
            token: Some(TokenHash::of(TOKEN)),
            uses: TokenUses::default(),
            failures: Failures::default(),
            audit: AuditLog::open(folder.path(), "a".parse().unwrap()).unwrap(),
            feed: consensus.feed(),
            proposer: consensus.proposer(),
            leadership: consensus.leadership(),
            members: Members {
                own: config_name,
                id,
                queue: consensus.membership(),
                leadership: consensus.leadership(),
                peers: peers.clone(),
            },
            data_dir: folder.path().to_owned(),
            consensus: Arc::new(consensus),
            fetcher: Fetcher::new(store.clone(), peers.clone()),
            replicator: Replicator::new(store.clone(), peers.clone()),
            store,
            logs: Logs::new(AgentDirectory::default(), peers.clone()),
            connected: crate::sessions::Connected::default(),
            requests: crate::requests::Requests::default(),
            tails: crate::sessions::Tails::new(peers),
            heard: Heard::default(),
            waiting: Waiting::default(),
            limits: Limits::default(),
            tcp_ports: (10_000, 10_999),
            sealing,
            shutdown: shutdown.clone(),
        });
        Self { app: Rest::new(api.clone()), api, folder, shutdown }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Bytes) {
        let answer = self.app.answer(request, HERE).await;
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<Option<Value>>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        let body = match body.into() {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let (status, bytes) = self.send(request.body(body).unwrap()).await;
        (status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{path}: not JSON: {bytes:?}")))
    }

    async fn upload(&self, app: &str, bytes: Vec<u8>) -> (u16, Value) {
        let request = Request::post(format!("/v1/apps/{app}/source")).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        let (status, body) = self.send(request.body(Body::from(bytes)).unwrap()).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    /// Files below `blobs`, whole or partial.
    fn stored(&self) -> usize {
        fn files(folder: &std::path::Path) -> usize {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .fold(0, |sum, path| if path.is_dir() { sum + files(&path) } else { sum + 1 })
        }
        files(&self.folder.path().join("blobs"))
    }
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("no error"))
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn refusals_are_json_with_a_code() {
    let api = Fixture::start().await;
    let no_token = Request::get("/v1/status").body(Body::empty()).unwrap();
    let wrong = Request::get("/v1/status").header(AUTHORIZATION, "Bearer wrong").body(Body::empty()).unwrap();
    for request in [no_token, wrong] {
        let (status, body) = api.send(request).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (401, Some("unauthorized")));
    }
    let json = |value: Value| Some(value);
    let cases = [
        (Method::GET, "/nowhere", None, 404, "not_found"),
        (Method::GET, "/v1/nowhere", None, 404, "not_found"),
        (Method::DELETE, "/v1/status", None, 405, "invalid"),
        (Method::GET, "/v1/apps/nope", None, 404, "not_found"),
        (Method::GET, "/v1/apps/Not%20A%20Name", None, 400, "invalid"),
        (Method::GET, "/v1/apps/nope/servos/s1", None, 404, "not_found"),
        (Method::POST, "/v1/apps", None, 400, "invalid"),
        (Method::POST, "/v1/apps", json(json!({"name": "Bad Name"})), 400, "invalid"),
        (Method::POST, "/v1/apps", json(json!({"name": "a", "colour": 1})), 400, "invalid"),
        (Method::PUT, "/v1/apps/nope/scale", json(json!({})), 400, "invalid"),
        (Method::PUT, "/v1/apps/nope/scale", json(json!({"count": 2})), 404, "not_found"),
        (Method::PUT, "/v1/apps/nope/scale", json(json!({"count": -2})), 400, "invalid"),
        (Method::PATCH, "/v1/apps/nope/env", json(json!({})), 400, "invalid"),
        (Method::POST, "/v1/apps/nope/restart", None, 404, "not_found"),
        (Method::GET, "/v1/status?at_index=x", None, 400, "invalid"),
    ];
    for (method, path, body, status, word) in cases {
        let answer = api.call(method.clone(), path, body).await;
        assert_eq!(code(&answer), (status, word), "{method} {path}: {}", answer.1);
        assert!(answer.1["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{path}: {}", answer.1);
    }
}

#[tokio::test]
async fn an_app_is_made_changed_and_removed() {
    let api = Fixture::start().await;
    let created = api.call(Method::POST, "/v1/apps", json!({"name": "guestbook"})).await;
    assert_eq!((created.0, &created.1["domains"]), (200, &json!(["guestbook.localhost"])), "{created:?}");
    assert_eq!(code(&api.call(Method::POST, "/v1/apps", json!({"name": "guestbook"})).await), (409, "conflict"));

    let scaled = api.call(Method::PUT, "/v1/apps/guestbook/scale", json!({"count": 3, "memory": 64 << 20})).await;
    let at = scaled.1["index"].as_u64().expect("an index");
    let shown = api.call(Method::GET, &format!("/v1/apps/guestbook?at_index={at}"), None).await.1;
    assert_eq!(shown["scale"]["web"]["count"], 3);

    let body = json!({"set": {"GREETING": "hello"}, "unset": []});
    assert_eq!(api.call(Method::PATCH, "/v1/apps/guestbook/env", body).await.0, 200);
    assert_eq!(api.call(Method::GET, "/v1/apps/guestbook/env", None).await.1, json!({"GREETING": "hello"}));

    assert_eq!(code(&api.call(Method::POST, "/v1/apps/guestbook/rollback", None).await), (409, "conflict"));
    assert_eq!(
        code(&api.call(Method::POST, "/v1/apps/guestbook/run", json!({"command": "ls"})).await),
        (409, "conflict")
    );

    let status = api.call(Method::GET, "/v1/status", None).await.1;
    assert_eq!((&status["leader"], &status["apps"]), (&json!("a"), &json!(1)), "{status}");
    assert_eq!(api.call(Method::DELETE, "/v1/apps/guestbook", None).await.0, 200);
    assert_eq!(api.call(Method::GET, "/v1/apps", None).await.1, json!([]));
}

#[tokio::test]
async fn labels_are_set_removed_and_shown_with_the_app() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "guestbook"})).await;
    let path = "/v1/apps/guestbook/labels";
    assert_eq!(api.call(Method::GET, path, None).await.1, json!({}));
    let changed = api.call(Method::PATCH, path, json!({"set": {"team": "blue", "old": "x"}})).await;
    assert!(changed.0 == 200 && changed.1["index"].is_u64(), "{changed:?}");
    assert_eq!(api.call(Method::PATCH, path, json!({"set": {"team": "red"}, "unset": ["old"]})).await.0, 200);
    assert_eq!(api.call(Method::GET, path, None).await.1, json!({"team": "red"}));
    assert_eq!(api.call(Method::GET, "/v1/apps/guestbook", None).await.1["labels"], json!({"team": "red"}));
    for (body, part) in [
        (json!({}), "nothing to change"),
        (json!({"set": {"bad name": ""}}), "\"bad name\""),
        (json!({"set": {"team": "x".repeat(257)}}), "label team"),
        (json!({"set": {"team": 1}}), "body"),
    ] {
        let refused = api.call(Method::PATCH, path, body).await;
        let said = refused.1["error"]["message"].as_str().unwrap();
        assert!(code(&refused) == (400, "invalid") && said.contains(part), "{refused:?}");
    }
    let many: serde_json::Map<_, _> = (0..64).map(|n| (format!("l{n:02}"), json!("x"))).collect();
    let refused = api.call(Method::PATCH, path, json!({"set": many})).await;
    assert!(refused.1["error"]["message"].as_str().unwrap().contains("label l63"), "{refused:?}");
}

#[tokio::test]
async fn a_list_of_labels_is_one_entry_with_an_answer_per_item() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "a"})).await;
    api.call(Method::POST, "/v1/apps", json!({"name": "b"})).await;
    let item = |app: &str, name: &str| json!({"app": app, "set": {name: "x"}});
    let body = json!([item("a", "one"), item("nope", "two"), item("b", "three")]);
    let (status, answer) = api.call(Method::PATCH, "/v1/labels", body).await;
    assert_eq!((status, answer.as_array().unwrap().len()), (200, 3), "{answer}");
    assert_eq!((&answer[0]["error"], &answer[1]["error"]["code"]), (&json!(null), &json!("not_found")));
    assert_eq!((&answer[0]["index"], &answer[2]["error"]), (&answer[2]["index"], &json!(null)));
    assert_eq!(api.call(Method::GET, "/v1/apps/b/labels", None).await.1, json!({"three": "x"}));

    // What is wrong in itself stops the whole list before any of it is proposed.
    let refused = api.call(Method::PATCH, "/v1/labels", json!([item("a", "four"), item("b", "-")])).await;
    assert!(code(&refused) == (400, "invalid") && refused.1.to_string().contains("item 1"), "{refused:?}");
    assert_eq!(api.call(Method::GET, "/v1/apps/a/labels", None).await.1, json!({"one": "x"}));
    for body in [json!([]), json!(vec![item("a", "x"); 1001]), json!({})] {
        assert_eq!(code(&api.call(Method::PATCH, "/v1/labels", body).await), (400, "invalid"));
    }
    assert_eq!(api.call(Method::PATCH, "/v1/labels", json!(vec![item("a", "x"); 1000])).await.0, 200);
}

#[tokio::test]
async fn a_retry_with_the_same_key_is_applied_once() {
    let api = Fixture::start().await;
    let request = |key: &str| {
        Request::post("/v1/apps")
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .body(Body::from(r#"{"name": "once"}"#))
            .unwrap()
    };
    let key = "0189d6a4-3f00-7000-8000-0123456789ab";
    for _ in 0..2 {
        assert_eq!(api.send(request(key)).await.0, StatusCode::OK);
    }
    assert_eq!(api.send(request("0189d6a4-3f00-7000-8000-0123456789ac")).await.0, StatusCode::CONFLICT);
    assert_eq!(api.send(request("not a key")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_source_is_inspected_stored_and_built() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let bytes = archive(&[("index.html", "<h1>hi</h1>"), ("pontoon.toml", "[scale]\nweb = 2")]);
    let (status, source) = api.upload("site", bytes).await;
    assert_eq!((status, &source["language"], &source["files"]), (200, &json!("static"), &json!(2)), "{source}");
    assert_eq!(api.stored(), 1);

    let (status, build) = api.call(Method::POST, "/v1/apps/site/builds", json!({"source": source["digest"]})).await;
    assert_eq!((status, &build["state"]), (200, &json!("queued")), "{build}");
    let path = format!("/v1/apps/site/builds/{}", build["id"]);
    assert_eq!(api.call(Method::GET, &path, None).await.1["language"], "static");

    let unknown = json!({"source": "00".repeat(32)});
    assert_eq!(code(&api.call(Method::POST, "/v1/apps/site/builds", unknown).await), (404, "not_found"));
}

#[tokio::test]
async fn a_refused_upload_leaves_nothing() {
    let api = Fixture::start().await;
    assert_eq!(code(&api.upload("nope", archive(&[("index.html", "")])).await), (404, "not_found"));
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_size(40 << 20);
    header.set_cksum();
    zeros.write_all(header.as_bytes()).unwrap();
    zeros.write_all(&vec![0; 40 << 20]).unwrap();
    let cases = [
        ("no archive", b"hello".to_vec(), (422, "bad_source")),
        ("nothing that runs", archive(&[("README", "")]), (422, "bad_source")),
        ("a bomb", zeros.finish().unwrap(), (413, "too_large")),
    ];
    for (name, bytes, expected) in cases {
        let answer = api.upload("site", bytes).await;
        assert_eq!(code(&answer), expected, "{name}: {}", answer.1);
    }
    let announced = Request::post("/v1/apps/site/source")
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(http::header::CONTENT_LENGTH, u64::MAX)
        .body(Body::empty())
        .unwrap();
    assert_eq!(api.send(announced).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(api.stored(), 0);
}

#[tokio::test]
async fn a_build_that_waits_is_followed_at_once_until_the_controller_stops() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let source = api.upload("site", archive(&[("index.html", "")])).await.1;
    let build = api.call(Method::POST, "/v1/apps/site/builds", json!({"source": source["digest"]})).await.1;
    let log = |query: &str| {
        let path = format!("/v1/apps/site/builds/{}/log{query}", build["id"]);
        Request::get(path).header(AUTHORIZATION, format!("Bearer {TOKEN}")).body(Body::empty()).unwrap()
    };
    let now = api.send(log("")).await;
    assert_eq!((now.0, now.1.len()), (StatusCode::OK, 0));
    let followed = api.app.answer(log("?follow=true"), HERE).await;
    assert_eq!(followed.status(), StatusCode::OK, "before the build begins");
    api.shutdown.cancel();
    assert_eq!(followed.into_body().collect().await.unwrap().to_bytes().len(), 0);
}

#[tokio::test]
async fn an_app_without_servos_has_an_empty_log() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let (status, body) = api
        .send(
            Request::get("/v1/apps/site/logs")
                .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
}

impl Fixture {
    async fn answer(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> axum::response::Response {
        let mut request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.app.answer(request.body(Body::empty()).unwrap(), HERE).await
    }

    async fn label(&self, value: &str) -> u64 {
        let body = json!({"set": {"team": value}});
        self.call(Method::PATCH, "/v1/apps/site/labels", body).await.1["index"].as_u64().expect("an index")
    }
}

fn header<'a>(answer: &'a axum::response::Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn reads_say_which_index_they_saw_and_take_a_consistency() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let index = api.label("blue").await;
    for path in ["/v1/apps/site/labels", "/v1/apps", "/v1/status", "/v1/hosts", "/v1/apps/nope"] {
        for query in ["", "?consistency=stale", "?consistency=linearizable"] {
            let answer = api.answer(Method::GET, &format!("{path}{query}"), &[]).await;
            let seen: u64 = header(&answer, "pontoon-index").expect(path).parse().unwrap();
            assert!(seen >= index, "{path}{query}: {seen}");
        }
    }
    let refused = api.call(Method::GET, "/v1/apps?consistency=perfect", None).await;
    let said = refused.1["error"]["message"].as_str().unwrap();
    assert!(code(&refused) == (400, "invalid") && said.contains("stale") && said.contains("linearizable"), "{said}");
}

#[tokio::test]
async fn without_a_leader_stale_reads_go_on_and_the_rest_is_told_to_try_again() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    api.api.consensus.shutdown().await;
    assert_eq!(api.answer(Method::GET, "/v1/apps/site", &[]).await.status(), StatusCode::OK);
    let refused = api.answer(Method::GET, "/v1/apps/site?consistency=linearizable", &[]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, Some("1")));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("consistency=stale"), "{body:?}");
}

#[tokio::test]
async fn what_would_overload_is_refused_at_once_and_stale_reads_go_on() {
    let api = Fixture::start().await;
    let all = api.api.limits.changes.clone().acquire_many_owned(2_048).await.unwrap();
    let refused = api.answer(Method::POST, "/v1/apps/site/restart", &[]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, Some("1")));
    assert_eq!(api.answer(Method::GET, "/v1/apps", &[]).await.status(), StatusCode::OK);
    drop(all);
    assert_eq!(api.answer(Method::POST, "/v1/apps/site/restart", &[]).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_nothing_else() {
    let api = Fixture::start().await;
    api.api.consensus.health().set_disk_full(Some("the disk of /var/lib/pontoon is full".to_owned()));
    let refused = api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    assert_eq!(code(&refused), (507, "disk_full"));
    assert!(refused.1["error"]["message"].as_str().unwrap().contains("/var/lib/pontoon is full"), "{refused:?}");
    assert_eq!(api.call(Method::GET, "/v1/apps", None).await.0, 200);
    api.api.consensus.health().set_disk_full(None);
    assert_eq!(api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await.0, 200);
}

/// A client of the events, that has read so much.
struct Events {
    body: Body,
    text: String,
}

impl Events {
    async fn open(api: &Fixture, query: &str, headers: &[(&str, &str)]) -> Self {
        let answer = api.answer(Method::GET, &format!("/v1/events{query}"), headers).await;
        assert_eq!((answer.status(), header(&answer, "content-type")), (StatusCode::OK, Some("text/event-stream")));
        Self { body: answer.into_body(), text: String::new() }
    }

    /// The next event: its id, its name, its data.
    async fn next(&mut self) -> (Option<u64>, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let id = field("id: ").map(|id| id.parse().unwrap());
                let found = field("event: ").map(|name| (id, name, field("data: ").unwrap()));
                self.text = rest.to_owned();
                if let Some((id, name, data)) = found {
                    return (id, name, serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let frame = tokio::time::timeout(ELECTED, self.body.frame()).await.expect("an event").unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_tell_every_change_in_order_and_go_on_after_an_index() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    api.call(Method::PATCH, "/v1/apps/site/env", json!({"set": {"SECRET": "hush"}})).await;
    let first = api.label("a").await;

    let mut now = Events::open(&api, "", &[]).await;
    let (id, name, data) = now.next().await;
    assert_eq!((id, name.as_str(), &data["index"]), (Some(first), "start", &json!(first)));
    let second = api.label("b").await;
    let (id, name, data) = now.next().await;
    assert_eq!((id, name.as_str()), (Some(second), "change"));
    assert_eq!((&data["index"], data["time"].is_u64()), (&json!(second), true));
    let row = &data["changes"][0]["row"];
    assert_eq!((&data["changes"][0]["table"], &data["changes"][0]["key"]), (&json!("apps"), &json!("site")));
    assert_eq!((&row["name"], &row["labels"]), (&json!("site"), &json!({"team": "b"})));
    assert!(!data.to_string().contains("hush"), "never an environment value: {data}");

    // A list is one entry, and one event.
    api.call(Method::POST, "/v1/apps", json!({"name": "other"})).await;
    let items = json!([{"app": "other", "set": {"x": "1"}}, {"app": "site", "set": {"x": "1"}}]);
    let third = api.call(Method::PATCH, "/v1/labels", items).await.1[0]["index"].as_u64().unwrap();
    api.call(Method::DELETE, "/v1/apps/other", None).await;
    let mut resumed = Events::open(&api, "?from=1", &[("Last-Event-ID", &second.to_string())]).await;
    assert_eq!(resumed.next().await.2["changes"][0]["key"], "other");
    let (id, _, data) = resumed.next().await;
    assert_eq!((id, data["changes"].as_array().unwrap().len()), (Some(third), 2), "{data}");
    assert_eq!(resumed.next().await.2["changes"], json!([{"table": "apps", "key": "other", "row": null}]));

    // From the very beginning: all indexes rise, and every one from before is there.
    let mut whole = Events::open(&api, "?from=0", &[]).await;
    let mut indexes = Vec::new();
    while indexes.last() != Some(&third) {
        indexes.push(whole.next().await.0.unwrap());
    }
    assert!(indexes.is_sorted_by(|a, b| a < b) && indexes.contains(&first) && indexes.contains(&second), "{indexes:?}");

    // An index that is not reached yet is waited for.
    let ahead = third + 3;
    let mut later = Events::open(&api, &format!("?from={ahead}"), &[]).await;
    let mut last = 0;
    while last <= ahead {
        last = api.label(&format!("later-{last}")).await;
    }
    assert!(later.next().await.0.unwrap() > ahead);

    assert_eq!(
        api.answer(Method::GET, "/v1/events", &[("Last-Event-ID", "x")]).await.status(),
        StatusCode::BAD_REQUEST
    );
    api.shutdown.cancel();
    assert!(
        tokio::time::timeout(ELECTED, now.body.collect()).await.is_ok(),
        "a controller that stops ends its streams"
    );
}

#[tokio::test]
async fn events_that_are_no_longer_held_are_said_to_be() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apps", json!({"name": "site"})).await;
    let first = api.label("first").await;
    let second = api.label("second").await;
    let mut slow = Events::open(&api, &format!("?from={first}"), &[]).await;
    api.api.consensus.events().forget_before_now();
    let (id, name, data) = slow.next().await;
    assert_eq!((id, name.as_str()), (None, "compacted"));
    let oldest = data["oldest"].as_u64().unwrap();
    // The controller has entries of its own, at any time.
    assert!(oldest >= second, "{oldest} is before {second}");
    let refused = api.answer(Method::GET, &format!("/v1/events?from={first}"), &[]).await;
    assert_eq!((refused.status(), header(&refused, "pontoon-oldest")), (StatusCode::GONE, Some(&*oldest.to_string())));
    let next = api.label("next").await;
    let mut again = Events::open(&api, &format!("?from={oldest}"), &[]).await;
    let mut index = again.next().await.0.unwrap();
    while index < next {
        index = again.next().await.0.unwrap();
    }
    assert_eq!(index, next);
}
