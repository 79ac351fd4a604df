//! The workspace's crates and what they depend on, from `cargo metadata`.

use std::path::Path;

use serde_json::Value;

use crate::command::{cargo, output};

/// A crate of the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
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
    Some(Package { name: value["name"].as_str()?.into(), dependencies })
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
        let json = r#"{"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null, "path": "somewhere/b"}, {"name": "c", "kind": "dev"}]}]}"#;
        let b = Dependency { name: "b".into(), dev: false, local: true };
        let c = Dependency { name: "c".into(), dev: true, local: false };
        assert_eq!(parse(json), Some(vec![Package { name: "a".into(), dependencies: vec![b, c] }]));
        assert_eq!(parse("{}"), None);
    }
}
