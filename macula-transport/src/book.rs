//! Where nodes can be reached, as far as this node has heard.

use std::net::SocketAddr;

use dashmap::DashMap;
use macula_proto::limits::CONTACT_ADDRS_MAX;
use macula_proto::{Contact, NodeId};

/// Addresses by node, fed by hellos, membership and directory answers; read when dialling by id.
///
/// Bounded: at most `nodes_max` nodes with [`CONTACT_ADDRS_MAX`] addresses each. When full, new nodes are not
/// remembered until others are forgotten.
#[derive(Debug)]
pub struct AddressBook {
    entries: DashMap<NodeId, Vec<SocketAddr>>,
    nodes_max: usize,
}

impl AddressBook {
    /// An empty book for at most `nodes_max` nodes.
    pub fn new(nodes_max: usize) -> Self {
        Self { entries: DashMap::new(), nodes_max }
    }

    /// Remembers where a node can be reached; the newest word comes first when dialling.
    pub fn learn(&self, contact: &Contact) {
        if contact.addrs.is_empty() {
            return;
        }
        if self.entries.len() >= self.nodes_max && !self.entries.contains_key(&contact.id) {
            return;
        }
        let mut known = self.entries.entry(contact.id).or_default();
        let mut addrs = contact.addrs.clone();
        addrs.extend(known.iter().filter(|addr| !contact.addrs.contains(addr)));
        addrs.truncate(CONTACT_ADDRS_MAX);
        *known = addrs;
    }

    /// The addresses of a node, most recently learned first.
    pub fn addrs(&self, id: &NodeId) -> Vec<SocketAddr> {
        self.entries.get(id).map(|addrs| addrs.clone()).unwrap_or_default()
    }

    /// Forgets a node.
    pub fn forget(&self, id: &NodeId) {
        self.entries.remove(id);
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(id: u8, port: u16) -> Contact {
        Contact::new(NodeId::from_bytes([id; 32]), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn the_newest_word_comes_first_and_the_count_is_bounded() {
        let book = AddressBook::new(10);
        for port in 1..=20 {
            book.learn(&contact(1, port));
        }
        let ports: Vec<u16> = book.addrs(&NodeId::from_bytes([1; 32])).iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn a_full_book_takes_no_new_node_until_one_is_forgotten() {
        let book = AddressBook::new(1);
        book.learn(&contact(1, 1));
        book.learn(&contact(2, 2));
        assert!(book.addrs(&NodeId::from_bytes([2; 32])).is_empty());
        book.forget(&NodeId::from_bytes([1; 32]));
        book.learn(&contact(2, 2));
        assert_eq!(book.len(), 1);
    }
}
