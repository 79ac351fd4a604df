//! The reference page, written from the schema.

use std::fmt::Write;

use super::key::{Change, Key};
use super::resolved::LAWS;
use super::schema::{KEYS, SECTIONS};

/// `docs/CONFIGURATION.md`.
pub fn reference_page() -> String {
    let mut page = String::from(PREFACE);
    for (section, doc) in SECTIONS {
        let _infallible = write!(page, "\n## [{section}]\n\n{}\n", paragraph(doc));
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            entry(&mut page, key);
        }
    }
    page.push_str("\n## Rules between keys\n\n");
    for law in LAWS {
        let _infallible = writeln!(page, "- `{}`: {}.", law.keys[0], law.rule);
    }
    page.push_str("\n## A complete file\n\nAll defaults, written out; a key that is unset by default is commented out.\n\n```toml\n");
    page.push_str(&complete_file());
    page.push_str("```\n");
    page
}

const PREFACE: &str = "\
<!-- Written from macula/src/config/schema.rs. To update: MACULA_UPDATE_DOCS=1 cargo nextest run -p macula reference -->

# Configuration

A node reads its configuration from a TOML file, the environment and the program (command-line options, or a
builder in code). The program wins over the environment, the environment over the file, the file over the
defaults. All of it is checked before the node starts, and everything that is wrong is reported at once.

- Durations are text with a unit (`\"500ms\"`, `\"1s\"`, `\"5m\"`, `\"1h\"`, `\"1d\"`) or whole milliseconds.
- In an environment variable a list has commas between its items; an empty variable counts as not set.
- An unknown key is an error, and so is an environment variable that looks like a mistyped one. Other variables
  that begin with `MACULA_` are ignored, with a warning if they name a section: `MACULA_NODE` is the command line's
  own, and container platforms set such variables by themselves (`MACULA_NODE_PORT` for a service called
  `macula-node`).
- Keys marked as *live* can be changed while the node runs.
";

fn entry(page: &mut String, key: &Key) {
    let default = match key.default {
        Some(_) => format!("`{}`", key.default_value()),
        None => "unset".into(),
    };
    let change = match key.change {
        Change::Live => "live".into(),
        Change::Restart(why) => format!("needs a restart ({why})"),
    };
    let _infallible = write!(
        page,
        "\n### {}\n\n{}\n\n- Default: {default}\n- Value: {}\n- Environment: `{}`\n- Change: {change}\n",
        key.name,
        paragraph(key.doc),
        key.kind.rule(),
        key.env(),
    );
}

fn complete_file() -> String {
    let mut file = String::new();
    for (at, (section, _)) in SECTIONS.iter().enumerate() {
        let _infallible = writeln!(file, "{}[{section}]", if at == 0 { "" } else { "\n" });
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let _infallible = match key.default {
                Some(_) => writeln!(file, "{} = {}", key.field(), key.default_value()),
                None => writeln!(file, "# {} = \"…\"", key.field()),
            };
        }
    }
    file
}

/// Doc comments as one flowing paragraph each.
fn paragraph(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    let paragraphs = lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty());
    paragraphs.map(|lines| lines.join(" ")).collect::<Vec<_>>().join("\n\n")
}
