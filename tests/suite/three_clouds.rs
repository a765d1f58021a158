//! The main job: the real binary, a real tree, three providers at once, each behind a proxy that can kill, slow or deny it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::real_trees::{difference, has_rsync};
use crate::support::authority::Authority;
use crate::support::clouds::{Cloud, PROVIDERS, Provider, Request};
use crate::support::proxy::{Answer, Fault, Rule};
use crate::support::source_tree::noise;

/// Opens without a costly derivation.
const KEY: &str = "holdfast-key-1 0707070707070707070707070707070707070707070707070707070707070707\n";

/// Three providers behind their proxies, over TLS, a source, and what a process needs to know of them.
struct Desk {
    folder: tempfile::TempDir,
    clouds: Vec<Cloud>,
    runs: std::cell::Cell<usize>,
}

impl Desk {
    async fn new() -> Desk {
        Desk::of(&PROVIDERS, "").await
    }

    async fn of(providers: &[Provider], repository: &str) -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(true);
        let mut clouds = Vec::new();
        for provider in providers {
            clouds.push(Cloud::start(*provider, Some((&authority, folder.path()))).await);
        }
        let mut config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nstall = \"30s\"\n".to_owned();
        config += repository;
        for cloud in &clouds {
            config += &cloud.section(cloud.provider.name(), "a/prefix");
            config += "timeout = \"5s\"\nretries = 3\n";
        }
        config += "[backup]\nhost = \"here\"\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n";
        fs::write(folder.path().join("holdfast.toml"), config).expect("written");
        fs::write(folder.path().join("key"), KEY).expect("written");
        fs::set_permissions(folder.path().join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        Desk { folder, clouds, runs: std::cell::Cell::new(0) }
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.folder.path()).expect("there").join(path)
    }

    /// Runs the program; gives its exit code, standard output and standard error.
    async fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.at("home")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("SSL_CERT_FILE", self.at("authority.pem"));
        for cloud in &self.clouds {
            command.envs(cloud.environment());
        }
        let out: Output = tokio::task::spawn_blocking(move || command.output().expect("the program starts")).await.expect("it ran");
        let (text, errors) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
        (out.status.code().expect("an exit code"), text, errors)
    }

    async fn expect(&self, code: i32, words: &[&str]) -> (String, String) {
        let (ended, out, err) = self.run(words).await;
        assert_eq!(ended, code, "{words:?}\n{out}\n{err}");
        (out, err)
    }

    /// A tree of real files, and some that make packs.
    fn source(&self) -> PathBuf {
        let source = self.at("source");
        fs::create_dir(&source).expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in ["src", "tests", "/usr/share/doc/bash"] {
            let from = root.join(part);
            if from.is_dir() {
                let copied = Command::new("cp").arg("-a").arg(&from).arg(&source).status().expect("cp runs");
                assert!(copied.success());
            }
        }
        for number in 0..12 {
            fs::write(source.join(format!("noise-{number}")), noise(number, 1 << 20)).expect("written");
        }
        source
    }

    /// Changes the source: more noise, some files gone, some edited.
    fn change(&self, source: &Path) {
        for number in 100..112 {
            fs::write(source.join(format!("noise-{number}")), noise(number, 1 << 20)).expect("written");
        }
        fs::remove_file(source.join("noise-3")).expect("removed");
        fs::write(source.join("src/lib.rs"), "// changed\n").expect("written");
    }

    fn cloud(&self, provider: Provider) -> &Cloud {
        self.clouds.iter().find(|c| c.provider == provider).expect("one of the three")
    }

    /// Restores from one store while the others are gone, and compares.
    async fn alone(&self, provider: Provider, source: &Path) {
        self.clouds.iter().filter(|c| c.provider != provider).for_each(|c| c.proxy.down());
        let run = self.runs.replace(self.runs.get() + 1);
        let target = self.at(&format!("restored-{run}"));
        let text = target.to_str().expect("plain").to_owned();
        self.expect(0, &["restore", "latest", "--target", &text, "--from", provider.name()]).await;
        let restored = target.join(source.strip_prefix("/").expect("absolute"));
        assert_eq!(difference(source, &restored), "", "from {provider:?} alone");
        fs::remove_dir_all(&target).expect("removed");
        self.clouds.iter().for_each(|c| c.proxy.up());
    }

    /// The stores that hold the newest snapshot.
    async fn holders(&self) -> Vec<String> {
        let (out, _) = self.expect(0, &["snapshots", "--json"]).await;
        let list: Value = serde_json::from_str(&out).expect("JSON");
        let newest = list.as_array().expect("an array").last().expect("a snapshot").clone();
        assert_eq!(newest["partial"], false);
        newest["replicas"].as_array().expect("replicas").iter().map(|r| r.as_str().expect("a name").to_owned()).collect()
    }

    fn others(&self, victim: Provider) -> Vec<String> {
        self.clouds.iter().map(|c| c.provider).filter(|p| *p != victim).map(|p| p.name().to_owned()).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cloud_alone_restores() {
    if !has_rsync() {
        return;
    }
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    desk.expect(0, &["backup", text(&source)]).await;
    assert_eq!(desk.holders().await.len(), desk.clouds.len());
    for provider in PROVIDERS {
        desk.alone(provider, &source).await;
    }
    desk.change(&source);
    desk.expect(0, &["backup", text(&source)]).await;
    for provider in PROVIDERS {
        desk.alone(provider, &source).await;
    }
    desk.expect(0, &["verify", "--read-data"]).await;
}

/// Killed in the middle of a backup: the others complete, heal brings it back, and it alone restores.
async fn killed(victim: Provider) {
    if !has_rsync() {
        return;
    }
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    desk.expect(0, &["backup", text(&source)]).await;
    desk.change(&source);
    let cloud = desk.cloud(victim);
    // In the middle of the packs: the probe and some packs came through.
    cloud.on(Request::Put, Rule::new(Fault::Down).skip(6));
    let (_, err) = desk.expect(4, &["backup", text(&source)]).await;
    assert!(cloud.proxy.is_down(), "it was struck");
    cloud.proxy.behave();
    cloud.proxy.up();
    assert_eq!(desk.holders().await, desk.others(victim), "{err}");
    let (out, err) = desk.expect(0, &["heal"]).await;
    println!("{out}{err}");
    assert_eq!(desk.holders().await.len(), desk.clouds.len());
    desk.alone(victim, &source).await;
    desk.expect(0, &["backup", text(&source)]).await;
    desk.expect(0, &["verify", "--read-data"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_is_killed_and_healed() {
    killed(Provider::S3).await;
}

/// Throttled, slow and broken answers at one store: the run takes them, and all three hold the snapshot.
async fn troubled(victim: Provider, throttling: Answer) {
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    let cloud = desk.cloud(victim);
    cloud.proxy.inject(Rule::new(Fault::Answer(throttling)).method("PUT").method("POST").method("GET").percent(1, 20));
    cloud.proxy.inject(Rule::new(Fault::ResetAfter).percent(2, 5));
    cloud.proxy.inject(Rule::new(Fault::Delay(Duration::from_millis(200))).percent(3, 50));
    desk.expect(0, &["backup", text(&source)]).await;
    cloud.proxy.behave();
    assert_eq!(desk.holders().await.len(), desk.clouds.len());
    desk.expect(0, &["verify", "--read-data"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_is_troubled() {
    troubled(Provider::S3, Answer::xml(503, "<Error><Code>SlowDown</Code></Error>").with("retry-after", "0")).await;
}

/// What a provider says to whoever may not write, and what the message must name.
fn denied(provider: Provider) -> (Answer, [&'static str; 3]) {
    match provider {
        Provider::S3 => {
            let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
            (Answer::xml(403, body), ["put ", "bucket", "s3:PutObject"])
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_at_one_or_at_all() {
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    for victim in PROVIDERS {
        let (answer, words) = denied(victim);
        desk.cloud(victim).on(Request::Put, Rule::new(Fault::Answer(answer)));
        let code = if desk.clouds.len() == 1 { 13 } else { 4 };
        let (out, err) = desk.expect(code, &["backup", text(&source)]).await;
        for word in words {
            assert!(format!("{out}{err}").contains(word), "{victim:?}: {word:?} is missing:\n{out}\n{err}");
        }
        desk.cloud(victim).proxy.behave();
        desk.expect(0, &["heal"]).await;
    }
    for victim in PROVIDERS {
        desk.cloud(victim).on(Request::Put, Rule::new(Fault::Answer(denied(victim).0)));
    }
    let (out, err) = desk.expect(13, &["backup", text(&source)]).await;
    for word in PROVIDERS.into_iter().flat_map(|p| denied(p).1) {
        assert!(format!("{out}{err}").contains(word), "{word:?} is missing:\n{out}\n{err}");
    }
    // Not even reading is allowed.
    for victim in PROVIDERS {
        desk.cloud(victim).proxy.inject(Rule::new(Fault::Answer(denied(victim).0)));
    }
    desk.expect(13, &["snapshots"]).await;
    desk.expect(13, &["init"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_said_to_be_one() {
    let desk = Desk::of(&[Provider::S3], "").await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time \
                is too large.</Message></Error>";
    desk.cloud(Provider::S3).proxy.inject(Rule::new(Fault::Answer(Answer::xml(403, body))));
    let (_, err) = desk.expect(13, &["backup", text(&source)]).await;
    assert!(err.contains("clock"), "{err}");
}
