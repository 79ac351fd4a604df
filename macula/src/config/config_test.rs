//! The whole way: sources in, checked configuration or errors out.

use std::time::Duration;

use macula_proto::NodeId;

use super::*;

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn errors(raw: RawConfig) -> Vec<String> {
    raw.build().unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_hold_and_have_no_other_origin() {
    let config = Config::default();
    assert_eq!(config.entries().len(), KEYS.len());
    assert!(config.entries().iter().all(|entry| entry.origin == Origin::Default));
    assert_eq!(config.node.id, NodeIdSetting::Auto);
    assert_eq!(config.quic.idle_timeout, Duration::from_secs(60));
    assert_eq!(config.rpc.routing_strategy, RoutingStrategy::LocalFirst);
    assert_eq!(config.node.data_dir, None);
}

#[test]
fn every_kind_fits_the_type_of_its_field_over_its_whole_range() {
    for key in KEYS {
        let ends: Vec<String> = match key.kind {
            Kind::Duration { min, max } => [min, max].map(|end| format!("{}ms", end.as_millis())).into(),
            Kind::Count { min, max, .. } => [min, max].map(|count| count.to_string()).into(),
            Kind::Flag => vec!["true".into(), "false".into()],
            Kind::Choice(words) => words.iter().map(ToString::to_string).collect(),
            Kind::Text(_) if key.default.is_none() => vec!["/a/path".into(), String::new()],
            Kind::Text(_) | Kind::List { .. } => vec![],
        };
        for end in ends {
            // Rules between keys may say no; reading the value and filling the field may not.
            let _ = RawConfig::new().set(key.name, end).build();
        }
    }
}

#[test]
fn keys_and_variables_are_unambiguous() {
    for (at, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..at].iter().all(|other| other.env() != key.env() && other.name != key.name), "{key:?}");
        assert!(!key.doc.trim().is_empty(), "{key:?}");
    }
}

#[test]
fn later_sources_win_whatever_the_order_of_the_calls() {
    let file = "[node]\nname = \"from-file\"\n\n[quic]\nidle_timeout = 45000\n";
    let environment = env(&[("MACULA_NODE_NAME", "from-env"), ("MACULA_QUIC_CONNECTIONS_MAX", "")]);
    let config = RawConfig::new()
        .set("rpc.default_timeout", Duration::from_secs(9))
        .env_from(environment)
        .text("/etc/macula.toml", file)
        .build()
        .unwrap();
    assert_eq!(config.node.name, "from-env");
    assert_eq!(config.quic.idle_timeout, Duration::from_secs(45));
    assert_eq!(config.rpc.default_timeout, Duration::from_secs(9));
    let origins = ["node.name", "quic.idle_timeout", "rpc.default_timeout", "quic.connections_max"]
        .map(|key| config.entry(key).unwrap().origin.to_string());
    assert_eq!(
        origins,
        ["environment variable MACULA_NODE_NAME", "/etc/macula.toml:5", "program", "default"]
    );
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    let seeds = env(&[("MACULA_SEEDS", "a.example:4000, [2001:db8::1]:4001")]);
    let config = RawConfig::new().env_from(seeds).build().unwrap();
    let seeds: Vec<_> = config.bootstrap.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["a.example:4000", "[2001:db8::1]:4001"]);
    for key in KEYS.iter().filter(|key| key.default.is_some_and(|default| !default.is_empty())) {
        let variable = (key.env(), key.default.unwrap().to_owned());
        let config = RawConfig::new().env_from([variable]).build().unwrap();
        assert_eq!(config.entry(key.name).unwrap().origin, Origin::Env(key.env()));
    }
}

#[test]
fn all_errors_come_at_once_and_each_says_key_value_rule_and_source() {
    let file = "[membership]\nprotocol_periot = \"1s\"\nindirect_count = 99\n[node]\nport = 1\n[quic]\nkeep_alive = \"2h\"\n";
    let raw = RawConfig::new()
        .file("/nowhere/macula.toml")
        .text("m.toml", file)
        .env_from(env(&[("MACULA_ROUTING_K", "many"), ("MACULA_ROUTNG_ALPHA", "3")]))
        .set("log.level", "loud");
    let found = errors(raw);
    let expected = [
        "/nowhere/macula.toml: cannot be read: ",
        "m.toml:2: unknown key `membership.protocol_periot`; did you mean `membership.protocol_period`?",
        "m.toml:5: unknown key `node.port`",
        "unknown key `MACULA_ROUTNG_ALPHA`; did you mean `MACULA_ROUTING_ALPHA`?",
        "m.toml:7: `quic.keep_alive` is \"2h\": expected a duration from 100ms to 1h",
        "m.toml:3: `membership.indirect_count` is 99: expected a number of members from 0 to 16",
        "environment variable MACULA_ROUTING_K: `routing.k` is \"many\": expected a number of nodes from 1 to 64",
        "program: `log.level` is \"loud\": expected a level",
    ];
    for part in expected {
        assert!(found.iter().any(|error| error.contains(part)), "{part:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn rules_between_keys_blame_the_one_that_was_set() {
    let found = errors(RawConfig::new().set("membership.protocol_period", "5s"));
    assert_eq!(found.len(), 1);
    let blamed =
        "program: `membership.protocol_period` is \"5s\": `membership.suspect_timeout`: it must be at least";
    assert!(found[0].starts_with(blamed), "{found:#?}");
    for (key, value, missing) in [
        ("quic.cert_file", "c.pem", "quic.key_file"),
        ("quic.crl_file", "r.pem", "quic.ca_file"),
        ("quic.ca_file", "a.pem", "quic.cert_file"),
    ] {
        let found = errors(RawConfig::new().set(key, value));
        assert!(found.len() == 1 && found[0].contains(missing), "{found:#?}");
    }
    assert_eq!(errors(RawConfig::new().set("routing.k", 2u32)).len(), 1);
}

#[test]
fn files_that_are_no_toml_or_no_sections_are_errors_with_a_line() {
    let found = errors(RawConfig::new().text("m.toml", "[node]\nname = \n"));
    assert!(found[0].starts_with("m.toml:2: not valid TOML"), "{found:#?}");
    let found =
        errors(RawConfig::new().text("m.toml", "name = \"x\"\n[node.name]\nfirst = 1\n[log]\nlevel = true"));
    assert!(found[0].starts_with("m.toml:1: unknown key `name`; did you mean `node.name`?"), "{found:#?}");
    assert!(found.iter().any(|error| error.starts_with("m.toml:2: `node.name` is a table")), "{found:#?}");
    assert!(found.iter().any(|error| error.starts_with("m.toml:5: `log.level` is true")), "{found:#?}");
}

#[test]
fn variables_that_a_container_platform_sets_are_no_errors() {
    let environment = env(&[
        ("MACULA_SERVICE_HOST", "10.0.0.1"),
        ("MACULA_NODE_PORT", "udp://10.0.0.1:4000"),
        ("MACULA_NODE_PORT_4000_UDP_ADDR", "10.0.0.1"),
        ("MACULA_UPDATE_DOCS", "1"),
        ("PATH", "/bin"),
    ]);
    let config = RawConfig::new().env_from(environment).build().unwrap();
    assert_eq!(config.warnings().len(), 2, "{:?}", config.warnings());
    assert!(config.warnings().iter().all(|warning| warning.contains("MACULA_NODE_PORT")));
}

#[test]
fn live_keys_change_others_say_why_not_and_a_refused_change_changes_nothing() {
    let mut config = Config::default();
    let entry = config.set("rpc.default_timeout", "750ms").unwrap();
    assert_eq!((entry.value.to_string(), entry.origin), ("\"750ms\"".into(), Origin::Runtime));
    assert_eq!(config.rpc.default_timeout, Duration::from_millis(750));

    assert!(matches!(
        config.set("quic.mtu_max", 1400u16),
        Err(ConfigError::Fixed { key: "quic.mtu_max", .. })
    ));
    assert!(matches!(config.set("rpc.default_timeout", "soon"), Err(ConfigError::Invalid { .. })));
    assert_eq!(config.rpc.default_timeout, Duration::from_millis(750));
    let unknown = config.set("rpc.default_timout", "1s").unwrap_err().to_string();
    assert!(unknown.ends_with("did you mean `rpc.default_timeout`?"), "{unknown}");
}

#[test]
fn a_configured_id_must_be_the_keys_own() {
    let id = NodeId::from_bytes([5; 32]);
    assert_eq!(Config::default().check_id(id), Ok(()));
    let config = RawConfig::new().set("node.id", id.to_string()).build().unwrap();
    assert_eq!(config.check_id(id), Ok(()));
    let refusal = config.check_id(NodeId::from_bytes([6; 32])).unwrap_err().to_string();
    assert!(refusal.starts_with("program: `node.id` is"), "{refusal}");
}

#[test]
fn the_complete_file_of_the_reference_is_the_default_configuration() {
    let page = reference_page();
    let (_, file) = page.split_once("```toml\n").unwrap();
    let file = file.strip_suffix("```\n").unwrap();
    let config = RawConfig::new().text("complete.toml", file).build().unwrap();
    assert_eq!(*config, *Config::default());
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md");
    let page = reference_page();
    if std::env::var_os("MACULA_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/CONFIGURATION.md is out of date: run this test with MACULA_UPDATE_DOCS=1");
}

#[test]
fn values_may_be_written_as_in_a_file_everywhere() {
    let variables =
        env(&[("MACULA_SEEDS", "[\"a.example:1\", \"[::1]:2\"]"), ("MACULA_LOG_LEVEL", "\"debug\"")]);
    let mut config = RawConfig::new().env_from(variables).build().unwrap();
    assert_eq!(config.get("bootstrap.seeds").unwrap().to_string(), r#"["a.example:1", "[::1]:2"]"#);
    assert_eq!(config.log.level, "debug");
    config.set("bootstrap.seeds", "[::1]:2").unwrap();
    assert_eq!(config.get("bootstrap.seeds").unwrap().to_string(), r#"["[::1]:2"]"#);
    for entry in config.entries().into_iter().filter(|entry| entry.runtime) {
        let same = config.set(entry.key.name, entry.value.to_string()).unwrap();
        assert_eq!(same.value, entry.value, "what is shown can be set");
    }
}

#[test]
fn odd_text_is_shown_as_toml() {
    let config = RawConfig::new().set("node.data_dir", "/a \"b\"\\c\u{7}").build().unwrap();
    let shown = config.get("node.data_dir").unwrap().to_string();
    assert_eq!(shown, r#""/a \"b\"\\c\u0007""#);
    let again = RawConfig::new().set("node.data_dir", shown).build().unwrap();
    assert_eq!(again.node.data_dir, config.node.data_dir);
}
