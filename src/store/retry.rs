//! The one retry loop of the program: sends a request again when that may help, and settles what is in doubt.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, BoxStream, StreamExt};

use crate::clock::Env;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::limit::Pressure;
use crate::store::meter::Meter;
use crate::store::name::ObjectName;
use crate::store::{OBJECT_MAX, ObjectInfo, Store};

/// The slowest connection worth having, in bytes per second: what is moved gets its time at this rate on top of
/// the attempt's timeout, so that a large object on a thin line is not cut off for ever.
pub const SLOWEST: u64 = 128 << 10;

/// The longest wait that a store may ask for and get.
const ASKED_MAX: Duration = Duration::from_secs(300);

/// How often and how fast to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Most attempts per request, the first included; at least 1.
    pub attempts: u32,
    /// Upper bound of the random wait before the second attempt; doubles with each further one.
    pub first_delay: Duration,
    /// Upper bound of any wait that the store did not ask for.
    pub max_delay: Duration,
    /// How long one attempt may take, besides the time its bytes need.
    pub attempt_timeout: Duration,
    /// How many retries all requests together may cost.
    pub budget: RetryBudget,
}

/// Retries allowed over all requests: a store in trouble is not helped by several times the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries allowed at once, without a request before them. Also the most that is ever saved up.
    pub reserve: u32,
    /// Retries earned per hundred requests.
    pub percent: u32,
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings {
            attempts: 6,
            first_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(20),
            attempt_timeout: Duration::from_secs(60),
            budget: RetryBudget { reserve: 100, percent: 20 },
        }
    }
}

/// A store whose requests are sent again when that may help. Its listings may repeat work, never names.
pub struct Retrying {
    env: Env,
    inner: Arc<dyn Store>,
    settings: RetrySettings,
    // In hundredths of a retry: whole numbers, so that a run replays exactly.
    tokens: Mutex<u64>,
    pressure: Option<Pressure>,
    meter: Option<Meter>,
}

/// One request with its attempts.
struct Request<'a> {
    store: &'a Retrying,
    attempt: u32,
}

impl Retrying {
    /// `inner`, with retries.
    pub fn new(env: &Env, inner: Arc<dyn Store>, settings: RetrySettings) -> Retrying {
        let tokens = Mutex::new(u64::from(settings.budget.reserve) * 100);
        Retrying { env: env.clone(), inner, settings, tokens, pressure: None, meter: None }
    }

    /// Tells `pressure` of every throttled attempt, also of those that a later attempt makes good.
    pub fn reporting_to(self, pressure: Pressure) -> Retrying {
        Retrying { pressure: Some(pressure), ..self }
    }

    /// Asks a question that changes nothing, and asks again where that may help. `action` says what for, in messages.
    pub async fn ask<T, F>(&self, action: &str, question: impl Fn() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut request = self.request();
        loop {
            match self.attempt(0, || action.to_owned(), question()).await {
                Err(e) if request.again(&e).await => {}
                result => return result,
            }
        }
    }

    /// Counts in `meter` what is sent again.
    pub fn counting(self, meter: Meter) -> Retrying {
        Retrying { meter: Some(meter), ..self }
    }

    fn request(&self) -> Request<'_> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let full = u64::from(self.settings.budget.reserve) * 100;
        *tokens = (*tokens + u64::from(self.settings.budget.percent)).min(full);
        Request { store: self, attempt: 1 }
    }

    fn spend(&self) -> bool {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *tokens >= 100;
        if enough {
            *tokens -= 100;
        }
        enough
    }

    /// How long an attempt that moves `bytes` may take.
    fn time(&self, bytes: u64) -> Duration {
        self.settings.attempt_timeout + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST)
    }

    /// One attempt, cut off after its time: what moves `bytes` gets their time as well.
    async fn attempt<T>(
        &self,
        bytes: u64,
        action: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (began, time) = (self.env.elapsed(), self.time(bytes));
        let result = self.env.timeout(time, work).await;
        self.ended(began, time, action, result)
    }

    /// One attempt at a whole object, whose size nobody told. Who has not got it at half time asks for its size beside it: a
    /// large one gets the time that its bytes need, and a store that does not answer gets no more than it had.
    async fn whole(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let (began, half) = (self.env.elapsed(), self.settings.attempt_timeout / 2);
        let (mut time, mut work) = (self.time(0), self.inner.get(name, None));
        let mut result = self.env.timeout(half, &mut work).await;
        if result.is_none() {
            let size = std::pin::pin!(self.env.timeout(half, self.inner.stat(name)));
            match select(&mut work, size).await {
                Either::Left((done, _)) => result = Some(done),
                Either::Right((told, _)) => {
                    if let Some(Ok(Some(info))) = told {
                        time = self.time(info.size.min(OBJECT_MAX as u64));
                    }
                    let left = (began + time).saturating_sub(self.env.elapsed());
                    result = self.env.timeout(left, work).await;
                }
            }
        }
        self.ended(began, time, || format!("get {name}"), result)
    }

    /// What an attempt came to that began at `began` and had `time`; `None` if that was not enough.
    fn ended<T>(
        &self,
        began: Duration,
        time: Duration,
        action: impl FnOnce() -> String,
        result: Option<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = result.unwrap_or_else(|| {
            let cause = format!("no answer within {time:?}");
            Err(StoreError::new(StoreErrorKind::TimedOut, self.inner.label(), action()).because(cause))
        });
        if let (Some(pressure), Err(StoreError { kind: StoreErrorKind::Throttled(_), .. })) = (&self.pressure, &result) {
            pressure.throttled(began, self.env.elapsed());
        }
        result
    }

    /// Whether the object in the way of a put whose earlier attempt is in doubt holds the same bytes.
    async fn is_mine(&self, name: &ObjectName, bytes: &Bytes) -> Result<bool, StoreError> {
        let work = self.inner.get(name, None);
        Ok(self.attempt(bytes.len() as u64, || format!("get {name}"), work).await? == *bytes)
    }
}

impl Request<'_> {
    /// Waits before the next attempt, `true` once it is due; `false` if `error` is final or the attempts are used up.
    async fn again(&mut self, error: &StoreError) -> bool {
        let settings = &self.store.settings;
        if !error.is_transient() || self.attempt >= settings.attempts || !self.store.spend() {
            return false;
        }
        let doubled = settings.first_delay.saturating_mul(1 << (self.attempt - 1).min(20)).min(settings.max_delay);
        // Full jitter: clients that failed together do not come back together.
        let drawn = u64::from_le_bytes(self.store.env.random());
        let ceiling = u64::try_from(doubled.as_nanos()).unwrap_or(u64::MAX - 1);
        let mut wait = Duration::from_nanos(drawn % (ceiling + 1));
        if let StoreErrorKind::Throttled(Some(asked)) = error.kind {
            wait += asked.min(ASKED_MAX);
        }
        self.attempt += 1;
        if let Some(meter) = &self.store.meter {
            meter.count_again();
        }
        self.store.env.sleep(wait).await;
        true
    }
}

impl Store for Retrying {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut request = self.request();
            let size = bytes.len() as u64;
            let mut in_doubt = false;
            loop {
                let work = self.inner.put(name, bytes.clone());
                let error = match self.attempt(size, || format!("put {name}"), work).await {
                    Ok(()) => return Ok(()),
                    // Perhaps it is what an earlier attempt of this very request left there.
                    Err(refused) if in_doubt && !refused.is_transient() => match self.is_mine(name, &bytes).await {
                        Ok(true) => return Ok(()),
                        Ok(false) => return Err(StoreError { kind: StoreErrorKind::AlreadyExists, ..refused }),
                        // Seen a moment ago, gone now: an object that a prune took, or a stale answer.
                        Err(e) if refused.kind == StoreErrorKind::AlreadyExists => match e.kind {
                            StoreErrorKind::NotFound => StoreError { kind: StoreErrorKind::Unavailable, ..e },
                            _ => StoreError { in_doubt: true, ..e },
                        },
                        // A refusal does not undo what was sent before, which may still arrive.
                        Err(_) => return Err(StoreError { in_doubt: true, ..refused }),
                    },
                    Err(e) => e,
                };
                // Whatever is worth repeating may have been carried out: providers throttle and fail after the fact, too.
                in_doubt |= error.is_transient();
                if !request.again(&error).await {
                    return Err(error);
                }
            }
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let mut request = self.request();
            loop {
                let attempt = match &range {
                    None => self.whole(name).await,
                    Some(part) => {
                        let size = part.end.saturating_sub(part.start).min(OBJECT_MAX as u64);
                        self.attempt(size, || format!("get {name}"), self.inner.get(name, range.clone())).await
                    }
                };
                match attempt {
                    Err(e) if request.again(&e).await => {}
                    result => return result,
                }
            }
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let mut request = self.request();
            loop {
                match self.attempt(0, || format!("stat {name}"), self.inner.stat(name)).await {
                    Err(e) if request.again(&e).await => {}
                    result => return result,
                }
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        struct Listing<'a> {
            pages: BoxStream<'a, Result<ObjectInfo, StoreError>>,
            request: Option<Request<'a>>,
            last: Option<ObjectName>,
            failed: bool,
        }
        let first = Listing { pages: self.inner.list(prefix), request: None, last: None, failed: false };
        stream::unfold(first, move |mut at| async move {
            if at.failed {
                return None;
            }
            let mut request = at.request.take().unwrap_or_else(|| self.request());
            loop {
                let next = async { at.pages.next().await.transpose() };
                match self.attempt(0, || format!("list {prefix}"), next).await {
                    Ok(None) => return None,
                    // After a restart: these were given out before.
                    Ok(Some(info)) if at.last.as_ref().is_some_and(|last| info.name <= *last) => {}
                    Ok(Some(info)) => {
                        // What came through proves that the store answers: the next fault begins anew.
                        request.attempt = 1;
                        at.last = Some(info.name.clone());
                        at.request = Some(request);
                        return Some((Ok(info), at));
                    }
                    Err(e) if request.again(&e).await => at.pages = self.inner.list(prefix),
                    Err(e) => {
                        at.failed = true;
                        return Some((Err(e), at));
                    }
                }
            }
        })
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            let mut request = self.request();
            let mut final_errors = Vec::new();
            let mut batch = names.to_vec();
            loop {
                let work = async { Ok(self.inner.delete(&batch).await) };
                let left = self.attempt(0, || format!("delete {} objects", batch.len()), work).await.unwrap_or_else(|_| {
                    let late = |name: &ObjectName| {
                        let error = StoreError::new(StoreErrorKind::TimedOut, self.inner.label(), format!("delete {name}"));
                        (name.clone(), error)
                    };
                    batch.iter().map(late).collect()
                });
                let (mut again, never): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, e)| e.is_transient());
                final_errors.extend(never);
                // The throttled ones say how long to wait.
                again.sort_by_key(|(_, e)| !matches!(e.kind, StoreErrorKind::Throttled(_)));
                match again.first() {
                    Some((_, worst)) if request.again(worst).await => {
                        batch = again.into_iter().map(|(name, _)| name).collect();
                    }
                    _ => {
                        final_errors.extend(again);
                        return final_errors;
                    }
                }
            }
        })
    }
}
