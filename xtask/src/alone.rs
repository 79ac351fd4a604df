//! `cargo xtask alone`: each crate built by itself, so that none lives off the features that its neighbours turn on.

use std::path::Path;

use crate::command::{cargo, watch};
use crate::tidy::metadata::{Package, packages};

/// Checks each crate with its default features and, where it has others, with every smaller set that makes sense.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let mut failed = Vec::new();
    for package in packages(root)? {
        for features in feature_sets(&package) {
            let mut args = vec!["check", "--locked", "--package", &package.name];
            args.extend(features);
            let shown = format!("cargo {}", args.join(" "));
            println!("==> {shown}");
            if watch(cargo(root, &args), |_| ()).is_err() {
                failed.push(shown);
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("these do not build alone:\n  {}", failed.join("\n  ")))
    }
}

fn feature_sets(package: &Package) -> Vec<&'static [&'static str]> {
    let default: &[&str] = &[];
    match package.name.as_str() {
        // Without a TLS provider there is no QUIC.
        "macula-transport" => vec![default, &["--no-default-features", "--features", "ring"]],
        _ if package.has_default_features => vec![default, &["--no-default-features"]],
        _ => vec![default],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, has_default_features: bool) -> Package {
        Package { name: name.into(), dependencies: Vec::new(), has_default_features }
    }

    #[test]
    fn smaller_feature_sets_are_tried_where_there_are_any() {
        assert_eq!(feature_sets(&package("macula-rpc", false)).len(), 1);
        assert_eq!(feature_sets(&package("macula-dht", true)), [&[][..], &["--no-default-features"]]);
        assert!(feature_sets(&package("macula-transport", true))[1].contains(&"ring"));
    }
}
