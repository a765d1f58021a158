//! One seed: a world is drawn from it, clients take turns call by call, and in the end everything has to be there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::chunk::split::ChunkerSpec;
use holdfast::clock::Env;
use holdfast::repository::Access;
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::layout::{self, Class};
use holdfast::store::name::ObjectName;

use crate::simulation::clients::{Client, Command, Common, Run, skew};
use crate::simulation::dice::Dice;
use crate::simulation::finale;
use crate::simulation::gate::members;
use crate::simulation::planted::Bug;
use crate::simulation::process::Process;
use crate::simulation::tree::Model;
use crate::simulation::weather::Weather;
use crate::simulation::world::{Shared, World, lock};
use crate::support::rig;

/// Slices of work after which a seed has gone on for too long.
const SLICES: usize = 60_000;
/// The longest that anybody stands still.
const WEEKS: u64 = 6;

/// What came of a seed.
pub struct Outcome {
    /// What must not have happened; empty: all is well.
    pub broken: Vec<String>,
    /// The hash of all that happened.
    pub trace: [u8; 32],
    /// What happened, if it was to be told.
    pub story: Vec<String>,
    /// Counts.
    pub figures: Figures,
}

/// What a seed was about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Calls to stores.
    pub calls: u64,
    /// Snapshots that clients were told are safe.
    pub promises: u64,
    /// Those of them that nobody forgot.
    pub required: u64,
    /// Commands that were run.
    pub commands: u64,
    /// Those that were ended in the middle.
    pub killed: u64,
    /// Those that were asked to stop.
    pub stopped: u64,
    /// Times that somebody stood still for weeks.
    pub frozen: u64,
    /// Seconds that passed in the world.
    pub seconds: u64,
}

struct Scene {
    world: Shared,
    common: Common,
    clients: Vec<Client>,
    /// Commands left, by client.
    left: Vec<usize>,
    running: BTreeMap<usize, Process>,
    /// Who stands still, for so many slices.
    still: BTreeMap<usize, u64>,
    /// The most calls in one slice.
    stride: u64,
    dice: Dice,
    figures: Figures,
    began: usize,
    _memories: Option<tempfile::TempDir>,
}

/// Plays a seed. With a `bug` the program is wrong in that way. `told`: the story is kept.
pub fn play(seed: u64, bug: Option<Bug>, told: bool) -> Outcome {
    let mut scene = Scene::draw(seed, bug, told);
    scene.found();
    scene.act();
    if lock(&scene.world).judge.broken.is_empty() {
        finale::play(&scene.world, &scene.common, &scene.clients, seed);
    }
    scene.running.clear();
    let mut world = lock(&scene.world);
    let mut figures = scene.figures;
    figures.calls = world.step;
    figures.promises = world.judge.promises.len() as u64;
    figures.required = world.judge.required().count() as u64;
    figures.seconds = u64::try_from(world.now.seconds() - 1_900_000_000).unwrap_or(0);
    let story = world.story.take().unwrap_or_default();
    Outcome { broken: std::mem::take(&mut world.judge.broken), trace: world.trace(), story, figures }
}

impl Scene {
    fn draw(seed: u64, bug: Option<Bug>, told: bool) -> Scene {
        let mut dice = Dice::new(seed);
        let replicas = 2 + dice.place(2);
        let quorum = if dice.below(3) == 0 { replicas } else { replicas - 1 };
        let clients = 2 + dice.place(3);
        let weather = Weather::draw(&mut dice, quorum > 1);
        let world = World::new(dice.split(), weather, &rig::NAMES[..replicas], clients, told);
        let common = Common {
            quorum,
            retries: dice.pick(&[0, 1, 5]),
            publish_bytes: dice.pick(&[4 << 10, 1 << 30]),
            partials: dice.below(8) == 0,
            // Drawn beside the others, which stay what they were.
            stops: Dice::new(!seed).below(3) == 0,
            bug,
        };
        // Files on disk are slow: only some remember.
        let memories = (dice.below(16) == 0).then(|| tempfile::tempdir().expect("a folder"));
        let one = |index: usize| {
            let mut at: Vec<usize> = (0..replicas).collect();
            (0..replicas).for_each(|i| at.swap(i, dice.place(replicas)));
            Client {
                index,
                host: format!("host-{}", if dice.below(4) == 0 { 0 } else { index }),
                skew: skew(&mut dice),
                model: Model::new(index, &mut dice),
                at,
                memory: memories.as_ref().map(|folder| folder.path().join(index.to_string())),
            }
        };
        let clients: Vec<Client> = (0..clients).map(one).collect();
        let left = clients.iter().map(|_| 1 + dice.place(5)).collect();
        let stride = dice.pick(&[1, 4, 16, 64]);
        Scene {
            world: Arc::new(Mutex::new(world)),
            common,
            clients,
            left,
            running: BTreeMap::new(),
            still: BTreeMap::new(),
            stride,
            dice,
            figures: Figures::default(),
            began: 0,
            _memories: memories,
        }
    }

    /// The repository is made, with nothing in the way.
    fn found(&mut self) {
        lock(&self.world).begin_free(0);
        let (world, wall) = (self.world.clone(), lock(&self.world).now);
        let run = Run {
            world: world.clone(),
            client: 0,
            at: self.clients[0].at.clone(),
            seed: self.dice.draw(),
            wall,
            host: String::new(),
            memory: None,
            common: self.common.clone(),
            tag: String::new(),
        };
        let mut process = Process::new(0, async move {
            let env = Env::inline(run.seed, run.wall);
            let chunker = ChunkerSpec { min: 1 << 10, average: 4 << 10, max: 16 << 10 };
            let settings = InitSettings { chunker, ..InitSettings::default() };
            let at = members(&env, &run.world, 0, &run.at, 0, None);
            let made = init(&env, at, &settings, &rig::unlock()).await.expect("a new repository");
            assert!(made.failed.is_empty(), "{:?}", made.failed);
            let repository = run.open(&env, Access::Read).await.expect("it opens");
            let mut world = lock(&run.world);
            let world = &mut *world;
            world.judge.learn(repository.keyring.clone(), &world.shelves);
            String::new()
        });
        process.go(&world).expect("nothing is in the way");
        lock(&world).turns[0].free = false;
    }

    /// Clients take turns until all is done, or something is broken.
    fn act(&mut self) {
        for slice in 0.. {
            if !lock(&self.world).judge.broken.is_empty() {
                return;
            }
            if slice == SLICES {
                lock(&self.world).judge.accuse("this goes on for ever");
                return;
            }
            let mut awake: Vec<usize> =
                (0..self.clients.len()).filter(|i| self.running.contains_key(i) || self.left[*i] > 0).collect();
            if awake.is_empty() {
                return;
            }
            awake.retain(|i| !self.still.contains_key(i));
            if awake.is_empty() {
                self.still.values_mut().for_each(|left| *left = 0);
            }
            self.wake();
            if !awake.is_empty() {
                let client = awake[self.dice.place(awake.len())];
                self.slice(client);
                self.trouble(client);
            }
        }
    }

    fn wake(&mut self) {
        let up: Vec<usize> = self.still.iter().filter(|(_, left)| **left == 0).map(|(client, _)| *client).collect();
        self.still.values_mut().for_each(|left| *left = left.saturating_sub(1));
        for client in up {
            self.still.remove(&client);
            // Some machines' clocks stand still with them, others' do not.
            if let Some(process) = self.running.get_mut(&client)
                && self.dice.below(2) == 0
            {
                process.sleep_through(Duration::from_secs(self.dice.below(WEEKS * 7 * 86_400)));
            }
            lock(&self.world).tell(|| format!("{client} goes on"), b"goes on");
        }
    }

    /// One slice of one client's work.
    fn slice(&mut self, client: usize) {
        if !self.running.contains_key(&client) {
            self.left[client] -= 1;
            self.began += 1;
            self.figures.commands += 1;
            let command = if self.began <= 2 { Command::Backup } else { Command::draw(&mut self.dice) };
            let process = self.clients[client].start(&self.world, command, &self.common, &mut self.dice, self.began);
            self.running.insert(client, process);
        }
        let steps = 1 + self.dice.below(self.stride) as u32;
        lock(&self.world).grant(client, steps);
        let process = self.running.get_mut(&client).expect("it runs");
        if let Some(said) = process.go(&self.world) {
            self.running.remove(&client);
            self.figures.stopped += lock(&self.world).turns[client].stopped.min(1);
            lock(&self.world).tell(|| format!("{client} ends: {said}"), said.as_bytes());
        }
    }

    /// What else happens in the world.
    fn trouble(&mut self, client: usize) {
        let (mut kill, mut freeze) = (false, false);
        {
            let mut world = lock(&self.world);
            let world = &mut *world;
            let weather = world.weather.clone();
            let at = world.dice.place(world.shelves.len());
            let lasts = world.step + 1 + world.dice.below(400);
            let is = |world: &mut World, rate| world.dice.happens(rate);
            if is(world, weather.outage) && world.states.iter().all(|state| state.down <= world.step) {
                world.states[at].down = lasts;
                world.tell(|| format!("store {at} is down until {lasts}"), b"down");
            }
            if is(world, weather.full) {
                world.states[at].full = lasts;
                world.tell(|| format!("store {at} is full until {lasts}"), b"full");
            }
            if is(world, weather.denied) {
                world.turns[client].denied = true;
                world.tell(|| format!("{client} is denied"), b"denied");
            }
            if is(world, weather.arrive) {
                world.arrive();
            }
            if is(world, weather.rot) {
                rot(world);
            }
            if self.running.contains_key(&client) {
                kill = is(world, weather.kill);
                freeze = is(world, weather.freeze);
            }
        }
        if kill {
            lock(&self.world).tell(|| format!("{client} is killed"), b"killed");
            self.figures.killed += 1;
            self.running.remove(&client);
        } else if freeze {
            let mut world = lock(&self.world);
            let weeks = Duration::from_secs(world.dice.below(WEEKS * 7 * 86_400));
            world.now = world.now.plus(weeks);
            world.tell(|| format!("{client} stands still, {} days pass", weeks.as_secs() / 86_400), b"still");
            self.figures.frozen += 1;
            self.still.insert(client, 20 + world.dice.below(2_000));
        }
    }
}

/// One pack at the first store rots: never the same content at two. (What a damaged snapshot object or index segment takes with it,
/// no command brings back yet.)
fn rot(world: &mut World) {
    let may = |name: &&ObjectName| matches!(layout::parse_hashed(name), Some((Class::DataPack | Class::MetaPack, _)));
    let names: Vec<_> = world.shelves[0].names().filter(may).cloned().collect();
    if names.is_empty() {
        return;
    }
    let (one, bit) = (world.dice.place(names.len()), world.dice.draw());
    world.shelves[0].rot(&names[one], bit);
    world.tell(|| format!("{} rots", names[one]), b"rots");
}
