//! Requests and responses, and their wire form.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{
    Contact, ContactError, Frame, FrameKind, IdError, Key, NodeId, ProtoError, UnixMillis, wire,
};
use prost::Message as _;

use super::store::Refusal;

/// Most records in one store or notify.
pub(super) const BATCH_RECORDS_MAX: usize = 32;

/// Most bytes of records in one message: the header limit, less contacts.
pub(super) const RECORDS_BYTES_MAX: usize = 52 * 1024;

/// Most watcher ids of each sort in a `Stored`.
pub(super) const WATCHER_IDS_MAX: usize = 700;

/// Most contacts that are read from an answer.
const CONTACTS_MAX: usize = 64;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The closest contacts to a key, and its records if asked for.
    Find(Find),
    /// Hold these records. They are not checked yet.
    Store(Vec<wire::Signed>),
    /// These records changed at keys that the receiver watches. They are not checked yet.
    Notify(Vec<wire::Signed>),
}

/// See [`Request::Find`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Find {
    /// Near what.
    pub key: Key,
    /// Whether records are wanted.
    pub records: bool,
    /// Push changes to the asker for so long.
    pub watch: Option<Duration>,
    /// The next page: only records of announcers after this one.
    pub after: Option<NodeId>,
}

/// What the other answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a find.
    Found(Findings),
    /// To a store.
    Stored(Stored),
    /// To a notify: the changes are visible. The keys listed are not watched any more.
    Notified(Vec<Key>),
}

/// See [`Response::Found`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Closest first.
    pub contacts: Vec<Contact>,
    /// Records and withdrawals, not checked yet.
    pub records: Vec<wire::Signed>,
    /// Live records that the holder has.
    pub estimate: usize,
    /// There are further pages.
    pub more: bool,
    /// The watch is registered.
    pub watching: bool,
    /// What time it is for the sender; 0 if it does not say.
    pub unix: UnixMillis,
}

/// See [`Response::Stored`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// For each record, in order.
    pub outcomes: Vec<StoreOutcome>,
    /// Watchers that acknowledged a change.
    pub told: Vec<NodeId>,
    /// Watchers that did not in time.
    pub lapsed: Vec<NodeId>,
}

/// What became of one record at one holder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreOutcome {
    /// Why it is not stored.
    pub refusal: Option<Refusal>,
    /// If it was outdated: the newer one.
    pub newer: Option<wire::Signed>,
}

/// Why a frame is no request or response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The frame is of a kind that does not belong here.
    #[error("a directory message cannot be a {0} frame")]
    Kind(FrameKind),
    /// The header is not the message.
    #[error("directory message: {0}")]
    Proto(#[from] ProtoError),
    /// An id or a key is none.
    #[error("directory message: {0}")]
    Id(#[from] IdError),
    /// A contact is none.
    #[error("directory message: {0}")]
    Contact(#[from] ContactError),
    /// A list is longer than allowed.
    #[error("directory message: a list of {0} entries is too long")]
    TooMany(usize),
}

impl Request {
    /// The frame that carries it, with the contact of whoever asks.
    ///
    /// # Errors
    /// [`ProtoError`] if it exceeds the frame limits; batches that this crate makes do not.
    pub fn to_frame(&self, sender: &Contact) -> Result<Frame, ProtoError> {
        let sender = Some(sender.to_wire());
        match self {
            Self::Find(find) => {
                let header = wire::DhtFind {
                    sender,
                    key: bytes_of(find.key.as_bytes()),
                    records: find.records,
                    watch_ms: find.watch.map_or(0, millis),
                    after: find.after.map(|id| bytes_of(id.as_bytes())).unwrap_or_default(),
                };
                Frame::new(FrameKind::DHT_FIND, &header, Bytes::new())
            }
            Self::Store(records) => {
                let header = wire::DhtStore { sender, records: records.clone() };
                Frame::new(FrameKind::DHT_STORE, &header, Bytes::new())
            }
            Self::Notify(records) => {
                let header = wire::DhtNotify { sender, records: records.clone() };
                Frame::new(FrameKind::DHT_NOTIFY, &header, Bytes::new())
            }
        }
    }

    /// The size of [its frame](Self::to_frame), in bytes, without making it.
    pub fn wire_len(&self, sender: &Contact) -> usize {
        let sender = field_len(sender.wire_len());
        let (kind, header) = match self {
            Self::Find(find) => {
                let watch = find.watch.map_or(0, millis);
                let watch =
                    if watch == 0 { 0 } else { 1 + prost::encoding::encoded_len_varint(watch.into()) };
                let after = if find.after.is_some() { ID_LEN } else { 0 };
                (FrameKind::DHT_FIND, ID_LEN + 2 * usize::from(find.records) + watch + after)
            }
            Self::Store(records) => (FrameKind::DHT_STORE, records_len(records)),
            Self::Notify(records) => (FrameKind::DHT_NOTIFY, records_len(records)),
        };
        Frame::wire_len_with(kind, sender + header, 0)
    }

    /// Reads a request and the contact of its sender, if it gave one.
    ///
    /// # Errors
    /// The first rule that the frame breaks.
    pub fn from_frame(frame: &Frame) -> Result<(Option<Contact>, Self), MessageError> {
        let contact = |sender: Option<wire::Contact>| {
            sender.map(|sender| Contact::from_wire(Some(&sender))).transpose().map_err(MessageError::from)
        };
        match frame.kind() {
            FrameKind::DHT_FIND => {
                let header: wire::DhtFind = frame.header()?;
                let watch = Duration::from_millis(header.watch_ms.into());
                let after = (!header.after.is_empty()).then(|| NodeId::try_from(header.after.as_ref()));
                let find = Find {
                    key: Key::try_from(header.key.as_ref())?,
                    records: header.records,
                    watch: (!watch.is_zero()).then_some(watch),
                    after: after.transpose()?,
                };
                Ok((contact(header.sender)?, Self::Find(find)))
            }
            FrameKind::DHT_STORE => {
                let header: wire::DhtStore = frame.header()?;
                at_most(header.records.len(), BATCH_RECORDS_MAX)?;
                Ok((contact(header.sender)?, Self::Store(header.records)))
            }
            FrameKind::DHT_NOTIFY => {
                let header: wire::DhtNotify = frame.header()?;
                at_most(header.records.len(), BATCH_RECORDS_MAX)?;
                Ok((contact(header.sender)?, Self::Notify(header.records)))
            }
            other => Err(MessageError::Kind(other)),
        }
    }
}

impl Response {
    /// The frame that carries it.
    ///
    /// # Errors
    /// [`ProtoError`] if it exceeds the frame limits; what this crate answers does not.
    pub fn to_frame(&self) -> Result<Frame, ProtoError> {
        match self {
            Self::Found(found) => Frame::new(FrameKind::DHT_FOUND, &found.to_wire(), Bytes::new()),
            Self::Stored(stored) => Frame::new(FrameKind::DHT_STORED, &stored.to_wire(), Bytes::new()),
            Self::Notified(unwatched) => {
                let unwatched = unwatched.iter().map(|key| bytes_of(key.as_bytes())).collect();
                Frame::new(FrameKind::DHT_NOTIFIED, &wire::DhtNotified { unwatched }, Bytes::new())
            }
        }
    }

    /// The size of [its frame](Self::to_frame), in bytes, without making it if it is of the frequent kind.
    pub fn wire_len(&self) -> usize {
        let (kind, header) = match self {
            Self::Found(found) => (FrameKind::DHT_FOUND, found.wire_len()),
            Self::Stored(stored) => (FrameKind::DHT_STORED, stored.to_wire().encoded_len()),
            Self::Notified(unwatched) => (FrameKind::DHT_NOTIFIED, unwatched.len() * ID_LEN),
        };
        Frame::wire_len_with(kind, header, 0)
    }

    /// Reads a response.
    ///
    /// # Errors
    /// The first rule that the frame breaks.
    pub fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        match frame.kind() {
            FrameKind::DHT_FOUND => Findings::from_wire(frame.header()?).map(Self::Found),
            FrameKind::DHT_STORED => Stored::from_wire(frame.header()?).map(Self::Stored),
            FrameKind::DHT_NOTIFIED => {
                let header: wire::DhtNotified = frame.header()?;
                at_most(header.unwatched.len(), BATCH_RECORDS_MAX)?;
                let keys = header.unwatched.iter().map(|key| Key::try_from(key.as_ref()));
                Ok(Self::Notified(keys.collect::<Result<_, _>>()?))
            }
            other => Err(MessageError::Kind(other)),
        }
    }
}

impl Findings {
    fn wire_len(&self) -> usize {
        let contacts: usize = self.contacts.iter().map(|contact| field_len(contact.wire_len())).sum();
        let estimate = u32::try_from(self.estimate).unwrap_or(u32::MAX);
        let estimate =
            if estimate == 0 { 0 } else { 1 + prost::encoding::encoded_len_varint(estimate.into()) };
        contacts
            + records_len(&self.records)
            + estimate
            + 2 * (usize::from(self.more) + usize::from(self.watching))
            + if self.unix.0 == 0 { 0 } else { 1 + prost::encoding::encoded_len_varint(self.unix.0) }
    }

    fn to_wire(&self) -> wire::DhtFound {
        wire::DhtFound {
            contacts: self.contacts.iter().map(Contact::to_wire).collect(),
            records: self.records.clone(),
            estimate: u32::try_from(self.estimate).unwrap_or(u32::MAX),
            more: self.more,
            watching: self.watching,
            unix_ms: self.unix.0,
        }
    }

    fn from_wire(message: wire::DhtFound) -> Result<Self, MessageError> {
        at_most(message.contacts.len(), CONTACTS_MAX)?;
        let contacts = message.contacts.iter().map(|contact| Contact::from_wire(Some(contact)));
        Ok(Self {
            contacts: contacts.collect::<Result<_, _>>()?,
            records: message.records,
            estimate: message.estimate as usize,
            more: message.more,
            watching: message.watching,
            unix: UnixMillis(message.unix_ms),
        })
    }
}

impl Stored {
    fn to_wire(&self) -> wire::DhtStored {
        let outcome = |outcome: &StoreOutcome| wire::DhtStoreOutcome {
            refusal: outcome.refusal.map_or(0, Refusal::code),
            newer: outcome.newer.clone(),
        };
        wire::DhtStored {
            outcomes: self.outcomes.iter().map(outcome).collect(),
            told: ids_to_wire(&self.told),
            lapsed: ids_to_wire(&self.lapsed),
        }
    }

    fn from_wire(message: wire::DhtStored) -> Result<Self, MessageError> {
        at_most(message.outcomes.len(), BATCH_RECORDS_MAX)?;
        let outcome = |outcome: wire::DhtStoreOutcome| StoreOutcome {
            refusal: Refusal::from_code(outcome.refusal),
            newer: outcome.newer,
        };
        Ok(Self {
            outcomes: message.outcomes.into_iter().map(outcome).collect(),
            told: ids_from_wire(&message.told)?,
            lapsed: ids_from_wire(&message.lapsed)?,
        })
    }
}

/// A field of 32 bytes: tag, length, bytes.
const ID_LEN: usize = 2 + 32;

/// A field of so many bytes, in all.
fn field_len(bytes: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(bytes as u64) + bytes
}

fn records_len(records: &[wire::Signed]) -> usize {
    records.iter().map(|record| field_len(record.encoded_len())).sum()
}

fn ids_to_wire(ids: &[NodeId]) -> Vec<Bytes> {
    ids.iter().take(WATCHER_IDS_MAX).map(|id| bytes_of(id.as_bytes())).collect()
}

fn ids_from_wire(ids: &[Bytes]) -> Result<Vec<NodeId>, MessageError> {
    at_most(ids.len(), WATCHER_IDS_MAX)?;
    Ok(ids.iter().map(|id| NodeId::try_from(id.as_ref())).collect::<Result<_, _>>()?)
}

fn at_most(count: usize, max: usize) -> Result<(), MessageError> {
    if count > max { Err(MessageError::TooMany(count)) } else { Ok(()) }
}

fn bytes_of(id: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(id)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn contact(n: u8, addrs: &[&str]) -> Contact {
        let addrs = addrs.iter().map(|addr| addr.parse::<SocketAddr>().unwrap()).collect();
        Contact { id: NodeId::from_bytes([n; 32]), addrs }
    }

    fn signed(bytes: usize) -> wire::Signed {
        wire::Signed {
            body: vec![1; bytes].into(),
            public_key: vec![2; 32].into(),
            signature: vec![3; 64].into(),
        }
    }

    #[test]
    fn sizes_are_those_of_the_frames() {
        let senders = [contact(1, &[]), contact(1, &["10.0.0.1:1"]), contact(1, &["[::1]:9", "1.2.3.4:5"])];
        let key = Key::from_bytes([7; 32]);
        let find = Find { key, records: false, watch: None, after: None };
        let watch = Some(Duration::from_secs(60));
        let requests = [
            Request::Find(find),
            Request::Find(Find { records: true, watch, after: Some(NodeId::from_bytes([3; 32])), ..find }),
            Request::Store(vec![signed(10), signed(1_000)]),
            Request::Notify(Vec::new()),
        ];
        for (request, sender) in
            requests.iter().flat_map(|request| senders.each_ref().map(|it| (request, it)))
        {
            assert_eq!(request.wire_len(sender), request.to_frame(sender).unwrap().wire_len(), "{request:?}");
        }
        let many = vec![contact(2, &["10.0.0.1:1"]); 20];
        let responses = [
            Response::Found(Findings::default()),
            Response::Found(Findings { contacts: senders.to_vec(), watching: true, ..Findings::default() }),
            Response::Found(Findings {
                contacts: many,
                records: vec![signed(200); 40],
                estimate: 40_000,
                more: true,
                watching: false,
                unix: UnixMillis(1_700_000_000_000),
            }),
            Response::Stored(Stored { outcomes: vec![StoreOutcome::default(); 3], ..Stored::default() }),
            Response::Notified(vec![key; 5]),
        ];
        for response in &responses {
            assert_eq!(response.wire_len(), response.to_frame().unwrap().wire_len(), "{response:?}");
        }
    }
}
