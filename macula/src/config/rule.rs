//! Rules for keys that hold text.

use std::net::SocketAddr;

use macula_proto::{NodeId, Realm};

use super::tag::Tag;
use super::value::Rule;
use crate::bootstrap::Seed;

/// Longest node name, in bytes: it is also the name of a directory and of a socket.
const NODE_NAME_BYTES_MAX: usize = 32;

pub(crate) const NODE_ID: Rule = Rule {
    expects: "`auto`, or a node id of 52 characters a-z, 2-7 (base32)",
    check: |text| match text {
        "auto" => Ok(()),
        id => id.parse::<NodeId>().map(drop).map_err(|error| error.to_string()),
    },
};

pub(crate) const FOUNDER: Rule = Rule {
    expects: "a node id of 52 characters a-z, 2-7 (base32)",
    check: |text| text.parse::<NodeId>().map(drop).map_err(|error| error.to_string()),
};

pub(crate) const NODE_NAME: Rule = Rule {
    expects: "a name of 1 to 32 letters, digits, `_`, `-` and dots, not beginning with a dot",
    check: |name| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if let Some(found) = name.chars().find(|c| !allowed(*c)) {
            return Err(format!("{found:?} is not allowed"));
        }
        match name.len() {
            _ if name.starts_with('.') => Err("it begins with a dot".into()),
            1..=NODE_NAME_BYTES_MAX => Ok(()),
            bytes => Err(format!("it has {bytes} characters")),
        }
    },
};

pub(crate) const LISTEN: Rule = Rule {
    expects: "an IP address and a port, as in `0.0.0.0:4000` or `[::]:4000`",
    check: |text| text.parse::<SocketAddr>().map(drop).map_err(|_| format!("`{text}` is none")),
};

pub(crate) const ADVERTISED: Rule = Rule {
    expects: "an IP address and a port at which others can reach this node",
    check: |text| match text.parse::<SocketAddr>() {
        Err(_) => Err(format!("`{text}` is none")),
        Ok(addr) if addr.ip().is_unspecified() => Err(format!("nobody can send to `{text}`")),
        Ok(addr) if addr.port() == 0 => Err(format!("`{text}` has no port")),
        Ok(_) => Ok(()),
    },
};

pub(crate) const REALM: Rule = Rule {
    expects: "a realm name",
    check: |text| text.parse::<Realm>().map(drop).map_err(|error| error.to_string()),
};

pub(crate) const TAG: Rule = Rule {
    expects: "`name=value`, with a name of 1 to 64 letters, digits, `_`, `-` and dots, and a value without commas, control \
              characters, and white space at its ends",
    check: |text| text.parse::<Tag>().map(drop).map_err(|error| error.to_string()),
};

pub(crate) const SEED: Rule = Rule {
    expects: "a host name or IP address with a port, as in `seed.example.org:4000`",
    check: |text| text.parse::<Seed>().map(drop).map_err(|error| error.to_string()),
};

pub(crate) const PATH: Rule = Rule {
    expects: "a path",
    check: |text| match text {
        "" => Err("it is empty".into()),
        path if path.contains('\0') => Err("it holds a zero byte".into()),
        _ => Ok(()),
    },
};

pub(crate) const ALPN: Rule = Rule {
    expects: "the name of a protocol, of 1 to 255 bytes",
    check: |text| match text.len() {
        1..=255 => Ok(()),
        bytes => Err(format!("it has {bytes} bytes")),
    },
};

pub(crate) const LOG_FILTER: Rule = Rule {
    expects: "a level (off, error, warn, info, debug, trace), and with commas others for single modules, as in \
              `info,macula_transport=debug`",
    check: |text| text.split(',').try_for_each(check_directive),
};

fn check_directive(directive: &str) -> Result<(), String> {
    let (target, level) = match directive.rsplit_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, directive),
    };
    let module = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
    if target.is_some_and(|target| target.is_empty() || !target.chars().all(module)) {
        return Err(format!("`{directive}` names no module"));
    }
    match level {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => Ok(()),
        _ => Err(format!("`{level}` is no level")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rule: Rule, text: &str) -> Option<String> {
        (rule.check)(text).err()
    }

    #[test]
    fn a_node_name_is_safe_as_a_file_name() {
        for good in ["node", "edge-1.be_2", "A", &"x".repeat(32)] {
            assert_eq!(refusal(NODE_NAME, good), None, "{good}");
        }
        for bad in ["", "..", ".hidden", "a/b", "a b", "é", &"x".repeat(33)] {
            assert!(refusal(NODE_NAME, bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn an_address_to_listen_at_may_be_any_but_an_advertised_one_must_be_reachable() {
        for addr in ["0.0.0.0:4000", "[::]:0", "192.0.2.1:4000"] {
            assert_eq!(refusal(LISTEN, addr), None, "{addr}");
        }
        assert_eq!(refusal(LISTEN, "localhost:4000"), Some("`localhost:4000` is none".into()));
        assert_eq!(refusal(ADVERTISED, "192.0.2.1:4000"), None);
        assert_eq!(refusal(ADVERTISED, "[::]:4000"), Some("nobody can send to `[::]:4000`".into()));
        assert_eq!(refusal(ADVERTISED, "192.0.2.1:0"), Some("`192.0.2.1:0` has no port".into()));
    }

    #[test]
    fn an_id_is_auto_or_base32() {
        assert_eq!(refusal(NODE_ID, "auto"), None);
        assert_eq!(refusal(NODE_ID, &NodeId::from_bytes([3; 32]).to_string()), None);
        assert!(refusal(NODE_ID, "abc").is_some());
    }

    #[test]
    fn log_filters_are_levels_by_module() {
        for good in ["info", "off", "warn,macula_dht=trace", "info,macula::supervisor=debug"] {
            assert_eq!(refusal(LOG_FILTER, good), None, "{good}");
        }
        assert_eq!(refusal(LOG_FILTER, "loud"), Some("`loud` is no level".into()));
        assert_eq!(refusal(LOG_FILTER, "info,"), Some("`` is no level".into()));
        assert_eq!(refusal(LOG_FILTER, "=info"), Some("`=info` names no module".into()));
    }

    #[test]
    fn a_protocol_name_has_a_length_in_one_byte() {
        assert_eq!(refusal(ALPN, "macula/1"), None);
        assert_eq!(refusal(ALPN, ""), Some("it has 0 bytes".into()));
        assert_eq!(refusal(ALPN, &"x".repeat(256)), Some("it has 256 bytes".into()));
    }
}
