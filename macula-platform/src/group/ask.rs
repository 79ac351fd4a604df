//! Asking the group: whoever leads it, wherever that is.

use std::time::Duration;

use macula_proto::NodeId;
use macula_transport::Transport;

use super::error::CoordinationError;
use super::message::{Outcome, Question, Told};
use super::seat::{Member, Seat};
use super::seen::{Look, Seen};
use crate::LogStore;
use crate::objects::{Answer, Request};

/// How long one node may take to answer, before another is asked.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Who is no member waits so long for an answer before it asks others who leads.
const DOUBT: Duration = Duration::from_millis(200);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest one.
const PAUSE_MAX: Duration = Duration::from_millis(200);

impl<T: Transport, S: LogStore> Seat<T, S> {
    /// Asks whoever leads, again and again until `patience` is over. Only for what may be asked twice.
    pub(crate) async fn ask(
        &self,
        question: Question,
        patience: Duration,
    ) -> Result<Told, CoordinationError> {
        self.need();
        if let Some(group) = self.superseded() {
            let why = format!(
                "it was recovered from a lost quorum without this node, as {group}: to join that, macula_ctl raft abandon"
            );
            return Err(CoordinationError::Unavailable {
                realm: self.realm.clone(),
                waited: Duration::ZERO,
                why,
            });
        }
        let mut last = None;
        let asking = async {
            let mut pause = PAUSE;
            loop {
                let told = self.ask_once(question.clone()).await;
                match told {
                    Ok(told) => match self.judge(told) {
                        Verdict::Answered(told) => return Ok(told),
                        Verdict::Refused(error) => return Err(error),
                        Verdict::Again(why) => last = Some(why),
                        // The one who was named is asked at once.
                        Verdict::Elsewhere => continue,
                    },
                    Err(cause) => last = Some(cause.to_string()),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        if let Ok(answered) = tokio::time::timeout(patience, asking).await {
            return answered;
        }
        let realm = self.realm.clone();
        Err(match self.group_id() {
            None => CoordinationError::NoGroup { realm, waited: patience },
            Some(_) => {
                let why = last.unwrap_or_else(|| "no answer".into());
                CoordinationError::Unavailable { realm, waited: patience, why }
            }
        })
    }

    async fn ask_once(&self, question: Question) -> Result<Told, CoordinationError> {
        let (me, ask) = (self.me(), self.question(question));
        let target = self.target();
        let asking = async {
            match target {
                Some(node) if node != me => self.ask_node(node, &ask).await,
                Some(_) => Ok(self.answer(me, ask).await),
                None => Err(CoordinationError::NoGroup { realm: self.realm.clone(), waited: Duration::ZERO }),
            }
        };
        // Another leader is heard of long before it is sure that the one that was asked is dead.
        let another_leads = async {
            // Who has not been let in yet is told no more than who is no member.
            let let_in = |member: &Member<S>| !member.group.status().voters.is_empty();
            let Some(member) = self.member().filter(let_in) else {
                return self.until_told_of_another(target).await;
            };
            let mut roles = member.group.roles();
            loop {
                let leader = member.group.status().leader.map(|leader| leader.node);
                if leader.is_some() && leader != target {
                    return;
                }
                if !roles.changed().await {
                    return std::future::pending().await;
                }
            }
        };
        let asking = async {
            tokio::select! {
                answered = asking => answered,
                () = another_leads => {
                    let why = "another leader was elected meanwhile".into();
                    Err(CoordinationError::Unavailable { realm: self.realm.clone(), waited: Duration::ZERO, why })
                }
            }
        };
        let answered = tokio::time::timeout(ANSWER_MAX, asking).await;
        let answered = answered.unwrap_or_else(|_| {
            let why = "the node that was asked did not answer".into();
            Err(CoordinationError::Unavailable { realm: self.realm.clone(), waited: ANSWER_MAX, why })
        });
        if answered.is_err()
            && self.known().and_then(|known| known.leader).map(|leader| leader.node) == target
        {
            self.forget_leader();
        }
        answered
    }

    /// Asks the other voters now and then, as nobody tells who is no member: returns when one names another leader than this.
    async fn until_told_of_another(&self, asked: Option<NodeId>) {
        loop {
            tokio::time::sleep(DOUBT).await;
            let voters = self.known().map(|known| known.voters).unwrap_or_default();
            let others: Vec<_> =
                voters.iter().map(|voter| voter.node).filter(|node| Some(*node) != asked).collect();
            let Some(other) = self.sample(&others, 1).pop() else { continue };
            let question = self.question(Question::Where);
            let told = tokio::time::timeout(DOUBT, self.ask_node(other, &question)).await;
            if let Ok(Ok(Told { leader: Some(leader), .. })) = told
                && Some(leader.node) != asked
            {
                return;
            }
        }
    }

    /// Whom to ask: the leader, if it is known, else any voter.
    fn target(&self) -> Option<NodeId> {
        if let Some(member) = self.member() {
            let status = member.group.status();
            if let Some(leader) = status.leader {
                return Some(leader.node);
            }
            // A member without a leader knows no better than the others; one that was not let in yet knows nobody.
            let voters: Vec<_> = status.voters.into_iter().map(|voter| voter.node).collect();
            if let Some(voter) = self.sample(&voters, 1).pop() {
                return Some(voter);
            }
        }
        let known = self.known()?;
        let gone = |node: &NodeId| self.around.peers.is_gone(node);
        let leader = known.leader.map(|leader| leader.node).filter(|node| !gone(node));
        let living: Vec<_> = known.voters.iter().map(|voter| voter.node).filter(|node| !gone(node)).collect();
        leader.or_else(|| self.sample(&living, 1).pop()).or_else(|| {
            // All that were told of are gone: whoever is around may know more.
            self.forget_known();
            None
        })
    }

    fn judge(&self, told: Told) -> Verdict {
        match told.outcome {
            Outcome::Done => Verdict::Answered(told),
            Outcome::NotLeader => {
                let named = told.leader.map(|leader| leader.node);
                if named.is_some() && named == self.target() && named != Some(self.me()) {
                    return Verdict::Elsewhere;
                }
                Verdict::Again("nobody leads the group".into())
            }
            Outcome::NoGroup | Outcome::OtherGroup => {
                self.forget_known();
                Verdict::Again("the node that was asked is not in the group".into())
            }
            Outcome::Unknown => Verdict::Again("its leader changed meanwhile".into()),
            Outcome::NoQuorum => Verdict::Again("a majority of its voters did not answer".into()),
            Outcome::Forbidden => Verdict::Refused(CoordinationError::Forbidden(told.text)),
            Outcome::Failed => Verdict::Refused(CoordinationError::Unwilling(told.text)),
            Outcome::BadQuestion | Outcome::Unspecified => {
                Verdict::Refused(CoordinationError::Protocol(told.text))
            }
        }
    }

    /// Has something done.
    pub(crate) async fn request(
        &self,
        request: Request,
        patience: Duration,
    ) -> Result<Answer, CoordinationError> {
        let told = self.ask(Question::Request(request), patience).await?;
        let answer =
            Answer::decode(told.answer).map_err(|cause| CoordinationError::Protocol(cause.to_string()))?;
        Ok(answer.granted()?)
    }

    /// Looks at the objects, as they are now.
    pub(crate) async fn look(&self, look: Look, patience: Duration) -> Result<Seen, CoordinationError> {
        let told = self.ask(Question::Look(look), patience).await?;
        told.seen().map_err(|cause| CoordinationError::Protocol(cause.to_string()))
    }
}

/// What to do with an answer.
enum Verdict {
    Answered(Told),
    Refused(CoordinationError),
    /// Ask again, after a pause.
    Again(String),
    /// Ask the one who was named.
    Elsewhere,
}
