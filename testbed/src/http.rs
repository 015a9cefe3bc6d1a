//! One request, as a user's browser sends it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

/// Longest a request may take before it counts as failed.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Sends what `build` makes; status and body.
pub fn send(build: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder) -> Result<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = build(&client()?).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    })
}

/// `GET path` with `Host: host`.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<(u16, String)> {
    send(|client| client.get(format!("http://{address}{path}")).header("Host", host))
}

/// Asks for `/` of a name over TLS, as a browser that trusts `root` and that the DNS sends to `address`.
pub fn get_tls(address: SocketAddr, name: &str, root: &str) -> Result<(u16, String)> {
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .add_root_certificate(reqwest::Certificate::from_pem(root.as_bytes())?)
        .resolve(name, address)
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = client.get(format!("https://{name}:{}/", address.port())).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    })
}

/// A client that asks no proxy of the machine's environment.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()
}
