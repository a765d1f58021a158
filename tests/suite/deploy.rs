//! What lies in `deploy/`, against the program itself: settings that it reads, figures that it has, a release that is packed by one
//! script and fetched by two others. `tests/deploy` checks the rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use holdfast::config::resolve::resolve;
use holdfast::config::{Environment, Overrides};

use crate::support::running::serve;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(here(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The configuration in a file of values.
fn configured(values: &str) -> String {
    let values = text(values);
    let block = values.split_once("\nconfig: |\n").expect("a configuration").1;
    block.lines().take_while(|l| l.is_empty() || l.starts_with("  ")).map(|l| format!("{}\n", l.trim_start())).collect()
}

#[test]
fn several_clouds_from_one_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("h.toml"), configured("deploy/kubernetes/chart/ci/clouds-values.yaml")).expect("written");
    let overrides = Overrides { config: Some(folder.path().join("h.toml")), ..Overrides::default() };
    let environment = Environment::of([("HOLDFAST_PASSWORD_FILE".into(), "/etc/holdfast-secret/password".into())]);
    let read = resolve(&overrides, &environment, folder.path()).expect("it is read");
    let urls: Vec<String> = read.stores.iter().map(|store| store.url.to_string()).collect();
    assert!(urls.len() == 3 && ["s3:", "gs:", "az:"].iter().zip(&urls).all(|(scheme, url)| url.starts_with(scheme)), "{urls:?}");
}

#[test]
fn the_settings_for_kubernetes_are_read() {
    let block = configured("deploy/kubernetes/chart/values.yaml");
    let files =
        ["base", "overlays/eks", "overlays/gke", "overlays/aks"].map(|f| text(&format!("deploy/kubernetes/{f}/holdfast.toml")));
    let folder = tempfile::tempdir().expect("a folder");
    for (n, (settings, scheme)) in files.into_iter().chain([block]).zip(["s3:", "s3:", "gs:", "az:", "s3:"]).enumerate() {
        let file = folder.path().join(format!("{n}.toml"));
        std::fs::write(&file, &settings).expect("written");
        let overrides = Overrides { config: Some(file), ..Overrides::default() };
        // What the manifests set besides.
        let environment = Environment::of([
            ("HOLDFAST_PASSWORD_FILE".into(), "/etc/holdfast-secret/password".into()),
            ("HOLDFAST_STATE_DIR".into(), "/scratch/state".into()),
        ]);
        let read = resolve(&overrides, &environment, folder.path()).unwrap_or_else(|e| panic!("{settings}\n{e}"));
        assert_eq!(read.stores.len(), 1);
        assert!(read.stores[0].url.to_string().starts_with(scheme), "{}", read.stores[0].url);
        assert_eq!((read.jobs.len(), read.backup.host.as_str()), (1, "cluster"));
        assert!(read.retention.policy != Default::default(), "without rules nothing is ever forgotten");
    }
}

/// The workflow fetches a token for each store of the configuration that `terraform/examples/github-oidc` makes, to the place that it
/// names and made out to whom the roles trust; its own step is run, with somebody else in GitHub's place.
#[test]
fn the_workflow_fetches_the_tokens_that_the_configuration_names() {
    let (workflow, config) = (text("deploy/ci/github-backup.yml"), text("terraform/examples/github-oidc/holdfast.toml"));
    let audiences = workflow.lines().find_map(|line| line.trim().strip_prefix("AUDIENCES: ")).expect("audiences");
    let pairs: Vec<(&str, &str)> = audiences.split(' ').map(|one| one.split_once('=').expect("NAME=AUDIENCE")).collect();
    let example = text("terraform/examples/github-oidc/example.tftest.hcl");
    let told: Vec<String> = pairs.iter().map(|(name, audience)| format!("{name} = \"{audience}\"")).collect();
    assert!(example.contains(&format!("token_audiences == {{ {} }}", told.join(", "))), "{told:?}");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("holdfast.toml"), &config).expect("written");
    let overrides = Overrides { config: Some(folder.path().join("holdfast.toml")), ..Overrides::default() };
    let environment = Environment::of([("HOLDFAST_PASSWORD".into(), "a passphrase".into())]);
    let read = resolve(&overrides, &environment, folder.path()).expect("it is read");
    let stores: Vec<&str> = read.stores.iter().map(|store| store.name.as_str()).collect();
    assert_eq!((stores, read.jobs.len()), (pairs.iter().map(|(name, _)| *name).collect(), 1));
    assert!(config.contains("token_file = \"tokens/aws\"") && config.contains("file = \"gcp.json\""), "{config}");
    for tool in ["curl", "jq", "bash"] {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("ignored: {tool} is not installed, so the workflow's step was not run");
            return;
        }
    }
    assert!(workflow.contains("shell: bash\n        env:\n          AUDIENCES"), "with pipefail, as it is run here");
    let step = workflow
        .split_once("      - name: Tokens\n")
        .and_then(|(_, rest)| rest.split_once("        run: |\n"))
        .expect("a step")
        .1;
    let step: String =
        step.lines().take_while(|line| line.starts_with("          ")).map(|line| format!("{}\n", &line[10..])).collect();
    let at = serve(|asked| {
        let audience = asked.split_once("&audience=").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        let known = asked.to_lowercase().contains("authorization: bearer secret");
        if known { format!("{{\"value\":\"for {audience}\"}}") } else { "{}".to_owned() }
    });
    let url = format!("http://{at}/token?api-version=2.0");
    let run = |token: &str| {
        let mut command = Command::new("bash");
        command.args(["-eo", "pipefail", "-c", &step]).current_dir(folder.path()).env("AUDIENCES", audiences);
        command
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", &url)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", token)
            .output()
            .expect("bash starts")
    };
    let done = run("secret");
    assert!(done.status.success(), "{}", said(&done));
    for (name, audience) in &pairs {
        let token = folder.path().join("tokens").join(name);
        assert_eq!(std::fs::read_to_string(&token).expect("fetched"), format!("for {audience}"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&token).expect("there").permissions());
        assert_eq!(mode & 0o077, 0, "nobody else reads it");
    }
    assert!(!run("wrong").status.success(), "no token is no success");
}

/// Every word in `text` that is the name of a figure.
fn figures(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("holdfast_")).map(str::to_owned).collect()
}

#[test]
fn every_figure_that_is_watched_exists() {
    assert_eq!(
        figures("sum(holdfast_a{x=\"holdfast_b\"}) - holdfast_c_total"),
        ["holdfast_a", "holdfast_b", "holdfast_c_total"].map(str::to_owned).into()
    );
    let watched: BTreeSet<String> = ["alerts.yml", "alerts_test.yml", "dashboard.json"]
        .iter()
        .flat_map(|file| figures(&text(&format!("deploy/monitoring/{file}"))))
        .collect();
    assert!(watched.len() > 15, "{watched:?}");
    let names = text("src/metrics/names.rs");
    let there = figures(&names);
    let missing: Vec<_> = watched.difference(&there).collect();
    assert!(missing.is_empty(), "watched, but nowhere in the program: {missing:?}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_release_is_packed_and_fetched() {
    for tool in ["curl", "tar", "sha256sum", "strip", "gzip"] {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("ignored: {tool} is not installed, so no release was packed and fetched");
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path);
    let machine = format!("{}-linux", std::env::consts::ARCH);
    let version = env!("CARGO_PKG_VERSION");
    let shelf = at(&format!("owner/holdfast/releases/download/v{version}"));
    let pack = |to: &Path| {
        let done = Command::new(here("deploy/release/pack.sh")).arg(PROGRAM).arg(&machine).arg(to).output().expect("it starts");
        assert!(done.status.success(), "{}", said(&done));
        to.join(format!("holdfast-{version}-{machine}.tar.gz"))
    };
    let archive = pack(&shelf);
    let bytes = std::fs::read(&archive).expect("there");
    assert!(bytes == std::fs::read(pack(&at("again"))).expect("there"), "the same input gives the same archive");
    let listed = said(&Command::new("tar").arg("-tzf").arg(&archive).output().expect("tar starts"));
    for part in ["holdfast", "LICENSE-MIT", "completions/_holdfast", "man/holdfast-backup.1", "config.example.toml"] {
        assert!(listed.lines().any(|line| line == format!("holdfast-{version}-{machine}/{part}")), "{part}\n{listed}");
    }
    let sums =
        Command::new("sha256sum").arg(archive.file_name().expect("a name")).current_dir(&shelf).output().expect("it starts");
    let sums = String::from_utf8(sums.stdout).expect("UTF-8");
    let digest = sums.split(' ').next().expect("a digest").to_owned();
    std::fs::write(shelf.join("SHA256SUMS"), &sums).expect("written");
    let web = format!("file://{}", folder.path().display());

    // The recipe wants the digest from elsewhere, and runs nothing that differs from it.
    let recipe = |digest: &str, words: &[&str]| {
        let mut command = Command::new(here("deploy/ci/recipe.sh"));
        command
            .args(words)
            .env("HOLDFAST_RELEASES", format!("{web}/owner/holdfast/releases/download"))
            .env("HOLDFAST_SHA256", digest);
        let done = command.env("HOLDFAST_VERSION", version).current_dir(folder.path()).output().expect("it starts");
        (done.status.code(), said(&done))
    };
    let (code, told) = recipe(&digest, &["--version"]);
    assert!(code == Some(0) && told.starts_with(&format!("holdfast {version} (")), "{told}");
    let (code, told) = recipe(&"0".repeat(64), &["--version"]);
    assert!(code == Some(1) && told.contains("it was not run") && !told.contains(&format!("holdfast {version} (")), "{told}");
    assert_eq!(recipe(&digest, &["backup"]).0, Some(2), "its own failures are the program's");

    // The action takes the release's own digests, or one that is given.
    let action = |given: &str, version: &str| {
        let _ = std::fs::remove_file(at("outputs"));
        let mut command = Command::new("bash");
        command.arg(here(".github/actions/holdfast/run.sh")).current_dir(folder.path()).env("GITHUB_SERVER_URL", &web);
        for (name, value) in [
            ("COMMAND", "completions"),
            ("ARGUMENTS", "bash"),
            ("CONFIG", ""),
            ("BINARY", ""),
            ("REPOSITORY", "owner/holdfast"),
            ("VERSION", version),
            ("SHA256", given),
            ("ALLOW", ""),
        ] {
            command.env(format!("INPUT_{name}"), value);
        }
        let done = command.env("GITHUB_OUTPUT", at("outputs")).env("RUNNER_TEMP", folder.path()).output().expect("it starts");
        let outputs = std::fs::read_to_string(at("outputs")).unwrap_or_default();
        (done.status.code(), outputs, said(&done))
    };
    for given in ["", &digest] {
        let (code, outputs, told) = action(given, version);
        assert_eq!((code, outputs.as_str()), (Some(0), "exit-code=0\n"), "{told}");
        assert!(told.contains("complete -F _holdfast"), "{told}");
    }
    let refused = [
        ("f".repeat(64), version),
        ("short".to_owned(), version),
        (String::new(), "9.9.9"),
        (String::new(), "../x"),
        (String::new(), ""),
    ];
    for (given, version) in refused {
        let (code, outputs, told) = action(&given, version);
        assert_eq!((code, outputs.as_str()), (Some(2), "exit-code=2\n"), "{told}");
        assert!(told.contains("::error title=Holdfast::") && !told.contains("complete -F"), "{told}");
    }
    // One that was changed on its way is not run, whatever SHA256SUMS lies beside it.
    std::fs::write(&archive, [&bytes[..bytes.len() - 9], b"tampered!"].concat()).expect("written");
    let (code, _, told) = action("", version);
    assert!(code == Some(2) && told.contains("is not what its digest says"), "{told}");
}
