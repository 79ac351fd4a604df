//! "Did you mean …?"

/// The candidate that `given` most likely meant to be, if any is close enough to say so.
///
/// A key is also recognised by its last part, for those who put it into the wrong section.
pub(crate) fn nearest<'a>(given: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let close = candidates
        .clone()
        .map(|candidate| (edits(given, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= edits_allowed(candidate));
    let leaf = |key: &str| key.rsplit('.').next().map(String::from);
    close.map(|(_, candidate)| candidate).or_else(|| {
        let mut same_leaf = candidates.filter(|candidate| leaf(candidate) == leaf(given));
        same_leaf.next().filter(|_| same_leaf.next().is_none())
    })
}

/// A third of the last part may be mistyped, but no more than two letters.
fn edits_allowed(candidate: &str) -> usize {
    let leaf_bytes = candidate.rsplit('.').next().map_or(0, str::len);
    (leaf_bytes / 3).clamp(1, 2)
}

/// Levenshtein distance with swapped neighbours counted as one edit (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    // Far longer than any key: not worth the quadratic comparison.
    const BYTES_MAX: usize = 128;
    if a.len() > BYTES_MAX || b.len() > BYTES_MAX {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["node.id", "node.name", "quic.idle_timeout", "routing.k", "log.level"];

    #[test]
    fn typing_mistakes_and_wrong_sections_are_recognised() {
        for (given, meant) in [
            ("node.nmae", Some("node.name")),
            ("quic.idle_timout", Some("quic.idle_timeout")),
            ("quick.idle_timeout", Some("quic.idle_timeout")),
            ("transport.idle_timeout", Some("quic.idle_timeout")),
            ("loglevel", Some("log.level")),
            ("level", Some("log.level")),
            ("node.port", None),
            ("something.else", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, KEYS.into_iter()), meant, "{given}");
        }
    }

    #[test]
    fn edits_are_counted_as_people_make_them() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("same", "same"), 0);
        assert_eq!(edits("nmae", "name"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits(&"x".repeat(1_000), "x"), usize::MAX);
    }
}
