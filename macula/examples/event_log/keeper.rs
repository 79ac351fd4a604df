//! The keeper: subscribes, writes down, and lets others read.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use macula::{
    Call, Decode, HandlerError, Json, LagPolicy, Message, Node, RegisterOptions, Reply, SubscribeOptions,
};
use tokio::sync::watch;

use crate::file::{Cursor, LogFile};
use crate::{ID_HEADER, READ};

/// Followers at once; more are told that there is no room.
const FOLLOWERS_MAX: u32 = 64;

/// Events that are read from the file at a time, before the follower is waited for.
const BATCH: usize = 256;

/// The log, and how long it is.
struct Log {
    file: Mutex<LogFile>,
    length: watch::Sender<u64>,
}

pub(crate) async fn keep(node: &Node, topics: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let file = LogFile::open(path)?;
    println!("{} holds {} events", path.display(), file.next());
    let (length, _) = watch::channel(file.next());
    let log = Arc::new(Log { file: Mutex::new(file), length });
    let (to_read, options) = (
        log.clone(),
        RegisterOptions {
            concurrency_max: FOLLOWERS_MAX,
            description: format!("{topics} from any offset"),
            ..RegisterOptions::default()
        },
    );
    let read = move |call: Call| {
        let log = to_read.clone();
        async move { log.read(call).await }
    };
    let _offer = node.register_in(node.realm(), READ, options, read).await?;
    // Nothing is dropped for want of room: publishers wait, and hear of it if they waited in vain.
    let subscribe = SubscribeOptions { lag: LagPolicy::Wait, ..SubscribeOptions::default() };
    let mut events = node.subscribe_in(node.realm(), topics, subscribe).await?;
    println!("keeping {topics}");
    while let Some(message) = events.recv().await {
        log.take(message).await?;
    }
    Ok(())
}

impl Log {
    /// Writes an event down. Its publisher hears that it is kept when the message is dropped, which is after that.
    async fn take(self: &Arc<Self>, mut message: Message) -> Result<(), Box<dyn Error>> {
        let (Ok(text), Some(id)) = (message.text(), id(&message)) else {
            message.decline();
            println!("declined: {} is no text with an id", message.topic);
            return Ok(());
        };
        let (log, topic) = (self.clone(), message.topic.clone());
        let written =
            tokio::task::spawn_blocking(move || log.file().append(topic.as_str(), &id, text)).await?;
        match written {
            Ok(Some(event)) => {
                self.length.send_replace(event.offset + 1);
                println!("kept {}: {}", event.offset, event.topic);
            }
            Ok(None) => println!("kept before: {}", message.topic),
            Err(error) => {
                message.decline();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Sends all events from an offset on, and then each new one, until the follower goes away or its deadline ends the
    /// call. The follower's pace is the pace: what it does not read stays in the file.
    async fn read(self: Arc<Self>, call: Call) -> Result<Reply, HandlerError> {
        let Json(from) = call.decode::<Json<u64>>()?;
        let mut cursor = Cursor::new(from);
        let mut length = self.length.subscribe();
        loop {
            // What is added from here on is seen as a change below.
            length.borrow_and_update();
            let end = self.file().end();
            let (read, events) = tokio::task::spawn_blocking(move || {
                let events = cursor.read(end, BATCH);
                (cursor, events)
            })
            .await?;
            cursor = read;
            let events = events?;
            let is_end = events.is_empty();
            for event in events {
                call.progress(macula::reply(Json(event))?).await?;
            }
            if is_end {
                length.changed().await?;
            }
        }
    }

    fn file(&self) -> MutexGuard<'_, LogFile> {
        // An append that panicked has not counted its event.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(message: &Message) -> Option<String> {
    let id = message.headers.get(ID_HEADER)?;
    String::from_utf8(id.to_vec()).ok()
}
