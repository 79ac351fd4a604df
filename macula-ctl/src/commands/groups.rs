//! Groups, elections, locks and logs.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use macula_console::api::{
    Abandoned, Append, Appended, Election, ElectionEvent, Group, InRealm, Lock, LockEvent, Log, LogEntry,
    Manage, Payload, Recover, Recovered,
};
use serde_json::{Value, json};

use super::inspect::{list, short};
use super::messages::{in_realm, query, shown};
use crate::cli::{self, ElectionCommand, Format, LockCommand, LogCommand, RaftCommand};
use crate::client::Client;
use crate::daemon;
use crate::error::CliError;
use crate::output::{self, Row};

pub(crate) async fn raft(client: &Client, format: Format, command: RaftCommand) -> Result<(), CliError> {
    let manage = |realm: Option<String>| Manage { realm, ..Manage::default() };
    let change = match command {
        RaftCommand::Status => return list::<Group>(client, format, "/v1/groups").await,
        RaftCommand::Members { realm } => return members(client, format, realm.as_deref()).await,
        RaftCommand::Add { id, realm } => Manage { add: Some(id), ..manage(realm) },
        RaftCommand::Remove { id, realm } => Manage { remove: Some(id), ..manage(realm) },
        RaftCommand::Transfer { id, realm } => {
            Manage { transfer: Some(id.unwrap_or_else(|| "any".into())), ..manage(realm) }
        }
        RaftCommand::Recover { group, realm, yes, force } => {
            return recover(client, format, group, yes, Recover { realm, force }).await;
        }
        RaftCommand::Abandon { realm } => {
            let abandoned: Abandoned =
                client.send(Method::POST, "/v1/groups/abandon", &InRealm { realm }).await?;
            output::say(&format!("this node is no member of group {} any more", abandoned.group));
            return Ok(());
        }
    };
    let _: Value = client.send(Method::POST, "/v1/groups/manage", &change).await?;
    output::say("done");
    Ok(())
}

/// Asks the operator, unless told not to, and has the node recover its group.
async fn recover(
    client: &Client,
    format: Format,
    group: Option<String>,
    yes: bool,
    request: Recover,
) -> Result<(), CliError> {
    let groups: Vec<Group> = client.get("/v1/groups").await?;
    let is_asked = |group: &&Group| request.realm.as_ref().is_none_or(|realm| group.realm == *realm);
    let found = groups.iter().find(is_asked);
    let (known, applied) =
        (found.and_then(|found| found.group.clone()), found.and_then(|found| found.applied));
    if group.is_some() && group != known {
        return Err(CliError::Usage {
            message: format!(
                "the node's group is {}, not the one that was named",
                known.unwrap_or("none".into())
            ),
            hint: "`macula_ctl raft status` shows it".into(),
        });
    }
    if !yes {
        let known = known.as_deref().unwrap_or("of this realm");
        let applied = applied.map_or_else(|| "nothing".into(), |applied| format!("command {applied}"));
        output::say(&format!(
            "group {known} becomes a group of this node alone, which has applied {applied}. What only the other voters had \
             is lost, and they must be down for good: one that comes back has to be told `raft abandon`. Go on? [yes/no]"
        ));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(CliError::io("stdin"))?;
        if answer.trim() != "yes" {
            return Err(CliError::Usage {
                message: "not confirmed: nothing was done".into(),
                hint: "answer `yes`, or give --yes".into(),
            });
        }
    }
    let recovered: Recovered = client.send(Method::POST, "/v1/groups/recover", &request).await?;
    output::one(format, &recovered, || {
        format!(
            "group {} is now {}, of this node alone, with all up to command {} ({} of them not known to be committed). Logs take \
             entries; elections and locks are granted again in a minute, with tokens from {}.0 on. Nodes that join become voters",
            recovered.replaced, recovered.group, recovered.last, recovered.uncertain, recovered.epoch
        )
    })
}

/// One member of a group.
#[derive(serde::Serialize)]
struct Member {
    node: String,
    role: &'static str,
}

async fn members(client: &Client, format: Format, realm: Option<&str>) -> Result<(), CliError> {
    let groups: Vec<Group> = client.get("/v1/groups").await?;
    let is_asked = |group: &&Group| realm.is_none_or(|realm| group.realm == realm);
    let group = groups.iter().find(is_asked);
    let mut members = Vec::new();
    for group in group.into_iter() {
        let role = |node: &String| if group.leader.as_ref() == Some(node) { "leader" } else { "voter" };
        members.extend(group.voters.iter().map(|node| Member { node: node.clone(), role: role(node) }));
        members.extend(group.learners.iter().map(|node| Member { node: node.clone(), role: "learner" }));
    }
    output::rows(format, &members)
}

pub(crate) async fn election(
    client: &Client,
    format: Format,
    command: ElectionCommand,
) -> Result<(), CliError> {
    match command {
        ElectionCommand::List { realm } => {
            list::<Election>(client, format, &format!("/v1/elections?{}", only_realm(realm.as_deref()))).await
        }
        ElectionCommand::Observe(named) => {
            let path = format!(
                "/v1/elections/observe?name={}{}",
                query(&named.name),
                in_realm(named.realm.as_deref())
            );
            follow(client, format, &path).await
        }
        ElectionCommand::Campaign { named, value } => {
            let realm = in_realm(named.realm.as_deref());
            let path =
                format!("/v1/elections/campaign?name={}&value={}{realm}", query(&named.name), query(&value));
            follow(client, format, &path).await
        }
        ElectionCommand::Resign(named) => {
            let body = json!({ "name": named.name, "realm": named.realm });
            let _: Value = client.send(Method::POST, "/v1/elections/resign", &body).await?;
            output::say("this node stands for the election no more");
            Ok(())
        }
    }
}

/// `realm=…`, where it is the first of a query.
fn only_realm(realm: Option<&str>) -> String {
    in_realm(realm).trim_start_matches('&').to_owned()
}

/// Prints the views of an election until Ctrl-C.
async fn follow(client: &Client, format: Format, path: &str) -> Result<(), CliError> {
    let mut views = client.lines(Method::GET, path).await?;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    loop {
        let event = tokio::select! {
            event = views.next::<ElectionEvent>() => event?.ok_or_else(CliError::stopped)?,
            outcome = &mut told_to_stop => return outcome,
        };
        match &event {
            ElectionEvent::Failed(error) => return Err(CliError::Node(error.clone())),
            _ if format != Format::Table => output::line(&event)?,
            ElectionEvent::View { is_leader, leader, value, token } => {
                let value = value.as_ref().map(shown).unwrap_or_default();
                let line = match (is_leader, leader) {
                    (true, _) => format!("this node leads, token {}", token.as_deref().unwrap_or_default()),
                    (false, Some(leader)) => format!("{} leads  {value}", short(leader)),
                    (false, None) => "nobody leads".into(),
                };
                output::print(&output::one_line(line.trim_end()))?;
            }
        }
    }
}

pub(crate) async fn lock(client: &Client, format: Format, command: LockCommand) -> Result<(), CliError> {
    match command {
        LockCommand::List { realm } => {
            list::<Lock>(client, format, &format!("/v1/locks?{}", only_realm(realm.as_deref()))).await
        }
        LockCommand::Run(args) => run(client, args).await,
    }
}

/// Runs a program while the lock is held. It is told the fencing token, and stopped when the lock is lost.
async fn run(client: &Client, args: cli::LockRun) -> Result<(), CliError> {
    let mut path = format!("/v1/locks/hold?name={}&shared={}", query(&args.name), args.shared);
    path.push_str(&in_realm(args.realm.as_deref()));
    let wait = if args.at_once { Some(Duration::ZERO) } else { args.wait };
    if let Some(wait) = wait {
        path.push_str(&format!("&wait_ms={}", wait.as_millis()));
    }
    let mut events = client.lines(Method::GET, &path).await?;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    let first = tokio::select! {
        event = events.next::<LockEvent>() => event?.ok_or_else(CliError::stopped)?,
        outcome = &mut told_to_stop => return outcome,
    };
    let token = match first {
        LockEvent::Held { token } => token,
        LockEvent::Failed(error) => return Err(CliError::Node(error)),
        LockEvent::Lost => return Err(CliError::Program("the lock was lost before it was held".into())),
    };
    let (program, arguments) = args.command.split_first().ok_or_else(|| CliError::Usage {
        message: "no program to run".into(),
        hint: "give it after `--`, as in `macula_ctl lock run NAME -- ./job.sh`".into(),
    })?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("MACULA_LOCK_TOKEN", &token)
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| CliError::Usage {
            message: format!("{program}: {error}"),
            hint: "give a program that can be run after `--`".into(),
        })?;
    tokio::select! {
        status = child.wait() => {
            let status = status.map_err(|error| CliError::Broken(format!("{program}: {error}")))?;
            if status.success() {
                return Ok(());
            }
            Err(CliError::Program(format!("{program}: {status}")))
        }
        lost = events.next::<LockEvent>() => {
            let _ = child.kill().await;
            lost?;
            Err(CliError::Program(format!("the lock was lost, so {program} was killed")))
        }
        outcome = &mut told_to_stop => {
            let _ = child.kill().await;
            outcome
        }
    }
}

pub(crate) async fn log(client: &Client, format: Format, command: LogCommand) -> Result<(), CliError> {
    match command {
        LogCommand::List { realm } => {
            list::<Log>(client, format, &format!("/v1/logs?{}", only_realm(realm.as_deref()))).await
        }
        LogCommand::Append { named, entries } => append(client, format, named, entries).await,
        LogCommand::Read { named, from } => {
            let realm = in_realm(named.realm.as_deref());
            let path = format!("/v1/logs/read?name={}&from={from}{realm}", query(&named.name));
            list::<LogEntry>(client, format, &path).await
        }
        LogCommand::Tail { named, from } => {
            let realm = in_realm(named.realm.as_deref());
            tail(client, format, &format!("/v1/logs/tail?name={}&from={from}{realm}", query(&named.name)))
                .await
        }
    }
}

async fn append(
    client: &Client,
    format: Format,
    named: cli::Named,
    entries: Vec<String>,
) -> Result<(), CliError> {
    let entries = if entries.is_empty() {
        let mut input = String::new();
        std::io::stdin()
            .read_to_string(&mut input)
            .map_err(|error| CliError::Broken(format!("stdin: {error}")))?;
        input.lines().map(str::to_owned).collect()
    } else {
        entries
    };
    let entries = entries.iter().map(|entry| Payload::show(entry.as_bytes(), "")).collect();
    let body = Append { log: named.name, realm: named.realm, entries };
    let appended: Appended = client.send(Method::POST, "/v1/logs/append", &body).await?;
    output::one(format, &appended, || match appended.count {
        1 => format!("appended at offset {}", appended.first),
        count => format!("appended {count} entries at offset {}", appended.first),
    })
}

async fn tail(client: &Client, format: Format, path: &str) -> Result<(), CliError> {
    let mut entries = client.lines(Method::GET, path).await?;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    loop {
        let entry = tokio::select! {
            entry = entries.next::<LogEntry>() => entry?.ok_or_else(CliError::stopped)?,
            outcome = &mut told_to_stop => return outcome,
        };
        if format == Format::Table {
            output::print(&output::one_line(&format!("{}  {}", entry.offset, shown(&entry.entry))))?;
        } else {
            output::line(&entry)?;
        }
    }
}

impl Row for Group {
    const COLUMNS: &'static [&'static str] =
        &["realm", "group", "role", "leader", "voters", "applied", "other group"];

    fn cells(&self) -> Vec<String> {
        let voters: Vec<_> = self.voters.iter().map(|voter| short(voter)).collect();
        vec![
            self.realm.clone(),
            self.group.clone().unwrap_or_else(|| "none yet".into()),
            match &self.stopped {
                Some(why) => format!("stopped: {why}"),
                None if self.recovering => format!("{}, recovering", self.role),
                None => self.role.clone(),
            },
            self.leader.as_deref().map(short).unwrap_or_default(),
            voters.join(","),
            self.applied.map(|applied| applied.to_string()).unwrap_or_default(),
            self.foreign
                .as_ref()
                .map(|foreign| {
                    let at = format!("{} at {}", foreign.group, short(&foreign.node));
                    match foreign.kinship.as_str() {
                        "older" => format!("{at}: it was recovered as this one, and must be abandoned there"),
                        "newer" => {
                            format!("{at}: this one was recovered as that, and must be abandoned here")
                        }
                        _ => format!("{at}: one must be abandoned"),
                    }
                })
                .unwrap_or_default(),
        ]
    }
}

impl Row for Member {
    const COLUMNS: &'static [&'static str] = &["node", "role"];

    fn cells(&self) -> Vec<String> {
        vec![self.node.clone(), self.role.into()]
    }
}

impl Row for Election {
    const COLUMNS: &'static [&'static str] = &["election", "leader", "value", "token", "waiting"];

    fn cells(&self) -> Vec<String> {
        let (value, waiting) = (shown(&self.value), self.waiting.to_string());
        vec![self.election.clone(), short(&self.leader), value, self.token.clone(), waiting]
    }
}

impl Row for Lock {
    const COLUMNS: &'static [&'static str] = &["lock", "mode", "holders", "waiting"];

    fn cells(&self) -> Vec<String> {
        vec![self.lock.clone(), self.mode.clone(), self.holders.to_string(), self.waiting.to_string()]
    }
}

impl Row for Log {
    const COLUMNS: &'static [&'static str] = &["log", "first", "next", "bytes"];

    fn cells(&self) -> Vec<String> {
        vec![self.log.clone(), self.first.to_string(), self.next.to_string(), self.bytes.to_string()]
    }
}

impl Row for LogEntry {
    const COLUMNS: &'static [&'static str] = &["offset", "entry"];

    fn cells(&self) -> Vec<String> {
        vec![self.offset.to_string(), shown(&self.entry)]
    }
}
