//! Three processes of etcd, and the same writes to them.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Wrote, grpc};

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts three of them and writes; `None` where there is no such program.
pub(crate) fn measure(
    program: Option<&Path>,
    dir: &Path,
    clients: usize,
    span: Duration,
) -> Result<Option<Wrote>, String> {
    let program = program.unwrap_or(Path::new("etcd"));
    if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let bound = (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
    let bound = bound.map_err(|cause| cause.to_string())?;
    let ports: Vec<u16> =
        bound.iter().filter_map(|listener| listener.local_addr().ok()).map(|addr| addr.port()).collect();
    drop(bound);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> = (0..3).map(|at| format!("n{at}={}", url(ports[at]))).collect();
    let start = |at: usize| {
        let child = Command::new(program)
            .args(["--name", &format!("n{at}"), "--log-level", "error"])
            .args(["--data-dir", &dir.join(at.to_string()).display().to_string()])
            .args(["--listen-peer-urls", &url(ports[at]), "--initial-advertise-peer-urls", &url(ports[at])])
            .args([
                "--listen-client-urls",
                &url(ports[at + 3]),
                "--advertise-client-urls",
                &url(ports[at + 3]),
            ])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Process).map_err(|cause| cause.to_string())
    };
    std::fs::create_dir_all(dir).map_err(|cause| cause.to_string())?;
    let _processes = (0..3).map(start).collect::<Result<Vec<_>, _>>()?;
    let addrs = (3..6).map(|at| ([127, 0, 0, 1], ports[at]).into()).collect::<Vec<_>>();
    grpc::write(&addrs, clients, span).map(Some)
}
