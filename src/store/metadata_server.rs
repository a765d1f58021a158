//! Google's metadata server, as far as other providers need it: it gives whoever asks on one of Google's machines a token that
//! says which service account the machine runs as. Each token is made out to an audience and good for an hour, so one is fetched
//! anew whenever it is shown. Tokens are in no message and no log. Google's own store asks by Google's library, not here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Env;
use crate::store::error::StoreErrorKind;
use crate::store::fault::{Fault, chain};

/// Where the server is on all of Google's machines.
const HOST: &str = "metadata.google.internal";

/// What is asked for: a token of the machine's service account. Source: Google Cloud, "Get an ID token".
const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";

/// Longest token in bytes: real ones have about one thousand. STS takes 20,000.
const TOKEN_MAX: usize = 16 << 10;

/// How long it may take to be given a token: the server may need a moment after its machine has started.
const TOKEN_WITHIN: Duration = Duration::from_secs(15);

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// How long it may take to reach the server: it is next door, or not there.
const NEXT_DOOR: Duration = Duration::from_secs(2);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no token yet.
enum Refusal {
    /// The server is in trouble: it will pass.
    Trouble(String),
    /// There is nobody at that address.
    Nobody(String),
    /// It says no, or gives something else.
    Final(String),
}

/// The server, asked for tokens for one audience.
pub(crate) struct MetadataServer {
    env: Env,
    client: reqwest::Client,
    url: ::url::Url,
    patience: Duration,
    // Whether it has ever given a token: then it is there, and a fault will pass.
    known: AtomicBool,
}

impl fmt::Debug for MetadataServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataServer").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl MetadataServer {
    /// The server at `host` (with its port, if it has one), or where it always is, for tokens that `audience` accepts. Asks
    /// nobody yet. `patience` is how long the request may take that waits for a token. The error says what to mend.
    pub(crate) fn new(env: &Env, host: Option<&str>, audience: &str, patience: Duration) -> Result<MetadataServer, String> {
        let host = host.unwrap_or(HOST);
        let wrong = || format!("GCE_METADATA_HOST: {host:?} is no host; write HOST or HOST:PORT");
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']')) {
            return Err(wrong());
        }
        let place = format!("http://{host}{PATH}");
        let url = ::url::Url::parse_with_params(&place, [("audience", audience), ("format", "full")]).map_err(|_| wrong())?;
        let client = reqwest::Client::builder()
            .connect_timeout(NEXT_DOOR)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // Whoever asks from elsewhere would be given the identity of elsewhere.
            .no_proxy()
            .build()
            .map_err(|e| format!("preparing connections: {}", e.without_url()))?;
        // The token is not all that the request has to wait for.
        let patience = (patience / 2).min(TOKEN_WITHIN);
        Ok(MetadataServer { env: env.clone(), client, url, patience, known: AtomicBool::new(false) })
    }

    /// A fresh token. Waits for a server that is not ready, but not for ever. The fault is `Unavailable` when there will be one
    /// later, and `Denied` when there is none to be had on this machine.
    pub(crate) async fn token(&self) -> Result<Zeroizing<String>, Fault> {
        let began = self.env.elapsed();
        let left = || self.patience.saturating_sub(self.env.elapsed().saturating_sub(began));
        loop {
            let refusal = match self.env.timeout(left().min(ATTEMPT_MAX), self.once()).await {
                Some(Ok(token)) => {
                    self.known.store(true, Ordering::Relaxed);
                    return Ok(token);
                }
                Some(Err(refusal)) => refusal,
                None => Refusal::Trouble("no answer in time".into()),
            };
            if matches!(refusal, Refusal::Final(_)) || left() <= PAUSE {
                return Err(self.fault(refusal));
            }
            self.env.sleep(PAUSE).await;
        }
    }

    async fn once(&self) -> Result<Zeroizing<String>, Refusal> {
        let lost = |e: reqwest::Error| match (e.is_connect(), chain(&e.without_url())) {
            (true, why) => Refusal::Nobody(why),
            (false, why) => Refusal::Trouble(why),
        };
        let request = self.client.get(self.url.clone()).header("Metadata-Flavor", "Google");
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        // What stands in the body of a refusal is not repeated: it may hold anything.
        let said = || format!("HTTP {}", status.as_u16());
        if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
            return Err(Refusal::Trouble(said()));
        }
        if !status.is_success() {
            return Err(Refusal::Final(said()));
        }
        // At its full size from the start: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(TOKEN_MAX));
        while let Some(piece) = answer.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > TOKEN_MAX {
                return Err(Refusal::Final(format!("an answer of more than {TOKEN_MAX} bytes, and no token is that long")));
            }
            body.extend_from_slice(&piece);
        }
        let text = std::str::from_utf8(&body).unwrap_or_default().trim();
        match is_token(text) {
            true => Ok(Zeroizing::new(text.to_owned())),
            false => Err(Refusal::Final("an answer that is no token".into())),
        }
    }

    fn fault(&self, refusal: Refusal) -> Fault {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let text = |why: String| format!("asking Google's metadata server {host}{port} for a token: {why}");
        match refusal {
            Refusal::Trouble(why) => Fault::new(StoreErrorKind::Unavailable, text(why)),
            Refusal::Nobody(why) if self.known.load(Ordering::Relaxed) => Fault::new(StoreErrorKind::Unavailable, text(why)),
            Refusal::Nobody(why) | Refusal::Final(why) => {
                let fix = "no usable credentials: this way to log in takes a machine of Google's (Cloud Run, GKE, Compute Engine) \
                           that runs as a service account; elsewhere name a token_file";
                Fault::new(StoreErrorKind::Denied, format!("{}; {fix}", text(why)))
            }
        }
    }
}

/// Whether it looks like a signed token: three parts in the alphabet of base64 for URLs.
fn is_token(text: &str) -> bool {
    let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    text.split('.').count() == 3 && text.split('.').all(fits)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::{Env, Time};
    use crate::store::metadata_server::{MetadataServer, is_token};

    #[test]
    fn tokens_are_known_by_their_form() {
        assert!(is_token("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln-_"));
        for text in ["", "a.b", "a..c", "a.b.c.d", "a.b.c d", "{\"error\":\"x\"}", "<html>a.b.c</html>"] {
            assert!(!is_token(text), "{text}");
        }
    }

    #[tokio::test]
    async fn the_audience_is_asked_for_at_the_host_that_is_named() {
        let at = |host, audience| MetadataServer::new(&Env::inline(1, Time(0)), host, audience, Duration::from_secs(60));
        let url = |host, audience| at(host, audience).unwrap().url.to_string();
        let path = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=";
        let entra = "api%3A%2F%2FAzureADTokenExchange&format=full";
        assert_eq!(url(None, "api://AzureADTokenExchange"), format!("http://metadata.google.internal{path}{entra}"));
        assert_eq!(url(Some("127.0.0.1:80"), "a&b"), format!("http://127.0.0.1{path}a%26b&format=full"));
        for host in ["", "a/b", "user@host", "host?x", "host:port"] {
            assert!(at(Some(host), "a").unwrap_err().contains("GCE_METADATA_HOST"), "{host}");
        }
    }
}
