//! Small calls that share one stream.
//!
//! ```text
//!   Rpc::call ── ask ──► Session ── NUMBERED_CALL … ──► Serving ── inline, or a task of its own ──► handler
//!                        slots                           running
//!        ◄── answer ──── by number ◄─ NUMBERED_ANSWER …─ outbox  ◄── answer, deadline, panic ────────┘
//! ```
//!
//! Between two nodes there is one such stream for each direction of calls, with one task at each end: what is queued leaves in one
//! go, and what arrives together is looked at together. It is opened by the first call and closed after some seconds without
//! one. A call costs a place among the [`slots`], no task and no timer: the session looks at all deadlines at once, and
//! only when the first of them passes.
//!
//! Nobody waits for anybody else's answer. Handlers answer in any order; what is large ([`PAYLOAD_BYTES_MAX`]) has a stream of its
//! own in either direction. A caller that does not read its answers is not read from either, once [`QUEUED_BYTES_MAX`] wait
//! for it; so what a peer can have waiting here is bounded by that and by the handlers that may run.

mod frames;
#[cfg(test)]
mod mux_test;
mod outbox;
mod serving;
mod session;
mod sessions;
mod slots;

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use macula_proto::Frame;
use macula_transport::{StreamError, StreamRx};

pub(crate) use frames::call_body;
pub(crate) use serving::serve;
pub(crate) use session::{Asked, Outcome};
pub(crate) use sessions::Sessions;

/// Largest request or answer that shares a stream, in bytes: one takes no longer to send than a few packets do.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// Calls on one stream without an answer. Further ones have streams of their own.
const IN_FLIGHT_MAX: usize = 1024;

/// Calls that wait to be sent to one provider, in bytes, before further ones have streams of their own; and answers that wait to
/// be sent to one caller, before it is not read from.
const QUEUED_BYTES_MAX: usize = 256 * 1024;

/// Streams of calls from one peer. It takes one, and a second while the connection of the first drains.
const STREAMS_MAX: usize = 4;

/// Frames that are read before others have their turn.
const READ_AT_ONCE: usize = 128;

/// A stream is closed after so long without a call.
const LINGER: Duration = Duration::from_secs(5);

/// The next frame. `pause` is called whenever there is none at hand: what was put off for the sake of doing it once is due then.
async fn next<Rx: StreamRx>(rx: &mut Rx, mut pause: impl FnMut()) -> Result<Option<Frame>, StreamError> {
    let mut frame = pin!(rx.recv());
    poll_fn(|cx| {
        let polled = frame.as_mut().poll(cx);
        if polled.is_pending() {
            pause();
        }
        polled
    })
    .await
}
