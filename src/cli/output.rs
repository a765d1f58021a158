//! What is printed, and how: results to standard output, everything else to standard error, as text or as JSON lines.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::github::{GitHub, harmless};
use crate::cli::log;
use crate::clock::Time;
use crate::config::run::LogFormat;

/// Where a command says things.
pub struct Output {
    /// JSON lines instead of text.
    pub json: bool,
    /// No progress, no notes: results and errors only.
    pub quiet: bool,
    /// More notes.
    pub verbose: bool,
    github: Option<GitHub>,
    logs: AtomicBool,
    results: Mutex<Results>,
}

struct Results {
    to: Box<dyn Write + Send>,
    closed: bool,
    failure: Option<std::io::Error>,
}

impl Output {
    /// Prints results to standard output.
    pub fn new(json: bool, quiet: bool, verbose: bool) -> Output {
        Output::to(Box::new(std::io::BufWriter::new(std::io::stdout())), json, quiet, verbose)
    }

    /// Prints results to `to`.
    pub fn to(to: Box<dyn Write + Send>, json: bool, quiet: bool, verbose: bool) -> Output {
        Output {
            json,
            quiet,
            verbose,
            github: None,
            logs: AtomicBool::new(false),
            results: Mutex::new(Results { to, closed: false, failure: None }),
        }
    }

    /// Speaks to GitHub's runner, too.
    pub fn with_github(self, github: Option<GitHub>) -> Output {
        Output { github, ..self }
    }

    /// Prints a line of a text result. False when nobody reads any more: whoever prints a lot can end.
    pub fn line(&self, text: impl std::fmt::Display) -> bool {
        self.write(format_args!("{text}\n"))
    }

    /// Prints one JSON value as a line. False when nobody reads any more.
    pub fn object(&self, value: &Value) -> bool {
        self.write(format_args!("{value}\n"))
    }

    /// Takes in what a command did as a whole: the last line of `--json`, and a part of GitHub's page.
    pub fn summary(&self, value: &Value) {
        if let Some(github) = &self.github {
            github.report(value);
        }
        if self.json {
            self.object(value);
        }
    }

    fn write(&self, text: std::fmt::Arguments<'_>) -> bool {
        let Ok(mut results) = self.results.lock() else { return false };
        if results.closed {
            return false;
        }
        if let Err(e) = results.to.write_fmt(text) {
            results.close(e);
        }
        !results.closed
    }

    /// Hands over what was printed so far.
    pub fn flush(&self) {
        if let Ok(mut results) = self.results.lock()
            && !results.closed
            && let Err(e) = results.to.flush()
        {
            results.close(e);
        }
    }

    /// Ends the results. An error when they could not be written, unless their reader just went away.
    pub fn finish(&self) -> std::io::Result<()> {
        self.flush();
        match self.results.lock() {
            Ok(mut results) => results.failure.take().map_or(Ok(()), Err),
            Err(_) => Ok(()),
        }
    }

    /// From now on, what is told besides results goes to a log that machines read, instead of plainly to standard error.
    pub fn log_as(&self, format: LogFormat) {
        log::start(format);
        self.logs.store(true, Ordering::Relaxed);
    }

    /// Whether there is such a log.
    pub fn logs(&self) -> bool {
        self.logs.load(Ordering::Relaxed)
    }

    /// Says something that matters but is no failure.
    pub fn warn(&self, text: &str) {
        match (self.logs(), self.json) {
            (true, _) => log::warn(&printable(text)),
            (false, true) => say(&json!({"message_type": "warning", "message": text}).to_string()),
            (false, false) => self.annotate(GitHub::warning, text, || format!("warning: {}", printable(text))),
        }
    }

    /// Says something that is good to know; people only.
    pub fn note(&self, text: &str) {
        if self.logs() {
            log::note(&printable(text));
        } else if !self.quiet && !self.json {
            self.tell(&printable(text));
        }
    }

    /// Says it where there is something to say; people only.
    pub fn note_if(&self, text: Option<String>) {
        text.iter().for_each(|text| self.note(text));
    }

    /// Says something that few want to know; people only.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// Says that one item failed; the run goes on. `during` is what was being done.
    pub fn problem(&self, during: &str, item: &str, message: &str) {
        if self.logs() || self.json {
            // Standard error stays of one kind: only the page hears of it.
            let _ = self.github.as_ref().map(|github| github.problem(&format!("{}: {message}", name(item.as_bytes()))));
        }
        match (self.logs(), self.json) {
            (true, _) => log::problem(during, &name(item.as_bytes()), &printable(message)),
            (false, true) => {
                say(&json!({"message_type": "error", "error": {"message": message}, "during": during, "item": item}).to_string())
            }
            (false, false) => {
                let text = format!("{}: {}", name(item.as_bytes()), printable(message));
                self.annotate(GitHub::problem, &text, || format!("error: {text}"));
            }
        }
    }

    /// Says why the run ended with `code`.
    pub fn failure(&self, code: u8, message: &str) {
        match (self.logs(), self.json) {
            (true, _) => log::failure(code, &printable(message)),
            (false, true) => say(&json!({"message_type": "exit_error", "code": code, "message": message}).to_string()),
            (false, false) => self.annotate(
                |github, text| Some(github.failure(code, text)),
                message,
                || format!("holdfast: {}", printable(message)),
            ),
        }
    }

    /// Ends what GitHub is told: how the command `name` came out.
    pub fn close(&self, name: &str, code: u8, message: &str) {
        if let Some(github) = &self.github {
            github.close(name, code, message).iter().for_each(|complaint| self.warn(complaint));
        }
    }

    /// Says `text` as an annotation where GitHub listens and has room for one, else as `plain` has it.
    fn annotate(&self, annotation: impl Fn(&GitHub, &str) -> Option<String>, text: &str, plain: impl Fn() -> String) {
        match self.github.as_ref().and_then(|github| annotation(github, text)) {
            Some(command) => say(&command),
            None => self.tell(&plain()),
        }
    }

    /// Says a text to people.
    fn tell(&self, text: &str) {
        match self.github {
            Some(_) => say(&harmless(text)),
            None => say(text),
        }
    }
}

impl Results {
    fn close(&mut self, e: std::io::Error) {
        self.closed = true;
        if e.kind() != ErrorKind::BrokenPipe {
            self.failure = Some(e);
        }
    }
}

/// A line to standard error. Nothing can be said about a failure to say something.
fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{line}");
}

/// Whether standard error is a terminal.
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// An error with all its causes, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let next = e.to_string();
        // Transparent wrappers repeat their cause word for word.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = e.source();
    }
    text
}

/// Characters that would move the cursor, colour the screen or reorder what stands around them.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A message that may hold names from elsewhere, safe for a terminal: what steers it is escaped. Line breaks stay.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) && c != '\n' {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// A name for people: as it is where that is safe and unambiguous, else in double quotes with escapes.
pub fn name(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(steers)
        && !text.starts_with('"')
    {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if steers(c) => out.extend(c.escape_default()),
                c => out.push(c),
            }
        }
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

/// Puts a name into a JSON object: as text under `field`, and where it is not UTF-8 also exactly, as base64 under `field_base64`.
pub fn put_name(object: &mut serde_json::Map<String, Value>, field: &str, bytes: &[u8]) {
    object.insert(field.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{field}_base64"), base64(bytes).into());
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// An id as people see it: its first 8 digits.
pub fn short(id: &[u8]) -> String {
    hex::encode(&id[..id.len().min(4)])
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // 1023.95 would be shown as 1024.0.
        if value < if unit == "B" { 1024.0 } else { 1023.95 } {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A length of time for people.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02} h", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// A count with its noun: `1 file`, `2 files`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A time as RFC 3339 in UTC.
pub fn rfc3339(time: Time) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).map(|t| t.to_string()).unwrap_or_default()
}

/// A time as JSON has it where it was taken, `offset` seconds east of UTC.
pub fn rfc3339_at(time: Time, offset: i32) -> String {
    let offset = jiff::tz::Offset::from_seconds(offset).unwrap_or(jiff::tz::Offset::UTC);
    match jiff::Timestamp::from_nanosecond(i128::from(time.0)) {
        Ok(t) if offset != jiff::tz::Offset::UTC => t.display_with_offset(offset).to_string(),
        t => t.map(|t| t.to_string()).unwrap_or_default(),
    }
}

/// A time where it was taken, `offset` seconds east of UTC, to the second.
pub fn local(time: Time, offset: i32) -> String {
    let offset = jiff::tz::Offset::from_seconds(offset).unwrap_or(jiff::tz::Offset::UTC);
    let shown = jiff::Timestamp::from_nanosecond(i128::from(time.0)).map(|t| offset.to_datetime(t));
    shown.map(|t| t.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// A text that a shell reads as one word.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':' | '=' | '@' | '%' | '+' | ',');
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Lines of columns: the first row is the heading, columns named in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let render = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match right.contains(&i) {
            true => format!("{cell:>0$}", widths[i]),
            false => format!("{cell:<0$}", widths[i]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(render).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::cli::output::{Output, base64, count, duration, local, name, printable, rfc3339, shell_word, size, table};
    use crate::clock::Time;

    #[test]
    fn names_cannot_steer_a_terminal_and_stay_distinct() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain name.txt", "plain name.txt"),
            ("härter".as_bytes(), "härter"),
            (b"back\\slash", "back\\slash"),
            (b"a\nb", "\"a\\nb\""),
            (b"a\\\nb", "\"a\\\\\\nb\""),
            (b"\x1b[31mred", "\"\\u{1b}[31mred\""),
            (b"\xff\"", "\"\\xff\\\"\""),
            ("x\u{202e}y".as_bytes(), "\"x\\u{202e}y\""),
        ];
        for (bytes, shown) in cases {
            assert_eq!(name(bytes), shown);
        }
        assert_eq!(printable("a\u{1b}[2J\u{9b}\nb"), "a\\u{1b}[2J\\u{9b}\nb");
    }

    #[test]
    fn figures() {
        for (bytes, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(size(bytes), shown);
        }
        for (s, shown) in [(1.25, "1.2 s"), (59.9, "59 s"), (61.0, "1:01 min"), (3661.0, "1:01:01 h")] {
            assert_eq!(duration(Duration::from_secs_f64(s)), shown);
        }
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".into(), "0 files".into()));
        assert_eq!(rfc3339(Time(1_500_000_000)), "1970-01-01T00:00:01.5Z");
        assert_eq!(local(Time(0), 3600), "1970-01-01 01:00:00");
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("\u{ff}\u{3e}", "w78+")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        let rows = [vec!["a".into(), "size".into()], vec!["bcd".into(), "7".into()]];
        assert_eq!(table(&rows, &[1]), ["a    size", "bcd     7"]);
    }

    #[test]
    fn words_survive_the_shell() {
        for word in ["", "a", "a b", "it's", "$HOME", "`id`", "a\nb", "~", "*", "\\", "#x", "!", "-x", "ä"] {
            let command = format!("printf %s {}", shell_word(word));
            let run = std::process::Command::new("sh").arg("-c").arg(command).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&run.stdout), word);
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_failure_but_a_full_disk_is() {
        struct Fails(std::io::ErrorKind);
        impl std::io::Write for Fails {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        for (kind, fine) in [(std::io::ErrorKind::BrokenPipe, true), (std::io::ErrorKind::StorageFull, false)] {
            let output = Output::to(Box::new(Fails(kind)), false, false, false);
            assert!(!output.line("x"));
            assert!(!output.line("y"));
            assert_eq!(output.finish().is_ok(), fine, "{kind:?}");
        }
    }
}
