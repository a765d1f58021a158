//! Signs of life, as the watchers of scheduled jobs understand them: one at the start, one at the end with the exit code. Who
//! hears nothing raises the alarm. <https://healthchecks.io/docs/http_api/>

use crate::clock::Env;
use crate::metrics::post::{Address, Patience, post};

/// Longest body in bytes.
pub const BODY_MAX: usize = 100_000;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It begins.
    Start,
    /// It ended with this exit code.
    End(u8),
}

/// Tells `to`. `run` pairs a start with its end; `body` is cut where it is too long.
pub async fn ping(env: &Env, to: &Address, run: &str, sign: Sign, body: &str, patience: Patience) -> Result<(), String> {
    let address = match sign {
        Sign::Start => to.below(&["start"]),
        Sign::End(0) => to.clone(),
        Sign::End(code) => to.below(&[&code.to_string()]),
    };
    let mut end = body.len().min(BODY_MAX);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    post(env, &address.with("rid", run), "text/plain; charset=utf-8", &body[..end], patience)
        .await
        .map_err(|why| format!("telling {why}"))
}
