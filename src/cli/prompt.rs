//! The passphrase, asked for at the terminal: only where nothing is configured, never echoed, never off a terminal.

use std::io::{ErrorKind, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::cli::context::Failure;
use crate::repository::error::Fault;

/// Whether there is somebody to ask: standard input and standard error are a terminal.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// The terminal as it was: put back when this is dropped. Whoever stops waiting for an answer leaves the question standing, and
/// with it a terminal that echoes nothing.
pub struct Terminal(Option<Termios>);

impl Terminal {
    /// As it is now.
    pub fn noted() -> Terminal {
        Terminal(tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing could be done about it.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Asks for the passphrase; `twice` where a typing error would lock everybody out for good. Waits for the operator.
pub fn passphrase(twice: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
    settled(twice, |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new))
}

fn settled(twice: bool, mut ask: impl FnMut(&str) -> std::io::Result<Zeroizing<String>>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::Interrupted => Failure::new(Fault::Interrupted, "interrupted"),
        _ => Failure::usage(format!("asking for the passphrase: {e}")),
    };
    let first = ask("passphrase: ").map_err(failed)?;
    if first.is_empty() {
        return Err(Failure::usage("the passphrase is empty"));
    }
    if twice && *ask("the same passphrase again: ").map_err(failed)? != *first {
        return Err(Failure::usage("the two passphrases differ: nothing was done"));
    }
    Ok(Zeroizing::new(first.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use crate::cli::prompt::settled;
    use crate::repository::error::Fault;

    #[test]
    fn asked_once_or_twice() {
        let ask = |twice: bool, answers: &[&str]| {
            let mut answers = answers.iter();
            let asked = settled(twice, |_| Ok(Zeroizing::new((*answers.next().expect("asked too often")).to_owned())));
            assert!(asked.is_err() || answers.next().is_none(), "asked too seldom");
            asked.map(|text| text.to_vec()).map_err(|failure| failure.message)
        };
        assert_eq!(ask(false, &["a horse "]), Ok(b"a horse ".to_vec()));
        assert_eq!(ask(true, &["a horse", "a horse"]), Ok(b"a horse".to_vec()));
        assert!(ask(true, &["a horse", "a house"]).is_err_and(|e| e.contains("differ")));
        assert!(ask(true, &[""]).is_err_and(|e| e.contains("empty")));
        let stopped = settled(false, |_| Err(std::io::Error::from(std::io::ErrorKind::Interrupted)));
        assert!(stopped.is_err_and(|failure| failure.fault == Fault::Interrupted));
    }
}
