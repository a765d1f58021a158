//! The world of one seed: what lies in the stores, whose turn it is, what is still on its way, and the judge who sees it all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use holdfast::clock::Time;
use holdfast::progress::Stop;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;

use crate::simulation::dice::Dice;
use crate::simulation::judge::{Judge, Sender};
use crate::simulation::shelf::Shelf;
use crate::simulation::weather::{Fate, Weather};

/// Everything, shared by the stores of all clients; never locked across a wait.
pub type Shared = Arc<Mutex<World>>;

/// The world.
pub struct World {
    /// Chance of what happens to calls.
    pub dice: Dice,
    /// What goes wrong.
    pub weather: Weather,
    /// The stores.
    pub shelves: Vec<Shelf>,
    /// How the stores are.
    pub states: Vec<Condition>,
    /// Whose turn it is, by client.
    pub turns: Vec<Turn>,
    /// Sent and not arrived.
    pub late: Vec<Late>,
    /// Who knows what must not happen.
    pub judge: Judge,
    /// The stores' time.
    pub now: Time,
    /// Calls carried out.
    pub step: u64,
    /// What happened, for whoever wants to read it.
    pub story: Option<Vec<String>>,
    trace: blake3::Hasher,
}

/// How a store is for all clients: until which step.
#[derive(Clone, Copy, Default)]
pub struct Condition {
    /// It does not answer.
    pub down: u64,
    /// It takes no more.
    pub full: u64,
}

/// One client's place in the queue.
#[derive(Default)]
pub struct Turn {
    /// Calls that it may make.
    pub steps: u32,
    /// It wanted to make one more.
    pub exhausted: bool,
    /// It may make as many as it wants, and nothing goes wrong.
    pub free: bool,
    /// The provider refuses it.
    pub denied: bool,
    /// What it is doing.
    pub doing: Doing,
    /// The slots of each log that it read in this process, by store.
    pub read: Vec<BTreeSet<u64>>,
    /// How far it knew each log when it sent a record, by store and the record's hash.
    pub sent: BTreeMap<(usize, [u8; 32]), Vec<u64>>,
    /// The stores that something went wrong with for it in this process.
    pub troubled: BTreeSet<usize>,
    /// When it is asked to stop: before so many more calls.
    pub stop: Option<(u64, Stop)>,
    /// Times that it was.
    pub stopped: u64,
    /// Calls that wait for a turn.
    pub waiting: Vec<Waker>,
    /// The process itself.
    pub main: Option<Waker>,
}

/// What a process is for: not everybody may do everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// Nothing yet, or the last look.
    #[default]
    Other,
    /// A backup, and the small heal before it.
    Backup,
    /// Snapshots go.
    Forget,
    /// One comes back.
    Undelete,
    /// Replicas are brought up to date.
    Heal,
    /// All is looked at.
    Verify,
    /// One is read.
    Restore,
    /// What is dead goes.
    Prune,
}

/// A request whose sender waits no longer.
pub enum Late {
    /// Of a put: store, name, bytes, what its sender was doing.
    Put(usize, ObjectName, Bytes, Doing),
    /// Of a delete.
    Delete(usize, ObjectName),
}

/// The world, whatever panicked before.
pub fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Empty stores under `names`, and `clients` clients.
    pub fn new(mut dice: Dice, weather: Weather, names: &[&'static str], clients: usize, told: bool) -> World {
        let turn = || Turn { read: vec![BTreeSet::new(); names.len()], ..Turn::default() };
        World {
            dice: dice.split(),
            weather,
            shelves: names.iter().map(|name| Shelf::new(name)).collect(),
            states: vec![Condition::default(); names.len()],
            turns: (0..clients).map(|_| turn()).collect(),
            late: Vec::new(),
            judge: Judge::new(names),
            now: Time(1_900_000_000_000_000_000),
            step: 0,
            story: told.then(Vec::new),
            trace: blake3::Hasher::new(),
        }
    }

    /// Adds to the trace, and to the story.
    pub fn tell(&mut self, what: impl FnOnce() -> String, mark: &[u8]) {
        self.trace.update(&self.step.to_le_bytes());
        self.trace.update(mark);
        if let Some(story) = &mut self.story {
            story.push(format!("{:6} {}", self.step, what()));
        }
    }

    /// The hash of all that happened so far.
    pub fn trace(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }

    /// One more call: what becomes of it.
    pub fn fate(&mut self, client: usize, at: usize, operation: Operation, name: &str) -> Fate {
        self.step += 1;
        self.now = self.now.plus(std::time::Duration::from_millis(3));
        self.stop(client);
        let (state, turn) = (self.states[at], &self.turns[client]);
        let fate = if turn.free {
            Fate::Serve
        } else if state.down > self.step {
            Fate::Refuse(StoreErrorKind::Unavailable)
        } else if turn.denied {
            Fate::Refuse(StoreErrorKind::Denied)
        } else if state.full > self.step && operation == Operation::Put && name != "descriptor" {
            Fate::Refuse(StoreErrorKind::Full)
        } else {
            self.weather.fate(&mut self.dice, operation, name)
        };
        if fate != Fate::Serve {
            self.turns[client].troubled.insert(at);
        }
        let store = self.shelves[at].name;
        let mark = [&[client as u8, at as u8, operation as u8], name.as_bytes()].concat();
        self.tell(|| format!("{client} {store} {operation:?} {name} {}", told(fate)), &mark);
        fate
    }

    /// One call less until a client is asked to stop.
    fn stop(&mut self, client: usize) {
        let turn = &mut self.turns[client];
        match turn.stop.take() {
            Some((0, stop)) => {
                turn.stopped += 1;
                stop.request();
                self.tell(|| format!("{client} is asked to stop"), b"stop");
            }
            Some((calls, stop)) => turn.stop = Some((calls - 1, stop)),
            None => {}
        }
    }

    /// Carries a put out. The sender: the client, and how far it knew each log when it sent it; none when it arrives late.
    pub fn put(&mut self, at: usize, name: &ObjectName, bytes: &Bytes, doing: Doing, sender: Option<(usize, &[u64])>) -> bool {
        let created = self.shelves[at].put(name, bytes.clone(), self.step, self.now);
        if created {
            let (client, knows) = sender.map_or((None, &[][..]), |(client, knew)| (Some(client), knew));
            self.judge.created(&self.shelves, at, name, bytes, Sender { client, doing, knows });
        }
        created
    }

    /// Carries a delete of one object out.
    pub fn delete(&mut self, at: usize, name: &ObjectName) {
        self.shelves[at].remove(name, self.step);
    }

    /// Something that was sent long ago arrives, or never will.
    pub fn arrive(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let one = self.dice.place(self.late.len());
        let arrives = self.dice.below(4) > 0;
        let late = self.late.swap_remove(one);
        match late {
            _ if !arrives => {}
            Late::Put(at, name, bytes, doing) => {
                self.step += 1;
                let created = self.put(at, &name, &bytes, doing, None);
                let store = self.shelves[at].name;
                self.tell(|| format!("- {store} Put {name} arrives late: created {created}"), name.as_str().as_bytes());
            }
            Late::Delete(at, name) => {
                self.step += 1;
                self.delete(at, &name);
                let store = self.shelves[at].name;
                self.tell(|| format!("- {store} Delete {name} arrives late"), name.as_str().as_bytes());
            }
        }
    }

    /// Gives a client so many calls, to those of its tasks that wait in a random order.
    pub fn grant(&mut self, client: usize, steps: u32) {
        let turn = &mut self.turns[client];
        (turn.steps, turn.exhausted) = (steps, false);
        let mut waiting = std::mem::take(&mut turn.waiting);
        while !waiting.is_empty() {
            let next = self.dice.place(waiting.len());
            waiting.swap_remove(next).wake();
        }
    }

    /// A client's process begins.
    pub fn begin(&mut self, client: usize, doing: Doing) {
        let stores = self.shelves.len();
        let denied = self.turns[client].denied && self.dice.below(3) > 0;
        self.turns[client] = Turn { doing, denied, read: vec![BTreeSet::new(); stores], ..Turn::default() };
    }

    /// A client's process begins, with nothing in its way.
    pub fn begin_free(&mut self, client: usize) {
        let stores = self.shelves.len();
        self.turns[client] = Turn { free: true, read: vec![BTreeSet::new(); stores], ..Turn::default() };
    }
}

impl Turn {
    /// How far it surely knew each log when it first sent this record to this store; nothing for other objects.
    pub fn sending(&mut self, at: usize, name: &ObjectName, bytes: &Bytes) -> Vec<u64> {
        if !name.as_str().starts_with("log/") {
            return Vec::new();
        }
        let knows = self.knows();
        self.sent.entry((at, blake3::hash(bytes).into())).or_insert(knows).clone()
    }

    /// How far it surely knows each log, by store: all slots up to there were read, and nothing was in the way.
    fn knows(&self) -> Vec<u64> {
        let far = |read: &BTreeSet<u64>| (1..).take_while(|slot| read.contains(slot)).last().unwrap_or(0);
        self.read.iter().enumerate().map(|(at, read)| if self.troubled.contains(&at) { 0 } else { far(read) }).collect()
    }
}

fn told(fate: Fate) -> String {
    match fate {
        Fate::Serve => String::new(),
        fate => format!("-- {fate:?}"),
    }
}
