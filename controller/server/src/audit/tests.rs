use std::fs;
use std::os::unix::fs::PermissionsExt;

use pontoon_model::{Digest, Timestamp, TokenId};

use super::*;

fn token() -> Arc<ApiToken> {
    Arc::new(ApiToken {
        id: TokenId(7),
        name: "CI".into(),
        hash: Digest([1; 32]),
        scopes: [pontoon_model::Scope::Admin].into(),
        created_at: Timestamp(0),
        expires_at: None,
        last_used_at: None,
        version: 1,
    })
}

fn asked(path: &str) -> Asked {
    Asked {
        from: "10.0.0.7".parse().unwrap(),
        token: token(),
        action: "ChangeEnv",
        method: Method::PATCH,
        uri: path.parse().unwrap(),
        status: 200,
        error: None,
        index: Some(HeaderValue::from(12)),
    }
}

fn newest(limit: usize) -> Span {
    Span { since: 0, until: u64::MAX, limit, oldest: false }
}

fn open(folder: &tempfile::TempDir) -> AuditLog {
    AuditLog::open(folder.path(), "a".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn what_was_noted_is_read_newest_last_and_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    log.note(asked("/v1/apps/shop/env?secret=hush"));
    let from = "10.0.0.8".parse().unwrap();
    log.note_denied(Denied { from, token: None, why: "WrongToken", status: 401 });
    let records = log.read(newest(10)).await.unwrap();
    assert_eq!(records.len(), 2);
    let first = &records[0];
    assert_eq!((first.token, first.app.as_deref(), first.index), (Some(TokenId(7)), Some("shop"), Some(12)));
    assert_eq!((first.path.as_deref(), first.controller.as_str()), (Some("/v1/apps/shop/env"), "a"));
    assert_eq!((records[1].action.as_str(), records[1].status), ("WrongToken", 401));
    let file = folder.path().join("audit/audit.jsonl");
    assert!(!fs::read_to_string(&file).unwrap().contains("hush"), "what follows ? is not kept");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    // Cut in the middle of a line, as a loss of power leaves it.
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 10);
    fs::write(&file, bytes).unwrap();
    let log = open(&folder);
    log.note(asked("/v1/apps/blog/env"));
    let records = log.read(newest(10)).await.unwrap();
    let apps: Vec<_> = records.iter().map(|record| record.app.as_deref()).collect();
    assert_eq!(apps, [Some("shop"), Some("blog")]);
    assert_eq!(log.read(newest(1)).await.unwrap()[0].app.as_deref(), Some("blog"));
    assert_eq!(log.read(Span { since: clock::unix_millis() + 1000, ..newest(10) }).await.unwrap(), []);
}

#[test]
fn files_are_closed_when_they_are_full_and_the_oldest_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files::Files::open(folder.path()).unwrap();
    let now = clock::unix_millis();
    let line = |at: u64| {
        let record = AuditRecord { at, action: "x".into(), ..AuditRecord::default() };
        let mut line = serde_json::to_vec(&record).unwrap();
        line.resize(files::MOST_BYTES as usize / 2, b' ');
        line.push(b'\n');
        line
    };
    let most = files::MOST_FILES as u64;
    for n in 0..most + 4 {
        files.append(&line(now + n), now + n).unwrap();
    }
    let count = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(count, files::MOST_FILES + 1);
    let read = |span| {
        let records = files::read(folder.path(), &span).unwrap();
        records.iter().map(|record| record.at - now).collect::<Vec<_>>()
    };
    assert_eq!(read(newest(3)), [most + 1, most + 2, most + 3]);
    // From any of them on or back, over the files' ends.
    assert_eq!(read(Span { until: now + most, ..newest(3) }), [most - 2, most - 1, most]);
    assert_eq!(read(Span { since: now + most - 2, oldest: true, ..newest(3) }), [most - 2, most - 1, most]);
    let both = Span { since: now + 9, until: now + 10, ..newest(3) };
    assert_eq!((read(both), read(Span { oldest: true, ..both })), (vec![9, 10], vec![9, 10]));
    assert_eq!(read(Span { since: now + 10, until: now + 9, ..both }), [0; 0]);
    // A quarter of a year later only the open one is left.
    files.append(&line(1), now + files::KEPT_FOR_MS + 1_000).unwrap();
    files.append(&line(2), now + 2 * files::KEPT_FOR_MS + 2_000).unwrap();
    assert!(fs::read_dir(folder.path()).unwrap().count() <= 2);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_stops_nobody_and_what_was_left_out_is_said_later() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder would be: nothing can be written.
    fs::write(folder.path().join("audit"), "").unwrap();
    let log = open(&folder);
    log.note(asked("/v1/apps/shop/env"));
    log.flush().await;
    fs::remove_file(folder.path().join("audit")).unwrap();
    log.note(asked("/v1/apps/blog/env"));
    let records = log.read(newest(10)).await.unwrap();
    assert_eq!((records[0].app.as_deref(), records[1].left_out), (Some("blog"), Some(1)));
    assert_eq!(records.len(), 2);
}

#[tokio::test]
async fn what_finds_no_room_is_counted_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    log.left_out.store(3, Ordering::Relaxed);
    log.note(asked("/v1/apps/shop/env"));
    let records = log.read(newest(10)).await.unwrap();
    assert_eq!(records.last().unwrap().left_out, Some(3));
}

#[test]
fn nobody_waits_for_a_writer_that_does_not_write() {
    let (queue, _stuck) = mpsc::channel(2);
    let log = AuditLog { queue, left_out: Arc::default(), folder: Path::new("/nonexistent").into() };
    for _ in 0..5 {
        log.note(asked("/v1/apps/shop/env"));
    }
    assert_eq!(log.left_out.load(Ordering::Relaxed), 3);
}
