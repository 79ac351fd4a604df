//! The programs in `examples/`, run as their READMEs say: each in several processes over real sockets.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod processes;

use std::io::Write;

use processes::{Program, until};

#[test]
fn chat_room() {
    let mut anna = Program::start("chat_room", &["--nick", "anna"]);
    let join = anna.join_addr();
    anna.expect("* you are in lobby");
    let mut bert = Program::start("chat_room", &["--nick", "bert", "--join", &join]);
    bert.expect("* you are in lobby");
    anna.expect("[lobby] * bert entered");
    let mut cleo = Program::start("chat_room", &["--nick", "cleo", "--join", &join, "--room", "garden"]);
    cleo.expect("* you are in garden");

    bert.say("hello anna");
    anna.expect("[lobby] bert: hello anna");
    anna.say("hello \u{7}bert");
    bert.expect("[lobby] anna: hello \u{fffd}bert");
    bert.say("/join garden");
    cleo.expect("[garden] * bert entered");
    cleo.say("nobody else here");
    bert.expect("[garden] cleo: nobody else here");

    until("both rooms are told apart", || {
        anna.say("/who");
        anna.expect_start("* in ") == "* in lobby: anna, bert"
    });
    // Whoever dies without a word is forgotten.
    bert.kill();
    until("bert is forgotten", || {
        anna.say("/who");
        anna.expect_start("* in ") == "* in lobby: anna"
    });
    anna.say("/leave");
    anna.expect("* you left lobby");
    anna.say("anybody?");
    anna.expect("* you are in no room: /join one");
    anna.say("/quit");
    assert_eq!(anna.end(), Some(0));
    cleo.end_of_input();
    assert_eq!(cleo.end(), Some(0));
}

#[test]
fn kv_store() {
    let mut first = Program::start("kv_store", &[]);
    let join = first.join_addr();
    let mut nodes = vec![first];
    nodes.extend((0..4).map(|_| Program::start("kv_store", &["--join", &join])));
    let mut ids: Vec<String> = Vec::new();
    for node in &mut nodes {
        let id = node.expect_start("this is node ");
        ids.push(id.rsplit(' ').next().unwrap().to_owned());
        node.expect_start("ready");
    }
    for node in &mut nodes {
        until("everybody knows everybody", || node.ask("status", "status:").starts_with("status: 5 nodes"));
    }
    for n in 0..20 {
        nodes[n % 5].say(&format!("put key-{n} value {n}"));
        nodes[n % 5].expect_start("stored on ");
    }
    nodes[0].say("put colour green");
    nodes[0].expect_start("stored on ");
    nodes[1].say("put colour dark green");
    nodes[1].expect_start("stored on ");
    nodes[2].say("get colour");
    nodes[2].expect("colour = dark green");
    nodes[2].say("delete key-0");
    nodes[2].expect_start("deleted on ");

    // Two of its three owners die, one after the other: reads and writes go on, and it is copied again.
    for value in ["blue", "red"] {
        let copies = copies_of(&mut nodes[0], "colour");
        assert_eq!(copies.len(), 3, "{copies:?}");
        let victim = ids.iter().position(|id| *id == copies[0]).unwrap();
        nodes[victim].kill();
        nodes.remove(victim);
        ids.remove(victim);
        nodes[0].say("get colour");
        nodes[0].expect_start("colour = ");
        nodes[1].say(&format!("put colour {value}"));
        nodes[1].expect_start("stored on ");
        nodes[0].say("get colour");
        nodes[0].expect(&format!("colour = {value}"));
        let left = format!("status: {} nodes", nodes.len());
        for node in &mut nodes {
            until("the death is known", || node.ask("status", "status:").starts_with(&left));
        }
        until("there are three copies again", || {
            let copies = copies_of(&mut nodes[0], "colour");
            copies.len() == 3 && copies.iter().all(|copy| ids.contains(copy))
        });
        for n in 1..20 {
            nodes[2].say(&format!("get key-{n}"));
            nodes[2].expect(&format!("key-{n} = value {n}"));
            let key = format!("key-{n}");
            until("it has three copies again", || copies_of(&mut nodes[0], &key).len() == 3);
        }
    }
    nodes[0].say("get key-0");
    nodes[0].expect("key-0 is not there");
    nodes[0].say("quit");
    assert_eq!(nodes[0].end(), Some(0));
}

/// The nodes that hold a key's newest version.
fn copies_of(node: &mut Program, key: &str) -> Vec<String> {
    let said = node.ask(&format!("where {key}"), &format!("{key} has "));
    said.rsplit(": ").next().unwrap().split(", ").map(str::to_owned).collect()
}

#[test]
fn event_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.log");
    let file = file.to_str().unwrap();
    let mut early = Program::start("event_log", &["follow"]);
    let join = early.join_addr();
    let keep = ["keep", "--file", file, "--join", &join];
    let mut keeper = Program::start("event_log", &keep);
    keeper.expect_start("keeping ");
    let publish = |topic: &str| Program::start("event_log", &["publish", "--topic", topic, "--join", &join]);
    let mut web = publish("events.web");
    let mut shop = publish("events.shop.north");
    for n in 0..10 {
        web.say(&format!("web {n}"));
        web.expect(&format!("published {n}"));
        shop.say(&format!("shop {n}"));
        shop.expect(&format!("published {n}"));
    }
    let event = |offset: usize| match offset % 2 {
        0 => format!("{offset} events.web web {}", offset / 2),
        _ => format!("{offset} events.shop.north shop {}", offset / 2),
    };
    (0..20).for_each(|offset| early.expect(&event(offset)));
    let mut late = Program::start("event_log", &["follow", "--from", "15", "--join", &join]);
    assert_eq!(late.expect_start("1"), event(15), "not what came before");
    (16..20).for_each(|offset| late.expect(&event(offset)));

    // The keeper dies in the middle of a line; what is published meanwhile is kept when it is back.
    keeper.kill();
    web.say("web 10");
    web.expect("waiting for a keeper");
    std::fs::OpenOptions::new()
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(b"{\"off"))
        .unwrap();
    let mut keeper = Program::start("event_log", &keep);
    keeper.expect(&format!("{file} holds 20 events"));
    web.expect("published 10");
    shop.say("shop 10");
    shop.expect("published 10");
    for follower in [&mut early, &mut late] {
        follower.expect(&event(20));
        follower.expect(&event(21));
    }
    let kept = std::fs::read_to_string(file).unwrap();
    assert_eq!(kept.lines().count(), 22, "nothing twice: {kept}");
    for publisher in [&mut web, &mut shop] {
        publisher.end_of_input();
        assert_eq!(publisher.end(), Some(0));
    }
}

#[test]
fn service_mesh() {
    let mut prices = Program::start("service_mesh", &["prices"]);
    let join = prices.join_addr();
    let start = |role: &str| Program::start("service_mesh", &[role, "--join", &join]);
    let mut payments = [start("payments"), start("payments"), start("payments")];
    let mut shops = [start("shop"), start("shop")];
    let mut others = [start("prices"), start("watch")];
    prices.expect_start("ready");
    others[0].expect_start("ready");
    payments.iter_mut().chain(&mut shops).for_each(|instance| drop(instance.expect_start("ready")));
    others[1].expect("7 instances");

    // While orders are placed, one instance is drained, one gets slow and one dies.
    const ORDERS: usize = 400;
    let orders = ["orders", "--count", &ORDERS.to_string(), "--rate", "50", "--join", &join];
    let mut orders = Program::start("service_mesh", &orders);
    orders.expect_start("placing ");
    payments[0].expect_start("charged ");
    payments[1].expect_start("charged ");
    payments[2].expect_start("charged ");
    shops[0].say("drain");
    shops[0].expect("draining");
    others[1].find_start_and("shop ", "draining");
    prices.kill();
    payments[1].say("slow 300");
    payments[0].kill();
    let summary = orders.expect_start("orders: ");
    assert_eq!(orders.end(), Some(0));

    let counts: Vec<usize> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [charged, failed, unclear] = counts[..] else { panic!("{summary}") };
    println!("{summary}");
    assert_eq!((charged + unclear, failed), (ORDERS, 0), "{summary}");
    // What the dead instance had when it died, and what it was sent until that was noticed.
    assert!(unclear <= ORDERS / 10, "{summary}");
    let mut all: Vec<String> = Vec::new();
    until("all that was said has come", || {
        all = payments.iter_mut().flat_map(|one| one.all_that_start("charged ")).collect();
        all.len() >= charged
    });
    // The slow one has most calls running and gets few more: the third takes the load.
    let shares = payments.each_mut().map(|one| one.all_that_start("charged ").len());
    assert!(shares[1] * 2 < shares[2], "{shares:?}");
    all.sort();
    let distinct = all.len();
    all.dedup();
    assert_eq!(all.len(), distinct, "charged twice");
    assert!((charged..=charged + unclear).contains(&distinct), "{distinct} were charged: {summary}");

    shops[0].say("resume");
    shops[0].expect("resumed");
    payments[2].say("metrics");
    payments[2].expect_start("macula_rpc_handlers_started_total ");
    payments[2].say("quit");
    assert_eq!(payments[2].end(), Some(0));
}

#[test]
fn arcade() {
    const PLAYERS: usize = 40;
    const DEATHS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let data = |host: usize| folder.path().join(host.to_string()).display().to_string();
    let mut first = Program::start("arcade", &["host", "--data", &data(0)]);
    let join = first.join_addr();
    let host =
        |at: usize, join: &str| Program::start("arcade", &["host", "--data", &data(at), "--join", join]);
    let mut hosts = vec![first, host(1, &join), host(2, &join)];
    for host in &mut hosts {
        host.join_addr();
        host.expect("open");
    }
    let crowd = |name: &str| {
        let players = PLAYERS.to_string();
        let args = ["play", "--name", name, "--players", &players, "--every", "150", "--join", &join];
        Program::start("arcade", &args)
    };
    let mut crowds = [crowd("anna"), crowd("bert")];
    // Hosts come and go, so those who come back join by somebody who stays.
    let stays = crowds[0].join_addr();

    let mut coordinator = 0;
    for death in 0..DEATHS {
        until("somebody coordinates", || {
            let coordinates = |host: &mut Program| {
                host.all_that_start("coordinates ").last().is_some_and(|line| line.contains("with token"))
            };
            let found = hosts.iter_mut().position(coordinates);
            coordinator = found.unwrap_or(coordinator);
            found.is_some()
        });
        // In the middle of the game: some have one, and others come.
        let goal = (death + 1) * PLAYERS / (DEATHS + 1);
        until("players have games", || crowds[1].all_that_start("bert-").len() >= goal);
        hosts[coordinator].kill();
        crowds[0].expect_start("anna-");
        hosts[coordinator] = host(coordinator, &stays);
        hosts[coordinator].join_addr();
        hosts[coordinator].expect("open");
    }
    let games = games_of(&mut crowds, PLAYERS);
    assert_eq!(games.len(), 2 * PLAYERS, "each player has one game");
    for (number, player, other) in &games {
        let back = (number.clone(), other.clone(), player.clone());
        assert!(games.contains(&back), "{other} does not know of game {number} against {player}");
    }
    let mut check = Program::start("arcade", &["check", "--join", &hosts[0].join_addr()]);
    let summary = check.find_start_and("", " players, ");
    assert_eq!(check.end(), Some(0), "{summary}");
    let all = 2 * PLAYERS;
    assert!(
        summary.starts_with(&format!("{all} players, {all} with a game, 0 waiting, 0 twice")),
        "{summary}"
    );
    let coordinators = summary.split(", ").nth(4).unwrap().split(' ').next().unwrap();
    assert!(coordinators.parse::<usize>().unwrap() > DEATHS, "{summary}");
}

/// What players that have all left said of their games: the number, the player, and against whom.
fn games_of(crowds: &mut [Program], players: usize) -> Vec<(String, String, String)> {
    let mut games = Vec::new();
    for crowd in crowds {
        assert_eq!(crowd.end(), Some(0));
        until("all that was said has come", || {
            let said = crowd.all_that_start("");
            said.iter().filter(|line| line.contains(" plays game ")).count() == players
        });
        for line in crowd.all_that_start("") {
            let words: Vec<&str> = line.split(' ').collect();
            if let [player, "plays", "game", number, "against", other] = words[..] {
                games.push((number.into(), player.into(), other.into()));
            }
        }
    }
    games
}
