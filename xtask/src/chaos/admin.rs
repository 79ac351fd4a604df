//! The admin API of a node, spoken by hand: one request a connection, HTTP/1.0, so that an answer ends with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// A node's admin socket.
#[derive(Clone)]
pub(super) struct Admin {
    socket: PathBuf,
}

/// An answer that goes on until the node or the reader ends it.
pub(super) struct Lines {
    reader: BufReader<UnixStream>,
}

impl Admin {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for a document. `Err` says what the node said, or why it said nothing within `patience`.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<Value, String> {
        let mut reader = self.send(method, path, body, patience)?;
        let (ok, mut text) = (head(&mut reader)?, String::new());
        reader.take(ANSWER_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        match ok {
            true => Ok(answer),
            false => {
                let said = |part: &str| answer["error"][part].as_str().unwrap_or("unknown").to_owned();
                Err(format!("{}: {}", said("code"), said("message")))
            }
        }
    }

    /// Opens an answer that is streamed; each read waits for at most `patience`.
    pub(super) fn lines(&self, path: &str, patience: Duration) -> Result<Lines, String> {
        let mut reader = self.send("GET", path, "", patience)?;
        match head(&mut reader)? {
            true => Ok(Lines { reader }),
            false => Err("refused".into()),
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<BufReader<UnixStream>, String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_read_timeout(Some(patience)).map_err(failed)?;
        stream.set_write_timeout(Some(patience)).map_err(failed)?;
        // In one piece: a node that answers without reading the body may have closed before a second one.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        Ok(BufReader::new(stream))
    }
}

impl Lines {
    /// The next document; `Ok(None)` when none came in time, `Err` when the stream has ended.
    pub(super) fn next(&mut self, line: &mut String) -> Result<Option<Value>, String> {
        match self.reader.read_line(line) {
            Ok(0) => Err("ended".into()),
            Ok(_) => {
                let document = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"));
                line.clear();
                document.map(Some)
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Reads the head of an answer; says whether it is a success.
fn head(reader: &mut BufReader<UnixStream>) -> Result<bool, String> {
    let (mut ok, mut first) = (false, true);
    loop {
        let mut line = String::new();
        let read = reader.take(16 * 1024).read_line(&mut line).map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("no answer".into());
        }
        if first {
            (ok, first) = (line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), false);
        }
        if line.trim().is_empty() {
            return Ok(ok);
        }
    }
}
