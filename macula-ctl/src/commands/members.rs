//! `members`: who is there, and who comes and goes.

use hyper::Method;
use macula_console::api::{Member, MemberEvent};

use super::inspect::{list, short};
use crate::cli::{self, Format};
use crate::client::Client;
use crate::daemon;
use crate::error::CliError;
use crate::output::{self, Row, span};

pub(crate) async fn members(client: &Client, format: Format, args: &cli::Members) -> Result<(), CliError> {
    match args {
        cli::Members { watch: true, .. } => watch(client, format).await,
        cli::Members { all: true, .. } => list::<Member>(client, format, "/v1/members?all=true").await,
        _ => list::<Member>(client, format, "/v1/members").await,
    }
}

async fn watch(client: &Client, format: Format) -> Result<(), CliError> {
    let mut events = client.lines(Method::GET, "/v1/members/events").await?;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    let mut begun = false;
    loop {
        let event = tokio::select! {
            event = events.next::<MemberEvent>() => event?.ok_or_else(CliError::stopped)?,
            outcome = &mut told_to_stop => return outcome,
        };
        match (&event, format) {
            (_, Format::Json | Format::Ndjson) => output::line(&event)?,
            (MemberEvent::Members { members }, Format::Table) => output::rows(format, members)?,
            (MemberEvent::Lagged { lost }, Format::Table) => {
                output::say(&format!(
                    "{} lost: too slow; these are the members now",
                    output::count(*lost, "change")
                ));
            }
            (event, Format::Table) => output::print(&output::one_line(&line(event)))?,
        }
        if !begun {
            output::say("watching the members; Ctrl-C ends it");
            begun = true;
        }
    }
}

/// A change as people read it.
fn line(event: &MemberEvent) -> String {
    let (what, member) = match event {
        MemberEvent::Joined(member) => ("joined", member),
        MemberEvent::Suspected(member) => ("suspected", member),
        MemberEvent::Refuted(member) => ("refuted", member),
        MemberEvent::Confirmed(member) => ("confirmed dead", member),
        MemberEvent::Left(member) => ("left", member),
        MemberEvent::Updated(member) => ("updated", member),
        MemberEvent::Members { .. } | MemberEvent::Lagged { .. } => return String::new(),
    };
    let address = member.addrs.first().map_or("-", String::as_str);
    format!("{what:<14}  {}  {address}  {}", named(member), tags(member)).trim_end().to_owned()
}

fn named(member: &Member) -> String {
    format!("{}{}", short(&member.id), if member.is_self { " (this node)" } else { "" })
}

fn tags(member: &Member) -> String {
    let tags: Vec<_> = member.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    tags.join(",")
}

impl Row for Member {
    const COLUMNS: &'static [&'static str] = &["id", "address", "state", "incarnation", "since", "tags"];

    fn cells(&self) -> Vec<String> {
        vec![
            named(self),
            self.addrs.first().cloned().unwrap_or_default(),
            self.state.clone(),
            self.incarnation.to_string(),
            span(self.since_s),
            tags(self),
        ]
    }
}
