//! The admin API of a Macula node: one router over a [`macula::Node`], served on a Unix socket.
//!
//! ```text
//!   macula_ctl ── HTTP/1.1 ──► Unix socket (0600) ──► router ──► macula::Node
//!                                                       │
//!              admin    the socket, from bind to close  │ routes    how the node is, and changes to it
//!              api      the JSON, shared with clients   │ messages  publish, subscribe
//!              failure  errors with code and hint       │ calls     calls, and who can be called
//!                                                       │ serve     procedures answered by a client
//!                                                       │ members   who is there, and tags
//! ```
//!
//! ```no_run
//! use macula_console::{Admin, Control};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = macula::Node::builder().start().await?;
//! let stop = CancellationToken::new();
//! let control = Control::new(stop.clone(), |level| Err(format!("no log to set to {level}")));
//! let admin = Admin::bind("/run/user/1000/my-node.sock".as_ref(), node.clone(), control)?;
//! tokio::spawn(admin.serve());
//! stop.cancelled().await; // a client said `stop`
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! This crate must not know the command line.

mod admin;
pub mod api;
mod calls;
mod failure;
mod groups;
mod members;
mod messages;
mod routes;
mod serve;

pub use admin::{Admin, AdminError, Control};
