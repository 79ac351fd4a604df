//! A chat without a server: rooms are topics, and who is in a room stands in the directory.
//!
//! See this folder's README for how to run it.

#[path = "../shared/typed.rs"]
mod typed;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use clap::Parser;
use macula::{Call, Decode, Json, Message, Node, Publish, RegisterOptions, Registration};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::typed::typed_lines;

/// How long to wait for everybody in the room to have taken a line.
const DELIVERY: Duration = Duration::from_secs(3);

/// How long to look for the mesh before beginning alone.
const JOINING: Duration = Duration::from_secs(10);

const HELP: &str = "\
lines are said in the room that you entered last
/join ROOM   enter a room          /who    who is in the room
/leave       leave the room        /rooms  the rooms that you are in
/quit        end (so do Ctrl-D and Ctrl-C)";

/// Chats with whoever else runs this.
#[derive(Parser)]
struct Args {
    /// What the others call you
    #[arg(long)]
    nick: String,
    /// The room to enter first
    #[arg(long, default_value = "lobby")]
    room: String,
    /// UDP address to listen on
    #[arg(long, default_value = "[::]:0")]
    listen: String,
    /// Somebody who chats already, as host:port; may be given several times
    #[arg(long)]
    join: Vec<String>,
}

/// What travels on a room's topic.
#[derive(Serialize, Deserialize)]
struct Line {
    nick: String,
    what: What,
}

#[derive(Serialize, Deserialize)]
enum What {
    Entered,
    Left,
    Said(String),
}

struct Chat {
    node: Node,
    nick: String,
    rooms: BTreeMap<String, Room>,
    /// Where lines go.
    current: Option<String>,
}

/// A room that this node is in.
struct Room {
    /// Says in the directory that somebody with this nick is here.
    presence: Registration,
    /// Prints what the others say.
    reader: AbortHandle,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let builder = Node::builder().name(&args.nick).listen(&args.listen);
    let node = args.join.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await?;
    println!("listening on port {}", node.listen_addrs()[0].port());
    if !args.join.is_empty() && tokio::time::timeout(JOINING, node.joined()).await.is_err() {
        println!("* nobody answers yet; they are tried until somebody does");
    }
    let mut chat = Chat { node, nick: args.nick, rooms: BTreeMap::new(), current: None };
    chat.enter(&args.room).await?;
    let mut typed = typed_lines();
    loop {
        let line = tokio::select! {
            line = typed.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line.filter(|line| line != "/quit") else { break };
        if let Err(error) = chat.on_line(line.trim()).await {
            println!("* {error}");
        }
    }
    while let Some(room) = chat.rooms.keys().next().cloned() {
        chat.leave(&room).await?;
    }
    chat.node.shutdown().await;
    Ok(())
}

impl Chat {
    async fn on_line(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => Ok(()),
            ("/join", room) => self.enter(room.trim()).await,
            ("/leave", _) => {
                let room = self.here()?.to_owned();
                self.leave(&room).await
            }
            ("/who", _) => self.who().await,
            ("/rooms", _) => {
                println!("* {}", self.rooms.keys().cloned().collect::<Vec<_>>().join(", "));
                Ok(())
            }
            (command, _) if command.starts_with('/') => {
                println!("{HELP}");
                Ok(())
            }
            _ => self.say(self.here()?, What::Said(line.to_owned())).await,
        }
    }

    async fn enter(&mut self, room: &str) -> Result<(), Box<dyn Error>> {
        if !self.rooms.contains_key(room) {
            // Subscribed first: whoever sees this nick in the room can count on its hearing what is said.
            let mut messages = self.node.subscribe(&topic(room)).await?;
            let (me, shown_as) = (self.node.node_id(), room.to_owned());
            let reader = tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    if message.publisher != me {
                        print(&shown_as, &message);
                    }
                }
            });
            let reader = reader.abort_handle();
            let options = RegisterOptions { description: self.nick.clone(), ..RegisterOptions::default() };
            let nick = self.nick.clone();
            let answer = move |_: Call| {
                let nick = nick.clone();
                async move { macula::reply(nick) }
            };
            let presence = self.node.register_in(self.node.realm(), &presence(room), options, answer).await?;
            self.rooms.insert(room.to_owned(), Room { presence, reader });
            self.say(room, What::Entered).await?;
        }
        self.current = Some(room.to_owned());
        println!("* you are in {room}");
        Ok(())
    }

    async fn leave(&mut self, room: &str) -> Result<(), Box<dyn Error>> {
        let Some(left) = self.rooms.remove(room) else { return Ok(()) };
        self.node.unregister(left.presence).await?;
        left.reader.abort();
        self.say(room, What::Left).await?;
        self.current = self.rooms.keys().next().cloned();
        println!("* you left {room}");
        Ok(())
    }

    /// Publishes a line, and names those who are in the room but could not be given it.
    async fn say(&self, room: &str, what: What) -> Result<(), Box<dyn Error>> {
        let line = Publish::new(&topic(room), Json(Line { nick: self.nick.clone(), what }))?;
        let delivered = self.node.publish_acknowledged(line, DELIVERY).await?;
        for missed in &delivered.missed {
            println!("* node {} did not get that: {}", missed.node.short(), missed.reason);
        }
        Ok(())
    }

    /// Lists who is in the room by the directory, which forgets those who died.
    async fn who(&self) -> Result<(), Box<dyn Error>> {
        let room = self.here()?;
        let mut nicks: Vec<_> = self.node.providers(&presence(room)).await?;
        nicks.sort_by(|a, b| a.description.cmp(&b.description));
        let nicks: Vec<_> = nicks.iter().map(|one| harmless(&one.description)).collect();
        println!("* in {room}: {}", nicks.join(", "));
        Ok(())
    }

    fn here(&self) -> Result<&str, String> {
        self.current.as_deref().ok_or_else(|| "you are in no room: /join one".into())
    }
}

fn topic(room: &str) -> String {
    format!("chat.{room}")
}

/// The procedure that everybody in a room offers.
fn presence(room: &str) -> String {
    format!("chat.{room}.here")
}

fn print(room: &str, message: &Message) {
    let Ok(Json(line)) = message.decode::<Json<Line>>() else {
        return println!("[{room}] * node {} says something unintelligible", message.publisher.short());
    };
    let nick = harmless(&line.nick);
    match line.what {
        What::Entered => println!("[{room}] * {nick} entered"),
        What::Left => println!("[{room}] * {nick} left"),
        What::Said(text) => println!("[{room}] {nick}: {}", harmless(&text)),
    }
}

/// What others wrote must not steer this terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
