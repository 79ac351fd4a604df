//! Rule `architecture`: each dependency is named, with its reason, in ARCHITECTURE.md.

use std::collections::BTreeSet;

use super::Finding;
use super::metadata::Package;

/// The page that says what the workspace is made of.
pub(crate) const PAGE: &str = "ARCHITECTURE.md";
const RULE: &str = "architecture";

/// `page` is the page's text, if there is one.
pub(crate) fn check(page: Option<&str>, packages: &[Package]) -> Vec<Finding> {
    let Some(page) = page else { return vec![Finding::new(PAGE, 1, RULE, "the page is missing: write it")] };
    let dependencies = packages.iter().flat_map(|package| &package.dependencies).filter(|dep| !dep.local);
    let names: BTreeSet<&str> = dependencies.map(|dep| dep.name.as_str()).collect();
    let unnamed = names.into_iter().filter(|name| !names_word(page, name));
    let advice = |name| format!("`{name}` is a dependency: name it here and say what it is for");
    unnamed.map(|name| Finding::new(PAGE, 1, RULE, advice(name))).collect()
}

fn names_word(page: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    page.split(|c: char| !part_of_name(c)).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Dependency;
    use super::*;

    fn package(dependencies: &[(&str, bool)]) -> Package {
        let of =
            |(name, local): &(&str, bool)| Dependency { name: (*name).into(), dev: false, local: *local };
        Package {
            name: "a".into(),
            dependencies: dependencies.iter().map(of).collect(),
            has_default_features: false,
        }
    }

    #[test]
    fn a_dependency_that_the_page_does_not_name_is_found() {
        let packages = [package(&[("tokio", false), ("tokio-util", false), ("macula-proto", true)])];
        assert_eq!(check(Some("We use tokio, and `tokio-util` for its tokens."), &packages), []);
        let findings = check(Some("We use tokio-util."), &packages);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].advice.contains("`tokio`"), "{}", findings[0]);
    }

    #[test]
    fn a_missing_page_is_one_finding() {
        assert_eq!(check(None, &[package(&[("a", false), ("b", false)])]).len(), 1);
    }
}
