//! Controllers in this process, and what a client does.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pontoon_controller::ControllerError;
use pontoon_controller::config::{Config, FoundingConfig, MemberConfig};
use pontoon_kit::{Authority, CancellationToken, Role};
use pontoon_model::ControllerId;
use serde_json::Value;
use tokio::task::JoinHandle;

const TOKEN: &str = "a token for tests only";
/// Elections and a deployment take a few seconds; a machine that compiles beside this, several times that.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `check` answers; it says why it does not yet.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(found) => return found,
            Err(why) if start.elapsed() > PATIENCE => panic!("waited {PATIENCE:?} for {what}: {why}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// A tar.gz of these files.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A controller, and how it ended.
type Running = JoinHandle<Result<(), ControllerError>>;

/// Controllers on loopback.
pub struct Cluster {
    pub authority: Authority,
    folder: tempfile::TempDir,
    members: Vec<MemberConfig>,
    rest: Vec<SocketAddr>,
    running: Vec<Option<(CancellationToken, Running)>>,
    http: reqwest::Client,
}

impl Cluster {
    /// Starts `count` controllers and waits until each knows a leader.
    pub async fn start(count: usize) -> Self {
        // All ports at once, so that each is another.
        let held: Vec<TcpListener> = (0..count * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<SocketAddr> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(held);
        let member = |n: usize| MemberConfig {
            id: ControllerId(n as u64 + 1),
            name: format!("c{n}").parse().unwrap(),
            grpc: ports[n],
        };
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            authority: Authority::load_or_create(&folder.path().join("ca")).unwrap(),
            folder,
            members: (0..count).map(member).collect(),
            rest: ports[count..].to_vec(),
            running: (0..count).map(|_| None).collect(),
            http: reqwest::Client::new(),
        };
        for node in 0..count {
            let folder = cluster.data(node);
            let name = cluster.members[node].name.to_string();
            cluster.authority.issue(Role::Controller, &name).unwrap().save(&folder.join("tls")).unwrap();
            std::fs::write(folder.join("token"), TOKEN).unwrap();
            cluster.launch(node);
        }
        for node in 0..count {
            until("every controller to know the leader", async || {
                let status = cluster.try_get(node, "/v1/status").await?;
                status["leader"].as_str().map(drop).ok_or(status.to_string())
            })
            .await;
        }
        cluster
    }

    /// Starts one controller on its data.
    pub fn launch(&mut self, node: usize) {
        self.run(node, self.config(node));
    }

    /// The same with another configuration.
    pub fn launch_as(&mut self, node: usize, change: impl FnOnce(&mut Config)) {
        let mut config = self.config(node);
        change(&mut config);
        self.run(node, config);
    }

    /// A further controller, with a certificate that was made elsewhere: the others let it in, and it follows.
    pub fn let_one_in(&mut self) -> usize {
        let node = self.members.len();
        let held: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<SocketAddr> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(held);
        let (id, name) = (ControllerId(node as u64 + 1), format!("c{node}"));
        self.members.push(MemberConfig { id, name: name.parse().unwrap(), grpc: ports[0] });
        self.rest.push(ports[1]);
        self.running.push(None);
        let folder = self.data(node);
        self.authority.issue(Role::Controller, &name).unwrap().save(&folder.join("tls")).unwrap();
        std::fs::write(folder.join("token"), TOKEN).unwrap();
        self.run(node, Config { join: true, voter: false, founding: None, ..self.config(node) });
        node
    }

    /// One controller's configuration.
    pub fn config(&self, node: usize) -> Config {
        let folder = self.data(node);
        Config {
            join: false,
            voter: true,
            name: self.members[node].name.clone(),
            id: self.members[node].id,
            site: format!("test.{node}").parse().unwrap(),
            data_dir: folder.join("data"),
            rest: self.rest[node],
            rest_advertised: None,
            rest_tls: None,
            grpc: self.members[node].grpc,
            tls_dir: folder.join("tls"),
            token_file: Some(folder.join("token")),
            members: self.members.clone(),
            timing: Default::default(),
            store: Default::default(),
            founding: Some(FoundingConfig {
                ca_dir: self.folder.path().join("ca"),
                cluster: "test".into(),
                certificate_life_s: 3600,
            }),
            base_domain: Some("localhost".into()),
            tcp_ports: (10_000, 10_999),
        }
    }

    fn run(&mut self, node: usize, config: Config) {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(pontoon_controller::run(config, shutdown.clone()));
        self.running[node] = Some((shutdown, task));
    }

    /// Stops one controller and waits for its end.
    pub async fn stop(&mut self, node: usize) {
        let (shutdown, task) = self.running[node].take().expect("a running controller");
        shutdown.cancel();
        task.await.expect("no panic").expect("a controller that ends well");
    }

    /// Waits for a controller to end by itself; why it did.
    pub async fn ended(&mut self, node: usize) -> ControllerError {
        let (_, task) = self.running[node].take().expect("a running controller");
        let ended = tokio::time::timeout(PATIENCE, task).await.expect("it ends");
        ended.expect("no panic").expect_err("it does not end well by itself")
    }

    /// Stops those that run.
    pub async fn stop_all(mut self) {
        for node in 0..self.running.len() {
            if self.running[node].is_some() {
                self.stop(node).await;
            }
        }
    }

    /// Where a controller's gRPC server is.
    pub fn grpc(&self, node: usize) -> SocketAddr {
        self.members[node].grpc
    }

    /// How many controllers there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Which controller leads.
    pub async fn leader(&self) -> usize {
        until("a leader", async || {
            let node = self.running.iter().position(Option::is_some).ok_or("nothing runs")?;
            let status = self.try_get(node, "/v1/status").await?;
            let leader = status["leader"].as_str().ok_or(status.to_string())?;
            self.members.iter().position(|member| member.name.as_str() == leader).ok_or(status.to_string())
        })
        .await
    }

    /// Whether a blob is on a controller's disk.
    pub fn has_blob(&self, node: usize, digest: &str) -> bool {
        self.blob(node, digest).exists()
    }

    /// Where a controller keeps a blob.
    pub fn blob(&self, node: usize, digest: &str) -> PathBuf {
        self.data(node).join("data/blobs").join(&digest[..2]).join(digest)
    }

    fn data(&self, node: usize) -> PathBuf {
        let folder = self.folder.path().join(node.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn url(&self, node: usize, path: &str) -> String {
        format!("http://{}{path}", self.rest[node])
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<String, String> {
        self.send_as(TOKEN, request).await
    }

    async fn send_as(&self, token: &str, request: reqwest::RequestBuilder) -> Result<String, String> {
        let answer = request.bearer_auth(token).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
    }

    /// GET, which may fail.
    pub async fn try_get(&self, node: usize, path: &str) -> Result<Value, String> {
        let text = self.send(self.http.get(self.url(node, path))).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// GET with another token.
    pub async fn get_as(&self, token: &str, node: usize, path: &str) -> Result<Value, String> {
        let text = self.send_as(token, self.http.get(self.url(node, path))).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// DELETE.
    pub async fn delete(&self, node: usize, path: &str) -> Value {
        let sent = self.send(self.http.delete(self.url(node, path))).await;
        serde_json::from_str(&sent.unwrap_or_else(|error| panic!("DELETE {path}: {error}"))).unwrap()
    }

    /// GET of JSON.
    pub async fn get(&self, node: usize, path: &str) -> Value {
        self.try_get(node, path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// GET of text.
    pub async fn text(&self, node: usize, path: &str) -> String {
        self.send(self.http.get(self.url(node, path))).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// An answer that is read line by line.
    pub async fn open(&self, node: usize, path: &str) -> Lines {
        let request = self.http.get(self.url(node, path)).bearer_auth(TOKEN);
        let response = request.send().await.unwrap().error_for_status().unwrap();
        Lines { response, read: Vec::new() }
    }

    /// POST of JSON.
    pub async fn post(&self, node: usize, path: &str, body: Value) -> Value {
        let sent = self.send(self.http.post(self.url(node, path)).json(&body)).await;
        serde_json::from_str(&sent.unwrap_or_else(|error| panic!("POST {path}: {error}"))).unwrap()
    }

    /// PUT of JSON.
    pub async fn put(&self, node: usize, path: &str, body: Value) -> Value {
        let sent = self.send(self.http.put(self.url(node, path)).json(&body)).await;
        serde_json::from_str(&sent.unwrap_or_else(|error| panic!("PUT {path}: {error}"))).unwrap()
    }

    /// PATCH of JSON.
    pub async fn patch(&self, node: usize, path: &str, body: Value) -> Value {
        self.try_patch(node, path, body).await.unwrap_or_else(|error| panic!("PATCH {path}: {error}"))
    }

    /// PATCH of JSON, which may be refused.
    pub async fn try_patch(&self, node: usize, path: &str, body: Value) -> Result<Value, String> {
        let text = self.send(self.http.patch(self.url(node, path)).json(&body)).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// GET of bytes, which may be refused.
    pub async fn try_bytes(&self, node: usize, path: &str) -> Result<Vec<u8>, String> {
        let answer = self.http.get(self.url(node, path)).bearer_auth(TOKEN).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        if status.is_success() {
            Ok(bytes.into())
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)))
        }
    }

    /// DELETE; the refusal, if it is one.
    pub async fn try_delete(&self, node: usize, path: &str) -> Result<Value, String> {
        let text = self.send(self.http.delete(self.url(node, path))).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// POST of JSON, which may be refused.
    pub async fn try_post(&self, node: usize, path: &str, body: Value) -> Result<Value, String> {
        let text = self.send(self.http.post(self.url(node, path)).json(&body)).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Where a controller keeps its log and snapshots.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.data(node).join("data")
    }

    /// Where a controller keeps its certificate.
    pub fn tls(&self, node: usize) -> PathBuf {
        self.data(node).join("tls")
    }

    /// Uploads a source.
    pub async fn upload(&self, node: usize, app: &str, bytes: Vec<u8>) -> Value {
        let path = format!("/v1/apps/{app}/source");
        let sent = self.send(self.http.post(self.url(node, &path)).body(bytes)).await;
        serde_json::from_str(&sent.unwrap_or_else(|error| panic!("POST {path}: {error}"))).unwrap()
    }
}

/// See [`Cluster::open`].
pub struct Lines {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Lines {
    /// The next line.
    pub async fn next_line(&mut self) -> String {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return String::from_utf8(line).unwrap();
            }
            let part = tokio::time::timeout(Duration::from_secs(20), self.response.chunk()).await.expect("a line");
            self.read.extend(part.unwrap().expect("the answer goes on"));
        }
    }
}
