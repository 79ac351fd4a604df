//! A deterministic simulator: the real state machines of many nodes, in one process, under one clock, from one seed.
//!
//! ```text
//!   Scenario ──acts──▶ Simulation ◀──── Agenda   events by (time, order)
//!                        │   │  ▲
//!                nodes ◀─┘   │  └────── Network  links, latency, loss, partitions: Faults
//!     Machine (membership)   │
//!     Node    (directory)    └────────▶ Invariant   one file a rule, checked as it runs
//!                            └────────▶ Trace       a hash: the same seed, the same hash
//! ```
//!
//! Time is a number that jumps from event to event; every random choice comes from the seed; nothing is a thread or a
//! task. The machines are the ones of the real node, and the messages are theirs: only the drivers around them, the
//! transport and the signatures are modelled here.
//!
//! Call order: take a scenario by name ([`scenario::named`]) and [run](Scenario::run) it, or many with [`sweep`]; or make a
//! [`Simulation`] and act on it.
//!
//! ```
//! use std::time::Duration;
//! use macula_sim::{Options, Simulation};
//!
//! let mut simulation = Simulation::new(Options::default(), 7);
//! let seed = simulation.add(&[]);
//! simulation.start(seed);
//! for _ in 0..9 {
//!     let node = simulation.add(&[seed]);
//!     simulation.start(node);
//! }
//! simulation.run_for(Duration::from_secs(90));
//! assert!(simulation.is_settled());
//! assert_eq!(simulation.finish(), []);
//! ```
//!
//! This crate must not know sockets, tasks or wall clocks, and must not hold a copy of any machine's logic.

mod agenda;
mod belief;
mod faults;
mod figures;
mod forest;
mod invariant;
mod network;
mod node;
pub mod scenario;
mod signing;
mod simulation;
mod sweep;
mod trace;

pub use belief::{Belief, BeliefKind};
pub use faults::{Faults, Partition, Stops};
pub use figures::Figures;
pub use invariant::Violation;
pub use node::{Life, NodeIndex, SimNode};
pub use scenario::{Outcome, Scenario, Setting};
pub use simulation::{DirectoryFaults, Layers, Lies, Options, Simulation};
pub use sweep::sweep;
pub use trace::TraceHash;
