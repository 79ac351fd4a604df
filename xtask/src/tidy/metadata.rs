//! The workspace's crates and what they depend on, from `cargo metadata`.

use std::path::Path;

use serde_json::Value;

use crate::command::{cargo, output};

/// A crate of the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    /// Whether it has features that are on unless asked otherwise.
    pub(crate) has_default_features: bool,
}

/// What a crate asks for, as its `Cargo.toml` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Only for tests, examples and benchmarks.
    pub(crate) dev: bool,
    /// A crate of this workspace.
    pub(crate) local: bool,
}

/// All crates of the workspace.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let json = output(cargo(root, &["metadata", "--format-version", "1", "--no-deps"]))?;
    parse(&json).ok_or_else(|| "`cargo metadata` printed something that is not understood".into())
}

fn parse(json: &str) -> Option<Vec<Package>> {
    let metadata: Value = serde_json::from_str(json).ok()?;
    metadata["packages"].as_array()?.iter().map(package).collect()
}

fn package(value: &Value) -> Option<Package> {
    let dependencies = value["dependencies"].as_array()?.iter().map(dependency).collect::<Option<_>>()?;
    let default = value["features"]["default"].as_array();
    let has_default_features = default.is_some_and(|features| !features.is_empty());
    Some(Package { name: value["name"].as_str()?.into(), dependencies, has_default_features })
}

fn dependency(value: &Value) -> Option<Dependency> {
    Some(Dependency {
        name: value["name"].as_str()?.into(),
        dev: value["kind"].as_str() == Some("dev"),
        local: value["path"].is_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kinds_and_paths_are_read() {
        let json = r#"{"packages": [{"name": "a", "features": {"default": ["x"], "x": []}, "dependencies": [
            {"name": "b", "kind": null, "path": "somewhere/b"}, {"name": "c", "kind": "dev"}]}]}"#;
        let b = Dependency { name: "b".into(), dev: false, local: true };
        let c = Dependency { name: "c".into(), dev: true, local: false };
        let a = Package { name: "a".into(), dependencies: vec![b, c], has_default_features: true };
        assert_eq!(parse(json), Some(vec![a]));
        assert_eq!(parse("{}"), None);
    }
}
