//! Rule `length`: a function fits on a screen, a file is one idea.

use super::Finding;
use super::source::{Source, is_word};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const RULE: &str = "length";

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        functions(source).filter_map(|function| too_long(source, &function)).collect();
    if source.line_count() > FILE_LINES_MAX {
        let lines = source.line_count();
        let advice = format!(
            "{lines} lines, at most {FILE_LINES_MAX} are allowed: split it by ideas, or move its tests"
        );
        findings.push(Finding::new(source.path(), 1, RULE, advice));
    }
    findings
}

struct Function {
    name: String,
    first: usize,
    last: usize,
}

fn functions(source: &Source) -> impl Iterator<Item = Function> + '_ {
    source.words("fn").filter_map(|at| {
        let (name_at, _) = source.next_code(at + 2)?;
        let name: Vec<u8> =
            source.code()[name_at..].iter().copied().take_while(|byte| is_word(*byte)).collect();
        // `fn(u8)` is a type.
        let name = String::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        let last = source.line_of(source.item_end(name_at)? - 1);
        Some(Function { name, first: source.line_of(at), last })
    })
}

fn too_long(source: &Source, function: &Function) -> Option<Finding> {
    let lines = function.last - function.first + 1;
    if lines <= FUNCTION_LINES_MAX || source.allows(RULE, function.first) {
        return None;
    }
    let name = &function.name;
    let advice = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX} are allowed: split it");
    Some(Finding::new(source.path(), function.first, RULE, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("//! Doc.\nfn f(g: fn(u8) -> u8) {{\n{}}}\n", "    g(1);\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_seventy_lines_is_the_longest() {
        assert_eq!(check(&Source::new("a/src/x.rs", &function(70))), []);
        let findings = check(&Source::new("a/src/x.rs", &function(71)));
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].line, findings[0].rule), (2, "length"));
        assert!(findings[0].advice.contains("`f` has 71 lines"), "{}", findings[0]);
    }

    #[test]
    fn braces_in_strings_and_comments_do_not_end_a_function() {
        let text = function(80).replacen("    g(1);\n", "    g('}', \"}\"); // }\n", 1);
        assert_eq!(check(&Source::new("a/src/x.rs", &text)).len(), 1);
    }

    #[test]
    fn a_long_function_may_be_allowed_with_a_reason() {
        let allowed = function(80).replacen("{\n", "{ // tidy: allow(length): a table\n", 1);
        assert_eq!(check(&Source::new("a/src/x.rs", &allowed)), []);
    }

    #[test]
    fn a_file_of_six_hundred_lines_is_the_longest() {
        assert_eq!(check(&Source::new("a/src/x.rs", &"//\n".repeat(600))), []);
        assert_eq!(check(&Source::new("a/tests/x.rs", &"//\n".repeat(601))).len(), 1);
    }
}
