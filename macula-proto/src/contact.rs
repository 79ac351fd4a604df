//! A node and where it can be reached.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::CONTACT_ADDRS_MAX;
use crate::{IdError, NodeId, varint, wire};

/// A node and the addresses at which it may be reached, best first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Contact {
    /// Who.
    pub id: NodeId,
    /// Where; at most [`CONTACT_ADDRS_MAX`].
    pub addrs: Vec<SocketAddr>,
}

/// Why a contact from the wire is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContactError {
    /// The message holds no contact where one is required.
    #[error("the contact is missing")]
    Missing,
    /// The id is no id.
    #[error("contact: {0}")]
    Id(#[from] IdError),
    /// More addresses than allowed.
    #[error("a contact has at most {CONTACT_ADDRS_MAX} addresses")]
    TooManyAddrs,
    /// The addresses do not read as addresses.
    #[error("a contact's addresses are cut short, or of an unknown IP version")]
    Addrs,
}

impl Contact {
    /// A contact with one address.
    pub fn new(id: NodeId, addr: SocketAddr) -> Self {
        Self { id, addrs: vec![addr] }
    }

    /// The wire form; addresses past the limit are left out.
    pub fn to_wire(&self) -> wire::Contact {
        let mut addrs = BytesMut::with_capacity(self.addrs.len().min(CONTACT_ADDRS_MAX) * ADDR_BYTES_MAX);
        self.addrs.iter().take(CONTACT_ADDRS_MAX).for_each(|addr| put_addr(&mut addrs, addr));
        wire::Contact { id: Bytes::copy_from_slice(self.id.as_bytes()), addrs: addrs.freeze() }
    }

    /// The size of the [wire form](Self::to_wire), in bytes.
    pub fn wire_len(&self) -> usize {
        let addr_len = |addr: &SocketAddr| if addr.is_ipv4() { 1 + 4 + 2 } else { ADDR_BYTES_MAX };
        let addrs: usize = self.addrs.iter().take(CONTACT_ADDRS_MAX).map(addr_len).sum();
        // Tag and length of the id, and of the addresses if there are any.
        2 + self.id.as_bytes().len() + if addrs == 0 { 0 } else { 1 + varint::len(addrs as u64) + addrs }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The first rule that the message breaks.
    pub fn from_wire(message: Option<&wire::Contact>) -> Result<Self, ContactError> {
        let message = message.ok_or(ContactError::Missing)?;
        let id = NodeId::try_from(message.id.as_ref())?;
        let mut addrs = Vec::new();
        let mut rest = message.addrs.as_ref();
        while !rest.is_empty() {
            if addrs.len() == CONTACT_ADDRS_MAX {
                return Err(ContactError::TooManyAddrs);
            }
            addrs.push(take_addr(&mut rest).ok_or(ContactError::Addrs)?);
        }
        Ok(Self { id, addrs })
    }
}

/// An IPv6 address on the wire: version, address, port.
const ADDR_BYTES_MAX: usize = 1 + 16 + 2;

fn put_addr(out: &mut BytesMut, addr: &SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(addr.port());
}

fn take_addr(from: &mut &[u8]) -> Option<SocketAddr> {
    let ip = match from.split_off_first()? {
        4 => IpAddr::from(*take::<4>(from)?),
        6 => IpAddr::from(*take::<16>(from)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*take(from)?)))
}

fn take<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_rule_has_its_error() {
        let good = Contact::new(NodeId::from_bytes([1; 32]), "127.0.0.1:4000".parse().unwrap()).to_wire();
        assert_eq!(Contact::from_wire(None), Err(ContactError::Missing));

        let mut short_id = good.clone();
        short_id.id = Bytes::from_static(b"short");
        assert_eq!(Contact::from_wire(Some(&short_id)), Err(ContactError::Id(IdError::Length(5))));

        let mut crowded = good.clone();
        crowded.addrs = good.addrs.repeat(9).into();
        assert_eq!(Contact::from_wire(Some(&crowded)), Err(ContactError::TooManyAddrs));

        let mut odd = good.clone();
        odd.addrs = Bytes::from_static(&[5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Contact::from_wire(Some(&odd)), Err(ContactError::Addrs));

        for cut in 1..good.addrs.len() {
            let mut short = good.clone();
            short.addrs = good.addrs.slice(..cut);
            assert_eq!(Contact::from_wire(Some(&short)), Err(ContactError::Addrs), "{cut} bytes");
        }
    }

    #[test]
    fn addresses_past_the_limit_are_left_out() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 4000));
        let crowded = Contact { id: NodeId::from_bytes([1; 32]), addrs: vec![addr; 9] };
        let kept = Contact::from_wire(Some(&crowded.to_wire()));
        assert_eq!(kept.map(|contact| contact.addrs.len()), Ok(8));
    }

    proptest! {
        #[test]
        fn round_trips(id: [u8; 32], ips: [IpAddr; 3], port: u16) {
            let addrs = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            let contact = Contact { id: NodeId::from_bytes(id), addrs };
            prop_assert_eq!(Contact::from_wire(Some(&contact.to_wire())), Ok(contact));
        }
    }
}
