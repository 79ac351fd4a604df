//! The simulator's command line; `cargo xtask sim` calls it.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use macula_sim::{Outcome, Scenario, Setting, scenario, sweep};

/// A year and a half.
const MINUTES_MAX: f64 = 1e6;

/// Runs scenarios over many nodes in one process, each run decided by its seed.
#[derive(Parser)]
#[command(name = "cargo xtask sim", after_help = scenarios())]
struct Arguments {
    /// How many nodes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    nodes: u32,
    /// The source of all chance
    #[arg(long, default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Many seeds, one after the other: 1..21 are twenty
    #[arg(long, value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// So many runs at a time
    #[arg(long, default_value = "1")]
    jobs: NonZeroUsize,
    /// What happens; all scenarios unless one is named
    #[arg(long, value_parser = named)]
    scenario: Option<Scenario>,
    /// How long the scenario's main part lasts, in simulated minutes
    #[arg(long, value_parser = minutes)]
    minutes: Option<f64>,
    /// Encode and decode every message on its way (slower, and takes more memory)
    #[arg(long)]
    codec: bool,
    /// Print all figures as tables in Markdown, to be compared with another day's
    #[arg(long)]
    report: bool,
    /// Write them to a file as well
    #[arg(long, value_name = "FILE", requires = "report")]
    out: Option<PathBuf>,
    /// Measure a curve instead, and write it as NAME.csv and NAME.svg: dht-cost or swim-cost (up to so many
    /// nodes), dht-liars
    #[arg(long, value_name = "NAME", conflicts_with_all = ["scenario", "seeds", "minutes"])]
    curve: Option<String>,
    /// The directory that a curve is written to
    #[arg(long, value_name = "DIR", default_value = ".", requires = "curve")]
    into: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.curve {
        return curve(name, &arguments);
    }
    let chosen = arguments.scenario.map_or(scenario::ALL.to_vec(), |scenario| vec![scenario]);
    let seeds = arguments.seeds.unwrap_or(arguments.seed..arguments.seed + 1);
    let span = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let setting = |seed| Setting { nodes: arguments.nodes, seed, span, through_codec: arguments.codec };
    let runs: Vec<_> =
        seeds.flat_map(|seed| chosen.iter().map(move |scenario| (*scenario, setting(seed)))).collect();
    let mut outcomes = Vec::new();
    sweep(&runs, arguments.jobs, |outcome| {
        // A report is printed as a whole; meanwhile it shows how far it is.
        if arguments.report {
            let (scenario, seed) = (outcome.scenario, outcome.setting.seed);
            eprintln!("{scenario}, seed {seed}: {} broken", outcome.violations.len());
        } else {
            println!("{outcome}");
        }
        outcomes.push(outcome);
    });
    if arguments.report
        && let Err(cause) = print_report(&outcomes, arguments.out.as_deref())
    {
        eprintln!("error: the report cannot be written: {cause}");
        return ExitCode::FAILURE;
    }
    verdict(&outcomes)
}

fn print_report(outcomes: &[Outcome], file: Option<&Path>) -> std::io::Result<()> {
    let report = scenario::report(outcomes);
    print!("{report}");
    file.map_or(Ok(()), |file| std::fs::write(file, report))
}

/// Says on the error output, which a report leaves free, whether a rule was broken.
fn verdict(outcomes: &[Outcome]) -> ExitCode {
    let runs = outcomes.len();
    let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).collect();
    if broken.is_empty() {
        eprintln!("sim: {runs} runs, nothing broken");
        return ExitCode::SUCCESS;
    }
    eprintln!("sim: {} of {runs} runs broke a rule; they do it again with", broken.len());
    broken.iter().for_each(|outcome| eprintln!("  {}", outcome.command()));
    ExitCode::FAILURE
}

fn curve(name: &str, arguments: &Arguments) -> ExitCode {
    let Arguments { nodes, seed, codec, into, .. } = arguments;
    let setting = Setting { nodes: *nodes, seed: *seed, span: None, through_codec: *codec };
    let Some(curve) = scenario::curve(name, setting) else {
        eprintln!("error: there is no curve `{name}`");
        return ExitCode::FAILURE;
    };
    print!("{}", curve.to_csv());
    let written = std::fs::create_dir_all(into).and_then(|()| {
        std::fs::write(into.join(format!("{name}.csv")), curve.to_csv())?;
        std::fs::write(into.join(format!("{name}.svg")), curve.to_svg())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("error: the curve cannot be written to {}: {cause}", into.display());
            ExitCode::FAILURE
        }
    }
}

fn named(name: &str) -> Result<Scenario, String> {
    let names: Vec<_> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    scenario::named(name).ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is no range of seeds such as 1..21");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let (Ok(first), Ok(end)) = (first.parse(), end.parse()) else { return Err(wrong()) };
    if first < end { Ok(first..end) } else { Err(wrong()) }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| (0.0..=MINUTES_MAX).contains(minutes));
    minutes.ok_or_else(|| format!("`{text}` is no number of minutes from 0 to {MINUTES_MAX}"))
}

fn scenarios() -> String {
    let lines = scenario::ALL.iter().map(|scenario| format!("  {:<10} {}", scenario.name, scenario.about));
    format!("Scenarios:\n{}", lines.collect::<Vec<_>>().join("\n"))
}
