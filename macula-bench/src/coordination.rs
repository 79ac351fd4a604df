//! What coordination costs between processes: writes, beside etcd's in the same run, and how long a death is felt.
//!
//! ```text
//!   coordination ──► group      three voters and a client, each a process
//!        │             ├─► writes      so many at a time, from the client and from the leader
//!        │             └─► deaths      of leaders and holders, and orderly ends
//!        └────────► etcd ──► grpc      the same writes to three of its processes
//! ```

mod deaths;
mod etcd;
mod group;
mod grpc;
mod member;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

pub(crate) use member::{Member, run as member};

/// Bytes of one command.
const PAYLOAD_BYTES: usize = 256;

/// Writes to three processes, and what a death costs.
#[derive(Args)]
pub(crate) struct Options {
    /// Writers at a time
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// How long they write
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Leaders of the group that are killed; 0 leaves out all deaths
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Holders of an election that are killed, and orderly ends
    #[arg(long, default_value_t = 10)]
    ends: usize,
    /// The program to compare with [default: `etcd`, if it is installed]
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
}

/// What writers did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Wrote {
    pub(crate) writes: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Wrote {
    fn a_second(&self) -> f64 {
        self.writes as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Measures everything, and prints it.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let place =
        tempfile::Builder::new().prefix("coordination").tempdir().map_err(|cause| cause.to_string())?;
    let span = Duration::from_secs_f64(options.seconds.clamp(0.1, 600.0));
    println!("three processes, {PAYLOAD_BYTES} B a command, acknowledged when durable on two");
    let mut group = group::Group::start(&place.path().join("macula"))?;
    for clients in &options.clients {
        let writes = group.write(*clients, span)?;
        println!(
            "macula, {clients} clients in a process of their own: {}",
            shown(&writes.remote, Some(writes.syncs))
        );
        println!("macula, {clients} clients at the leader: {}", shown(&writes.at_leader, None));
        match etcd::measure(
            options.etcd.as_deref(),
            &place.path().join(format!("etcd-{clients}")),
            *clients,
            span,
        ) {
            Ok(Some(theirs)) => {
                println!("etcd, {clients} clients in a process of their own: {}", shown(&theirs, None));
                let ratio = writes.remote.a_second() / theirs.a_second().max(f64::MIN_POSITIVE);
                println!("  {ratio:.1} times etcd's writes a second");
            }
            Ok(None) => println!("etcd is not installed: nothing to compare with"),
            Err(cause) => println!("etcd: {cause}"),
        }
    }
    if options.kills > 0 {
        deaths::measure(&mut group, options.kills, options.ends)?;
    }
    println!("three fresh nodes to a write through each: {}", deaths::fresh(&place.path().join("fresh"))?);
    Ok(())
}

fn shown(wrote: &Wrote, syncs: Option<f64>) -> String {
    let syncs = syncs.map(|syncs| format!(", {syncs:.3} fsyncs a write at the leader")).unwrap_or_default();
    let Wrote { p50_us, p99_us, .. } = wrote;
    format!("{:.0} writes/s, p50 {p50_us} µs, p99 {p99_us} µs{syncs}", wrote.a_second())
}
