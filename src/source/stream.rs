//! A stream as a source: one file whose content comes once, from start to end: standard input, or what a command prints. It is
//! whole only when it ended well, and what is not whole is an error. Blocking.

use std::ffi::OsString;
use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Env, Time};
use crate::command::{self, Event, Output, Running, Silence, hear};
use crate::progress::Stop;
use crate::source::directory::{Found, Walked};
use crate::source::metadata::{FileTime, Kind, Meta};
use crate::source::{Content, Origin, Source};

/// Where a stream comes from.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Standard input.
    Input,
    /// What a command prints: program and arguments.
    Command(Vec<OsString>),
}

impl Feed {
    /// What messages call it.
    fn told(&self) -> String {
        match self {
            Feed::Input => "standard input".to_owned(),
            Feed::Command(words) => format!("the command {:?}", words.first().cloned().unwrap_or_default()),
        }
    }
}

/// A stream as a source with one item: the root.
pub struct StreamSource(Option<Found>);

impl StreamSource {
    /// A stream that breaks off when `stop` asks for it, or when nothing comes for `stall`. Nothing is started or read yet.
    pub fn new(env: &Env, feed: Feed, stall: Duration, stop: &Stop) -> StreamSource {
        let meta = owned_file(env.now());
        let stream = Stream { env: env.clone(), feed, stall, stop: stop.clone(), flow: Mutex::new(Flow::default()) };
        let origin = Origin::Stream(Arc::new(stream));
        StreamSource(Some(Found { key: Vec::new(), meta, origin, name: OsString::new() }))
    }
}

impl Source for StreamSource {
    fn next(&mut self) -> Option<Walked> {
        self.0.take().map(Walked::Item)
    }
    fn vanished(&self) -> u64 {
        0
    }
}

/// Metadata of a file that is ours alone: dumps hold what not everybody may read.
fn owned_file(now: Time) -> Meta {
    let time = FileTime { seconds: now.seconds(), nanos: now.subsec_nanos() };
    Meta {
        kind: Kind::File,
        size: 0,
        allocated: 0,
        mode: 0o600,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: time,
        ctime: time,
        inode: 0,
        device_id: 0,
        nlink: 1,
        rdev: (0, 0),
    }
}

struct Stream {
    env: Env,
    feed: Feed,
    stall: Duration,
    stop: Stop,
    flow: Mutex<Flow>,
}

/// How far a stream is.
#[derive(Default)]
struct Flow {
    running: Option<Running>,
    events: Option<Receiver<Event>>,
    piece: Vec<u8>,
    used: usize,
    position: u64,
    /// How it ended: well, or why not.
    ended: Option<Result<(), String>>,
}

impl Content for Stream {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != flow.position {
            return Err(io::Error::other(format!("{} can be read only once", self.feed.told())));
        }
        while flow.used == flow.piece.len() {
            match &flow.ended {
                Some(Ok(())) => return Ok(0),
                Some(Err(why)) => return Err(io::Error::other(format!("{} {why}", self.feed.told()))),
                None => self.go_on(&mut flow),
            }
        }
        let rest = &flow.piece[flow.used..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        flow.used += n;
        flow.position += n as u64;
        Ok(n)
    }
}

impl Stream {
    /// Waits for the next piece, or for the end.
    fn go_on(&self, flow: &mut Flow) {
        if flow.events.is_none()
            && let Err(e) = self.begin(flow)
        {
            flow.ended = Some(Err(format!("could not be started: {e}")));
            return;
        }
        let Flow { running, events: Some(events), piece, used, ended, .. } = flow else { return };
        *ended = match hear(&self.env, events, Some(&self.stop), self.stall) {
            Ok(Event::Output(next)) => {
                (*piece, *used) = (next, 0);
                None
            }
            Ok(Event::Said | Event::Exited) => None,
            Ok(Event::OutputEnded(Err(e))) => Some(Err(format!("cannot be read on: {e}"))),
            // A command whose output ended may still fail, and then it was not all.
            Ok(Event::OutputEnded(Ok(()))) => Some(match running {
                Some(running) => running.conclude(&self.env, events, Some(&self.stop), self.stall),
                None => Ok(()),
            }),
            Err(silence) => {
                let why = match silence {
                    Silence::Stopped => "was left, since the run was asked to stop".to_owned(),
                    Silence::Stalled => format!("gave nothing for {} s", self.stall.as_secs()),
                    Silence::Gone => "broke off".to_owned(),
                };
                Some(Err(match running {
                    Some(running) => {
                        running.end(&self.env, events);
                        running.story(&why)
                    }
                    None => why,
                }))
            }
        };
    }

    fn begin(&self, flow: &mut Flow) -> io::Result<()> {
        let (to, events) = command::channel();
        match &self.feed {
            Feed::Input => command::listen(&self.env, io::stdin(), to)?,
            Feed::Command(words) => flow.running = Some(Running::start(&self.env, words, &[], Output::Wanted, &to)?),
        }
        flow.events = Some(events);
        Ok(())
    }
}
