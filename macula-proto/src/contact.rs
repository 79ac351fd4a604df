//! A node and where it can be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::CONTACT_ADDRS_MAX;
use crate::{IdError, NodeId, wire};

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
    #[error("a contact has at most {CONTACT_ADDRS_MAX} addresses, not {0}")]
    TooManyAddrs(usize),
    /// An address that has neither 6 nor 18 bytes.
    #[error("a contact's address has 6 or 18 bytes, not {0}")]
    AddrLength(usize),
}

impl Contact {
    /// A contact with one address.
    pub fn new(id: NodeId, addr: SocketAddr) -> Self {
        Self { id, addrs: vec![addr] }
    }

    /// The wire form; addresses past the limit are left out.
    pub fn to_wire(&self) -> wire::Contact {
        wire::Contact {
            id: Bytes::copy_from_slice(self.id.as_bytes()),
            addrs: self.addrs.iter().take(CONTACT_ADDRS_MAX).map(addr_to_wire).collect(),
        }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The first rule that the message breaks.
    pub fn from_wire(message: Option<&wire::Contact>) -> Result<Self, ContactError> {
        let message = message.ok_or(ContactError::Missing)?;
        if message.addrs.len() > CONTACT_ADDRS_MAX {
            return Err(ContactError::TooManyAddrs(message.addrs.len()));
        }
        let id = NodeId::try_from(message.id.as_ref())?;
        let addrs = message.addrs.iter().map(|addr| addr_from_wire(addr)).collect::<Result<_, _>>()?;
        Ok(Self { id, addrs })
    }
}

fn addr_to_wire(addr: &SocketAddr) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    match addr.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(addr.port());
    out.freeze()
}

fn addr_from_wire(bytes: &[u8]) -> Result<SocketAddr, ContactError> {
    let wrong = || ContactError::AddrLength(bytes.len());
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or_else(wrong)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).map(Ipv4Addr::from).map_err(|_| wrong())?),
        16 => IpAddr::from(<[u8; 16]>::try_from(ip).map(Ipv6Addr::from).map_err(|_| wrong())?),
        _ => return Err(wrong()),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
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
        crowded.addrs = vec![good.addrs[0].clone(); 9];
        assert_eq!(Contact::from_wire(Some(&crowded)), Err(ContactError::TooManyAddrs(9)));

        let mut odd = good;
        odd.addrs[0] = Bytes::from_static(b"1234567");
        assert_eq!(Contact::from_wire(Some(&odd)), Err(ContactError::AddrLength(7)));
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
