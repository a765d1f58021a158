//! What GitHub Actions shows of a run: annotations, a page with the figures, and outputs for the steps that follow.
//!
//! Source: "Workflow commands for GitHub Actions" in GitHub's documentation. The runner reads commands from any line of a
//! step's output, so whatever holds names from elsewhere is escaped before it gets there.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::cli::arguments::meaning;
use crate::cli::output::{duration, printable, size};
use crate::config::Environment;

/// Annotations of one kind that GitHub shows of a step; the rest stays plain text. One is left for the failure itself.
const ANNOTATIONS: usize = 9;
/// Bytes of a message in an annotation or on the page.
const MESSAGE_MAX: usize = 4 << 10;
/// Bytes of our part of the page.
const PAGE_MAX: usize = 64 << 10;
/// Bytes of a step's page: GitHub refuses a larger one whole, with what other tools wrote there.
const PAGES_MAX: u64 = 1 << 20;
/// Rows of a table on the page.
const ROWS: usize = 50;
/// How deep a report is shown.
const DEPTH: usize = 3;

/// When to speak to GitHub's runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Where GITHUB_ACTIONS is true
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What is told to GitHub's runner.
pub struct GitHub {
    page: Option<PathBuf>,
    outputs: Option<PathBuf>,
    told: Mutex<Told>,
}

/// What was said so far.
#[derive(Default)]
struct Told {
    errors: usize,
    warnings: usize,
    problems: Vec<String>,
    problems_more: usize,
    reports: Vec<Value>,
}

impl GitHub {
    /// The runner that `environment` speaks of, if it is to be spoken to.
    pub fn of(when: When, environment: &Environment) -> Option<GitHub> {
        let there = environment.get("GITHUB_ACTIONS").is_some_and(|value| value == "true");
        let path = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match when {
            When::Never => None,
            When::Auto if !there => None,
            _ => Some(GitHub { page: path("GITHUB_STEP_SUMMARY"), outputs: path("GITHUB_OUTPUT"), told: Mutex::default() }),
        }
    }

    /// The command that shows `text` as a warning; none when enough were shown.
    pub fn warning(&self, text: &str) -> Option<String> {
        let mut told = self.told.lock().ok()?;
        told.warnings += 1;
        (told.warnings <= ANNOTATIONS).then(|| command("warning", "Holdfast", text))
    }

    /// The command that shows `text`, about one item, as an error; none when enough were shown.
    pub fn problem(&self, text: &str) -> Option<String> {
        let mut told = self.told.lock().ok()?;
        told.errors += 1;
        match told.problems.len() < ROWS {
            true => told.problems.push(bounded(text).to_owned()),
            false => told.problems_more += 1,
        }
        (told.errors <= ANNOTATIONS).then(|| command("error", "Holdfast", text))
    }

    /// The command that shows why the run ended with `code`.
    pub fn failure(&self, code: u8, text: &str) -> String {
        command("error", &format!("Holdfast, exit code {code}"), text)
    }

    /// Keeps the report of a command for the page.
    pub fn report(&self, summary: &Value) {
        if let Ok(mut told) = self.told.lock()
            && told.reports.len() < ROWS
        {
            told.reports.push(summary.clone());
        }
    }

    /// Adds to the step's page and to its outputs how `name` (a command) ended: with `code`, and `message` if it failed. Returns
    /// what could not be written: a run does not fail for it.
    pub fn close(&self, name: &str, code: u8, message: &str) -> Vec<String> {
        let Ok(told) = self.told.lock() else { return Vec::new() };
        let mut complaints = Vec::new();
        if let Some(path) = &self.page {
            let silent = code == 0 && told.reports.is_empty() && told.problems.is_empty();
            let page = if silent { String::new() } else { page(name, code, message, &told) };
            let before = std::fs::metadata(path).map_or(0, |m| m.len());
            if before + page.len() as u64 > PAGES_MAX {
                complaints.push("the summary page of this step is full: the figures were left out".to_owned());
            } else if let Err(e) = append(path, &page) {
                complaints.push(format!("adding to the summary page {}: {e}", path.display()));
            }
        }
        if let Some(path) = &self.outputs
            && let Err(e) = append(path, &outputs(&told.reports))
        {
            complaints.push(format!("adding to the step's outputs {}: {e}", path.display()));
        }
        complaints
    }
}

fn append(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// At most [`MESSAGE_MAX`] bytes of `text`.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_MAX)]
}

/// A workflow command. Source for what is escaped: the same page; a property may not hold `:` and `,` either.
fn command(kind: &str, title: &str, text: &str) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let title = data(title).replace(':', "%3A").replace(',', "%2C");
    format!("::{kind} title={title}::{}", data(&printable(bounded(text))))
}

/// `text` such that the runner takes no line of it for a command.
pub fn harmless(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace("##[", "## [");
        match line.trim_start().starts_with("::") {
            true => line.replacen("::", ": :", 1),
            false => line,
        }
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// `text` for a cell of a table or a line of Markdown: shown as it is, whatever it holds.
fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(bounded(text)).chars() {
        match c {
            '\n' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '|' | '~' | '#' | '!' | '$' | '@' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Our part of the step's page.
fn page(name: &str, code: u8, message: &str, told: &Told) -> String {
    let mut page = Page { text: String::new(), cut: false };
    let how = meaning(code).unwrap_or("failed");
    page.line(&format!("### holdfast {}: {} (exit code {code})\n", markdown(name), markdown(how)));
    if !message.is_empty() {
        page.line(&format!("{}\n", markdown(message)));
    }
    for report in &told.reports {
        match report {
            Value::Object(fields) => page.fields("", fields, DEPTH),
            Value::Array(items) => page.list("groups", items),
            _ => {}
        }
    }
    if !told.problems.is_empty() {
        page.line("**problems**\n");
        told.problems.iter().for_each(|problem| page.line(&format!("- {}", markdown(problem))));
        if told.problems_more > 0 {
            page.line(&format!("- and {} more, see the log", told.problems_more));
        }
        page.line("");
    }
    if page.cut {
        page.text.push_str("\nThe rest is in the log.\n");
    }
    page.text
}

/// Fields that come first, in this order; the others follow by name.
const FIRST: [&str; 15] = [
    "snapshot_id",
    "label",
    "dry_run",
    "partial",
    "errors",
    "num_errors",
    "files_new",
    "files_changed",
    "files_unmodified",
    "total_bytes_processed",
    "data_added",
    "data_added_packed",
    "bytes_read",
    "total_duration",
    "name",
];
/// Fields that say nothing to people, or what others say already.
const NOT_SHOWN: [&str; 9] = [
    "message_type",
    "data_blobs",
    "tree_blobs",
    "parent",
    "backup_start",
    "backup_end",
    "dirs_new",
    "dirs_changed",
    "dirs_unmodified",
];

/// A page as it grows.
struct Page {
    text: String,
    cut: bool,
}

impl Page {
    /// Adds a line, as long as there is room.
    fn line(&mut self, line: &str) {
        self.cut |= self.text.len() + line.len() + 1 > PAGE_MAX;
        if !self.cut {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Adds a table of what is one value each, then the lists and the groups below it, `deep` levels of them.
    fn fields(&mut self, title: &str, fields: &Map<String, Value>, deep: usize) {
        if !title.is_empty() {
            self.line(&format!("**{}**\n", markdown(title)));
        }
        let ordered = ordered(fields);
        let rows: Vec<_> = ordered.iter().filter_map(|(name, value)| cell(name, value).map(|cell| (name, cell))).collect();
        if !rows.is_empty() {
            self.line("| | |\n|---|---|");
            rows.iter().for_each(|(name, cell)| self.line(&format!("| {} | {cell} |", words(name))));
            self.line("");
        }
        if deep == 0 {
            return;
        }
        for (name, value) in ordered {
            match value {
                Value::Object(below) => self.fields(&words(name), below, deep - 1),
                Value::Array(items) => self.list(&words(name), items),
                _ => {}
            }
        }
    }

    /// Adds a table with a row for each item of a list of objects. Other lists are values by themselves.
    fn list(&mut self, title: &str, items: &[Value]) {
        let objects: Vec<_> = items.iter().filter_map(Value::as_object).collect();
        let mut columns: Vec<&str> = Vec::new();
        for (name, value) in objects.iter().flat_map(|fields| ordered(fields)) {
            if short(name, value).is_some() && !columns.contains(&name) {
                columns.push(name);
            }
        }
        if columns.is_empty() {
            return;
        }
        self.line(&format!("**{title}**\n"));
        self.line(&format!("| {} |", columns.iter().map(|name| words(name)).collect::<Vec<_>>().join(" | ")));
        self.line(&format!("|{}", "---|".repeat(columns.len())));
        for fields in objects.iter().take(ROWS) {
            let cells = columns.iter().map(|name| fields.get(*name).and_then(|value| short(name, value)).unwrap_or_default());
            self.line(&format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
        }
        if objects.len() > ROWS {
            self.line(&format!("\nand {} more", objects.len() - ROWS));
        }
        self.line("");
    }
}

/// The fields to be shown, in the order to show them.
fn ordered(fields: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name)).map(|(name, value)| (name.as_str(), value));
    let rest = fields.iter().map(|(name, value)| (name.as_str(), value));
    let rest = rest.filter(|(name, _)| !FIRST.contains(name) && !NOT_SHOWN.contains(name));
    first.chain(rest).collect()
}

/// A value for a row of a table: of a list only how long it is.
fn short(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Array(items) if items.iter().any(|item| !item.is_string()) => Some(items.len().to_string()),
        _ => cell(name, value),
    }
}

/// A field's name for people.
fn words(name: &str) -> String {
    markdown(&name.replace('_', " "))
}

/// A value for people, if it is one, and there is something to say.
fn cell(name: &str, value: &Value) -> Option<String> {
    let is_bytes = name.contains("bytes") || name.starts_with("data_added");
    let is_time = name.contains("seconds") || name == "total_duration";
    Some(match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(bytes), _) if is_bytes => size(bytes),
            (_, Some(seconds)) if is_time => duration(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            _ => n.to_string(),
        },
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => markdown(text),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            let shown: Vec<_> = items.iter().take(ROWS).filter_map(Value::as_str).map(markdown).collect();
            let more = if items.len() > ROWS { format!(" and {} more", items.len() - ROWS) } else { String::new() };
            shown.join(", ") + &more
        }
        // Counts of objects and bytes, as prune has them.
        Value::Object(fields) if fields.len() <= 6 && fields.values().all(Value::is_number) => {
            let parts = ordered(fields).into_iter().filter(|(_, value)| value.as_u64() != Some(0));
            let parts: Vec<_> =
                parts.filter_map(|(name, value)| Some(format!("{} {}", words(name), cell(name, value)?))).collect();
            if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
        }
        _ => return None,
    })
}

/// Outputs of the step: the last snapshot, all of them, and what was added.
fn outputs(reports: &[Value]) -> String {
    let mut backups: Vec<(&str, u64, u64)> = Vec::new();
    reports.iter().for_each(|report| find_backups(report, DEPTH + 1, &mut backups));
    let ids: Vec<&str> = backups.iter().map(|(id, ..)| *id).collect();
    let added: u64 = backups.iter().map(|(_, added, _)| added).sum();
    let uploaded: u64 = backups.iter().map(|(.., uploaded)| uploaded).sum();
    let mut out = String::new();
    if let Some(id) = ids.last() {
        let _ = write!(out, "snapshot-id={id}\nsnapshot-ids={}\nbytes-added={added}\nbytes-uploaded={uploaded}\n", ids.join(" "));
    }
    out
}

/// Every backup in a report, each once: id of its snapshot, bytes of new content, bytes sent to all replicas.
fn find_backups<'v>(value: &'v Value, deep: usize, found: &mut Vec<(&'v str, u64, u64)>) {
    match value {
        Value::Object(fields) => {
            let id = fields.get("snapshot_id").and_then(Value::as_str).filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()));
            if let (Some(id), Some(added)) = (id, fields.get("data_added").and_then(Value::as_u64))
                && !found.iter().any(|(other, ..)| *other == id)
            {
                let replicas = fields.get("replicas").and_then(Value::as_array).into_iter().flatten();
                found.push((id, added, replicas.filter_map(|r| r.get("bytes_sent")?.as_u64()).sum()));
            }
            if deep > 0 {
                fields.values().for_each(|below| find_backups(below, deep - 1, found));
            }
        }
        Value::Array(items) if deep > 0 => items.iter().for_each(|below| find_backups(below, deep - 1, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cli::github::{ANNOTATIONS, GitHub, PAGE_MAX, ROWS, Told, When, command, harmless, markdown, outputs, page};
    use crate::config::Environment;

    #[test]
    fn it_speaks_where_it_is_told_to() {
        let of = |when, value: &str| GitHub::of(when, &Environment::of([("GITHUB_ACTIONS".into(), value.into())])).is_some();
        assert!(of(When::Auto, "true") && !of(When::Auto, "") && !of(When::Auto, "false"));
        assert!(of(When::Always, "") && !of(When::Never, "true"));
    }

    #[test]
    fn a_message_is_one_command_and_no_other() {
        let cases = [
            ("100% done\r\nnext", "::error title=T::100%25 done\\r%0Anext"),
            ("a\n::set-output name=x::y", "::error title=T::a%0A::set-output name=x::y"),
            ("\u{1b}[31m", "::error title=T::\\u{1b}[31m"),
        ];
        for (text, shown) in cases {
            assert_eq!(command("error", "T", text), shown);
        }
        assert_eq!(command("warning", "a:b,c%\n", ""), "::warning title=a%3Ab%2Cc%25%0A::");
        let long = command("error", "T", &"ä".repeat(1 << 20));
        assert!(long.len() < 5 << 10 && long.ends_with('ä'));
        for (text, shown) in [("a\n  ::add-path::x", "a\n  : :add-path::x"), ("x ##[group]y", "x ## [group]y"), ("a::b", "a::b")]
        {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn annotations_are_few() {
        let github = GitHub::of(When::Always, &Environment::default()).expect("always");
        for n in 0..ANNOTATIONS * 2 {
            assert_eq!(github.warning("w").is_some(), n < ANNOTATIONS);
            assert_eq!(github.problem("p").is_some(), n < ANNOTATIONS);
        }
    }

    #[test]
    fn a_page_shows_names_as_they_are_and_stays_small() {
        assert_eq!(markdown("a|b<img>\n[x](y)"), "a&#124;b&#60;img&#62; &#91;x&#93;(y)");
        let report = json!({
            "message_type": "summary", "snapshot_id": "00ff", "data_added": 2048, "errors": 0, "label": "a|b", "total_duration": 1.25,
            "replicas": [
                {"name": "one", "committed": true, "bytes_sent": 1024, "behind": null},
                {"name": "two", "committed": false, "bytes_sent": 0, "behind": "no route"},
            ],
            "prune": {"replicas": [{"name": "one", "deleted": {"objects": 3, "bytes": 5}}]},
        });
        let told = Told { reports: vec![report], problems: vec!["<b>: denied".into()], ..Told::default() };
        let text = page("backup", 4, "", &told);
        let lines = [
            "### holdfast backup: done at the write quorum, but some replica is behind (exit code 4)",
            "| snapshot id | 00ff |",
            "| label | a&#124;b |",
            "| data added | 2.0 KiB |",
            "| total duration | 1.2 s |",
            "| name | bytes sent | committed | behind |",
            "| one | 1.0 KiB | yes |  |",
            "| two | 0 B | no | no route |",
            "| one | bytes 5 B, objects 3 |",
            "- &#60;b&#62;: denied",
        ];
        for line in lines {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("message type"));
        let many: Vec<_> = (0..ROWS).map(|n| json!({"name": n, "notes": vec!["x".repeat(2000); ROWS]})).collect();
        let text = page("verify", 0, "", &Told { reports: vec![json!({"replicas": many})], ..Told::default() });
        assert!(text.len() < PAGE_MAX + 100 && text.ends_with("The rest is in the log.\n"), "{}", text.len());
    }

    #[test]
    fn outputs_name_every_snapshot_once() {
        let one = json!({"snapshot_id": "aa", "data_added": 3, "replicas": [{"bytes_sent": 5}, {"bytes_sent": 7}]});
        let other =
            json!({"jobs": [one.clone(), {"snapshot_id": "bb", "data_added": 4}], "x": {"snapshot_id": "c\nd", "data_added": 1}});
        let text = outputs(&[one, other]);
        assert_eq!(text, "snapshot-id=bb\nsnapshot-ids=aa bb\nbytes-added=7\nbytes-uploaded=12\n");
        assert_eq!(outputs(&[json!({"snapshot_id": "aa"})]), "");
    }
}
