//! Rule `layers`: dependencies run one way only.
//!
//! ```text
//!   proto ◄─ transport ◄┬─ membership
//!                       ├─ dht ◄─┬─ pubsub
//!                       │        └─ rpc          ◄─ macula ◄─ console ◄─ ctl
//!                       └─ platform
//! ```

use super::Finding;
use super::metadata::Package;

const RULE: &str = "layers";

/// Each crate with its height and the crates of this workspace that it may use. Tests of a crate may use all that is
/// lower, and the crate itself.
const LAYERS: [(&str, u8, &[&str]); 15] = [
    // Used by openraft alone.
    ("base2histogram", 0, &[]),
    ("macula-proto", 0, &[]),
    ("macula-transport", 1, &["macula-proto"]),
    ("macula-membership", 2, &["macula-proto", "macula-transport"]),
    ("macula-dht", 2, &["macula-proto", "macula-transport"]),
    ("macula-pubsub", 3, &["macula-proto", "macula-transport", "macula-dht"]),
    ("macula-rpc", 3, &["macula-proto", "macula-transport", "macula-dht"]),
    ("macula-platform", 3, &["macula-proto", "macula-transport"]),
    ("macula", 4, FACADE_USES),
    ("macula-console", 5, &["macula-proto", "macula"]),
    ("macula-ctl", 6, &["macula-proto", "macula", "macula-console"]),
    ("macula-sim", 6, FACADE_USES),
    ("macula-bench", 6, &["macula-transport", "macula"]),
    ("macula-torture", 6, &["macula-proto", "macula-transport", "macula-platform", "macula"]),
    ("xtask", 0, &[]),
];

const FACADE_USES: &[&str] = &[
    "macula-proto",
    "macula-transport",
    "macula-membership",
    "macula-dht",
    "macula-pubsub",
    "macula-rpc",
    "macula-platform",
];

pub(crate) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let manifest = format!("{}/Cargo.toml", package.name);
    let Some((_, height, uses)) = layer(&package.name) else {
        let advice = "this crate has no place in the layers: give it one in xtask's `tidy/layers.rs` and in the design";
        return vec![Finding::new(&manifest, 1, RULE, advice)];
    };
    let local = package.dependencies.iter().filter(|dep| dep.local);
    let wrong = local.filter(|dep| {
        let lower = layer(&dep.name).is_some_and(|(_, below, _)| below < height);
        let allowed =
            if dep.dev { lower || dep.name == package.name } else { uses.contains(&dep.name.as_str()) };
        !allowed
    });
    let advice = |name: &str, dev: bool| {
        let kind = if dev { "the tests of this crate" } else { "this crate" };
        format!("{kind} must not use `{name}`: it may use {}; let the facade wire the two", listed(uses))
    };
    wrong.map(|dep| Finding::new(&manifest, 1, RULE, advice(&dep.name, dep.dev))).collect()
}

fn layer(name: &str) -> Option<(&'static str, u8, &'static [&'static str])> {
    LAYERS.into_iter().find(|(layer, _, _)| *layer == name)
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "no other crate of this workspace".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Dependency;
    use super::*;

    fn findings(name: &str, uses: &str, dev: bool) -> usize {
        let dependency = Dependency { name: uses.into(), dev, local: true };
        check(&[Package { name: name.into(), dependencies: vec![dependency], has_default_features: false }])
            .len()
    }

    #[test]
    fn dependencies_run_one_way() {
        for (name, uses) in [
            ("macula-transport", "macula-proto"),
            ("macula-dht", "macula-transport"),
            ("macula-rpc", "macula-dht"),
            ("macula", "macula-membership"),
            ("macula-ctl", "macula-console"),
        ] {
            assert_eq!(findings(name, uses, false), 0, "{name} -> {uses}");
            assert_eq!(findings(uses, name, false), 1, "{uses} -> {name}");
            assert_eq!(findings(uses, name, true), 1, "tests of {uses} -> {name}");
        }
    }

    #[test]
    fn siblings_never_import_each_other() {
        for (name, uses) in [
            ("macula-dht", "macula-membership"),
            ("macula-membership", "macula-dht"),
            ("macula-pubsub", "macula-rpc"),
            ("macula-rpc", "macula-membership"),
            ("macula-platform", "macula-pubsub"),
        ] {
            assert_eq!(findings(name, uses, false), 1, "{name} -> {uses}");
        }
        assert_eq!(findings("macula-pubsub", "macula-rpc", true), 1);
    }

    #[test]
    fn tests_may_use_what_is_lower_and_the_crate_itself() {
        assert_eq!(findings("macula-pubsub", "macula-membership", true), 0);
        assert_eq!(findings("macula-pubsub", "macula-pubsub", true), 0);
    }

    #[test]
    fn an_unknown_crate_must_be_given_its_place() {
        assert_eq!(
            check(&[Package {
                name: "macula-extra".into(),
                dependencies: Vec::new(),
                has_default_features: false
            }])
            .len(),
            1
        );
    }

    #[test]
    fn nobody_uses_the_simulator_or_the_tasks() {
        assert_eq!(findings("macula-ctl", "macula-sim", false), 1);
        assert_eq!(findings("macula-ctl", "xtask", false), 1);
    }
}
