//! Names inside an archive: which are safe to unpack.

/// Longest path in bytes: what common file systems and tools still handle below any root.
pub(super) const MAX_PATH: usize = 1024;
/// Longest file name in bytes: ext4's limit.
const MAX_NAME: usize = 255;

/// The parts of a path inside the tree; empty for its root. The error completes "the entry NAME …".
pub(super) fn inside(bytes: &[u8]) -> Result<Vec<&str>, String> {
    let text = text(bytes)?;
    if text.starts_with('/') {
        return Err("has an absolute path".into());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("has `..` in its path".into());
    }
    Ok(parts)
}

/// Whether a symbolic link at `link` to `target` stays inside the tree.
///
/// `..` is only allowed in front: there it leads up real folders (nothing may lie below a link), while after a
/// name it would lead up from wherever that name's own link points.
pub(super) fn link_stays_inside(link: &[&str], target: &[u8]) -> Result<(), String> {
    let text = text(target)?;
    if text.is_empty() {
        return Err("is a link to nothing".into());
    }
    if text.starts_with('/') {
        return Err(format!("is a link to the absolute path {text:?}"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let ups = parts.iter().take_while(|part| **part == "..").count();
    if ups >= link.len() || parts[ups..].contains(&"..") {
        return Err(format!("is a link to {text:?}, which may lead out of the source"));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "has a name that is not UTF-8".to_owned())?;
    if text.contains('\0') {
        return Err("has a zero byte in its name".into());
    }
    if text.len() > MAX_PATH || text.split('/').any(|part| part.len() > MAX_NAME) {
        return Err(format!("has too long a path ({MAX_PATH} bytes, {MAX_NAME} per name)"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_inside_are_taken_apart() {
        assert_eq!(inside(b"./a//b/"), Ok(vec!["a", "b"]));
        assert_eq!(inside(b"."), Ok(vec![]));
        assert_eq!(inside(b"..a/b.."), Ok(vec!["..a", "b.."]));
    }

    #[test]
    fn paths_outside_are_refused() {
        let long_name = "x".repeat(256);
        let long_path = "x/".repeat(600);
        let cases: [&[u8]; 7] =
            [b"/etc/passwd", b"../x", b"a/../../x", b"a/..", b"\xff", long_name.as_bytes(), long_path.as_bytes()];
        for bad in cases {
            assert!(inside(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn links_may_not_leave() {
        for (link, target) in [("a", "b"), ("a/b/c", "../../d"), ("a/b", "../node/bin.js"), ("a", "b/./c")] {
            let parts: Vec<&str> = link.split('/').collect();
            assert_eq!(link_stays_inside(&parts, target.as_bytes()), Ok(()), "{link} -> {target}");
        }
        for (link, target) in
            [("a", "/etc"), ("a", ".."), ("a/b", "../.."), ("a", "b/../c"), ("a", ""), ("a/b/c", "../../..")]
        {
            let parts: Vec<&str> = link.split('/').collect();
            assert!(link_stays_inside(&parts, target.as_bytes()).is_err(), "{link} -> {target}");
        }
    }
}
