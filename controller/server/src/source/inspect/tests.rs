//! Archives made in memory, most of them evil: each is refused with the name of what is wrong.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::*;

struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Writes the name as it is: the builder's own functions refuse what we want to refuse.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, body: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", body)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn gz(self) -> Vec<u8> {
        gz(&self.bytes())
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn refused(archive: &[u8]) -> String {
    match inspect(archive) {
        Err(SourceError::Bad(message)) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_good_archive_is_read() {
    let archive = Tar::new()
        .entry(EntryType::Directory, "./", "", b"")
        .file("./Procfile", b"web: ./serve")
        .entry(EntryType::Directory, "bin/", "", b"")
        .file("bin/serve", b"#!/bin/sh")
        .link("serve", "bin/serve")
        .link("bin/up", "../Procfile")
        .entry(EntryType::Link, "hard", "bin/serve", b"")
        .gz();
    let inspection = inspect(&archive[..]).unwrap();
    assert_eq!(inspection.files, 2);
    assert_eq!(inspection.text("Procfile"), Some("web: ./serve"));
    assert!(inspection.has_file("serve") && inspection.has_file("bin/serve") && inspection.has_folder("bin"));
    assert!(inspection.expanded > 2048, "{}", inspection.expanded);
}

#[test]
fn entries_that_leave_the_tree_are_refused_by_name() {
    let file = || Tar::new().file("a", b"x");
    let cases = [
        ("/etc/passwd", file().file("/etc/passwd", b"x"), "absolute"),
        ("../up", file().file("../up", b"x"), "`..`"),
        ("a/../../up", file().file("a/../../up", b"x"), "`..`"),
        ("out", file().link("out", "/etc"), "absolute path"),
        ("out", file().link("out", "../.."), "out of the source"),
        ("m", file().link("p/q/s", "../..").link("m", "p/q/s/../x"), "out of the source"),
        ("hard", file().entry(EntryType::Link, "hard", "/etc/shadow", b""), "absolute"),
        ("hard", file().entry(EntryType::Link, "hard", "../x", b""), "`..`"),
        ("hard", file().entry(EntryType::Link, "hard", "later", b"").file("later", b"x"), "no file before it"),
        ("hard", file().link("l", "a").entry(EntryType::Link, "hard", "l", b""), "no file before it"),
    ];
    for (name, archive, why) in cases {
        let message = refused(&archive.gz());
        assert!(message.contains(&format!("{name:?}")) && message.contains(why), "{name}: {message}");
    }
}

#[test]
fn what_is_no_file_folder_or_link_is_refused_by_name() {
    let cases = [
        (EntryType::Char, "device file"),
        (EntryType::Block, "device file"),
        (EntryType::Fifo, "named pipe"),
        (EntryType::new(b'Z'), "unknown kind"),
    ];
    for (kind, why) in cases {
        let message = refused(&Tar::new().file("a", b"x").entry(kind, "dev/thing", "", b"").gz());
        assert!(message.contains("\"dev/thing\"") && message.contains(why), "{message}");
    }
}

#[test]
fn a_later_entry_cannot_go_through_or_replace_an_earlier_one() {
    let cases = [
        ("d/x", Tar::new().file("real/a", b"").link("d", "real").file("d/x", b"evil"), "below \"d\", which is a link"),
        ("d", Tar::new().file("d/x", b"").link("d", "elsewhere"), "twice"),
        ("l", Tar::new().link("l", "a").file("l", b"evil"), "twice"),
        ("./l", Tar::new().file("l", b"one").file("./l", b"two"), "twice"),
        ("f/x", Tar::new().file("f", b"").file("f/x", b""), "below \"f\", which is a file"),
    ];
    for (name, archive, why) in cases {
        let message = refused(&archive.gz());
        assert!(message.contains(&format!("{name:?}")) && message.contains(why), "{name}: {message}");
    }
}

#[test]
fn headers_that_rename_what_follows_are_refused() {
    let evil = Tar::new().entry(EntryType::XGlobalHeader, "pax_global_header", "", b"13 path=evil\n").file("a", b"x");
    assert!(refused(&evil.gz()).contains("changes the entries after it"));
    let git = Tar::new().entry(EntryType::XGlobalHeader, "pax_global_header", "", b"13 comment=1\n").file("a", b"x");
    assert_eq!(inspect(&git.gz()[..]).unwrap().files, 1);
}

#[test]
fn sparse_files_are_refused_however_they_are_written() {
    let pax = Tar::new().entry(EntryType::XHeader, "x", "", b"22 GNU.sparse.major=1\n").file("hole", b"x");
    assert!(refused(&pax.gz()).contains("\"hole\" is a sparse file"));
}

#[test]
fn long_names_are_measured_where_they_are_written() {
    let body = format!("{}\0", "y/".repeat(700));
    let long = Tar::new().entry(EntryType::GNULongName, "././@LongLink", "", body.as_bytes()).file("short", b"x");
    assert!(refused(&long.gz()).contains("too long a path"));
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(refused(b"").contains("not a gzip-compressed tar"));
    assert!(refused(b"PK\x03\x04 a zip file").contains("not a gzip-compressed tar"));
    assert!(refused(&gz(b"plain text, no tar")).contains("cannot be read as a tar.gz"));
    assert!(refused(&gz(&[])).contains("no files"));
    assert!(refused(&Tar::new().gz()).contains("no files"));
}

#[test]
fn a_truncated_archive_is_refused() {
    let noise: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let whole = Tar::new().file("a", b"x").file("noise", &noise).gz();
    for cut in [whole.len() - 1, whole.len() - 8, whole.len() / 2, 100, 12] {
        let message = refused(&whole[..cut]);
        assert!(message.contains("cut short") || message.contains("cannot be read"), "{cut}: {message}");
    }
    // The compression is whole, the archive inside is not.
    let tar = Tar::new().file("a", b"x").file("noise", &noise).bytes();
    let message = refused(&gz(&tar[..tar.len() / 2]));
    assert!(message.contains("\"noise\"") || message.contains("\"a\""), "{message}");
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut tar = Tar::new().file("a", b"x").bytes();
    tar.extend(Tar::new().file("../evil", b"x").bytes());
    assert!(refused(&gz(&tar)).contains("goes on after its end"));

    let mut two = Tar::new().file("a", b"x").gz();
    two.extend(b"garbage");
    refused(&two);
}

#[test]
fn a_bomb_is_refused_as_too_large() {
    let zeros = vec![0; 40 << 20];
    let bomb = Tar::new().file("zeros", &zeros).gz();
    let Err(SourceError::TooLarge(message)) = inspect(&bomb[..]) else { panic!("not refused") };
    assert!(message.contains("bomb"), "{message}");
}

#[test]
fn more_than_the_expanded_limit_is_refused_as_too_large() {
    let archive = Tar::new().file("big", &vec![7; 100_000]).gz();
    let Err(SourceError::TooLarge(message)) = inspect_within(&archive[..], MemoryBytes(64 * 1024)) else {
        panic!("not refused")
    };
    assert!(message.contains("64K"), "{message}");
}

#[test]
fn more_than_the_limit_of_entries_is_refused_as_too_large() {
    let many = (0..=MAX_ENTRIES).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b""));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&many.bytes()).unwrap();
    let Err(SourceError::TooLarge(message)) = inspect(&encoder.finish().unwrap()[..]) else { panic!("not refused") };
    assert!(message.contains("50000 entries"), "{message}");
}
