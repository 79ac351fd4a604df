//! The client of the admin API: HTTP/1.1 over the node's Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use macula_console::api::{ErrorBody, ErrorCode, ErrorInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::CliError;

/// Longest answer, or line of a streamed answer, that is accepted.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A node that has not begun to answer for so long is asked whether it still runs, again and again.
const DOUBT: Duration = Duration::from_secs(2);

/// A node that runs says so within this time, whatever else it is busy with.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// A page that costs the node nothing.
const CHEAP: &str = "/v1/config/node.name";

/// A node's admin API.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads a document.
    pub(crate) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, CliError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Sends a document and reads the answer.
    pub(crate) async fn send<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Broken(error.to_string()))?;
        self.json(method, path, body.into()).await
    }

    /// Reads a plain text document.
    pub(crate) async fn text(&self, path: &str) -> Result<String, CliError> {
        let response = self.request(Method::GET, path, Bytes::new()).await?;
        let body = collect(response).await?;
        String::from_utf8(body.to_vec()).map_err(|_| CliError::Broken("the answer is not UTF-8".into()))
    }

    /// Reads documents line by line, for as long as the node sends them.
    pub(crate) async fn lines(&self, method: Method, path: &str) -> Result<Lines, CliError> {
        let response = self.request(method, path, Bytes::new()).await?;
        Ok(Lines { body: response.into_body(), rest: BytesMut::new() })
    }

    /// Sends a document, and reads those that answer it line by line.
    pub(crate) async fn lines_of(&self, path: &str, body: &impl Serialize) -> Result<Lines, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Broken(error.to_string()))?;
        let response = self.request(Method::POST, path, body.into()).await?;
        Ok(Lines { body: response.into_body(), rest: BytesMut::new() })
    }

    async fn json<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, CliError> {
        let response = self.request(method, path, body).await?;
        let body = collect(response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CliError::Broken(format!("the node's answer is not understood: {error}")))
    }

    /// Sends a request and waits for the head of the answer: for as long as it takes, as long as the node lives.
    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, CliError> {
        let answer = self.exchange(method, path, body);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(DOUBT) => {}
            }
            let sign = self.exchange(Method::GET, CHEAP, Bytes::new());
            tokio::select! {
                answer = &mut answer => return answer,
                sign = tokio::time::timeout(SIGN_OF_LIFE, sign) => {
                    sign.map_err(|_| self.silent())?.map(drop)?;
                }
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_node(&error))?;
        let broken = |error: hyper::Error| CliError::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "node")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CliError::Usage {
                message: format!("`{path}` cannot be asked for: {error}"),
                hint: "check the name for characters that do not belong there".into(),
            })?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response).await?;
        let info = serde_json::from_slice::<ErrorBody>(&body).map_or_else(
            |_| ErrorInfo {
                call: None,
                may_have_run: None,
                code: ErrorCode::Internal,
                message: format!("the node answered {status}: {}", String::from_utf8_lossy(&body)),
                hint: None,
            },
            |body| body.error,
        );
        Err(CliError::Node(info))
    }

    fn silent(&self) -> CliError {
        let socket = self.socket.display();
        CliError::NoNode {
            message: format!("the node behind {socket} does not answer: its process hangs, or is stopped"),
            hint: "`macula_ctl nodes` shows its process id; `kill -CONT PID` wakes a stopped one, \
                   `kill -KILL PID` ends it"
                .into(),
        }
    }

    /// The process that listens at the socket, whether or not it answers; `None` if there is none.
    pub(crate) async fn listener(&self) -> Option<u32> {
        let stream = UnixStream::connect(&self.socket).await.ok()?;
        u32::try_from(stream.peer_cred().ok()?.pid()?).ok()
    }

    fn no_node(&self, error: &io::Error) -> CliError {
        let socket = self.socket.display();
        let message = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("no node is running behind {socket}")
            }
            io::ErrorKind::PermissionDenied => format!("{socket} belongs to another user"),
            _ => format!("{socket}: {error}"),
        };
        CliError::NoNode {
            message,
            hint: "`macula_ctl start` starts one, `macula_ctl nodes` lists what runs, --node picks one"
                .into(),
        }
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, CliError> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    body.collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| CliError::Broken(error.to_string()))
}

/// A streamed answer.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    rest: BytesMut,
}

impl Lines {
    /// The next document; `None` when the node ended the stream.
    pub(crate) async fn next<A: DeserializeOwned>(&mut self) -> Result<Option<A>, CliError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    CliError::Broken(format!("the node's answer is not understood: {error}"))
                });
            }
            if self.rest.len() > ANSWER_BYTES_MAX {
                return Err(CliError::Broken("a line without end".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                // A Unix socket does not fail by itself: whoever wrote is gone.
                Some(Err(_)) => return Err(CliError::stopped()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
