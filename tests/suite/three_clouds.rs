//! The main job: the real binary, a real tree, three providers at once, each behind a proxy that can kill, slow or deny it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::real_trees::{difference, has_rsync};
use crate::support::answers::{LONG_AGO, gcs_grpc, gcs_json};
use crate::support::authority::Authority;
use crate::support::clouds::{Cloud, Provider, Request, THREE};
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
        Desk::of(&THREE, 3).await
    }

    async fn of(providers: &[Provider], retries: u32) -> Desk {
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new());
        let mut clouds = Vec::new();
        for (provider, name) in providers.iter().zip(["one", "two", "three"]) {
            clouds.push(Cloud::start(*provider, name, Some((&authority, folder.path()))).await);
        }
        Desk::at_these(folder, clouds, retries)
    }

    /// One provider, and it ignores the condition of creates.
    async fn careless(provider: Provider) -> Desk {
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new());
        let cloud = Cloud::careless(provider, "one", Some((&authority, folder.path()))).await;
        Desk::at_these(folder, vec![cloud], 3)
    }

    fn at_these(folder: tempfile::TempDir, clouds: Vec<Cloud>, retries: u32) -> Desk {
        let mut config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nstall = \"30s\"\n".to_owned();
        for cloud in &clouds {
            config += &cloud.section("a/prefix");
            config += &format!("timeout = \"5s\"\nretries = {retries}\n");
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
        let out: Output =
            tokio::task::spawn_blocking(move || command.output().expect("the program starts")).await.expect("it ran");
        let (text, errors) =
            (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
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
    fn change(&self, source: &Path, round: u64) {
        for number in 0..12 {
            let seed = round * 100 + number;
            fs::write(source.join(format!("noise-{seed}")), noise(seed, 1 << 20)).expect("written");
        }
        fs::remove_file(source.join(format!("noise-{round}"))).expect("removed");
        fs::write(source.join("src/lib.rs"), format!("// change {round}\n")).expect("written");
    }

    /// Restores from one store while the others are gone, and compares.
    async fn alone(&self, index: usize, source: &Path) {
        let cloud = &self.clouds[index];
        self.clouds.iter().filter(|c| c.name != cloud.name).for_each(|c| c.proxy.down());
        let run = self.runs.replace(self.runs.get() + 1);
        let target = self.at(&format!("restored-{run}"));
        self.expect(0, &["restore", "latest", "--target", text(&target), "--from", &cloud.name]).await;
        let restored = target.join(source.strip_prefix("/").expect("absolute"));
        assert_eq!(difference(source, &restored), "", "from {:?} alone", cloud.provider);
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

    fn others(&self, victim: usize) -> Vec<String> {
        let others = self.clouds.iter().enumerate().filter(|(i, _)| *i != victim);
        others.map(|(_, cloud)| cloud.name.clone()).collect()
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
    for round in 0..2 {
        desk.expect(0, &["backup", text(&source)]).await;
        assert_eq!(desk.holders().await.len(), 3);
        for index in 0..3 {
            desk.alone(index, &source).await;
        }
        desk.change(&source, round + 1);
    }
    desk.expect(0, &["verify", "--read-data"]).await;
}

/// Killed in the middle of a backup: the others complete. Then `command` brings it back, and it alone restores.
async fn killed(victim: usize, command: &[&str]) {
    if !has_rsync() {
        return;
    }
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    desk.expect(0, &["backup", text(&source)]).await;
    desk.change(&source, 1);
    let cloud = &desk.clouds[victim];
    // In the middle of the packs: what opening puts and some packs came through.
    cloud.on(Request::Put, Rule::new(Fault::Down).skip(6));
    let (out, err) = desk.expect(4, &["backup", text(&source)]).await;
    assert!(cloud.proxy.is_down(), "it was struck");
    assert!(out.lines().any(|l| l.contains(&cloud.name) && l.contains("left behind")), "{out}\n{err}");
    cloud.proxy.behave();
    cloud.proxy.up();
    assert_eq!(desk.holders().await, desk.others(victim), "{err}");
    let command: Vec<&str> = command.iter().map(|word| if *word == SOURCE { text(&source) } else { word }).collect();
    let (out, err) = desk.expect(0, &command).await;
    assert_eq!(desk.holders().await.len(), 3, "{out}{err}");
    desk.alone(victim, &source).await;
    desk.expect(0, &["verify", "--read-data"]).await;
}

/// Stands for the source in a command.
const SOURCE: &str = "SOURCE";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_is_killed_and_catches_up() {
    killed(0, &["backup", SOURCE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_killed_and_catches_up() {
    killed(1, &["backup", SOURCE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_is_killed_and_catches_up() {
    killed(2, &["backup", SOURCE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_is_killed_and_healed() {
    killed(0, &["heal"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_killed_and_healed() {
    killed(1, &["heal"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_is_killed_and_healed() {
    killed(2, &["heal"]).await;
}

/// How a provider says to slow down.
fn busy(provider: Provider) -> Answer {
    match provider {
        Provider::S3 => Answer::xml(503, "<Error><Code>SlowDown</Code></Error>").with("retry-after", "0"),
        Provider::Gcs => gcs_json(503, "backendError", "busy").with("retry-after", "0"),
        Provider::Azure => Answer::xml(503, "<Error><Code>ServerBusy</Code></Error>").with("retry-after", "0"),
    }
}

/// What a provider says to whoever may not write, and what the message must name: action, resource, fix.
fn denied(provider: Provider) -> (Answer, [&'static str; 3]) {
    match provider {
        Provider::S3 => {
            let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
            (Answer::xml(403, body), ["put ", "bucket", "s3:PutObject"])
        }
        Provider::Gcs => {
            let message = "backup@project.iam.gserviceaccount.com does not have storage.objects.create access to the object.";
            (gcs_json(403, "forbidden", message), ["put ", "buckets/bucket", "storage.objects.create"])
        }
        Provider::Azure => {
            let body =
                "<Error><Code>AuthorizationPermissionMismatch</Code><Message>This request is not authorized.</Message></Error>";
            (Answer::xml(403, body), ["put ", "testaccount/container", "blobs/write"])
        }
    }
}

/// Throttled, slow and lost answers at one store: the run takes them, and all three hold the snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_one_costs_time_only() {
    // So many that by chance alone no request fails in all of its attempts.
    let desk = Desk::of(&THREE, 10).await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    for (round, cloud) in desk.clouds.iter().enumerate() {
        cloud.proxy.inject(Rule::new(Fault::Answer(busy(cloud.provider))).percent(1, 15));
        cloud.proxy.inject(Rule::new(Fault::ResetAfter).percent(2, 5));
        cloud.proxy.inject(Rule::new(Fault::Delay(Duration::from_millis(200))).percent(3, 30));
        let (out, err) = desk.expect(0, &["backup", text(&source)]).await;
        cloud.proxy.behave();
        assert_eq!(desk.holders().await.len(), 3, "{out}\n{err}");
        desk.change(&source, 1 + round as u64);
    }
    desk.expect(0, &["verify", "--read-data"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_at_one_or_at_all() {
    let desk = Desk::new().await;
    let source = desk.source();
    desk.expect(0, &["init"]).await;
    let named = |cloud: &Cloud, said: &str| {
        let said: Vec<&str> = said.lines().filter(|l| l.contains(&cloud.name)).collect();
        for word in denied(cloud.provider).1 {
            assert!(said.iter().any(|l| l.contains(word)), "{}: {word:?} is missing: {said:?}", cloud.name);
        }
    };
    for cloud in &desk.clouds {
        cloud.on(Request::Put, Rule::new(Fault::Answer(denied(cloud.provider).0)));
        let (out, err) = desk.expect(4, &["backup", text(&source)]).await;
        named(cloud, &format!("{out}{err}"));
        cloud.proxy.behave();
        // Nothing else stands against it.
        desk.expect(0, &["backup", text(&source)]).await;
    }
    for cloud in &desk.clouds {
        cloud.on(Request::Put, Rule::new(Fault::Answer(denied(cloud.provider).0)));
    }
    let (out, err) = desk.expect(13, &["backup", text(&source)]).await;
    for cloud in &desk.clouds {
        let all = format!("{out}{err}").replace('\n', " ") + &cloud.name;
        named(cloud, &all);
    }
    // Not even reading is allowed.
    for cloud in &desk.clouds {
        cloud.proxy.behave();
        for request in [Request::Stat, Request::List, Request::Delete] {
            if cloud.provider.by_grpc(request) {
                cloud.on(request, Rule::new(Fault::Answer(gcs_grpc(7, "the caller does not have permission"))));
            }
        }
        cloud.proxy.inject(Rule::new(Fault::Answer(denied(cloud.provider).0)));
    }
    desk.expect(13, &["snapshots"]).await;
    desk.expect(13, &["backup", text(&source)]).await;
    desk.expect(13, &["init"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_said_to_be_one() {
    for provider in THREE {
        let desk = Desk::of(&[provider], 3).await;
        let source = desk.source();
        desk.expect(0, &["init"]).await;
        let answer = match provider {
            Provider::S3 => Answer::xml(
                403,
                "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time \
                 is too large.</Message></Error>",
            ),
            // Told by the server's clock alone.
            Provider::Gcs => gcs_json(401, "authError", "Invalid Credentials").with("date", LONG_AGO),
            Provider::Azure => Answer::xml(403, "<Error><Code>AuthenticationFailed</Code></Error>").with("date", LONG_AGO),
        };
        desk.clouds[0].proxy.inject(Rule::new(Fault::Answer(answer)));
        let (_, err) = desk.expect(13, &["backup", text(&source)]).await;
        assert!(err.contains("clock"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_overwrites_is_refused() {
    for provider in THREE {
        let desk = Desk::careless(provider).await;
        let source = desk.source();
        let (_, err) = desk.expect(16, &["init"]).await;
        assert!(err.contains("create-if-absent"), "{err}");
        let cloud = &desk.clouds[0];
        // A server that forgot how, after it was made when it still knew.
        cloud.proxy.behave();
        desk.expect(0, &["init"]).await;
        desk.expect(0, &["backup", text(&source)]).await;
        cloud.forget();
        let (_, err) = desk.expect(16, &["backup", text(&source)]).await;
        assert!(err.contains("create-if-absent"), "{err}");
    }
}

/// What each server was asked since the last look, by its own names of operations.
fn bills(desk: &Desk, before: &mut [BTreeMap<&'static str, usize>]) -> Vec<BTreeMap<&'static str, usize>> {
    let bill = |(cloud, before): (&Cloud, &mut BTreeMap<&'static str, usize>)| {
        let now = cloud.counts();
        let spent = now.iter().map(|(name, n)| (*name, n - before.get(name).copied().unwrap_or(0)));
        let spent = spent.filter(|(_, n)| *n > 0).collect();
        *before = now;
        spent
    };
    desk.clouds.iter().zip(before).map(bill).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_few() {
    let desk = Desk::new().await;
    let source = desk.at("many");
    for number in 0..10_000 {
        let folder = source.join(format!("{:02}", number % 100));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{number}")), noise(number, 300)).expect("written");
    }
    let mut before = vec![BTreeMap::new(); desk.clouds.len()];
    desk.expect(0, &["init"]).await;
    let mut rows = vec![("init", bills(&desk, &mut before))];
    let one = source.join("07/2107");
    let (wanted, target) = (format!("latest:{}", text(&source.join("07"))), desk.at("restored"));
    let restore = |from| vec!["restore", &wanted, "--target", text(&target), "--include", "2107", "--from", from];
    let jobs: [(&str, Vec<&str>); 6] = [
        ("first backup of 10,000 files", vec!["backup", text(&source)]),
        ("unchanged backup", vec!["backup", text(&source)]),
        ("open (snapshots)", vec!["snapshots"]),
        ("restore of one file from one", restore("one")),
        ("restore of one file from two", restore("two")),
        ("restore of one file from three", restore("three")),
    ];
    for (job, words) in &jobs {
        desk.expect(0, words).await;
        rows.push((*job, bills(&desk, &mut before)));
        if job.starts_with("restore") {
            assert_eq!(fs::read(target.join("2107")).expect("restored"), fs::read(&one).expect("there"));
            fs::remove_dir_all(&target).expect("removed");
        }
    }
    println!("{:<34}{}", "requests: put, get, stat, list", desk.clouds.iter().map(column).collect::<String>());
    for (job, bills) in &rows {
        let asked: Vec<[usize; 4]> = desk.clouds.iter().zip(bills).map(|(cloud, bill)| sorted(cloud.provider, bill)).collect();
        println!("{job:<34}{}", asked.iter().map(|asked| format!("{:<24}", format!("{asked:?}"))).collect::<String>());
        let (puts, [most, few], stats, lists) = allowed(job);
        for (cloud, [put, get, stat, list]) in desk.clouds.iter().zip(&asked) {
            let what = format!("{job} at {} ({:?})", cloud.name, cloud.provider);
            assert_eq!(*put, puts, "{what}: puts");
            assert!(*get <= most && *stat <= stats && *list <= lists, "{what}: {get} gets, {stat} stats, {list} lists");
        }
        let readers = asked.iter().filter(|asked| asked[1] > few).count();
        assert!(readers <= 1, "{job}: the repository is read from one store, the others are only looked at: {asked:?}");
    }
}

/// The head of a store's column.
fn column(cloud: &Cloud) -> String {
    format!("{:<24}", format!("{} ({:?})", cloud.name, cloud.provider))
}

/// A bill as puts, gets, stats and lists, and there is nothing else on it.
fn sorted(provider: Provider, bill: &BTreeMap<&'static str, usize>) -> [usize; 4] {
    let asked = [Request::Put, Request::Get, Request::Stat, Request::List]
        .map(|request| bill.get(provider.operation(request)).copied().unwrap_or(0));
    assert_eq!(asked.iter().sum::<usize>(), bill.values().sum::<usize>(), "{provider:?}: {bill:?}");
    asked
}

/// What every replica is asked for a job: puts exactly; gets at most, of the one that is read from and of the others; stats and
/// lists at most.
fn allowed(job: &str) -> (usize, [usize; 2], usize, usize) {
    match job {
        // Key, generation, descriptor, genesis, what is tried out.
        "init" => (5, [10, 10], 8, 4),
        // Packs of data (3) and meta, index, snapshot, record, the try of the descriptor, checkpoint.
        "first backup of 10,000 files" => (9, [8, 8], 9, 1),
        "unchanged backup" => (3, [30, 9], 3, 1),
        "open (snapshots)" => (0, [14, 10], 1, 1),
        // Opening reads from the first store as well, whichever gives the content.
        _ => (0, [26, 14], 1, 1),
    }
}
