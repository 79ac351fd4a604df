//! What is done to a mesh, one file a scenario.

mod attack;
mod churn;
mod cost;
mod crash;
mod dht;
mod drift;
mod fanout;
mod join;
mod leave;
mod lookup;
mod loss;
mod mesh;
mod one_way;
mod outcome;
mod partition;
mod pause;
mod report;
mod restart;
mod tags;

pub use dht::Curve;
pub use outcome::{Outcome, Row};
pub use report::report;

use std::time::Duration;

/// How large, and which of the endless number of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How many nodes; at least 4.
    pub nodes: u32,
    /// The source of all chance.
    pub seed: u64,
    /// How long the scenario's main part lasts; `None` for as long as it is made for.
    pub span: Option<Duration>,
    /// See [`Options::through_codec`](crate::Options::through_codec).
    pub through_codec: bool,
}

/// A scenario by name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    act: fn(Setting) -> Outcome,
}

impl Scenario {
    /// Runs it. The same setting gives the same outcome.
    pub fn run(&self, setting: Setting) -> Outcome {
        (self.act)(Setting { nodes: setting.nodes.max(4), ..setting })
    }
}

/// All of them.
pub const ALL: [Scenario; 28] = [
    Scenario {
        name: "join",
        about: "all nodes start through three seeds and find each other",
        act: join::run,
    },
    Scenario { name: "crash", about: "one in twenty dies; all others find out", act: crash::run },
    Scenario {
        name: "crash-loss",
        about: "the same, and 5 % of all messages are lost",
        act: crash::with_loss,
    },
    Scenario {
        name: "kill-100",
        about: "one in a hundred dies at once, with 5 % loss: for 10,000 nodes",
        act: crash::hundredth,
    },
    Scenario { name: "loss", about: "5 % of all messages are lost; nobody is held for dead", act: loss::run },
    Scenario {
        name: "partition",
        about: "two halves are cut apart for a minute, then find together",
        act: partition::run,
    },
    Scenario {
        name: "hour-partition",
        about: "two halves are cut apart for an hour, then find together",
        act: partition::hour,
    },
    Scenario {
        name: "two-hour-partition",
        about: "two halves are cut apart for longer than the dead are remembered, then find together",
        act: partition::two_hours,
    },
    Scenario {
        name: "one-way",
        about: "some hear nothing and some are not heard for a minute; nobody else is buried",
        act: one_way::run,
    },
    Scenario {
        name: "pause",
        about: "some have no time to read, again and again; against SWIM without Lifeguard",
        act: pause::run,
    },
    Scenario {
        name: "drift",
        about: "clocks up to 5 % too fast or too slow; nobody is held for dead, the dead are found",
        act: drift::run,
    },
    Scenario {
        name: "churn",
        about: "each minute one in twenty dies, as many leave, and as many as both come",
        act: churn::run,
    },
    Scenario {
        name: "tags",
        about: "some change their tags again and again; all end with the newest",
        act: tags::run,
    },
    Scenario {
        name: "restart",
        about: "nodes die and come back as themselves, some with clocks gone back",
        act: restart::run,
    },
    Scenario { name: "leave", about: "one in ten says goodbye; nobody suspects it", act: leave::run },
    Scenario {
        name: "attack",
        about: "one in fifty lies about others in every way; nobody healthy is held for dead",
        act: attack::run,
    },
    Scenario {
        name: "slander",
        about: "one accuses everybody in several names; nobody healthy is held for dead",
        act: attack::slander,
    },
    Scenario {
        name: "swim-cost",
        about: "what membership costs a node, quiet and with loss, in meshes of growing size",
        act: cost::run,
    },
    Scenario {
        name: "lookup",
        about: "directories with cold tables joined through one seed announce and find",
        act: lookup::run,
    },
    Scenario {
        name: "dht-massacre",
        about: "three in ten directories die at once; records are found again",
        act: dht::massacre::run,
    },
    Scenario {
        name: "dht-churn",
        about: "each minute one in twenty directories dies and as many join",
        act: dht::churn::run,
    },
    Scenario {
        name: "dht-slow",
        about: "one directory in ten is slow and one dead; against plain Kademlia",
        act: dht::slow::run,
    },
    Scenario { name: "dht-liars", about: "one directory in five lies", act: dht::liars::run },
    Scenario {
        name: "dht-cost",
        about: "what a look-up costs in meshes of growing size",
        act: dht::cost::run,
    },
    Scenario {
        name: "fanout",
        about: "one publishes to all others by a tree, and 5 % of all packets are lost: for 1,000 nodes",
        act: fanout::steady,
    },
    Scenario {
        name: "fanout-bare",
        about: "the same, but nothing that is lost is sent again by the links",
        act: fanout::bare,
    },
    Scenario { name: "fanout-random", about: "the same, each message from another one", act: fanout::random },
    Scenario {
        name: "fanout-dying",
        about: "one publishes to all others by a tree; one in ten dies meanwhile, with 5 % loss",
        act: fanout::dying,
    },
];

/// Measures the curve of that name, `None` if there is none; `nodes` is the size of the mesh, or of the largest.
pub fn curve(name: &str, setting: Setting) -> Option<Curve> {
    let curves = dht::CURVES.into_iter().chain([cost::CURVE]);
    curves.into_iter().find(|(known, _)| *known == name).map(|(_, draw)| draw(setting))
}

/// The scenario of that name.
pub fn named(name: &str) -> Option<Scenario> {
    ALL.into_iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
#[path = "scenario_test.rs"]
mod tests;
