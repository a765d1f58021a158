//! The one way to post something to somebody who watches: few attempts, each of few seconds. Addresses may be secrets: messages
//! name the host alone.

use std::fmt;
use std::time::Duration;

use url::Url;

use crate::clock::Env;

/// Longest address in bytes.
const ADDRESS_MAX: usize = 2048;
/// Bytes of a refusal that are repeated.
const REFUSAL_MAX: usize = 300;

/// Where to post to.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// The host alone.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Address {
    /// An `http://` or `https://` address. The error says what is wrong and does not repeat it.
    pub fn parse(text: &str) -> Result<Address, String> {
        let wrong = || "is no address: write http://HOST/... or https://HOST/...".to_owned();
        if text.len() > ADDRESS_MAX {
            return Err(format!("is longer than {ADDRESS_MAX} bytes"));
        }
        let url = Url::parse(text).map_err(|_| wrong())?;
        match matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()) {
            true => Ok(Address(url)),
            false => Err(wrong()),
        }
    }

    /// The address with more segments at its path's end.
    pub fn below(&self, segments: &[&str]) -> Address {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Address(url)
    }

    /// The address with one more pair in its query.
    pub fn with(&self, name: &str, value: &str) -> Address {
        let mut url = self.0.clone();
        url.query_pairs_mut().append_pair(name, value);
        Address(url)
    }
}

/// How hard to try.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts, at least 1.
    pub attempts: u32,
    /// How long one may take.
    pub timeout: Duration,
    /// The wait before the second one; doubles with each further one.
    pub pause: Duration,
}

impl Patience {
    /// For a run that has time.
    pub const USUAL: Patience = Patience { attempts: 3, timeout: Duration::from_secs(10), pause: Duration::from_secs(1) };
    /// For a run that was asked to stop.
    pub const HURRIED: Patience = Patience { attempts: 1, timeout: Duration::from_secs(3), pause: Duration::ZERO };
}

/// Posts `body`. The error says which host, and why not.
pub async fn post(env: &Env, to: &Address, kind: &'static str, body: &str, patience: Patience) -> Result<(), String> {
    let ask = |client: &reqwest::Client| client.post(to.0.clone()).header("content-type", kind).body(body.to_owned());
    asked(env, to, ask, patience).await
}

/// Deletes what is at an address. The error says which host, and why not.
pub async fn delete(env: &Env, to: &Address, patience: Patience) -> Result<(), String> {
    asked(env, to, |client| client.delete(to.0.clone()), patience).await
}

async fn asked(
    env: &Env,
    to: &Address,
    ask: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder,
    patience: Patience,
) -> Result<(), String> {
    let client = reqwest::Client::builder()
        .connect_timeout(patience.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("preparing connections: {}", e.without_url()))?;
    let mut pause = patience.pause;
    for attempt in 1.. {
        let sent = env.timeout(patience.timeout, once(ask(&client))).await;
        let (why, may_help) = match sent {
            Some(Ok(())) => return Ok(()),
            Some(Err(refused)) => refused,
            None => (format!("no answer within {} s", patience.timeout.as_secs()), true),
        };
        if !may_help || attempt >= patience.attempts {
            return Err(format!("{to}: {why}"));
        }
        env.sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

/// One attempt; the error with whether another one may help.
async fn once(request: reqwest::RequestBuilder) -> Result<(), (String, bool)> {
    let mut answer = request.send().await.map_err(|e| (told(e), true))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let mut said = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        said.extend_from_slice(&piece);
        if said.len() >= REFUSAL_MAX {
            said.truncate(REFUSAL_MAX);
            break;
        }
    }
    let may_help = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err((if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }, may_help))
}

/// An error with its causes, without the address.
fn told(e: reqwest::Error) -> String {
    let e = e.without_url();
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(&e);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::metrics::post::Address;

    #[test]
    fn addresses_grow_and_do_not_show_their_secrets() {
        let address = Address::parse("https://user:hunter2@hc.example:8443/ping/1b2c?x=y").expect("an address");
        let longer = address.below(&["start"]).with("rid", "7 8");
        assert_eq!(longer.0.as_str(), "https://user:hunter2@hc.example:8443/ping/1b2c/start?x=y&rid=7+8");
        let job = Address::parse("http://gate:9091").expect("an address").below(&["metrics", "job", "a ü"]);
        assert_eq!(job.0.as_str(), "http://gate:9091/metrics/job/a%20%C3%BC");
        for shown in [format!("{longer:?}"), longer.to_string()] {
            assert!(
                shown.contains("https://hc.example:8443") && !shown.contains("hunter2") && !shown.contains("1b2c"),
                "{shown}"
            );
        }
        for text in ["", "hc.example", "ftp://hc.example/", "http://", &format!("http://a/{}", "x".repeat(3000))] {
            assert!(Address::parse(text).is_err_and(|why| !why.contains("xxx")), "{text}");
        }
    }
}
