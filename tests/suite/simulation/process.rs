//! One process: a command on a runtime and a clock of its own. Between two calls to a store it stands still while others go on,
//! and it can end at any of them: then everything that it was doing ends with it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::simulation::world::{Shared, lock};

/// One command under way, on a runtime and a clock of its own.
pub struct Process {
    client: usize,
    work: Option<Pin<Box<dyn Future<Output = String>>>>,
    runtime: tokio::runtime::Runtime,
}

impl Process {
    /// Starts `work` for a client.
    pub fn new(client: usize, work: impl Future<Output = String> + 'static) -> Process {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        // Work that tokio puts off, since so much is ready at once, would be forgotten whenever the runtime is left for a while.
        let work = tokio::task::unconstrained(work);
        Process { client, work: Some(Box::pin(work)), runtime: runtime.expect("a runtime without any device") }
    }

    /// Runs until the calls that were granted are used up (nothing) or it is over (what it says).
    pub fn go(&mut self, world: &Shared) -> Option<String> {
        let (client, work) = (self.client, self.work.as_mut()?);
        let said = self.runtime.block_on(poll_fn(|cx| {
            if let Poll::Ready(said) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(said));
            }
            let turn = &mut lock(world).turns[client];
            if turn.exhausted {
                return Poll::Ready(None);
            }
            turn.main = Some(cx.waker().clone());
            Poll::Pending
        }));
        if said.is_some() {
            self.work = None;
        }
        said
    }

    /// Its clock goes on while it stood still.
    pub fn sleep_through(&mut self, time: Duration) {
        self.runtime.block_on(tokio::time::advance(time));
    }
}
