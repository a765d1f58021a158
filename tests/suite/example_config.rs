//! `config.example.toml`: it runs as shipped, it names every setting, and the defaults it names are the defaults.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast::backup::BackupSettings;
use holdfast::config::file::{
    BackupSection, ConfigFile, HooksSection, JobSection, LifecycleSection, LogSection, MetricsSection, Origin, PingSection,
    PruneSection, RepositorySection, RetentionSection, StoreSection, parse,
};
use holdfast::config::resolve::resolve;
use holdfast::config::run::Hooks;
use holdfast::config::{Environment, INDEX_MEMORY, LifecycleSettings, Overrides, PruneDefaults, RetentionSettings, Settings};
use holdfast::replica::ReplicaSettings;
use holdfast::store::settings::StoreSettings;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text() -> String {
    std::fs::read_to_string(root().join("config.example.toml")).expect("the example is there")
}

fn settings() -> Settings {
    let overrides = Overrides { config: Some("config.example.toml".into()), ..Overrides::default() };
    resolve(&overrides, &Environment::default(), root()).expect("the example is valid")
}

/// The example with every setting that is off switched on.
fn all_on() -> String {
    let is_setting =
        |line: &str| line.split_once(" = ").is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text().lines().map(on).collect()
}

/// A deserializer that only takes note of the fields a struct asks for.
struct Fields<'a>(&'a mut BTreeSet<String>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Error::custom("not a struct"))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields.iter().map(|f| (*f).to_owned()));
        Err(Error::custom("noted"))
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    assert!(T::deserialize(Fields(&mut fields)).is_err());
    assert!(!fields.is_empty());
    fields
}

#[test]
fn it_names_every_setting() {
    let table: toml::Table = all_on().parse().expect("the example with everything on is TOML");
    let first = |value: &toml::Value| match value {
        toml::Value::Array(all) => all[0].clone(),
        one => one.clone(),
    };
    let named =
        |section: &str| -> BTreeSet<String> { first(&table[section]).as_table().expect("a section").keys().cloned().collect() };
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), fields_of::<ConfigFile>());
    assert_eq!(named("repository"), fields_of::<RepositorySection>());
    assert_eq!(named("store"), fields_of::<StoreSection>());
    assert_eq!(named("backup"), fields_of::<BackupSection>());
    assert_eq!(named("job"), fields_of::<JobSection>());
    let hooks = first(&table["job"])["hooks"].as_table().expect("a section").keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!((hooks, named("hooks")), (fields_of::<HooksSection>(), fields_of::<HooksSection>()));
    assert_eq!(named("metrics"), fields_of::<MetricsSection>());
    assert_eq!(named("ping"), fields_of::<PingSection>());
    assert_eq!(named("log"), fields_of::<LogSection>());
    assert_eq!(named("retention"), fields_of::<RetentionSection>());
    assert_eq!(named("lifecycle"), fields_of::<LifecycleSection>());
    assert_eq!(named("prune"), fields_of::<PruneSection>());
    parse(&Origin::new(PathBuf::from("all on"), all_on())).expect("every setting that is off is valid when it is on");
}

#[test]
fn every_setting_has_its_reason() {
    // Prose stands right above each setting, or above the group that it belongs to.
    let text = all_on();
    let lines: Vec<&str> = text.lines().collect();
    for section in text
        .split("\n\n")
        .filter(|section| section.contains(" = ") && !section.contains("\"second\"") && !section.contains("\"third\""))
    {
        assert!(section.lines().any(|line| line.starts_with("# ")), "no reason in:\n{section}");
    }
    assert!(lines.len() > 80);
}

#[test]
fn as_shipped_it_is_three_folders_and_a_source_that_exists() {
    let settings = settings();
    let urls: Vec<String> = settings.stores.iter().map(|s| s.url.to_string()).collect();
    assert_eq!(urls.len(), 3);
    for url in urls {
        assert!(url.starts_with(&format!("file://{}", root().join("holdfast-demo").display())), "{url}");
    }
    assert_eq!(settings.replicas.write_quorum, Some(2));
    let secret = settings.secret.as_ref().and_then(|s| s.file()).expect("a file");
    assert!(secret.starts_with(root().join("holdfast-demo")));
    assert_eq!(settings.jobs.len(), 1);
    for path in settings.jobs.iter().flat_map(|job| &job.backup.paths) {
        assert!(path.is_dir(), "{}", path.display());
    }
    let ignored = std::fs::read_to_string(root().join(".gitignore")).expect("a .gitignore");
    assert!(ignored.lines().any(|line| line == "/holdfast-demo"), "the demo must not be committed by accident");
}

#[test]
fn the_defaults_it_names_are_the_defaults() {
    let (settings, backup) = (settings(), BackupSettings::default());
    let host_and_user = BackupSettings { host: settings.backup.host.clone(), user: settings.backup.user.clone(), ..backup };
    assert_eq!(format!("{:?}", settings.backup), format!("{host_and_user:?}"));
    let job = &settings.jobs[0].backup;
    let bare = BackupSettings { paths: job.paths.clone(), label: job.label.clone(), ..settings.backup.clone() };
    assert_eq!(format!("{job:?}"), format!("{bare:?}"));
    for hooks in [&settings.hooks, &settings.jobs[0].hooks] {
        assert_eq!(format!("{hooks:?}"), format!("{:?}", Hooks::default()));
    }
    assert!(settings.jobs[0].every.is_none() && settings.jobs[0].ping.is_none() && settings.ping.is_none());
    assert!(settings.metrics.file.is_none() && settings.metrics.push.is_none() && settings.log.is_none());
    let replicas = ReplicaSettings { write_quorum: Some(2), ..ReplicaSettings::default() };
    assert_eq!(format!("{:?}", settings.replicas), format!("{replicas:?}"));
    for store in &settings.stores {
        assert_eq!(store.settings, StoreSettings::default(), "{}", store.name);
    }
    assert_eq!(settings.memory, BackupSettings::default().memory);
    assert_eq!(format!("{:?}", settings.retention), format!("{:?}", RetentionSettings::default()));
    assert_eq!(format!("{:?}", settings.lifecycle), format!("{:?}", LifecycleSettings::default()));
    assert_eq!(format!("{:?}", settings.prune), format!("{:?}", PruneDefaults::default()));
    assert_eq!(settings.index_memory, INDEX_MEMORY);
    assert_eq!(settings.compression, holdfast::repository::keyring::LEVEL);
}
