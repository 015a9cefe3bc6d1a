//! Small archives of apps.

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

/// Answers every request with its greeting; prints at its start.
pub const SERVER: &str = r#"
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        body = (os.environ["GREETING"] + " from " + open("name.txt").read().strip()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

print("listening on", os.environ["PORT"], flush=True)
print("a word on stderr", file=sys.stderr, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;

pub fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(if name.starts_with("bin/") { 0o755 } else { 0o644 });
        builder.append_data(&mut header, name, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A source archive: a tar.gz.
pub fn source(files: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, &tar(files)).unwrap();
    encoder.finish().unwrap()
}

/// A bundle: a tar.zst below `app/`.
pub fn bundle(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<(String, &str)> = files.iter().map(|(name, body)| (format!("app/{name}"), *body)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, body)| (name.as_str(), *body)).collect();
    zstd::encode_all(&tar(&files)[..], 1).unwrap()
}

/// The usual app.
pub fn server() -> Vec<u8> {
    bundle(&[("server.py", SERVER), ("name.txt", "guestbook")])
}
