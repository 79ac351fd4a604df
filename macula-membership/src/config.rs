//! The knobs, each with its reason, unit and range.

use std::time::Duration;

use crate::overlay::RINGS_MAX;

/// How SWIM behaves. [`Default`] suits a cell of up to some ten thousand nodes over a LAN or a good WAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwimConfig {
    /// Time between two probes by one node. Shorter finds failures sooner and costs more packets.
    /// 10 ms – 60 s, default 1 s.
    pub protocol_period: Duration,
    /// How long a direct probe waits before helpers are asked; three round-trip times if that is more.
    /// Below `protocol_period`, default 500 ms.
    pub probe_timeout: Duration,
    /// How many helpers are asked to probe a member that does not answer (SWIM §4.1). 0–16, default 3.
    pub indirect_count: usize,
    /// Shortest time for which a member is suspected before it counts as dead, in a cell of up to ten; it grows with the
    /// decimal logarithm of the number of members. At least twice `protocol_period`, default 4 s.
    pub suspect_timeout: Duration,
    /// A suspicion that nobody else confirms lasts this many times longer (Lifeguard §IV-B). 1–32, default 6.
    pub suspect_timeout_max_factor: u32,
    /// Highest score of local health: a node whose own probes fail, or that others suspect, probes up to so many times
    /// more rarely and waits as much longer for answers (Lifeguard §IV-A). 0 turns that off. 0–32, default 8.
    pub health_max: u32,
    /// Pseudo-random rings on which each node probes its successor. More rings find failures sooner and keep more
    /// links open (two a ring). 1–8, default 3.
    pub rings: usize,
    /// Every so many probes, a random member is probed instead of a successor. 0 means never; default 16.
    pub random_probe_every: u32,
    /// Time between two rounds of gossip while there is news. 10 ms – 60 s, default 200 ms.
    pub gossip_interval: Duration,
    /// Linked members that each round of gossip goes to: neighbours first. 1–16, default 6.
    pub gossip_fanout: usize,
    /// How often a neighbour that does not know it yet is told a piece of news. Where there are fewer neighbours than two a
    /// ring, each is told as much more often. 1–4, default 1.
    pub retransmit_multiplier: u32,
    /// Pieces of news kept for gossip, one half for what members say themselves and one for hearsay; when a half is full, its
    /// most often sent piece goes first and anti-entropy has to bring it. 16 – 1,000,000, default 1,024.
    pub news_max: usize,
    /// Time between two exchanges of member lists in a cell of up to 32; it grows with the binary logarithm of the number
    /// of members. A node that has just started begins with `protocol_period` and doubles it.
    /// 100 ms – 1 h, default 30 s.
    pub sync_interval: Duration,
    /// Exchanges of member lists under way at once, in each direction. 1–256, default 16.
    pub syncs_max: usize,
    /// Time between two attempts to reach a dead member, or the seeds when alone: how a partition that
    /// outlasted every suspicion is found healed. 100 ms – 1 h, default 30 s.
    pub recontact_interval: Duration,
    /// How long the dead and those who left are remembered, so that old rumours do not bring them back. The addresses of
    /// up to 64 of the dead are kept for 24 times as long, so that a partition that lasts heals by itself.
    /// 1 min – 30 days, default 1 h.
    pub forget_after: Duration,
    /// Members known at most, the dead included. 2 – 1,000,000, default 65,536.
    pub members_max: usize,
    /// Connections being dialled at once for probing. 1–256, default 8.
    pub dials_max: usize,
    /// How long one dial or one exchange of member lists may take. 100 ms – 5 min, default 10 s.
    pub stream_timeout: Duration,
    /// Received datagrams that wait to be handled; when full, further ones are dropped and counted.
    /// 16 – 1,000,000, default 4,096.
    pub queue_max: usize,
    /// Events that a subscriber may lag behind. 16 – 1,000,000, default 4,096.
    pub events_max: usize,
}

impl Default for SwimConfig {
    fn default() -> Self {
        Self {
            protocol_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_count: 3,
            suspect_timeout: Duration::from_secs(4),
            suspect_timeout_max_factor: 6,
            health_max: 8,
            rings: 3,
            random_probe_every: 16,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 6,
            retransmit_multiplier: 1,
            news_max: 1_024,
            sync_interval: Duration::from_secs(30),
            syncs_max: 16,
            recontact_interval: Duration::from_secs(30),
            forget_after: Duration::from_secs(3_600),
            members_max: 65_536,
            dials_max: 8,
            stream_timeout: Duration::from_secs(10),
            queue_max: 4_096,
            events_max: 4_096,
        }
    }
}

/// A knob outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership.{key} = {value}: {rule}")]
pub struct ConfigError {
    /// Which knob.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl SwimConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first knob that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ms = Duration::from_millis;
        let hour = Duration::from_secs(3_600);
        let minute = Duration::from_secs(60);
        span("protocol_period", self.protocol_period, ms(10), minute, "10 ms to 60 s")?;
        let below_period = self.protocol_period.saturating_sub(ms(1));
        span("probe_timeout", self.probe_timeout, ms(1), below_period, "below protocol_period")?;
        let twice = 2 * self.protocol_period;
        span("suspect_timeout", self.suspect_timeout, twice, hour, "2 x protocol_period to 1 h")?;
        span("gossip_interval", self.gossip_interval, ms(10), minute, "10 ms to 60 s")?;
        span("sync_interval", self.sync_interval, ms(100), hour, "100 ms to 1 h")?;
        span("recontact_interval", self.recontact_interval, ms(100), hour, "100 ms to 1 h")?;
        span("forget_after", self.forget_after, minute, 24 * 30 * hour, "1 min to 30 days")?;
        span("stream_timeout", self.stream_timeout, ms(100), 5 * minute, "100 ms to 5 min")?;
        count("indirect_count", self.indirect_count, 0, 16, "0 to 16")?;
        count("suspect_timeout_max_factor", self.suspect_timeout_max_factor as usize, 1, 32, "1 to 32")?;
        count("health_max", self.health_max as usize, 0, 32, "0 to 32")?;
        count("rings", self.rings, 1, RINGS_MAX, "1 to 8")?;
        count("gossip_fanout", self.gossip_fanout, 1, 16, "1 to 16")?;
        count("retransmit_multiplier", self.retransmit_multiplier as usize, 1, 4, "1 to 4")?;
        count("news_max", self.news_max, 16, 1_000_000, "16 to 1000000")?;
        count("syncs_max", self.syncs_max, 1, 256, "1 to 256")?;
        count("members_max", self.members_max, 2, 1_000_000, "2 to 1000000")?;
        count("dials_max", self.dials_max, 1, 256, "1 to 256")?;
        count("queue_max", self.queue_max, 16, 1_000_000, "16 to 1000000")?;
        count("events_max", self.events_max, 16, 1_000_000, "16 to 1000000")
    }
}

fn span(
    key: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
    rule: &'static str,
) -> Result<(), ConfigError> {
    let fits = (min..=max).contains(&value);
    if fits { Ok(()) } else { Err(ConfigError { key, value: format!("{value:?}"), rule }) }
}

fn count(
    key: &'static str,
    value: usize,
    min: usize,
    max: usize,
    rule: &'static str,
) -> Result<(), ConfigError> {
    let fits = (min..=max).contains(&value);
    if fits { Ok(()) } else { Err(ConfigError { key, value: value.to_string(), rule }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_a_bad_knob_is_named() {
        assert_eq!(SwimConfig::default().validate(), Ok(()));
        let bad = SwimConfig { rings: 9, ..SwimConfig::default() };
        assert_eq!(bad.validate().unwrap_err().to_string(), "membership.rings = 9: 1 to 8");
        let bad = SwimConfig { probe_timeout: Duration::from_secs(1), ..SwimConfig::default() };
        assert_eq!(bad.validate().unwrap_err().key, "probe_timeout");
    }
}
