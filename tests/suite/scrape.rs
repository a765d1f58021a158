//! A real Prometheus with the configuration that `deploy/monitoring/README.md` prints: it scrapes a real Pushgateway and a text file, as
//! the real binary leaves them, and has our rules. Jobs keep their names on both ways.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::support::desk::{Desk, is_installed, until};
use crate::support::running::{Running, free, get, serve};

/// What Prometheus answers, once it does.
fn ask(at: SocketAddr, path: &str) -> Option<Value> {
    serde_json::from_str(&get(at, path)?).ok()
}

#[test]
fn a_real_prometheus_scrapes_what_the_rules_need() {
    for program in ["prometheus", "prometheus-pushgateway"] {
        if !is_installed(program) {
            eprintln!("ignored: {program} is not on PATH");
            return;
        }
    }
    let gateway = free();
    let jobs = "[[job]]\nname = \"files\"\npaths = [\"src\"]\nevery = \"1d\"\n";
    let desk = Desk::new(&["one", "two"], &format!("{jobs}[metrics]\nfile = \"figures.prom\"\npush = \"http://{gateway}\"\n"));
    let _gateway = Running::listening("prometheus-pushgateway", &[format!("--web.listen-address={gateway}")], gateway);
    desk.expect(0, &["run", "--init"]);

    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    let readme = std::fs::read_to_string(monitoring.join("README.md")).expect("there");
    let printed = readme.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).expect("a configuration").0;
    let (file, rules) = (desk.at("figures.prom"), monitoring.join("alerts.yml"));
    // As the text file collector does.
    let node = serve(move |_| std::fs::read_to_string(&file).unwrap_or_default());
    let mut config = "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n".to_owned();
    let with = [
        ("pushgateway:9091", gateway.to_string()),
        ("host:9100", node.to_string()),
        ("- alerts.yml", format!("- {}", rules.display())),
    ];
    config += &with.iter().fold(printed.to_owned(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "{old} in {text}");
        text.replace(old, new)
    });
    desk.write("prometheus.yml", &config);
    let at = free();
    let told = [
        format!("--config.file={}", desk.at("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", desk.at("series").display()),
        format!("--web.listen-address={at}"),
    ];
    let _prometheus = Running::listening("prometheus", &told, at);

    // By both ways the job has our name for it, and the same success.
    let query = "/api/v1/query?query=holdfast_last_success_timestamp_seconds%7Bjob%3D%22files%22%7D";
    let series = || ask(at, query).and_then(|answer| answer["data"]["result"].as_array().cloned()).unwrap_or_default();
    until("both ways", || series().len() == 2);
    let series = series();
    let of = |n: usize, label: &str| series[n]["metric"][label].as_str().unwrap_or_default().to_owned();
    for label in ["repository", "operation"] {
        assert!(!of(0, label).is_empty() && of(0, label) == of(1, label), "{label}: {series:?}");
    }
    assert_eq!(series[0]["value"][1], series[1]["value"][1], "{series:?}");
    let instances = [of(0, "instance"), of(1, "instance")];
    assert!(instances.contains(&node.to_string()) && instances[0] != instances[1], "{series:?}");

    // All rules are there, are evaluated, and none fires after a run that went well.
    let count = std::fs::read_to_string(&rules).expect("there").matches("- alert:").count();
    let groups = || ask(at, "/api/v1/rules").and_then(|answer| answer["data"]["groups"].as_array().cloned()).unwrap_or_default();
    let all = || groups().iter().filter_map(|group| group["rules"].as_array().cloned()).flatten().collect::<Vec<_>>();
    until("the rules", || all().iter().filter(|rule| rule["health"] == "ok").count() == count);
    let firing: Vec<_> = all().into_iter().filter(|rule| rule["state"] == "firing").map(|rule| rule["name"].clone()).collect();
    assert!(firing.is_empty(), "{firing:?}");
}
