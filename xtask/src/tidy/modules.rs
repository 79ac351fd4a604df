//! Rules `docs` and `names`: a module says what it is, and its name says which idea it holds.

use super::Finding;
use super::source::Source;

/// Names that say nothing, also as a part of a longer name.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "manager"];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.is_test_file() && !source.comment(1).starts_with("//!") {
        let advice = "begin the file with `//!` and one sentence: what this module is";
        findings.push(Finding::new(source.path(), 1, "docs", advice));
    }
    let of_path = source.path().trim_end_matches(".rs").split('/');
    if let Some(name) = of_path.into_iter().find(|name| is_empty_name(name)) {
        findings.push(Finding::new(source.path(), 1, "names", advice(name)));
    }
    findings.extend(inline_modules(source));
    findings
}

fn inline_modules(source: &Source) -> Vec<Finding> {
    let name_after = |at: usize| {
        let rest = String::from_utf8_lossy(&source.code()[at + 3..]);
        let name: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        is_empty_name(&name).then(|| Finding::new(source.path(), source.line_of(at), "names", advice(&name)))
    };
    source.words("mod").filter_map(name_after).collect()
}

fn is_empty_name(name: &str) -> bool {
    name.split(['_', '-']).any(|part| EMPTY_NAMES.contains(&part))
}

fn advice(name: &str) -> String {
    format!("`{name}` says nothing: name the module after the one idea it holds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&Source::new(path, text)).iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_module_begins_with_its_docs() {
        assert_eq!(rules("a/src/probe.rs", "//! Probing.\n"), []);
        assert_eq!(rules("a/src/probe.rs", "use x;\n//! Probing.\n"), [(1, "docs")]);
        assert_eq!(rules("a/src/probe.rs", "// Probing.\n"), [(1, "docs")]);
        assert_eq!(rules("a/src/probe.rs", "#![no_std]\n"), [(1, "docs")]);
        assert_eq!(rules("a/src/probe.rs", ""), [(1, "docs")]);
    }

    #[test]
    fn tests_need_no_docs() {
        assert_eq!(rules("a/src/probe_test.rs", "use super::*;\n"), []);
        assert_eq!(rules("a/tests/probe.rs", "use a::*;\n"), []);
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        assert_eq!(rules("a/src/utils.rs", "//! x\n"), [(1, "names")]);
        assert_eq!(rules("a/src/connection_manager.rs", "//! x\n"), [(1, "names")]);
        assert_eq!(rules("a/tests/common/mod.rs", "//! x\n"), [(1, "names")]);
        assert_eq!(rules("a/src/lib.rs", "//! x\npub mod helpers {}\nmod commonly {}\n"), [(2, "names")]);
    }
}
