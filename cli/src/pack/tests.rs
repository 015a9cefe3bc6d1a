use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use flate2::read::GzDecoder;
use pontoon_model::Digest;

use super::*;

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    folder
}

fn pack_all(folder: &Path) -> Packed {
    pack(folder, Limits::default()).unwrap()
}

/// Names in the archive, links with their target, executables with a star.
fn names(packed: &Packed) -> Vec<String> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(packed.file.path()).unwrap()));
    let name = |entry: io::Result<tar::Entry<'_, _>>| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        match entry.link_name().unwrap() {
            Some(target) => format!("{path} -> {}", target.display()),
            None if entry.header().mode().unwrap() == 0o755 && entry.header().entry_type().is_file() => {
                format!("{path}*")
            }
            None => path,
        }
    };
    archive.entries().unwrap().map(name).collect()
}

#[test]
fn ignored_files_stay_behind() {
    let folder = tree(&[
        (".gitignore", "*.log\n/secret\nkept.txt\n"),
        (".pontoonignore", "docs/\n!kept.txt\n"),
        (".env.example", "hidden files belong to the source"),
        (".git/HEAD", "ref: x"),
        (".ignore", "app.py\n"),
        ("vendor/lib/.git", "gitdir: elsewhere"),
        ("vendor/lib/x.py", ""),
        ("vendor/.gitignore", "*.pyc\n"),
        ("vendor/x.pyc", ""),
        ("app.py", "print()"),
        ("debug.log", ""),
        ("secret", ""),
        ("kept.txt", ""),
        ("docs/manual", ""),
    ]);
    assert_eq!(
        names(&pack_all(folder.path())),
        [
            ".env.example",
            ".gitignore",
            ".ignore",
            ".pontoonignore",
            "app.py",
            "kept.txt",
            "vendor",
            "vendor/.gitignore",
            "vendor/lib",
            "vendor/lib/x.py"
        ]
    );
}

#[test]
fn rules_above_the_directory_do_not_count() {
    let above = tree(&[(".gitignore", "*\n"), ("app/index.html", "hello")]);
    assert_eq!(names(&pack_all(&above.path().join("app"))), ["index.html"]);
}

#[test]
fn the_same_tree_gives_the_same_digest_wherever_and_whenever_it_was_written() {
    let files = [("b/2", "two"), ("a", "one"), ("b/1", "three")];
    let one = tree(&files);
    let mut reversed = files;
    reversed.reverse();
    let other = tree(&reversed);
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::options().write(true).open(other.path().join("a")).unwrap().set_modified(long_ago).unwrap();
    fs::set_permissions(other.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();

    let digest = |folder: &Path| Digest::of(&fs::read(pack_all(folder).file.path()).unwrap());
    assert_eq!(digest(one.path()), digest(other.path()));
    write(other.path(), &[("a", "One")]);
    assert_ne!(digest(one.path()), digest(other.path()));
}

#[test]
fn links_are_stored_as_links_and_executables_stay_executable() {
    let folder = tree(&[("data/x", ""), ("start.sh", "#!/bin/sh")]);
    fs::set_permissions(folder.path().join("start.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("data", folder.path().join("current")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert_eq!(
        names(&pack_all(folder.path())),
        ["current -> data", "dangling -> nowhere", "data", "data/x", "start.sh*"]
    );
}

#[test]
fn names_beyond_100_bytes_survive() {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    let folder = tree(&[(&long, "x")]);
    assert_eq!(names(&pack_all(folder.path()))[1], long);
}

#[test]
fn sockets_are_left_out_and_named() {
    let folder = tree(&[("app.py", "")]);
    let _socket = UnixListener::bind(folder.path().join("app.sock")).unwrap();
    let packed = pack_all(folder.path());
    assert_eq!(packed.left_out, [PathBuf::from("app.sock")]);
    assert_eq!((names(&packed), packed.files), (vec!["app.py".to_owned()], 1));
}

#[test]
fn what_is_too_large_is_refused_with_the_largest_files() {
    let folder = tree(&[("model.bin", &"x".repeat(5_000)), ("app.py", "")]);
    for (limits, part) in [
        (Limits { unpacked: 4_000, ..Limits::default() }, "5000 bytes, 4000 are allowed"),
        (Limits { entries: 1, ..Limits::default() }, "2 files, 1 are allowed"),
        (Limits { packed: 50, ..Limits::default() }, "50 are allowed"),
    ] {
        let error = pack(folder.path(), limits).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("model.bin") && error.contains(IGNORE_FILE), "{error}");
    }
}

#[test]
fn nothing_to_pack_is_an_error() {
    let folder = tree(&[(".git/HEAD", "x")]);
    assert!(matches!(pack(folder.path(), Limits::default()), Err(PackError::Empty { .. })));
    let file = folder.path().join(".git/HEAD");
    assert!(matches!(pack(&file, Limits::default()), Err(PackError::NotADirectory { .. })));
}

#[test]
fn an_archive_leaves_no_temporary_file() {
    let folder = tree(&[("app.py", "")]);
    let packed = pack_all(folder.path());
    let path = packed.file.path().to_owned();
    assert!(path.exists());
    drop(packed);
    assert!(!path.exists());
}
