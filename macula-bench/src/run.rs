//! Runs of one case: a source, its sinks, Macula and raw QUIC in turns.

use crate::case::{Case, Load};
use crate::child::Child;
use crate::outcome::{Outcome, SinkSaw, SourceDid};
use crate::role::Stack;

/// How often, and for how long.
pub(crate) struct Plan {
    pub(crate) runs: usize,
    pub(crate) seconds: f64,
}

/// One run of each.
pub(crate) struct Pair {
    pub(crate) ours: Outcome,
    /// `None` where there is nothing to compare with.
    pub(crate) raw: Option<Outcome>,
}

pub(crate) fn measure(case: &Case, plan: &Plan) -> Result<Vec<Pair>, String> {
    let pair = |_| {
        let ours = run(case, Stack::Macula, plan.seconds)?;
        let raw = match case.load {
            Load::Idle => None,
            _ => Some(run(case, Stack::Raw, plan.seconds)?),
        };
        Ok(Pair { ours, raw })
    };
    (0..plan.runs).map(pair).collect()
}

fn run(case: &Case, stack: Stack, seconds: f64) -> Result<Outcome, String> {
    let text = serde_json::to_string(case).map_err(|error| error.to_string())?;
    let arguments = |role: &str, more: &[String]| {
        let common = [role, "--case", &text, "--stack", stack.name()].map(str::to_owned);
        [&common, more].concat()
    };
    let sinks = match case.load {
        Load::Publish { subscribers, .. } => subscribers,
        Load::Call { .. } | Load::Idle => 1,
    };
    let mut sinks =
        (0..sinks).map(|_| Child::start(&arguments("sink", &[]))).collect::<Result<Vec<_>, _>>()?;
    let addrs = sinks.iter_mut().map(Child::line).collect::<Result<Vec<_>, _>>()?;
    let mut more: Vec<String> = vec!["--seconds".into(), seconds.to_string()];
    more.extend(addrs.into_iter().flat_map(|addr| ["--to".into(), addr]));
    let mut source = Child::start(&arguments("source", &more))?;
    source.line()?;
    source.go()?;
    let did: SourceDid = source.figures()?;
    let saw = sinks.iter_mut().map(|sink| {
        sink.go()?;
        sink.figures()
    });
    let saw: Vec<SinkSaw> = saw.collect::<Result<_, String>>()?;
    Ok(Outcome::of(case, &did, &saw))
}
