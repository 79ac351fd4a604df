//! The baseline for calls: frames of a length, a number and a payload on one stream, each answered by its number.
//!
//! It does what anybody needs who calls over bare QUIC: callers that each wait for their own answer, frames that leave
//! together when several are ready, a server that cuts the stream into requests and answers them one by one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use super::raw::bare;
use super::{Parent, Stopwatch, Tally, report, say, text};

const NUMBER_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;

/// Sends each request back as its answer.
pub(super) async fn sink() -> Result<(), String> {
    let (quic, mut parent) = (bare()?, Parent::new());
    say(&quic.endpoint.local_addr().map_err(text)?.to_string());
    let incoming = quic.endpoint.accept().await.ok_or("the endpoint is closed")?;
    let connection = incoming.await.map_err(text)?;
    let (mut tx, mut rx) = connection.accept_bi().await.map_err(text)?;
    let (mut tally, mut frames, mut answers) = (Tally::default(), Frames::default(), BytesMut::new());
    while let Some(chunk) = rx.read_chunk(usize::MAX, true).await.map_err(text)? {
        frames.feed(chunk.bytes);
        let mut served = 0;
        while let Some((number, payload)) = frames.next() {
            put(&mut answers, number, &payload);
            served += 1;
        }
        tally.add(served);
        tx.write_chunk(answers.split().freeze()).await.map_err(text)?;
    }
    parent.go().await?;
    report(&tally.saw())
}

/// Callers of one process, and the one stream that they share.
#[derive(Default)]
struct Calls {
    /// Who waits for the answer of each number.
    waiting: RefCell<Vec<Option<oneshot::Sender<Bytes>>>>,
    free: RefCell<Vec<usize>>,
    requests: RefCell<BytesMut>,
    filled: Notify,
}

impl Calls {
    async fn call(&self, payload: &[u8]) -> Result<Bytes, String> {
        let (answer, answered) = oneshot::channel();
        let number = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.waiting.borrow_mut().push(None);
            self.waiting.borrow().len() - 1
        });
        self.waiting.borrow_mut()[number] = Some(answer);
        put(&mut self.requests.borrow_mut(), number as u64, payload);
        self.filled.notify_one();
        let answer = answered.await.map_err(text)?;
        self.free.borrow_mut().push(number);
        Ok(answer)
    }

    async fn write(&self, mut tx: SendStream) -> Result<(), String> {
        loop {
            self.filled.notified().await;
            let requests = self.requests.borrow_mut().split().freeze();
            tx.write_chunk(requests).await.map_err(text)?;
        }
    }

    async fn read(&self, mut rx: RecvStream) -> Result<(), String> {
        let mut frames = Frames::default();
        while let Some(chunk) = rx.read_chunk(usize::MAX, true).await.map_err(text)? {
            frames.feed(chunk.bytes);
            while let Some((number, payload)) = frames.next() {
                let waiting = self.waiting.borrow_mut().get_mut(number as usize).and_then(Option::take);
                waiting
                    .ok_or("an answer that nobody waits for")?
                    .send(payload)
                    .map_err(|_| "nobody waits")?;
            }
        }
        Err("the stream ended".into())
    }
}

/// Asks until the time is up.
pub(super) async fn source(
    in_flight: usize,
    payload: usize,
    to: &[SocketAddr],
    span: Duration,
) -> Result<(), String> {
    let (quic, mut parent) = (bare()?, Parent::new());
    let connection = quic.connect(*to.first().ok_or("nobody to call")?).await?;
    let (tx, rx) = connection.open_bi().await.map_err(text)?;
    let (calls, local) = (Rc::new(Calls::default()), LocalSet::new());
    let (writes, reads) = (calls.clone(), calls.clone());
    let writing = local.spawn_local(async move { writes.write(tx).await });
    let reading = local.spawn_local(async move { reads.read(rx).await });
    say("ready");
    parent.go().await?;
    let watch = Rc::new(RefCell::new(Stopwatch::start()));
    let end = Instant::now() + span;
    let callers: VecDeque<_> = (0..in_flight)
        .map(|_| {
            let (calls, watch, payload) = (calls.clone(), watch.clone(), vec![7; payload]);
            local.spawn_local(async move {
                let mut answered = 0_u64;
                while Instant::now() < end {
                    let since = Instant::now();
                    calls.call(&payload).await?;
                    watch.borrow_mut().took(since);
                    answered += 1;
                }
                Ok::<_, String>(answered)
            })
        })
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += local.run_until(caller).await.map_err(text)??;
    }
    let did = watch.borrow().did(answered);
    // The sink sees the end of the stream when its writer is gone.
    writing.abort();
    reading.abort();
    local.await;
    report(&did)?;
    parent.go().await
}

fn put(out: &mut BytesMut, number: u64, payload: &[u8]) {
    out.put_u32(payload.len() as u32);
    out.put_u64(number);
    out.put_slice(payload);
}

/// Cuts a stream into frames.
#[derive(Default)]
struct Frames {
    bytes: BytesMut,
    chunk: Bytes,
}

impl Frames {
    fn feed(&mut self, chunk: Bytes) {
        if self.bytes.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
            return;
        }
        // Rare: a frame that spans chunks.
        self.bytes.extend_from_slice(&self.chunk);
        self.bytes.extend_from_slice(&chunk);
        self.chunk = self.bytes.split().freeze();
    }

    fn next(&mut self) -> Option<(u64, Bytes)> {
        let length = u32::from_be_bytes(*self.chunk.first_chunk::<LENGTH_BYTES>()?) as usize;
        if self.chunk.len() < LENGTH_BYTES + NUMBER_BYTES + length {
            return None;
        }
        self.chunk.advance(LENGTH_BYTES);
        let number = self.chunk.get_u64();
        Some((number, self.chunk.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let mut bytes = BytesMut::new();
        (0..5).for_each(|number| put(&mut bytes, number, &vec![number as u8; number as usize * 7]));
        for size in 1..bytes.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for chunk in bytes.chunks(size) {
                frames.feed(Bytes::copy_from_slice(chunk));
                seen.extend(
                    std::iter::from_fn(|| frames.next()).map(|(number, payload)| (number, payload.len())),
                );
            }
            assert_eq!(seen, [(0, 0), (1, 7), (2, 14), (3, 21), (4, 28)], "in chunks of {size}");
        }
    }
}
