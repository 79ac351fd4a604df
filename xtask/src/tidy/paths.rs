//! Rule `path`: a repository works wherever it lies, so no file names a place on one machine.

use super::Finding;
use super::source::allows;

const RULE: &str = "path";

/// Folders that exist on the writer's machine only. Written in two parts, since this file is checked as well.
const PLACES: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/t", "mp/"),
    concat!("/wo", "rk/"),
];

pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut above = "";
    for (index, line) in text.lines().enumerate() {
        let place = PLACES.into_iter().find(|place| names_place(line, place));
        let allowed = allows(line, RULE) || (is_comment(above) && allows(above, RULE));
        if let Some(place) = place.filter(|_| !allowed) {
            let advice = format!(
                "`{place}` exists on one machine only: use a relative path, a variable or a temporary folder"
            );
            findings.push(Finding::new(path, index + 1, RULE, advice));
        }
        above = line;
    }
    findings
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//") || line.starts_with('#') || line.starts_with("<!--")
}

/// Whether `place` stands in `line` as the beginning of a path, not in the middle of one or of an address.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_-./*})$~<".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_one_machine_are_found() {
        for place in PLACES {
            let text = format!("fine\nlet dir = \"{place}me/x\";\n");
            let findings = check("a/src/x.rs", &text);
            assert_eq!(findings.len(), 1, "{place}");
            assert_eq!((findings[0].line, findings[0].rule), (2, "path"));
        }
    }

    #[test]
    fn parts_of_other_paths_are_fine() {
        let [home, _, _, tmp, work] = PLACES;
        for fine in [
            format!("https://host{home}x"),
            format!("target{tmp}x"),
            format!("$DIR{work}x"),
            format!("{{dir}}{tmp}x"),
        ] {
            assert_eq!(check("README.md", &fine), [], "{fine}");
        }
    }

    #[test]
    fn a_line_may_be_allowed_with_a_reason() {
        let line = format!("VOLUME {}macula # tidy: allow(path): inside the image", PLACES[3]);
        assert_eq!(check("Containerfile", &line), []);
        let above = format!("# tidy: allow(path): inside the image\nVOLUME {}macula\n", PLACES[3]);
        assert_eq!(check("Containerfile", &above), []);
        assert_eq!(check("Containerfile", &format!("{above}VOLUME {}other", PLACES[3])).len(), 1);
    }
}
