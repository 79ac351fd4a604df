//! Who a node is to foca, and how foca's messages look on the wire.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};
use macula_proto::{Contact, NodeId};

/// Bytes of an encoded [`Peer`].
const PEER_BYTES: usize = 32 + 16 + 2 + 8;

/// A node in one of its lives. A later life replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    addr: SocketAddr,
    /// Grows with each start and each return from the dead.
    pub(crate) life: u64,
}

impl Peer {
    /// `None` for a contact without an address.
    pub(crate) fn new(contact: &Contact, life: u64) -> Option<Self> {
        Some(Self { id: contact.id, addr: *contact.addrs.first()?, life })
    }

    pub(crate) fn contact(&self) -> Contact {
        Contact::new(self.id, self.addr)
    }

    pub(crate) const fn next_life(self) -> Self {
        Self { life: self.life + 1, ..self }
    }

    fn put(&self, mut to: impl BufMut) {
        to.put_slice(self.id.as_bytes());
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        to.put_slice(&ip.octets());
        to.put_u16(self.addr.port());
        to.put_u64(self.life);
    }

    fn get(mut from: impl Buf) -> Result<Self, CutShort> {
        let id = take(&mut from).map(NodeId::from_bytes)?;
        let ip = take(&mut from).map(Ipv6Addr::from)?.to_canonical();
        let port = take(&mut from).map(u16::from_be_bytes)?;
        let life = take(&mut from).map(u64::from_be_bytes)?;
        Ok(Self { id, addr: SocketAddr::new(ip, port), life })
    }
}

impl Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(self.next_life())
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// Bytes that end too early, or a buffer that is too small, or a number that stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message")]
pub(crate) struct CutShort;

/// Fixed lengths, big-endian.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerCodec;

impl Codec<Peer> for PeerCodec {
    type Error = CutShort;

    fn encode_header(&mut self, header: &Header<Peer>, mut buf: impl BufMut) -> Result<(), CutShort> {
        if buf.remaining_mut() < 3 * PEER_BYTES + 4 {
            return Err(CutShort);
        }
        header.src.put(&mut buf);
        buf.put_u16(header.src_incarnation);
        header.dst.put(&mut buf);
        let (tag, probe, about) = flat(&header.message);
        buf.put_u8(tag);
        if let Some(probe) = probe {
            buf.put_u8(probe);
        }
        if let Some(about) = about {
            about.put(&mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>, CutShort> {
        let src = Peer::get(&mut buf)?;
        let src_incarnation = take(&mut buf).map(u16::from_be_bytes)?;
        let dst = Peer::get(&mut buf)?;
        let message = message(buf)?;
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Peer>, mut buf: impl BufMut) -> Result<(), CutShort> {
        if buf.remaining_mut() < PEER_BYTES + 3 {
            return Err(CutShort);
        }
        member.id().put(&mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Peer>, CutShort> {
        let id = Peer::get(&mut buf)?;
        let incarnation = take(&mut buf).map(u16::from_be_bytes)?;
        let state = match take(&mut buf)? {
            [0] => State::Alive,
            [1] => State::Suspect,
            [2] => State::Down,
            _ => return Err(CutShort),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// A message's number, and what follows it.
const fn flat(message: &Message<Peer>) -> (u8, Option<u8>, Option<&Peer>) {
    match message {
        Message::Ping(probe) => (0, Some(*probe), None),
        Message::Ack(probe) => (1, Some(*probe), None),
        Message::PingReq { target, probe_number } => (2, Some(*probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(*probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(*probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(*probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    }
}

fn message(mut buf: impl Buf) -> Result<Message<Peer>, CutShort> {
    let [tag] = take(&mut buf)?;
    let probe_number = if tag < 6 { take::<1>(&mut buf)?[0] } else { 0 };
    Ok(match tag {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: Peer::get(buf)?, probe_number },
        3 => Message::IndirectPing { origin: Peer::get(buf)?, probe_number },
        4 => Message::IndirectAck { target: Peer::get(buf)?, probe_number },
        5 => Message::ForwardedAck { origin: Peer::get(buf)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(CutShort),
    })
}

fn take<const N: usize>(buf: &mut impl Buf) -> Result<[u8; N], CutShort> {
    let mut bytes = [0; N];
    buf.try_copy_to_slice(&mut bytes).map_err(|_| CutShort)?;
    Ok(bytes)
}
