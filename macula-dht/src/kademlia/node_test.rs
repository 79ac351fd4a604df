use std::time::Duration;

use macula_proto::NodeId;

use super::mesh_test::{Mesh, key};
use crate::DirectoryError;

#[test]
fn a_lone_node_finds_only_itself_and_spreads_its_record_once_it_joins() {
    let mut mesh = Mesh::joined(1, 30);
    let lone = mesh.add();
    assert_eq!(mesh.find(lone, key(1), 1), Err(DirectoryError::NoPeers));
    assert_eq!(mesh.announce(lone, key(1), "early").unwrap().holders, 1);
    assert_eq!(mesh.find(lone, key(1), 1).unwrap().records.len(), 1);
    let seed = mesh.ids[0];
    assert!(mesh.find(seed, key(1), 1).unwrap().records.is_empty());

    let contact = mesh.nodes[&seed].local().clone();
    mesh.with(lone, |node, now, out| node.peer_up(now, contact, out));
    mesh.run_for(Duration::from_secs(5));
    let holding = mesh.closest(&key(1), 20).iter().filter(|id| !mesh.nodes[id].store().is_empty()).count();
    assert!(holding >= 18, "{holding} of the 20 closest hold the record");
    assert_eq!(mesh.find(seed, key(1), 1).unwrap().records.len(), 1);
}

#[test]
fn three_hundred_nodes_that_joined_cold_find_the_closest_and_what_they_hold() {
    let mut mesh = Mesh::joined(2, 300);
    let mut recall = 0;
    for n in 0..20 {
        let from = mesh.ids[(n as usize * 37) % 300];
        let trace = mesh.trace(from, key(n));
        let truth: Vec<NodeId> =
            mesh.closest(&key(n), 21).into_iter().filter(|id| *id != from).take(20).collect();
        recall += trace.closest.iter().filter(|contact| truth.contains(&contact.id)).count();
        assert!(trace.hops <= 4, "{} hops", trace.hops);
    }
    assert!(recall >= 396, "{recall} of 400");

    for n in 0..20 {
        let (announcer, finder) = (mesh.ids[n as usize * 7], mesh.ids[299 - n as usize * 3]);
        assert_eq!(mesh.announce(announcer, key(n), "value").unwrap().holders, 20);
        let found = mesh.find(finder, key(n), 1).unwrap();
        assert_eq!(found.by(&announcer).unwrap().value, "value");
        assert!(found.is_complete());
    }
}
