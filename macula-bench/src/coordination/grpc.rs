//! Puts to etcd, as its own clients make them: gRPC over HTTP/2, one connection to each of its processes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::member::LATENCY_MAX_US;
use super::{PAYLOAD_BYTES, Wrote};
use crate::role::text;

/// How long they may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes until `span` is over, each client waiting for its answer.
pub(crate) fn write(addrs: &[SocketAddr], clients: usize, span: Duration) -> Result<Wrote, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    runtime.block_on(async {
        let mut connections = Vec::new();
        for addr in addrs {
            connections.push(timeout(PATIENCE, connect(*addr)).await.map_err(text)??);
        }
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for client in 0..clients {
            let mut connection = connections[client % connections.len()].clone();
            let authority = addrs[client % addrs.len()].to_string();
            tasks.spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    put(&mut connection, &authority, client).await?;
                    took.push(sent.elapsed());
                }
                Ok::<_, String>(took)
            });
        }
        let mut latency = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3).map_err(text)?;
        while let Some(took) = tasks.join_next().await {
            for took in took.map_err(text)?? {
                latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        }
        let (p50_us, p99_us) = (latency.value_at_quantile(0.5), latency.value_at_quantile(0.99));
        Ok(Wrote { writes: latency.len(), seconds: begun.elapsed().as_secs_f64(), p50_us, p99_us })
    })
}

/// Connects, and waits until a put is acknowledged.
async fn connect(addr: SocketAddr) -> Result<SendRequest<Bytes>, String> {
    loop {
        if let Ok(stream) = TcpStream::connect(addr).await {
            stream.set_nodelay(true).map_err(text)?;
            let (mut requests, connection) = h2::client::handshake(stream).await.map_err(text)?;
            tokio::spawn(connection);
            if put(&mut requests, &addr.to_string(), 0).await.is_ok() {
                return Ok(requests);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// One put of a key that is the client's own.
async fn put(requests: &mut SendRequest<Bytes>, authority: &str, client: usize) -> Result<(), String> {
    let request = Request::post(format!("http://{authority}/etcdserverpb.KV/Put"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(text)?;
    std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(text)?;
    let (response, mut body) = requests.send_request(request, false).map_err(text)?;
    body.send_data(message(client), true).map_err(text)?;
    let mut answer = response.await.map_err(text)?.into_body();
    while let Some(data) = answer.data().await {
        let data = data.map_err(text)?;
        answer.flow_control().release_capacity(data.len()).map_err(text)?;
    }
    let trailers = answer.trailers().await.map_err(text)?;
    let status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
    match status.as_ref().map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        status => Err(format!("etcd refused a put: {status:?}")),
    }
}

/// `PutRequest { key = 1, value = 2 }`, behind gRPC's five bytes.
fn message(client: usize) -> Bytes {
    let key = format!("bench-{client:04}");
    let mut put = BytesMut::new();
    put.put_u8(0x0a);
    put.put_u8(key.len() as u8);
    put.put_slice(key.as_bytes());
    put.put_u8(0x12);
    // 256 as a varint.
    put.put_slice(&[0x80 | (PAYLOAD_BYTES & 0x7f) as u8, (PAYLOAD_BYTES >> 7) as u8]);
    put.put_bytes(7, PAYLOAD_BYTES);
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(put.len() as u32);
    framed.unsplit(put);
    framed.freeze()
}
