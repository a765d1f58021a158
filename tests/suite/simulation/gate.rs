//! A store as one client sees it: every call waits for its turn, and meets what the weather has for it.

use std::future::{pending, poll_fn};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdfast::clock::Env;
use holdfast::replica::Member;
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{ObjectInfo, Store};

use crate::simulation::planted::{self, Bug};
use crate::simulation::weather::Fate;
use crate::simulation::world::{Late, Shared, lock};

/// A client's way to one store.
pub struct Gate {
    env: Env,
    world: Shared,
    client: usize,
    at: usize,
    label: &'static str,
}

/// The stores as members of a repository, in all wrappers that stores are opened in.
pub fn members(env: &Env, world: &Shared, client: usize, at: &[usize], retries: u32, bug: Option<Bug>) -> Vec<Member> {
    let settings = StoreSettings { retries, ..StoreSettings::default() };
    let member = |at: &usize| {
        let label = lock(world).shelves[*at].name;
        let gate = Gate { env: env.clone(), world: world.clone(), client, at: *at, label };
        let store = holdfast::store::wrap(env, planted::below(bug, Arc::new(gate)), &settings);
        let store = planted::above(env, bug, *at, store);
        Member { name: label.into(), url: format!("memory:{label}"), store: Ok(store) }
    };
    at.iter().map(member).collect()
}

/// A put on its way: when its sender waits no longer, it may still arrive.
struct Sending<'a> {
    gate: &'a Gate,
    what: Option<(&'a ObjectName, Bytes)>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some((name, bytes)) = self.what.take() {
            let mut world = lock(&self.gate.world);
            if world.dice.below(2) == 0 {
                let doing = world.turns[self.gate.client].doing;
                world.late.push(Late::Put(self.gate.at, name.clone(), bytes, doing));
            }
        }
    }
}

impl Gate {
    fn error(&self, kind: StoreErrorKind, operation: Operation, name: &str) -> StoreError {
        StoreError::new(kind, self.label, format!("{operation:?} {name}").to_lowercase())
    }

    /// Waits for its turn.
    async fn turn(&self, operation: Operation, name: &str) -> Fate {
        let wait = {
            let mut world = lock(&self.world);
            let world = &mut *world;
            let free = world.turns[self.client].free;
            if free { None } else { world.weather.latency(&mut world.dice) }
        };
        if let Some(time) = wait {
            self.env.sleep(time).await;
        }
        poll_fn(|cx| {
            let mut world = lock(&self.world);
            let turn = &mut world.turns[self.client];
            if turn.free || turn.steps > 0 {
                turn.steps = turn.steps.saturating_sub(1);
                return Poll::Ready(());
            }
            turn.exhausted = true;
            turn.waiting.push(cx.waker().clone());
            if let Some(main) = &turn.main {
                main.wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        lock(&self.world).fate(self.client, self.at, operation, name)
    }

    fn noted(&self, name: &ObjectName) {
        if let Some(slot) = name.as_str().strip_prefix("log/").and_then(|rest| rest.rsplit('/').next()?.parse::<u64>().ok()) {
            lock(&self.world).turns[self.client].read[self.at].insert(slot);
        }
    }
}

impl Store for Gate {
    fn label(&self) -> &str {
        self.label
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut sending = Sending { gate: self, what: Some((name, bytes.clone())) };
            // What its sender learns while it is on its way, or is sent once more, comes too late for it.
            let knew = lock(&self.world).turns[self.client].sending(self.at, name, &bytes);
            let fate = self.turn(Operation::Put, name.as_str()).await;
            match fate {
                Fate::Silence => pending().await,
                Fate::Refuse(kind) => {
                    let doubtful = matches!(kind, StoreErrorKind::Unavailable | StoreErrorKind::TimedOut);
                    if !doubtful || lock(&self.world).dice.below(4) > 0 {
                        sending.what = None;
                    }
                    Err(self.error(kind, Operation::Put, name.as_str()))
                }
                Fate::Drop => {
                    sending.what = None;
                    Ok(())
                }
                fate => {
                    sending.what = None;
                    let created = {
                        let mut world = lock(&self.world);
                        let doing = world.turns[self.client].doing;
                        world.put(self.at, name, &bytes, doing, Some((self.client, &knew)))
                    };
                    match (created, fate) {
                        (_, Fate::Lose(kind)) => Err(self.error(kind, Operation::Put, name.as_str())),
                        (true, _) => {
                            self.noted(name);
                            Ok(())
                        }
                        (false, _) => Err(self.error(StoreErrorKind::AlreadyExists, Operation::Put, name.as_str())),
                    }
                }
            }
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let fate = self.turn(Operation::Get, name.as_str()).await;
            let error = |kind| self.error(kind, Operation::Get, name.as_str());
            match fate {
                Fate::Silence => pending().await,
                Fate::Refuse(kind) | Fate::Lose(kind) => Err(error(kind)),
                fate => {
                    let bytes = lock(&self.world).shelves[self.at].get(name, range.as_ref()).map_err(error)?;
                    match fate {
                        Fate::Flip(bit) if !bytes.is_empty() => {
                            let mut bytes = bytes.to_vec();
                            let at = (bit / 8) as usize % bytes.len();
                            bytes[at] ^= 1 << (bit % 8);
                            Ok(bytes.into())
                        }
                        _ => {
                            self.noted(name);
                            Ok(bytes)
                        }
                    }
                }
            }
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            match self.turn(Operation::Stat, name.as_str()).await {
                Fate::Silence => pending().await,
                Fate::Refuse(kind) | Fate::Lose(kind) => Err(self.error(kind, Operation::Stat, name.as_str())),
                _ => Ok(lock(&self.world).shelves[self.at].info(name)),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        stream::once(async move {
            let fate = self.turn(Operation::List, prefix).await;
            let error = |kind| stream::iter([Err(self.error(kind, Operation::List, prefix))]);
            let shown = {
                let world = lock(&self.world);
                let ago = if let Fate::Old(ago) = fate { ago } else { 0 };
                world.shelves[self.at].list(prefix, world.step.saturating_sub(ago))
            };
            let half = shown.len() / 2;
            let shown = stream::iter(shown.into_iter().map(Ok));
            match fate {
                Fate::Silence => pending().await,
                Fate::Refuse(kind) => error(kind).boxed(),
                Fate::Lose(kind) => shown.chain(error(kind)).boxed(),
                Fate::Half => shown.take(half).chain(error(StoreErrorKind::Unavailable)).boxed(),
                _ => shown.boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            // Sent is sent: whatever becomes of it, it must have been allowed.
            for name in names {
                lock(&self.world).judge.deleting(self.at, name);
            }
            let fate = self.turn(Operation::Delete, names.first().map_or("", ObjectName::as_str)).await;
            let failed = |kind, names: &[ObjectName]| {
                names.iter().map(|name| (name.clone(), self.error(kind, Operation::Delete, name.as_str()))).collect::<Vec<_>>()
            };
            let (done, later, answer) = match fate {
                Fate::Silence => (0, names, None),
                Fate::Refuse(kind) => (0, &names[..0], Some(failed(kind, names))),
                Fate::Lose(kind) => (names.len(), &names[..0], Some(failed(kind, names))),
                Fate::Half => {
                    let (_, rest) = names.split_at(names.len() / 2);
                    (names.len() / 2, rest, Some(failed(StoreErrorKind::Unavailable, rest)))
                }
                _ => (names.len(), &names[..0], Some(Vec::new())),
            };
            {
                let mut world = lock(&self.world);
                names[..done].iter().for_each(|name| world.delete(self.at, name));
                world.late.extend(later.iter().map(|name| Late::Delete(self.at, name.clone())));
            }
            match answer {
                Some(answer) => answer,
                None => pending().await,
            }
        })
    }
}
