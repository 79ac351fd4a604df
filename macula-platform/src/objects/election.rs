//! Elections: who leads, and who waits to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::answer::{Answer, Ended, Refusal, Standing};
use super::change::{Change, Leader};
use super::limits::Bounded;
use super::machine::Step;
use super::names::ElectionName;
use super::place::{FencingToken, RequestId, SessionId};
use super::session::Sessions;
use super::usage::within;
use super::window::Noted;

/// All elections that somebody is in. One that nobody is in takes no memory: tokens are places in the log, and so
/// grow without it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Elections {
    pub(super) by_name: BTreeMap<ElectionName, Box<Election>>,
}

/// An election that somebody leads.
///
/// ```text
///            campaign              the leader resigns, or its session ends
///  nobody ─────────────▶ led ──────────────────────────────────────────────┐
///    ▲                    ▲ └── campaign: one more waits                   │
///    │                    │                                                ▼
///    │                    └───── the first in line is granted ◀── does somebody wait?
///    └──────────────────────────────────────────────────────────── no ─────┘
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Election {
    pub(super) token: FencingToken,
    pub(super) leader: Candidate,
    /// In a box of its own, because most elections have nobody there.
    pub(super) line: Option<Box<Line>>,
}

/// Those who wait, the first in front; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line(pub(super) VecDeque<Candidate>);

/// Who campaigns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub(super) session: SessionId,
    /// The last campaign.
    pub(super) request: RequestId,
    pub(super) value: Box<[u8]>,
}

impl Election {
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Candidate> {
        self.line.iter().flat_map(|line| &line.0)
    }

    /// The line of those who wait.
    pub(super) fn line_of(waiting: VecDeque<Candidate>) -> Option<Box<Line>> {
        if waiting.is_empty() { None } else { Some(Box::new(Line(waiting))) }
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.0.len())
    }

    fn candidate_mut(&mut self, session: SessionId) -> Option<&mut Candidate> {
        let waiting = self.line.iter_mut().flat_map(|line| &mut line.0);
        std::iter::once(&mut self.leader).chain(waiting).find(|candidate| candidate.session == session)
    }

    fn standing(&self, session: SessionId) -> Standing {
        if self.leader.session == session {
            return Standing::Granted(self.token);
        }
        let ahead = self.waiting().take_while(|candidate| candidate.session != session).count();
        Standing::Waiting { ahead: ahead as u64 }
    }

    fn push(&mut self, candidate: Candidate) {
        let line = self.line.get_or_insert_with(|| Box::new(Line(VecDeque::new())));
        line.0.push_back(candidate);
    }

    /// Takes out of the line whomever `gone` says.
    fn retain(&mut self, mut stays: impl FnMut(&Candidate) -> bool) {
        if let Some(line) = &mut self.line {
            line.0.retain(|candidate| stays(candidate));
        }
        self.line.take_if(|line| line.0.is_empty());
    }

    fn next(&mut self) -> Option<Candidate> {
        let next = self.line.as_mut()?.0.pop_front();
        self.line.take_if(|line| line.0.is_empty());
        next
    }

    pub(super) fn leader(&self, sessions: &Sessions) -> Option<Leader> {
        let Candidate { session, value, .. } = &self.leader;
        let owner = sessions.owner(*session)?;
        Some(Leader { session: *session, owner, value: Bytes::copy_from_slice(value), token: self.token })
    }
}

impl Elections {
    pub(super) fn campaign(
        &mut self,
        step: &mut Step<'_>,
        name: ElectionName,
        candidate: Candidate,
    ) -> Result<Answer, Refusal> {
        let mine = step.sessions.of(candidate.session, step.by)?;
        let noted = mine.window.note(candidate.request);
        let is_candidate = mine.elections.contains(&name);
        match (noted, self.by_name.get_mut(&name).filter(|_| is_candidate)) {
            (Noted::New, None) => self.enter(step, name, candidate),
            (Noted::New, Some(election)) => change_value(step, name, election, candidate),
            (Noted::Again | Noted::Late, Some(election)) => {
                Ok(Answer::Standing(election.standing(candidate.session)))
            }
            (Noted::Again, None) => Err(Refusal::RequestOver(candidate.request)),
            (Noted::Late, None) => Err(Refusal::RequestLate(candidate.request)),
        }
    }

    fn enter(
        &mut self,
        step: &mut Step<'_>,
        name: ElectionName,
        candidate: Candidate,
    ) -> Result<Answer, Refusal> {
        let there = self.by_name.get(&name).map_or(0, |election| 1 + election.waiting_count());
        within(Bounded::Candidates, there + 1, step.limits.candidates)?;
        step.sessions.usage.take_place(step.by, candidate.value.len(), step.limits)?;
        // All who know the name share its memory.
        let name = self.by_name.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        let session = candidate.session;
        step.sessions.of(session, step.by)?.elections.insert(name.clone());
        if let Some(election) = self.by_name.get_mut(&name) {
            election.push(candidate);
            return Ok(Answer::Standing(election.standing(session)));
        }
        let election = Election { token: step.token, leader: candidate, line: None };
        tell(step, &name, Some(&election));
        self.by_name.insert(name, Box::new(election));
        Ok(Answer::Standing(Standing::Granted(step.token)))
    }

    pub(super) fn resign(
        &mut self,
        step: &mut Step<'_>,
        session: SessionId,
        name: &ElectionName,
        campaign: RequestId,
    ) -> Result<Answer, Refusal> {
        let mine = step.sessions.of(session, step.by)?;
        // A campaign with this number that is still under way must not begin anew what ends here.
        mine.window.note(campaign);
        let election = self.by_name.get_mut(name).filter(|_| mine.elections.contains(name));
        let Some(election) = election else { return Ok(Answer::Ended(Ended::Nothing)) };
        let led = election.leader.session == session;
        if election.candidate_mut(session).is_none_or(|candidate| candidate.request > campaign) {
            return Ok(Answer::Ended(Ended::Nothing));
        }
        mine.elections.remove(name);
        self.remove(step, name, |candidate| candidate == session);
        Ok(Answer::Ended(if led { Ended::Held } else { Ended::Waited }))
    }

    /// Takes all sessions in `gone` out of all elections that they are in.
    pub(super) fn end(&mut self, step: &mut Step<'_>, gone: &BTreeSet<SessionId>) {
        let of_session = |id| step.sessions.open.get(id).map(|session| &session.elections);
        let names: BTreeSet<ElectionName> = gone.iter().filter_map(of_session).flatten().cloned().collect();
        for name in names {
            self.remove(step, &name, |session| gone.contains(&session));
        }
    }

    fn remove(&mut self, step: &mut Step<'_>, name: &ElectionName, gone: impl Fn(SessionId) -> bool) {
        let Some(election) = self.by_name.get_mut(name) else { return };
        election.retain(|candidate| {
            let stays = !gone(candidate.session);
            if !stays {
                step.sessions.free_place(candidate.session, candidate.value.len());
            }
            stays
        });
        if !gone(election.leader.session) {
            return;
        }
        step.sessions.free_place(election.leader.session, election.leader.value.len());
        match election.next() {
            Some(next) => {
                (election.leader, election.token) = (next, step.token);
                tell(step, name, Some(election));
            }
            None => {
                self.by_name.remove(name);
                tell(step, name, None);
            }
        }
    }
}

fn change_value(
    step: &mut Step<'_>,
    name: ElectionName,
    election: &mut Election,
    wanted: Candidate,
) -> Result<Answer, Refusal> {
    let session = wanted.session;
    let standing = Answer::Standing(election.standing(session));
    let leads = election.leader.session == session;
    let Some(candidate) = election.candidate_mut(session) else { return Ok(standing) };
    let bytes = (candidate.value.len(), wanted.value.len());
    step.sessions.usage.change_value(step.by, bytes, step.limits)?;
    let changed = candidate.value != wanted.value;
    candidate.value = wanted.value;
    candidate.request = candidate.request.max(wanted.request);
    if leads && changed {
        tell(step, &name, Some(election));
    }
    Ok(standing)
}

fn tell(step: &mut Step<'_>, name: &ElectionName, election: Option<&Election>) {
    let leader = election.and_then(|election| election.leader(step.sessions));
    step.out.changes.push(Change::Election { at: step.token.index, election: name.clone(), leader });
}
