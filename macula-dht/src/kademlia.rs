//! The real thing: Kademlia (Maymounkov & Mazières 2002) over a transport.

mod board;
mod config;
mod driver;
mod lookup;
mod message;
mod metrics;
mod node;
mod record;
mod service;
mod store;
mod table;
mod timers;
mod watchers;

pub use config::{KademliaConfig, Quotas, SubnetLimits};
pub use driver::KademliaDriver;
pub use lookup::{LookupStep, LookupTrace, StepOutcome};
pub use message::{Find, Findings, MessageError, Request, Response, StoreOutcome, Stored};
pub use metrics::{DhtMetrics, RefusalLabel};
pub use node::{Done, Effect, Failure, Node, Now, Op, ReplyTo, RequestId};
pub use record::{RecordBody, RecordError, SignedRecord, TTL_MAX};
pub use service::Kademlia;
pub use store::{Page, Put, Refusal, Store};
pub use table::{BucketSnapshot, Heard, Known, Table, TableSnapshot};

#[cfg(test)]
mod mesh_test;
#[cfg(test)]
mod node_test;
