//! What pebble does not do: an authority that wants to be left alone, one that goes on for ever, one whose certificate is
//! somebody else's.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use instant_acme::{Identifier, NewOrder};
use pontoon_model::Secret;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Nothing is sealed here.
async fn opened(row: &AcmeRow, wish: Wish) -> Result<(Account, Option<AcmeAccount>), Failure> {
    let folder = tempfile::tempdir().unwrap();
    super::opened(row, wish, &SealingKeys::open(folder.path()).unwrap()).await
}

/// An authority that gives accounts, and to orders the answers that it was made with.
struct Fake {
    directory: String,
    certificate: String,
    seen: Arc<AtomicUsize>,
    /// Whom it was told to write to, of an account that it had given.
    told: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Fake {
    async fn start(to_orders: String) -> Self {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![own.der().clone()], der).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("https://{}", listener.local_addr().unwrap());
        let (seen, acceptor) = (Arc::<AtomicUsize>::default(), TlsAcceptor::from(Arc::new(config)));
        let told = Arc::<Mutex<Vec<serde_json::Value>>>::default();
        let (counted, here, heard) = (seen.clone(), place.clone(), told.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (mut stream, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    match line.trim() {
                        "" => break,
                        _ => head += &line,
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/dir" => ok(&serde_json::json!({
                        "newNonce": format!("{here}/nonce"),
                        "newAccount": format!("{here}/account"),
                        "newOrder": format!("{here}/order"),
                    })),
                    "/nonce" => "HTTP/1.1 200 OK\r\nreplay-nonce: abc\r\ncontent-length: 0\r\n".to_owned() + END,
                    "/account" => {
                        format!("HTTP/1.1 201 Created\r\nlocation: {here}/account/1\r\ncontent-length: 2\r\n{END}{{}}")
                    }
                    "/account/1" => {
                        let jws: serde_json::Value = serde_json::from_slice(&body).unwrap();
                        let payload = BASE64URL_NOPAD.decode(jws["payload"].as_str().unwrap().as_bytes()).unwrap();
                        heard.lock().unwrap().push(serde_json::from_slice(&payload).unwrap());
                        ok(&serde_json::json!({"status": "valid"}))
                    }
                    _ => to_orders.clone(),
                };
                // One that has heard enough closes the connection.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { directory: format!("{place}/dir"), certificate: own.pem(), seen, told }
    }

    fn row(&self, authority: &str) -> AcmeRow {
        let settings = AcmeSettings {
            directory: self.directory.clone(),
            email: "you@example.org".into(),
            authority: Some(authority.to_owned()),
            external: None,
            except: BTreeSet::new(),
        };
        AcmeRow { settings, account: None, trouble: None, version: 1 }
    }

    /// What becomes of an order, and what the authority wishes.
    async fn order(&self) -> (Failure, Option<Duration>) {
        let wish = Wish::default();
        let row = self.row(&self.certificate);
        let (account, made) = opened(&row, wish.clone()).await.unwrap();
        let made = made.expect("an account was made");
        assert_eq!((made.url.as_str(), wish.take()), (account.id(), None));
        // Another leader speaks for the same account, without another word about it.
        let asked = self.seen.load(Ordering::Relaxed);
        let (account, again) = opened(&AcmeRow { account: Some(made), ..row }, wish.clone()).await.unwrap();
        assert_eq!((again, self.seen.load(Ordering::Relaxed)), (None, asked + 1), "the directory alone");
        let failed = account.new_order(&NewOrder::new(&[Identifier::Dns("a.example".into())])).await;
        (failed.map(drop).unwrap_err().into(), wish.take())
    }
}

const END: &str = "connection: close\r\n\r\n";

fn ok(body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{END}{body}", body.len())
}

#[tokio::test]
async fn another_address_is_told_to_the_account_once() {
    let fake = Fake::start(String::new()).await;
    let row = fake.row(&fake.certificate);
    let (_, made) = opened(&row, Wish::default()).await.unwrap();
    let row = AcmeRow { account: made, ..row };
    let settings = AcmeSettings { email: "other@example.org".into(), ..row.settings.clone() };
    let row = AcmeRow { settings, ..row };
    let (account, told) = opened(&row, Wish::default()).await.unwrap();
    let told = told.expect("it was told");
    assert_eq!(told.url, account.id());
    let heard = || fake.told.lock().unwrap().clone();
    assert_eq!(heard(), [serde_json::json!({"contact": ["mailto:other@example.org"]})]);
    let row = AcmeRow { account: Some(told.clone()), ..row };
    assert_eq!(opened(&row, Wish::default()).await.unwrap().1, None);
    assert_eq!(heard().len(), 1);
    // An account of an earlier version, of which nobody knows what was told.
    let mut bare: serde_json::Value = serde_json::from_str(&told.credentials.0).unwrap();
    assert_eq!(bare.as_object_mut().unwrap().remove("contact"), Some("other@example.org".into()));
    let bare = AcmeAccount { credentials: Secret(bare.to_string()), ..told };
    let row = AcmeRow { account: Some(bare), ..row };
    assert!(opened(&row, Wish::default()).await.unwrap().1.is_some());
    assert_eq!(heard().len(), 2);
}

#[tokio::test]
async fn an_authority_that_wants_no_orders_is_left_alone_for_as_long_as_it_says() {
    let problem = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many new orders","status":429}"#;
    let length = problem.len();
    let answer = format!("HTTP/1.1 429 Too Many\r\nretry-after: 7200\r\ncontent-length: {length}\r\n{END}{problem}");
    let (failure, wish) = Fake::start(answer).await.order().await;
    let hours = Some(Duration::from_secs(7200));
    assert_eq!((wish, failure.pause(wish), Some(failure.wait(1, wish))), (hours, hours, hours));
    let said = failure.explain("a.example", &[]);
    assert!(said.contains("no more orders for now") && said.contains("too many new orders"), "{said}");
}

#[tokio::test]
async fn an_answer_without_end_and_a_directory_of_somebody_else_are_refused_in_words() {
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n{END}{}", "x".repeat(1024 * 1024));
    let fake = Fake::start(endless).await;
    let (failure, wish) = fake.order().await;
    let said = failure.explain("a.example", &[]);
    assert!(
        matches!(failure, Failure::Authority { .. }) && said.contains("sensible length") && wish.is_none(),
        "{said}"
    );

    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let failure = opened(&fake.row(&other), Wish::default()).await.map(drop).unwrap_err();
    let said = failure.explain("a.example", &[]);
    assert!(said.contains("certificate") && said.contains("`pontoon acme show`"), "{said}");
    let nobody = AcmeSettings { directory: "https://127.0.0.1:1/dir".into(), ..fake.row(&other).settings };
    let row = AcmeRow { settings: nobody, ..fake.row(&other) };
    let said = opened(&row, Wish::default()).await.map(drop).unwrap_err().explain("a.example", &[]);
    assert!(said.contains("cannot be reached") && said.contains("refused"), "{said}");
}

#[test]
fn the_key_of_an_account_elsewhere_is_taken_as_authorities_show_it() {
    let key = |hmac: &str| external_key(&ExternalAccount { kid: "k".into(), hmac: Secret(hmac.into()) }).map(drop);
    for good in ["c2VjcmV0", "c2VjcmV0cw==", "c2VjcmV0cw", "-_-_", "+/+/", " c2VjcmV0\n"] {
        assert!(key(good).is_ok(), "{good:?}");
    }
    let said = key("no key!").unwrap_err().to_string();
    assert!(said.contains("is not base64url"), "{said}");
}
