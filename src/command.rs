//! Other programs: started without our secrets, watched, and ended together with what they started.
//!
//! What is here: [`Running`], one program on its way, and how long it may be silent. What comes in: its words and variables. What
//! goes out: its output as events, how it ended, the last it said. What never happens here: a shell, a wait without end, a secret
//! of ours in another program's environment. Blocking.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::clock::Env;
use crate::progress::Stop;

/// Variables that name or hold what opens the repository: no other program gets them.
pub const SECRET_VARIABLES: [&str; 4] =
    ["HOLDFAST_PASSWORD", "HOLDFAST_PASSWORD_FILE", "HOLDFAST_PASSWORD_COMMAND", "HOLDFAST_KEY_FILE"];
/// Bytes that are kept of the last that a program said.
const TAIL: usize = 4 << 10;
/// Bytes of output in one event.
const PIECE: usize = 256 << 10;
/// Events that may wait: with [`PIECE`], what a stream holds beside the budget.
const WAITING: usize = 2;
/// How often a wait looks whether the run is to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a program that was asked to end may take to do so.
const GRACE: Duration = Duration::from_secs(5);

/// What is heard of a program, or of standard input.
pub enum Event {
    /// Bytes of its output.
    Output(Vec<u8>),
    /// Its output ended, or could not be read on.
    OutputEnded(std::io::Result<()>),
    /// It said the last it had to say.
    Said,
    /// It ended.
    Exited,
}

/// Why nothing more was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The run is to stop.
    Stopped,
    /// Nothing came for as long as was allowed.
    Stalled,
    /// Nobody is left who could say something.
    Gone,
}

/// Waits for the next event, at most `patience` and not when the run is to stop.
pub fn hear(env: &Env, events: &Receiver<Event>, stop: Option<&Stop>, patience: Duration) -> Result<Event, Silence> {
    let began = env.elapsed();
    loop {
        let left = patience.saturating_sub(env.elapsed().saturating_sub(began));
        match events.recv_timeout(left.min(TICK)) {
            Ok(event) => return Ok(event),
            Err(RecvTimeoutError::Disconnected) => return Err(Silence::Gone),
            Err(RecvTimeoutError::Timeout) if stop.is_some_and(Stop::requested) => return Err(Silence::Stopped),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Silence::Stalled),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What `from` gives, as events, on a thread of its own. Whoever stops listening ends it with the next piece.
pub fn listen(env: &Env, mut from: impl Read + Send + 'static, to: SyncSender<Event>) -> std::io::Result<()> {
    env.thread(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let event = match from.read(&mut piece) {
                Ok(0) => Event::OutputEnded(Ok(())),
                Ok(n) => {
                    piece.truncate(n);
                    Event::Output(piece)
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => Event::OutputEnded(Err(e)),
            };
            let last = matches!(event, Event::OutputEnded(_));
            if to.send(event).is_err() || last {
                return;
            }
        }
    })
}

/// A channel for what is heard.
pub fn channel() -> (SyncSender<Event>, Receiver<Event>) {
    sync_channel(WAITING)
}

/// What becomes of a program's standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// It is what the program is started for: events.
    Wanted,
    /// It is one more thing that the program says.
    Said,
}

/// A program on its way. When dropped, it is ended.
pub struct Running {
    child: Child,
    group: Option<Pid>,
    tail: Arc<Mutex<Vec<u8>>>,
    ended: bool,
}

impl Running {
    /// Starts `words` (program and arguments) with `variables` beside our own environment, less our secrets, and nothing to
    /// read. Everything about it comes as events to `to`.
    pub fn start(
        env: &Env,
        words: &[OsString],
        variables: &[(&str, String)],
        output: Output,
        to: &SyncSender<Event>,
    ) -> std::io::Result<Running> {
        let (program, arguments) = words.split_first().ok_or_else(|| std::io::Error::other("no program is named"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in SECRET_VARIABLES {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        // A group of its own, so that it can be ended with all that it started.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let running = Running { child, group, tail: Arc::default(), ended: false };
        if let Some(stdout) = stdout {
            match output {
                Output::Wanted => listen(env, stdout, to.clone())?,
                Output::Said => running.keep(env, stdout, None)?,
            }
        }
        if let Some(stderr) = stderr {
            running.keep(env, stderr, Some(to.clone()))?;
        }
        let to = to.clone();
        env.thread(move || {
            let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if let Some(pid) = group {
                while matches!(waitid(WaitId::Pid(pid), how), Err(Errno::INTR)) {}
            }
            let _ = to.send(Event::Exited);
        })?;
        Ok(running)
    }

    /// Keeps the last of what comes from `from`.
    fn keep(&self, env: &Env, mut from: impl Read + Send + 'static, told: Option<SyncSender<Event>>) -> std::io::Result<()> {
        let tail = self.tail.clone();
        env.thread(move || {
            let mut piece = [0; TAIL];
            loop {
                match from.read(&mut piece) {
                    Ok(0) => break,
                    Ok(n) => {
                        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                        tail.extend_from_slice(&piece[..n]);
                        let over = tail.len().saturating_sub(TAIL);
                        tail.drain(..over);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            if let Some(told) = told {
                let _ = told.send(Event::Said);
            }
        })
    }

    /// The last that it said, without blanks around it.
    pub fn tail(&self) -> String {
        String::from_utf8_lossy(&self.tail.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_owned()
    }

    /// How it ended; waits until it does.
    fn status(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.ended = true;
        Ok(status)
    }

    /// Whether it ended. It stays a zombie until it is asked how, so that its number is nobody else's meanwhile.
    fn is_over(&self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        self.group.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), how), Ok(None) | Err(Errno::INTR)))
    }

    /// Ends it and all that it started: asks first, and after a while does not ask.
    pub fn end(&mut self, env: &Env, events: &Receiver<Event>) {
        let began = env.elapsed();
        self.signal(Signal::TERM);
        while !self.is_over() && env.elapsed().saturating_sub(began) < GRACE {
            // What it still gives is not wanted, but must not hold it up.
            let _ = events.recv_timeout(Duration::from_millis(20));
        }
        // Whatever of its group is left.
        self.signal(Signal::KILL);
        let _ = self.status();
    }

    fn signal(&self, signal: Signal) {
        if let (Some(group), false) = (self.group, self.ended) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Waits until it ended by itself, at most `patience` and not when the run is to stop: then it is ended. The error is what
    /// was wrong, with what it said last.
    pub fn conclude(
        &mut self,
        env: &Env,
        events: &Receiver<Event>,
        stop: Option<&Stop>,
        patience: Duration,
    ) -> Result<(), String> {
        let began = env.elapsed();
        while !self.is_over() {
            let left = patience.saturating_sub(env.elapsed().saturating_sub(began));
            let why = match hear(env, events, stop, left) {
                Ok(_) => continue,
                Err(Silence::Gone) => break,
                Err(Silence::Stopped) => "was ended, since the run was asked to stop".to_owned(),
                Err(Silence::Stalled) => format!("had not ended after {} s and was ended", patience.as_secs()),
            };
            self.end(env, events);
            return Err(self.story(&why));
        }
        self.last_words(env, events);
        match self.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.story(&format!("failed ({status})"))),
            Err(e) => Err(self.story(&format!("could not be waited for: {e}"))),
        }
    }

    /// Gives what it said last a moment to arrive: others that hold its output may hold it for ever.
    fn last_words(&self, env: &Env, events: &Receiver<Event>) {
        let began = env.elapsed();
        while env.elapsed().saturating_sub(began) < TICK && hear(env, events, None, TICK).is_ok() {}
    }

    /// `why` with what it said last.
    pub fn story(&self, why: &str) -> String {
        match self.tail() {
            tail if tail.is_empty() => why.to_owned(),
            tail => format!("{why}; it said last: {tail}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
