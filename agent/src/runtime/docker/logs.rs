//! Containers' output.

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::stream::{self, BoxStream, StreamExt};
use pontoon_kit::clock;
use pontoon_model::Timestamp;
use pontoon_proto::LogLine;

use crate::lines;

/// Lines of a container.
pub(super) fn read(
    engine: &Docker,
    container: &str,
    tail: Option<u32>,
    since: Option<Timestamp>,
    follow: bool,
) -> BoxStream<'static, Result<LogLine, EngineError>> {
    let tail = tail.map_or_else(|| "all".to_owned(), |count| count.to_string());
    let mut options =
        LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).follow(follow).tail(&tail);
    if let Some(since) = since {
        // The engine counts in whole seconds; the rest is filtered below.
        options = options.since((since.0 / 1000) as i32);
    }
    let output = engine.logs(container, Some(options.build()));
    let lines = output.flat_map(|chunk| match chunk {
        Ok(chunk) => stream::iter(to_lines(chunk).into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    lines
        .filter(move |line| {
            let old = matches!((line, since), (Ok(LogLine { at: Some(at), .. }), Some(since)) if *at <= since);
            std::future::ready(!old)
        })
        .boxed()
}

fn to_lines(chunk: LogOutput) -> Vec<LogLine> {
    let stderr = matches!(chunk, LogOutput::StdErr { .. });
    let bytes = chunk.into_bytes();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\n').split('\n').map(|line| to_line(line, stderr)).collect()
}

fn to_line(line: &str, stderr: bool) -> LogLine {
    let (stamp, text) = line.split_once(' ').unwrap_or((line, ""));
    match clock::parse_rfc3339(stamp).map(Timestamp) {
        Some(at) => LogLine { at: Some(at), stderr, text: lines::clip(text) },
        None => LogLine { at: None, stderr, text: lines::clip(line) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_taken_apart() {
        let message = "1970-01-01T00:00:01.500000000Z one\n1970-01-01T00:00:02Z \nno stamp\n".into();
        let lines = to_lines(LogOutput::StdErr { message });
        let line = |at, text: &str| LogLine { at, stderr: true, text: text.into() };
        assert_eq!(
            lines,
            [line(Some(Timestamp(1500)), "one"), line(Some(Timestamp(2000)), ""), line(None, "no stamp")]
        );
    }
}
