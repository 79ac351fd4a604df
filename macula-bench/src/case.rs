//! What is measured.

use serde::{Deserialize, Serialize};

/// One thing to measure, with Macula and with raw QUIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) load: Load,
    /// Bytes of one message, request or reply.
    pub(crate) payload: usize,
    /// The curve that this is a point of.
    pub(crate) curve: Option<Curve>,
    /// Nodes live on threads of their own, as by default, and not on that of the program, as raw QUIC here does.
    pub(crate) own_thread: bool,
}

/// What the source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Publishes as fast as it is let.
    Publish {
        /// Sinks, each a process.
        subscribers: usize,
        /// Topics, used in turns.
        topics: usize,
        /// Further subscriptions at each sink that match none of them.
        idle_subscriptions: usize,
    },
    /// Calls, so many at a time.
    Call {
        /// Calls that wait for their answer.
        in_flight: usize,
    },
    /// Nothing: what a node costs that is just there.
    Idle,
}

/// What a curve is drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Curve {
    Subscribers,
    Topics,
    Subscriptions,
    Payload,
}

impl Curve {
    pub(crate) const ALL: [Self; 4] = [Self::Subscribers, Self::Topics, Self::Subscriptions, Self::Payload];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Subscribers => "subscribers",
            Self::Topics => "topics",
            Self::Subscriptions => "subscriptions",
            Self::Payload => "payload",
        }
    }
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let load = match self.load {
            Load::Publish { subscribers, topics: 1, idle_subscriptions: 0 } => {
                format!("publish 1→{subscribers}")
            }
            Load::Publish { subscribers, topics, idle_subscriptions: 0 } => {
                format!("publish 1→{subscribers}, {topics} topics")
            }
            Load::Publish { subscribers, idle_subscriptions, .. } => {
                format!("publish 1→{subscribers}, {idle_subscriptions} idle subscriptions")
            }
            Load::Call { in_flight } => format!("call, {in_flight} in flight"),
            Load::Idle => return "idle node".into(),
        };
        let shape = if self.own_thread { ", own thread" } else { "" };
        match self.payload {
            bytes if bytes >= 1024 && bytes.is_multiple_of(1024) => {
                format!("{load}, {} KiB{shape}", bytes / 1024)
            }
            bytes => format!("{load}, {bytes} B{shape}"),
        }
    }

    /// Where the point stands on its curve.
    pub(crate) const fn at(&self) -> usize {
        match (self.curve, self.load) {
            (Some(Curve::Subscribers), Load::Publish { subscribers, .. }) => subscribers,
            (Some(Curve::Topics), Load::Publish { topics, .. }) => topics,
            (Some(Curve::Subscriptions), Load::Publish { idle_subscriptions, .. }) => idle_subscriptions,
            _ => self.payload,
        }
    }
}

const fn publish(subscribers: usize, topics: usize, idle_subscriptions: usize, payload: usize) -> Case {
    Case {
        load: Load::Publish { subscribers, topics, idle_subscriptions },
        payload,
        curve: None,
        own_thread: false,
    }
}

const fn call(in_flight: usize, payload: usize) -> Case {
    Case { load: Load::Call { in_flight }, payload, curve: None, own_thread: false }
}

const fn own_thread(case: Case) -> Case {
    Case { own_thread: true, ..case }
}

/// The cases of a short run, or of a full one.
pub(crate) fn all(full: bool) -> Vec<Case> {
    let mut cases = vec![
        publish(1, 1, 0, 16),
        publish(1, 1, 0, 256),
        publish(1, 1, 0, 1024),
        publish(1, 1, 0, 8 * 1024),
        publish(1, 1, 0, 64 * 1024),
        publish(4, 1, 0, 256),
        call(1, 64),
        call(64, 64),
        own_thread(publish(1, 1, 0, 256)),
        own_thread(publish(4, 1, 0, 256)),
        own_thread(call(1, 64)),
        own_thread(call(64, 64)),
        Case { load: Load::Idle, payload: 0, curve: None, own_thread: true },
    ];
    if full {
        let on = |curve, case| Case { curve: Some(curve), ..case };
        cases.extend([1, 2, 4, 8, 16, 32, 64].map(|n| on(Curve::Subscribers, publish(n, 1, 0, 256))));
        cases.extend([1, 10, 100, 1_000].map(|n| on(Curve::Topics, publish(1, n, 0, 256))));
        cases.extend([1, 100, 1_000, 10_000].map(|n| on(Curve::Subscriptions, publish(1, 1, n, 256))));
        cases.extend(
            [16, 64, 256, 1024, 4096, 16_384, 65_536].map(|n| on(Curve::Payload, publish(1, 1, 0, n))),
        );
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_measured() {
        assert_eq!(publish(4, 1, 0, 256).name(), "publish 1→4, 256 B");
        assert_eq!(publish(1, 10, 0, 8192).name(), "publish 1→1, 10 topics, 8 KiB");
        assert_eq!(publish(1, 1, 100, 256).name(), "publish 1→1, 100 idle subscriptions, 256 B");
        assert_eq!(call(64, 64).name(), "call, 64 in flight, 64 B");
        assert_eq!(own_thread(call(1, 64)).name(), "call, 1 in flight, 64 B, own thread");
    }

    #[test]
    fn every_curve_has_points_in_order() {
        let cases = all(true);
        for curve in Curve::ALL {
            let points: Vec<_> =
                cases.iter().filter(|case| case.curve == Some(curve)).map(Case::at).collect();
            assert!(points.len() >= 4 && points.is_sorted(), "{curve:?}: {points:?}");
        }
        assert!(all(false).iter().all(|case| case.curve.is_none()));
    }
}
