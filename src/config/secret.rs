//! Where the secret that opens a repository comes from. Never from an argument: those are there for all to see.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::config::{ConfigError, Environment, absolute};
use crate::format::key_slot::KeyFile;
use crate::repository::keyring::Unlock;
use crate::seal::key::Secret;

/// Longest passphrase in bytes. A file that is longer was named by mistake.
pub const PASSWORD_MAX: usize = 64 << 10;

/// Where the secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The passphrase itself (from the environment).
    Password(Zeroizing<Vec<u8>>),
    /// A file that holds the passphrase; one line ending at its end does not belong to it.
    PasswordFile(PathBuf),
    /// A command for `sh` that prints the passphrase; one line ending at its end does not belong to it.
    PasswordCommand(String),
    /// A file that holds a key, as `holdfast key generate` writes it.
    KeyFile(PathBuf),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretSource::Password(_) => f.write_str("Password(..)"),
            SecretSource::PasswordFile(path) => f.debug_tuple("PasswordFile").field(path).finish(),
            SecretSource::PasswordCommand(command) => f.debug_tuple("PasswordCommand").field(command).finish(),
            SecretSource::KeyFile(path) => f.debug_tuple("KeyFile").field(path).finish(),
        }
    }
}

/// The sources named at one place (flags, environment, file); one of them may be set.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// What the place is called in messages, with the name of each source that is set there.
    pub all: Vec<(String, SecretSource)>,
}

impl Named {
    /// Those of the environment; relative paths are seen from `current`.
    pub fn from_environment(environment: &Environment, current: &Path) -> Named {
        let mut all = Vec::new();
        let mut add = |name: &str, make: &dyn Fn(OsString) -> SecretSource| {
            if let Some(value) = environment.get(name) {
                all.push((name.to_owned(), make(value)));
            }
        };
        add("HOLDFAST_PASSWORD", &|v| SecretSource::Password(Zeroizing::new(v.into_vec())));
        add("HOLDFAST_PASSWORD_FILE", &|v| SecretSource::password_file(current, Path::new(&v)));
        add("HOLDFAST_PASSWORD_COMMAND", &|v| SecretSource::PasswordCommand(v.to_string_lossy().into_owned()));
        add("HOLDFAST_KEY_FILE", &|v| SecretSource::key_file(current, Path::new(&v)));
        Named { all }
    }

    /// The one that is set here, if any.
    pub fn one(mut self) -> Result<Option<SecretSource>, ConfigError> {
        if let [(first, _), (second, _), ..] = self.all.as_slice() {
            return Err(ConfigError::new(format!(
                "{first} and {second} are both set: which secret opens the repository? keep one"
            )));
        }
        match self.all.pop() {
            Some((name, source)) if source.is_empty() => Err(ConfigError::new(format!("{name} is set but empty"))),
            last => Ok(last.map(|(_, source)| source)),
        }
    }
}

/// A secret that was read, and what is worth saying about it.
pub struct Loaded {
    /// What opens the repository.
    pub unlock: Unlock,
    /// A warning for the operator.
    pub warning: Option<String>,
}

impl SecretSource {
    /// A passphrase in the file at `path`, seen from `folder`.
    pub fn password_file(folder: &Path, path: &Path) -> SecretSource {
        SecretSource::PasswordFile(seen_from(folder, path))
    }

    /// A key in the file at `path`, seen from `folder`.
    pub fn key_file(folder: &Path, path: &Path) -> SecretSource {
        SecretSource::KeyFile(seen_from(folder, path))
    }

    fn is_empty(&self) -> bool {
        match self {
            SecretSource::Password(password) => password.is_empty(),
            SecretSource::PasswordFile(path) | SecretSource::KeyFile(path) => path.as_os_str().is_empty(),
            SecretSource::PasswordCommand(command) => command.trim().is_empty(),
        }
    }

    /// The file that holds the secret, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            SecretSource::PasswordFile(path) | SecretSource::KeyFile(path) => Some(path),
            SecretSource::Password(_) | SecretSource::PasswordCommand(_) => None,
        }
    }

    /// Reads the secret. Waits for a file or a command.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        match self {
            SecretSource::Password(password) => Ok(Loaded { unlock: Unlock::Passphrase(password.clone()), warning: None }),
            SecretSource::PasswordFile(path) => {
                let (bytes, warning) = read_file(path, "password file")?;
                let password = one_line(bytes, &format!("password file {}", path.display()))?;
                Ok(Loaded { unlock: Unlock::Passphrase(password), warning })
            }
            SecretSource::PasswordCommand(command) => Ok(Loaded { unlock: Unlock::Passphrase(run(command)?), warning: None }),
            SecretSource::KeyFile(path) => {
                let (bytes, warning) = read_file(path, "key file")?;
                let text = one_line(bytes, &format!("key file {}", path.display()))?;
                let wrong =
                    || ConfigError::new(format!("key file {} does not hold one line `holdfast-key-1 DIGITS`", path.display()));
                let text = std::str::from_utf8(&text).map_err(|_| wrong())?;
                let key = KeyFile::parse(text).map_err(|_| wrong())?;
                Ok(Loaded { unlock: Unlock::KeyFile(key.0), warning })
            }
        }
    }

    /// Makes the file with a fresh secret if it is not there; says whether this call made it. The file appears whole or
    /// not at all, for its owner only, and is durable before this returns: a repository must never outlive its only key.
    pub fn create(&self, entropy: [u8; 32]) -> Result<bool, ConfigError> {
        let Some(path) = self.file() else { return Ok(false) };
        if path.symlink_metadata().is_ok() {
            return Ok(false);
        }
        let text = match self {
            SecretSource::KeyFile(_) => KeyFile(Secret::new(entropy)).print(),
            _ => Zeroizing::new(format!("{}\n", Zeroizing::new(hex::encode(entropy)).as_str())),
        };
        match create_secret_file(path, &text) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(ConfigError::caused(format!("creating the secret file {}", path.display()), e)),
        }
    }
}

/// Writes a secret's text to a new file at `path`, mode 0600, durably; never over another file.
pub fn create_secret_file(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(folder)?;
    // Temporary files of this kind are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}

/// An empty path stays empty, so that it is refused as what it is.
fn seen_from(folder: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::new() } else { absolute(folder, path) }
}

fn read_file(path: &Path, what: &str) -> Result<(Zeroizing<Vec<u8>>, Option<String>), ConfigError> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => ConfigError::new(format!(
            "{what} {} does not exist: put the repository's secret there (`holdfast backup --init` makes a fresh one for a new repository)",
            path.display()
        )),
        _ => ConfigError::caused(format!("reading {what} {}", path.display()), e),
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    let bytes = read_bounded(&mut file).map_err(failed)?;
    if bytes.len() > PASSWORD_MAX {
        return Err(ConfigError::new(format!("{what} {} is longer than {PASSWORD_MAX} bytes", path.display())));
    }
    let warning = (mode & 0o004 != 0)
        .then(|| format!("{what} {0} can be read by every user of this machine: chmod 600 {0}", path.display()));
    Ok((bytes, warning))
}

/// Reads one byte more than is allowed, so that the caller sees that it was too much. The buffer never grows: growing
/// would leave copies of the secret behind.
fn read_bounded(from: &mut impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX + 1));
    from.take(PASSWORD_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn one_line(mut bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    match bytes.is_empty() {
        true => Err(ConfigError::new(format!("{what} is empty"))),
        false => Ok(bytes),
    }
}

fn run(command: &str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let failed = |e| ConfigError::caused("running the password command", e);
    let mut child =
        Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::inherit()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let printed = match child.stdout.take() {
        Some(mut stdout) => read_bounded(&mut stdout).map_err(failed),
        None => Ok(Zeroizing::default()),
    };
    let too_long = printed.as_ref().is_ok_and(|p| p.len() > PASSWORD_MAX);
    if too_long {
        // It would wait for ever on a pipe that nobody reads.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if too_long {
        return Err(ConfigError::new(format!("the password command printed more than {PASSWORD_MAX} bytes")));
    }
    if !status.success() {
        return Err(ConfigError::new(format!("the password command failed: {status}")));
    }
    one_line(printed?, "the output of the password command")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use zeroize::Zeroizing;

    use crate::config::Environment;
    use crate::config::secret::{Named, PASSWORD_MAX, SecretSource, create_secret_file};
    use crate::repository::keyring::Unlock;

    fn passphrase(source: &SecretSource) -> Result<Vec<u8>, String> {
        match source.load() {
            Ok(loaded) => match loaded.unlock {
                Unlock::Passphrase(p) => Ok(p.to_vec()),
                Unlock::KeyFile(key) => Ok(key.expose().to_vec()),
            },
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn one_line_ending_is_not_part_of_a_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p");
        for (contents, secret) in [("a b", "a b"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), (" a ", " a ")] {
            std::fs::write(&path, contents).expect("written");
            assert_eq!(passphrase(&SecretSource::PasswordFile(path.clone())), Ok(secret.into()), "{contents:?}");
        }
        for contents in ["", "\n", "\r\n"] {
            std::fs::write(&path, contents).expect("written");
            assert!(
                passphrase(&SecretSource::PasswordFile(path.clone())).is_err_and(|e| e.ends_with("is empty")),
                "{contents:?}"
            );
        }
        std::fs::write(&path, vec![b'x'; PASSWORD_MAX + 1]).expect("written");
        assert!(passphrase(&SecretSource::PasswordFile(path.clone())).is_err_and(|e| e.contains("longer than")));
        assert!(passphrase(&SecretSource::PasswordFile("/nowhere/at/all".into())).is_err_and(|e| e.contains("does not exist")));
    }

    #[test]
    fn commands() {
        let run = |text: &str| passphrase(&SecretSource::PasswordCommand(text.into()));
        assert_eq!(run("printf 'x y\\n'"), Ok(b"x y".to_vec()));
        assert!(run("exit 3").is_err_and(|e| e.contains("exit status: 3")));
        assert!(run("true").is_err_and(|e| e.ends_with("is empty")));
        assert!(run("yes").is_err_and(|e| e.contains("printed more than")));
    }

    #[test]
    fn a_created_secret_opens_and_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/secret");
        let source = SecretSource::KeyFile(path.clone());
        assert_eq!(source.create([7; 32]).map_err(|e| e.to_string()), Ok(true));
        assert_eq!(source.create([8; 32]).map_err(|e| e.to_string()), Ok(false), "never replaced");
        assert_eq!(passphrase(&source), Ok(vec![7; 32]));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(source.load().is_ok_and(|l| l.warning.is_none()));
        assert!(create_secret_file(&path, "x").is_err());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("changed");
        assert!(source.load().is_ok_and(|l| l.warning.is_some_and(|w| w.contains("every user"))));
        std::fs::write(&path, "abc\n").expect("written");
        assert!(passphrase(&source).is_err_and(|e| e.contains("holdfast-key-1")));
    }

    #[test]
    fn one_source_at_a_place() {
        let of = |pairs: &[(&str, &str)]| {
            let environment = Environment::of(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())));
            Named::from_environment(&environment, Path::new("/")).one()
        };
        assert!(matches!(of(&[]), Ok(None)));
        assert!(
            matches!(of(&[("HOLDFAST_PASSWORD", "x ")]), Ok(Some(s)) if s == SecretSource::Password(Zeroizing::new(b"x ".to_vec())))
        );
        let two = of(&[("HOLDFAST_PASSWORD", "x"), ("HOLDFAST_KEY_FILE", "y")]).expect_err("two at once").to_string();
        assert!(two.contains("HOLDFAST_PASSWORD and HOLDFAST_KEY_FILE are both set"), "{two}");
        for name in ["HOLDFAST_PASSWORD", "HOLDFAST_PASSWORD_FILE", "HOLDFAST_PASSWORD_COMMAND", "HOLDFAST_KEY_FILE"] {
            assert!(of(&[(name, "")]).is_err(), "{name}");
        }
        assert!(!format!("{:?}", of(&[("HOLDFAST_PASSWORD", "hunter2")])).contains("hunter2"));
    }
}
