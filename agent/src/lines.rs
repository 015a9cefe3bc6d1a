//! Lines of output: their bounds.

use pontoon_model::Exit;
use pontoon_proto::LogLine;

/// Longest line that is sent, in bytes (as `LogLine` promises).
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// The line without its end, cut to what may be sent.
pub(crate) fn clip(text: &str) -> String {
    cut(text.trim_end_matches(['\r', '\n']), MAX_LINE).to_owned()
}

/// The newest lines, bounded as in an exit.
pub(crate) fn last(lines: impl DoubleEndedIterator<Item = LogLine>) -> Vec<String> {
    let mut kept: Vec<String> =
        lines.rev().take(Exit::MAX_LINES).map(|line| cut(&line.text, Exit::MAX_LINE).to_owned()).collect();
    kept.reverse();
    kept
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("äö", 3), "ä");
        assert_eq!(clip("text\r\n"), "text");
        assert_eq!(clip(&"x".repeat(MAX_LINE + 1)).len(), MAX_LINE);
    }
}
