//! When a servo is ready: something listens on its port, or its HTTP check answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Between tries at first: most servos are ready within a second, and a deployment waits for this.
const EAGER: Duration = Duration::from_millis(50);
/// How long tries are that frequent.
const EAGER_FOR: Duration = Duration::from_secs(3);
/// Between tries later.
const PATIENT: Duration = Duration::from_millis(500);
/// A connect on the same machine takes microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A health check may use a database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where.
    pub address: SocketAddr,
    /// `GET` this; none: a connect is enough.
    pub path: Option<String>,
}

impl Check {
    /// Tries until it succeeds; after `timeout`, says what was wrong at the last try.
    pub async fn wait(&self, timeout: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let why = match self.once().await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let (waited, seconds) = (began.elapsed(), timeout.as_secs());
            if waited >= timeout {
                return Err(format!("not ready within {seconds} s: {why}"));
            }
            tokio::time::sleep(if waited < EAGER_FOR { EAGER } else { PATIENT }).await;
        }
    }

    /// Tries once.
    pub async fn once(&self) -> Result<(), String> {
        let port = self.address.port();
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address));
        let Ok(Ok(stream)) = connecting.await else {
            return Err(format!("nothing listens on port {port} (the app must listen on 0.0.0.0 and on $PORT)"));
        };
        match &self.path {
            None => Ok(()),
            Some(path) => match tokio::time::timeout(ANSWER_TIMEOUT, get(stream, path)).await {
                Ok(Ok(200..=399)) => Ok(()),
                Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
                Ok(Err(error)) => Err(format!("GET {path} failed: {error}")),
                Err(_) => Err(format!("GET {path} had no answer within {} s", ANSWER_TIMEOUT.as_secs())),
            },
        }
    }
}

async fn get(stream: TcpStream, path: &str) -> Result<u16, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header("host", "localhost")
        .header("user-agent", "pontoon-health-check")
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    // In a task of its own: the connection may end in the moment in which the answer arrives.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    driver.abort();
    response.map(|response| response.status().as_u16()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn answering(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    fn closed() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_port_that_is_connected_to_is_ready() {
        let address = answering("200 OK").await;
        assert_eq!(Check { address, path: None }.once().await, Ok(()));
    }

    #[tokio::test]
    async fn the_reason_names_what_was_tried() {
        let check = Check { address: closed(), path: None };
        let why = check.wait(Duration::ZERO).await.unwrap_err();
        assert!(why.starts_with("not ready within 0 s: nothing listens on port"), "{why}");
        let check = Check { address: answering("503 Busy").await, path: Some("/health".into()) };
        assert_eq!(check.once().await, Err("GET /health answered 503".into()));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let check = Check { address: answering("302 Found").await, path: Some("/".into()) };
        assert_eq!(check.once().await, Ok(()));
    }

    #[tokio::test]
    async fn a_servo_that_listens_late_is_found() {
        let address = closed();
        let check = Check { address, path: None };
        let waiting = tokio::spawn(async move { check.wait(Duration::from_secs(10)).await });
        let listener = TcpListener::bind(address).await.unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(listener);
    }
}
