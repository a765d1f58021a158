//! Settings: what stands before what, where paths start, and what is refused at which place.

use std::path::{Path, PathBuf};

use holdfast::config::amount::Size;
use holdfast::config::resolve::resolve;
use holdfast::config::secret::{Named, SecretSource};
use holdfast::config::{Environment, Overrides, Settings, absolute};

/// A folder with `work/` to start in, and `text` in `conf/h.toml`.
struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Place {
        let place = Place(tempfile::tempdir().expect("a folder"));
        for folder in ["work", "conf"] {
            std::fs::create_dir(place.at(folder)).expect("made");
        }
        std::fs::write(place.at("conf/h.toml"), text).expect("written");
        place
    }
    fn at(&self, path: &str) -> PathBuf {
        std::fs::canonicalize(self.0.path()).expect("there").join(path)
    }
    fn resolve(&self, overrides: Overrides, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let environment = Environment::of(environment.iter().map(|(k, v)| ((*k).into(), (*v).into())));
        resolve(&overrides, &environment, &self.at("work")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }
    fn file(&self, environment: &[(&str, &str)]) -> Result<Settings, String> {
        self.resolve(Overrides { config: Some("../conf/h.toml".into()), ..Overrides::default() }, environment)
    }
}

const TWO: &str = "[[store]]\nname = \"a\"\nurl = \"file:stores/a\"\n[[store]]\nname = \"b\"\nurl = \"file:///srv/b\"\n";

#[test]
fn refusals_name_the_place() {
    let two = TWO.matches('\n').count();
    let table: [(String, String); 22] = [
        ("[repository]\nwrite_quorum = 3\n".to_owned() + TWO, "2:16: write_quorum is 3, but must be 1 to 2".into()),
        ("[repository]\nwrite_quorum = 0\n".to_owned() + TWO, "2:16: write_quorum is 0".into()),
        (TWO.to_owned() + "[[store]]\nname = \"a\"\nurl = \"file:c\"\n", format!("{}:7: there is another store \"a\"", two + 3)),
        (
            TWO.to_owned() + "[[store]]\nname = \"c\"\nurl = \"file:./stores//a/\"\n",
            format!("{}:7: stores \"a\" and \"c\" are the same place", two + 3),
        ),
        ("[[store]]\nname = \"a b\"\nurl = \"file:c\"\n".into(), "2:8: \"a b\" is no name".into()),
        ("[[store]]\nname = \"\"\nurl = \"file:c\"\n".into(), "2:8: \"\" is no name".into()),
        ("[[store]]\nname = \"-a\"\nurl = \"file:c\"\n".into(), "2:8: \"-a\" is no name".into()),
        ("[[store]]\nname = \"a\"\nurl = \"ftp://x\"\n".into(), "3:7: store url".into()),
        ("[[store]]\nname = \"a\"\nurl = \"file:c\"\nconnections = 0\n".into(), "4:15: must be 1 to 1024".into()),
        (TWO.to_owned() + "[repository]\nprefer = [\"a\", \"z\"]\n", format!("{}:10: there is no store \"z\"", two + 2)),
        (TWO.to_owned() + "[repository]\nmemory = \"1 MiB\"\n", format!("{}:10: memory must be at least", two + 2)),
        (TWO.to_owned() + "[backup]\ndata_pack = \"1 GiB\"\n", format!("{}:13: must be", two + 2)),
        (TWO.to_owned() + "[backup]\ngroup = \"2 MiB\"\n", format!("{}:9: must be", two + 2)),
        (TWO.to_owned() + "[backup]\ncompression = 23\n", format!("{}:15: must be 0 to 22", two + 2)),
        (TWO.to_owned() + "[backup]\nread_concurrency = 0\n", format!("{}:20: must be 1 to 256", two + 2)),
        (TWO.to_owned() + "[[job]]\nname = \"j\"\npaths = []\n", format!("{}:9: names no path", two + 3)),
        (
            TWO.to_owned() + "[[job]]\nname = \"j\"\npaths = [\"x\", \"y\"]\nrecorded_as = \"/z\"\n",
            format!("{}:15: recorded_as needs exactly one path", two + 4),
        ),
        (
            TWO.to_owned() + "[[job]]\nname = \"j\"\npaths = [\"x\"]\nrecorded_as = \"z\"\n",
            format!("{}:15: recorded_as must be absolute", two + 4),
        ),
        (
            TWO.to_owned() + "[[job]]\nname = \"j\"\npaths = [\"x\"]\n[[job]]\nname = \"j\"\npaths = [\"y\"]\n",
            format!("{}:8: there is another job \"j\"", two + 5),
        ),
        (TWO.to_owned() + "[repository]\npassword_file = \"p\"\nkey_file = \"k\"\n", "are both set".into()),
        (TWO.to_owned() + "[repository]\npassword_file = \"\"\n", "empty".into()),
        (TWO.to_owned() + "[repository]\npasword_file = \"p\"\n", format!("{}:1: unknown field `pasword_file`", two + 2)),
    ];
    for (text, expected) in table {
        let message = Place::new(&text).file(&[]).expect_err(&text);
        let from_place = !expected.starts_with(|c: char| c.is_ascii_digit()) || message.starts_with("../conf/h.toml:");
        assert!(from_place && message.contains(&expected), "{text}\ngave {message}\nexpected {expected}");
    }
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let place = Place::new(
        &("[repository]\nwrite_quorum = 1\nmemory = \"64 MiB\"\nstate_dir = \"s\"\npassword_file = \"p\"\n".to_owned() + TWO),
    );
    let default = Place::new(TWO).file(&[]).expect("valid");
    assert_eq!((default.memory, default.replicas.write_quorum, default.state_dir), (128 << 20, None, None));
    assert!(default.secret.is_none());

    let file = place.file(&[]).expect("valid");
    assert_eq!((file.memory, file.replicas.write_quorum), (64 << 20, Some(1)));
    assert_eq!(file.state_dir, Some(place.at("conf/s")));
    assert_eq!(file.secret, Some(SecretSource::PasswordFile(place.at("conf/p"))));

    let variables = [
        ("HOLDFAST_MEMORY", "65 MiB"),
        ("HOLDFAST_WRITE_QUORUM", "2"),
        ("HOLDFAST_STATE_DIR", "t"),
        ("HOLDFAST_KEY_FILE", "k"),
        ("HOLDFAST_HOST", "h"),
    ];
    let environment = place.file(&variables).expect("valid");
    assert_eq!((environment.memory, environment.replicas.write_quorum), (65 << 20, Some(2)));
    assert_eq!(environment.state_dir, Some(place.at("work/t")));
    assert_eq!(environment.secret, Some(SecretSource::KeyFile(place.at("work/k"))));
    assert_eq!(environment.backup.host, "h");

    let source = SecretSource::PasswordFile(place.at("work/q"));
    let flags = Overrides {
        config: Some("../conf/h.toml".into()),
        memory: Some(Size(66 << 20)),
        write_quorum: Some(1),
        state_dir: Some("u".into()),
        secret: Named { all: vec![("--password-file".into(), source.clone())] },
        ..Overrides::default()
    };
    let flags = place.resolve(flags, &variables).expect("valid");
    assert_eq!((flags.memory, flags.replicas.write_quorum), (66 << 20, Some(1)));
    assert_eq!((flags.state_dir, flags.secret), (Some(place.at("work/u")), Some(source)));

    for (name, value) in
        [("HOLDFAST_MEMORY", "1"), ("HOLDFAST_MEMORY", "1 MiB"), ("HOLDFAST_WRITE_QUORUM", "x"), ("HOLDFAST_WRITE_QUORUM", "3")]
    {
        assert!(place.file(&[(name, value)]).is_err(), "{name}={value}");
    }
}

#[test]
fn the_file_is_found_in_order() {
    let place = Place::new(TWO);
    let home = place.at("home/.config/holdfast");
    std::fs::create_dir_all(&home).expect("made");
    let home_dir = place.at("home");
    let environment = [("HOME", home_dir.to_str().expect("UTF-8"))];
    let none = place.resolve(Overrides::default(), &environment).expect_err("no file yet");
    assert!(none.contains("no store is configured"), "{none}");
    std::fs::write(home.join("holdfast.toml"), TWO.replace("file:///srv/b", "file:///home-one")).expect("written");
    let url = |overrides: Overrides, environment: &[(&str, &str)]| {
        place.resolve(overrides, environment).expect("valid").stores[1].url.to_string()
    };
    assert_eq!(url(Overrides::default(), &environment), "file:///home-one");
    std::fs::write(place.at("work/holdfast.toml"), TWO.replace("file:///srv/b", "file:///here")).expect("written");
    assert_eq!(url(Overrides::default(), &environment), "file:///here");
    let variable = [environment[0], ("HOLDFAST_CONFIG", "../conf/h.toml")];
    assert_eq!(url(Overrides::default(), &variable), "file:///srv/b");
    let flag = || Overrides { config: Some("holdfast.toml".into()), ..Overrides::default() };
    assert_eq!(url(flag(), &variable), "file:///here");
    let missing = place.resolve(Overrides { config: Some("none.toml".into()), ..Overrides::default() }, &variable);
    assert!(missing.is_err_and(|e| e.contains("none.toml") && e.contains("No such file")), "a named file must exist");
}

#[test]
fn relative_paths_start_where_they_are_written() {
    let place = Place::new(&(TWO.to_owned() + "[[job]]\nname = \"j\"\npaths = [\"../x\", \"/abs\"]\nexclude_file = [\"ex\"]\n"));
    let settings = place.file(&[]).expect("valid");
    assert_eq!(settings.stores[0].url.to_string(), format!("file://{}", place.at("conf/stores/a").display()));
    assert_eq!(settings.jobs[0].backup.paths, [place.at("x"), PathBuf::from("/abs")]);
    assert_eq!(settings.jobs[0].backup.exclude_files, [place.at("conf/ex")]);
    let flags = Overrides { stores: vec!["c=file:stores/c".into()], ..Overrides::default() };
    let settings = place.resolve(flags, &[]).expect("valid");
    assert_eq!(settings.stores[0].url.to_string(), format!("file://{}", place.at("work/stores/c").display()));

    std::os::unix::fs::symlink(place.at("conf"), place.at("work/link")).expect("linked");
    assert_eq!(absolute(&place.at("work"), Path::new("link/../x/./y")), place.at("x/y"), "`..` behind a link");
    assert_eq!(absolute(Path::new("/"), Path::new("../../etc")), Path::new("/etc"));
}

#[test]
fn store_flags_replace_the_list() {
    let place = Place::new(TWO);
    let stores = |list: &[&str]| {
        let stores = list.iter().map(|s| (*s).to_owned()).collect();
        let flags = Overrides { config: Some("../conf/h.toml".into()), stores, ..Overrides::default() };
        place.resolve(flags, &[]).map(|s| s.stores.into_iter().map(|s| s.name).collect::<Vec<_>>())
    };
    assert_eq!(stores(&["c=file:c"]), Ok(vec!["c".into()]));
    for (list, message) in [
        (&["file:c"][..], "write NAME=URL"),
        (&["=file:c"], "is no name"),
        (&["c=nothing"], "--store c=nothing: store url"),
        (&["c=file:c", "c=file:d"], "there is another store"),
        (&["c=file:c", "d=file:./c"], "are the same place"),
    ] {
        assert!(stores(list).is_err_and(|e| e.contains(message)), "{list:?}");
    }
}

/// A store at `url` with `lines` in its section, and what comes of it.
fn cloud(url: &str, lines: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    Place::new(&format!("[[store]]\nname = \"a\"\nurl = \"{url}\"\n{lines}\n")).file(environment)
}

#[test]
fn ways_to_log_in() {
    const S3: &str = "s3://bucket/prefix?region=eu-west-3";
    const GCS: &str = "gs://bucket/prefix";
    const AZURE: &str = "az://account/container/prefix";
    let admitted = [
        (S3, "kind = \"found\"", "Found"),
        (S3, "kind = \"anonymous\"", "Anonymous"),
        (S3, "kind = \"profile\", profile = \"p\"", "Profile(\"p\")"),
        (S3, "kind = \"access-key\", access_key_id = \"AK\", secret_env = \"S\"", "Value(..)"),
        (
            S3,
            "kind = \"access-key\", access_key_id = \"AK\", secret_env = \"S\", session_token_env = \"S\"",
            "session_token: Some",
        ),
        (S3, "kind = \"role\", role = \"arn:r\", external_id = \"x\"", "external_id: Some(\"x\")"),
        (S3, "kind = \"web-identity\", role = \"arn:r\", token_file = \"t\"", "conf/t"),
        (
            S3,
            "kind = \"web-identity\", role = \"arn:r\", token_from = \"google-metadata-server\"",
            "token: MetadataServer { host: Some(\"127.0.0.1:8\"), audience: \"sts.amazonaws.com\" }",
        ),
        (
            S3,
            "kind = \"web-identity\", role = \"arn:r\", token_from = \"google-metadata-server\", audience = \"mine\"",
            "audience: \"mine\"",
        ),
        (S3, "kind = \"credential-process\", command = \"c\"", "CredentialProcess(\"c\")"),
        (GCS, "kind = \"file\", file = \"sa.json\"", "conf/sa.json"),
        (GCS, "kind = \"metadata-server\"", "MetadataServer"),
        (GCS, "kind = \"impersonated\", account = \"a@b\"", "Impersonated(\"a@b\")"),
        (GCS, "kind = \"access-token\", secret_command = \"c\"", "AccessToken(Command(\"c\"))"),
        (AZURE, "kind = \"managed-identity\"", "ManagedIdentity"),
        (AZURE, "kind = \"workload-identity\"", "WorkloadIdentity"),
        (
            AZURE,
            "kind = \"workload-identity\", client_id = \"c\", token_from = \"google-metadata-server\"",
            "WorkloadIdentity { tenant_id: Some(\"of-the-environment\"), client_id: Some(\"c\"), token: Some(MetadataServer { host: \
             Some(\"127.0.0.1:8\"), audience: \"api://AzureADTokenExchange\" }) }",
        ),
        (AZURE, "kind = \"client-secret\", tenant_id = \"t\", client_id = \"c\", secret_file = \"s\"", "conf/s"),
        (AZURE, "kind = \"cli\"", "Cli"),
        (AZURE, "kind = \"account-key\", secret_env = \"S\"", "AccountKey(Value(..))"),
        (AZURE, "kind = \"sas\", secret_env = \"S\"", "Sas(Value(..))"),
    ];
    for (url, section, shown) in admitted {
        let variables = [("S", "hunter2"), ("GCE_METADATA_HOST", "127.0.0.1:8"), ("AZURE_TENANT_ID", "of-the-environment")];
        let settings = cloud(url, &format!("credentials = {{ {section} }}"), &variables).expect(section);
        let text = format!("{settings:?}");
        assert!(text.contains(shown) && !text.contains("hunter2"), "{text}");
    }
    let refused = [
        (S3, "credentials = { kind = \"sas\", secret_env = \"S\" }", "there are: found, anonymous, profile"),
        (GCS, "credentials = { kind = \"role\", role = \"r\" }", "there are: found, anonymous, file"),
        (AZURE, "credentials = { kind = \"profile\", profile = \"p\" }", "there are: found, anonymous, managed-identity"),
        ("file:x", "credentials = { kind = \"found\" }", "credentials means nothing to file:"),
        (S3, "credentials = { kind = \"profile\" }", "need profile"),
        (S3, "credentials = { kind = \"access-key\", access_key_id = \"A\" }", "need one of secret_env"),
        (S3, "credentials = { kind = \"access-key\", access_key_id = \"A\", secret_env = \"NONE\" }", "NONE is not set"),
        (AZURE, "credentials = { kind = \"sas\", secret_env = \"S\", secret_file = \"f\" }", "more than one secret"),
        (AZURE, "credentials = { kind = \"cli\", profile = \"p\" }", "profile has no part in"),
        (S3, "credentials = { kind = \"web-identity\", role = \"r\" }", "need one of token_file and token_from"),
        (
            S3,
            "credentials = { kind = \"web-identity\", role = \"r\", token_file = \"t\", token_from = \"google-metadata-server\" }",
            "more than one token",
        ),
        (
            S3,
            "credentials = { kind = \"web-identity\", role = \"r\", token_from = \"google\" }",
            "there is: google-metadata-server",
        ),
        (
            S3,
            "credentials = { kind = \"web-identity\", role = \"r\", token_file = \"t\", audience = \"a\" }",
            "audience has no part in",
        ),
        (
            AZURE,
            "credentials = { kind = \"workload-identity\", client_id = \"c\", token_from = \"google-metadata-server\" }",
            "need tenant_id",
        ),
        (GCS, "credentials = { kind = \"metadata-server\", audience = \"a\" }", "audience has no part in"),
        (S3, "credentials = { kind = \"found\", secret = \"hunter2\" }", "unknown field `secret`"),
        ("file:x", "region = \"r\"", "region means nothing to file:"),
        (GCS, "region = \"r\"", "region means nothing to gs:"),
        (GCS, "ca_file = \"c\"", "ca_file means nothing to gs:"),
        (S3, "endpoint = \"minio:9000\"", "an endpoint is written"),
        (S3, "endpoint = \"https://a:b@minio\"", "without user"),
        (S3, "request_limit = 0", "at least 1"),
    ];
    for (url, lines, reason) in refused {
        let error = cloud(url, lines, &[("S", "hunter2")]).expect_err(lines);
        assert!(error.contains("h.toml:4:") && error.contains(reason), "{lines}: {error}");
        assert!(!error.contains("hunter2") || lines.contains("hunter2"), "{error}");
    }
    let classes = cloud(S3, "storage_class = \"STANDARD_IA\"\nmeta_storage_class = \"STANDARD\"\nkms_key = \"k\"", &[]).unwrap();
    assert_eq!(classes.stores[0].settings.provider.storage_classes["data"], "STANDARD_IA");
    assert_eq!(classes.stores[0].url.to_string(), S3);
}
