//! A real database: `pg_dump` as a job, restored into a fresh database, rows compared. Debian's package `postgresql` has what it
//! needs; the cluster is the test's own, in a folder of its own, reached by a socket there, and run by a user who is not root.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::desk::{Desk, until};

/// Where PostgreSQL's programs are: on PATH, or where Debian puts them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let mut folders: Vec<PathBuf> = debian.collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&path));
    let all = ["initdb", "postgres", "psql", "pg_dump", "pg_restore"];
    folders.into_iter().find(|folder| all.iter().all(|program| folder.join(program).is_file()))
}

/// A running cluster; it ends with its value.
struct Cluster {
    programs: PathBuf,
    folder: tempfile::TempDir,
    server: Option<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = kill_process(Pid::from_child(&server), Signal::INT);
            let _ = server.wait();
        }
    }
}

/// A user who may run a database, when this process may not.
fn other_user() -> Option<(u32, u32)> {
    let named = ["postgres", "nobody"].iter().find_map(uzers::get_user_by_name);
    rustix::process::getuid().is_root().then(|| named.map(|user| (user.uid(), user.primary_group_id()))).flatten()
}

impl Cluster {
    fn start(programs: PathBuf) -> Cluster {
        let folder = tempfile::Builder::new().prefix("hf-pg").tempdir().expect("a folder");
        let mut cluster = Cluster { programs, folder, server: None };
        if let Some((uid, gid)) = other_user() {
            chown(cluster.folder.path(), Some(uid), Some(gid)).expect("given away");
        }
        let data = cluster.folder.path().join("data");
        let data = data.to_str().expect("UTF-8");
        cluster.expect(cluster.own("initdb", &["-D", data, "-A", "trust", "-U", "keeper", "--no-sync", "-E", "UTF8"]));
        let socket = cluster.socket();
        let words = ["-D", data, "-k", &socket, "-c", "listen_addresses=", "-c", "fsync=off"];
        let server = cluster.own("postgres", &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        cluster.server = Some(server);
        until("the database", || {
            cluster
                .own("psql", &["-h", &socket, "-U", "keeper", "-c", "select 1", "postgres"])
                .output()
                .is_ok_and(|o| o.status.success())
        });
        cluster
    }

    fn socket(&self) -> String {
        self.folder.path().to_str().expect("UTF-8").to_owned()
    }

    /// A program of the cluster's own user.
    fn own(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn expect(&self, mut command: Command) -> String {
        let out = command.output().expect("started");
        assert!(out.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let socket = self.socket();
        self.expect(self.own("psql", &["-h", &socket, "-U", "keeper", "-v", "ON_ERROR_STOP=1", "-Atc", statement, database]))
    }
}

const TABLES: &str = "
create table customers (id bigint primary key, name text not null, born date, photo bytea, tags text[], extra jsonb);
insert into customers select n, 'Käufer ' || n || E'\\n\\t\\\\', date '1970-01-01' + (n % 9000)::int,
    decode(md5(n::text), 'hex'), array['a', n::text, null], jsonb_build_object('n', n, 'ü', 'ß') from generate_series(1, 30000) n;
create table orders (id serial primary key, customer bigint references customers, amount numeric(20, 6), at timestamptz);
insert into orders (customer, amount, at) select 1 + n % 30000, n / 7.0, timestamptz '2026-01-01' + n * interval '1 minute'
    from generate_series(1, 60000) n;
create index on orders (customer);
create view spent as select customer, sum(amount) from orders group by 1;";

/// Every row of both tables, in order, as text.
fn rows(cluster: &Cluster, database: &str) -> [String; 3] {
    ["select * from customers order by id", "select * from orders order by id", "select * from spent order by 1"]
        .map(|query| cluster.sql(database, query))
}

#[test]
fn a_dump_of_a_real_database_comes_back_row_by_row() {
    let Some(programs) = programs() else {
        eprintln!("ignored: PostgreSQL (Debian: postgresql) is not installed");
        return;
    };
    let cluster = Cluster::start(programs.clone());
    cluster.sql("postgres", "create database shop");
    cluster.sql("shop", TABLES);
    let job = |database: &str| {
        let dump = programs.join("pg_dump");
        let words =
            [dump.to_str().expect("UTF-8"), "--format=custom", "--compress=0", "-h", &cluster.socket(), "-U", "keeper", database];
        format!("[[job]]\nname = \"{database}\"\ncommand = {words:?}\nfilename = \"{database}.dump\"\n")
    };
    let desk = Desk::new(&["one", "two"], &format!("{}{}", job("nothing"), job("shop")));
    // One of two databases is not there: no snapshot of it, the reason in pg_dump's own words, and the other one is safe.
    let told = desk.expect(1, &["run", "--init"]);
    assert!(told.err.contains("database \"nothing\" does not exist") && told.err.contains("no snapshot was made"), "{told:?}");
    assert_eq!(desk.labels(), ["shop"]);

    // A dump in flight whose server goes away is no dump.
    cluster.sql("shop", "begin; lock table orders in access exclusive mode; select pg_sleep(0); commit");
    let held = cluster
        .own("psql", &["-h", &cluster.socket(), "-U", "keeper", "-c", "begin; lock table orders; select pg_sleep(600)", "shop"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    until("the lock", || {
        cluster.sql("shop", "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted").trim() != "0"
    });
    let waiting = desk.start(&["run", "--no-lifecycle", "--job", "shop"]);
    until("the dump", || {
        cluster.sql("shop", "select count(*) from pg_stat_activity where application_name = 'pg_dump'").trim() == "1"
    });
    cluster.sql("shop", "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg_dump'");
    let told = crate::support::desk::end(waiting);
    assert!(told.code == Some(1) && told.err.contains("no snapshot was made"), "{told:?}");
    assert_eq!(desk.labels(), ["shop"]);
    cluster.sql(
        "shop",
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()",
    );
    let _ = held.wait_with_output();

    desk.expect(0, &["restore", "latest:/shop.dump", "--target", "to", "--from", "two"]);
    let dump = find(&desk.at("to"), "shop.dump");
    cluster.sql("postgres", "create database again");
    let (socket, bytes) = (cluster.socket(), std::fs::File::open(&dump).expect("restored"));
    let mut restore = cluster.own("pg_restore", &["-h", &socket, "-U", "keeper", "--exit-on-error", "-d", "again"]);
    restore.stdin(bytes);
    cluster.expect(restore);
    let (before, after) = (rows(&cluster, "shop"), rows(&cluster, "again"));
    assert_eq!(before, after);
    let counted: usize = before.iter().map(|table| table.len()).sum();
    assert!(counted > 4_000_000, "{counted} bytes of rows");
    println!("PostgreSQL: 90,000 rows, {counted} bytes as text, the same after dump, backup, restore and pg_restore");
}

/// The file of this name below a folder.
fn find(folder: &Path, name: &str) -> PathBuf {
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else if entry.file_name() == name {
                return entry.path();
            }
        }
    }
    panic!("no {name} below {}", folder.display())
}
