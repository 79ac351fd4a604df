//! The baseline for publishing: quinn with the product's settings, frames of a length and a payload in batches.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use macula_transport::{BareQuic, Identity, QuicConfig};
use quinn::RecvStream;

use super::{Parent, Stopwatch, Tally, report, say, text};

/// As much as a lane coalesces.
const BATCH_BYTES: usize = 16 * 1024;
const LENGTH_BYTES: usize = 4;

pub(super) fn bare() -> Result<BareQuic, String> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    BareQuic::bind(&QuicConfig::new(Identity::generate(), listen)).map_err(text)
}

/// Counts the frames of one stream.
pub(super) async fn sink() -> Result<(), String> {
    let (quic, mut parent) = (bare()?, Parent::new());
    say(&quic.endpoint.local_addr().map_err(text)?.to_string());
    let incoming = quic.endpoint.accept().await.ok_or("the endpoint is closed")?;
    let connection = incoming.await.map_err(text)?;
    let mut stream = connection.accept_uni().await.map_err(text)?;
    let (mut tally, mut counter) = (Tally::default(), Counter::default());
    let mut told = false;
    loop {
        tokio::select! {
            more = count(&mut stream, &mut counter) => match more? {
                Some(frames) => tally.add(frames),
                // The stream ends when all of it is read.
                None => break,
            },
            go = parent.go(), if !told => {
                go?;
                told = true;
            }
        }
    }
    if !told {
        parent.go().await?;
    }
    report(&tally.saw())
}

async fn count(stream: &mut RecvStream, counter: &mut Counter) -> Result<Option<u64>, String> {
    let chunk = stream.read_chunk(usize::MAX, true).await.map_err(text)?;
    Ok(chunk.map(|chunk| counter.take(&chunk.bytes)))
}

/// Writes frames to every sink until the time is up, and waits until all of them have them.
pub(super) async fn source(payload: usize, to: &[SocketAddr], span: Duration) -> Result<(), String> {
    let (quic, mut parent) = (bare()?, Parent::new());
    let mut streams = Vec::new();
    for addr in to {
        streams.push(quic.connect(*addr).await?.open_uni().await.map_err(text)?);
    }
    say("ready");
    parent.go().await?;
    let payload = vec![7; payload];
    let frames = (BATCH_BYTES / (LENGTH_BYTES + payload.len())).max(1);
    let (watch, mut sent) = (Stopwatch::start(), 0);
    while watch.began.elapsed() < span {
        let mut batch = BytesMut::with_capacity(frames * (LENGTH_BYTES + payload.len()));
        for _ in 0..frames {
            batch.put_u32(payload.len() as u32);
            batch.put_slice(&payload);
        }
        let batch = batch.freeze();
        for stream in &mut streams {
            stream.write_chunk(batch.clone()).await.map_err(text)?;
        }
        sent += frames as u64;
    }
    for stream in &mut streams {
        stream.finish().map_err(text)?;
        stream.stopped().await.map_err(text)?;
    }
    report(&watch.did(sent))?;
    // The sinks may still be reading; then whoever started this process ends it.
    parent.go().await
}

/// Cuts a stream into frames, and only counts them.
#[derive(Default)]
struct Counter {
    length: [u8; LENGTH_BYTES],
    /// Bytes of `length` that are there.
    have: usize,
    /// Bytes of the payload that are still to come.
    rest: usize,
}

impl Counter {
    /// How many frames end in this chunk.
    fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            if self.rest > 0 {
                return frames;
            }
            if self.have == LENGTH_BYTES {
                frames += 1;
                self.have = 0;
            }
            let taken = (LENGTH_BYTES - self.have).min(bytes.len());
            self.length[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < LENGTH_BYTES {
                return frames;
            }
            self.rest = u32::from_be_bytes(self.length) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut bytes = BytesMut::new();
        for length in [5_usize, 0, 300, 1] {
            bytes.put_u32(length as u32);
            bytes.put_bytes(9, length);
        }
        for size in 1..bytes.len() {
            let mut counter = Counter::default();
            let frames: u64 = bytes.chunks(size).map(|chunk| counter.take(chunk)).sum();
            assert_eq!(frames, 4, "in chunks of {size}");
        }
    }
}
