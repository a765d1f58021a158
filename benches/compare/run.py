#!/usr/bin/env python3
"""Measure backup tools end to end. Adding a tool = adding one adapter class (see `Tool`) below.

  run.py --data DIR --work DIR [--tools restic,rustic] [--sets D1,D2] [--ops first,again,incr,restore,check] [--runs 3] [--out results.jsonl]
  run.py --table results.jsonl            print the collected rows as Markdown tables (--wide: one compact table)
  run.py ... --ops churn --sets D1        10 snapshots with churn, keep the last 5, prune; with --verify each kept one is restored and compared
  run.py ... --ops scale --sets D4        cost of a one-file backup and of listing on a repository holding the set

DATA holds one directory per set, made by gen.py (D1 tree, D2 bins, D3 random, D4 tiny, D5 = edit of D2).
A set named X has its changed form in X+ (by default D2+ is D5). Sets are renamed onto one fixed path while they are
backed up, so that a tool sees the same path with changed contents.
Binaries are found on PATH, or named by BENCH_<TOOL> (e.g. BENCH_BORG2=dir/bin/borg). BENCH_<TOOL>_ENV may hold K=V,K=V.
--lock FILE takes an exclusive flock around every measured command (several measurers on one machine).
Every figure is for the whole process: wall s, user+sys s, peak RSS MiB of the largest process.
"""
import argparse, fcntl, json, os, re, shutil, statistics, subprocess, sys, time
from collections import defaultdict

class Tool:
    """Adapter. Each op returns a list of argv (run in order, timed together)."""
    name = ""; bin = ""
    def __init__(self, repo, home):
        self.repo, self.home = repo, home
        var = "BENCH_" + self.name.upper().replace("-", "_")
        self.exe = os.environ.get(var, self.bin)
        self.env = {}
        for kv in filter(None, os.environ.get(var + "_ENV", "").split(",")):
            k, v = kv.split("=", 1); self.env[k] = v
    def fresh(self):                       # make an empty repository (untimed)
        raise NotImplementedError
    def backup(self, src, tag): raise NotImplementedError
    def restore(self, dest, src): raise NotImplementedError
    def check(self): return None
    def forget(self, keep): return None
    def restore_tagged(self, dest, tag): return None   # the snapshot of that tag alone
    def ls(self): return None
    def requests(self, err): return None   # what standard error says of requests to the stores, by kind
    def version(self): return [[self.exe, "--version"]]

class Restic(Tool):
    name = bin = "restic"
    def fresh(self):
        self.env.update(RESTIC_REPOSITORY=self.repo, RESTIC_PASSWORD="x", RESTIC_CACHE_DIR=self.home, RESTIC_PROGRESS_FPS="0")
        return [[self.exe, "init", "-q"]]
    def version(self): return [[self.exe, "version"]]
    def backup(self, src, tag): return [[self.exe, "backup", "-q", "--tag", tag, src]]
    def restore(self, dest, src): return [[self.exe, "restore", "-q", "latest", "--target", dest]]
    def check(self): return [[self.exe, "check", "-q", "--read-data"]]
    def forget(self, keep): return [[self.exe, "forget", "-q", "--group-by", "", "--keep-last", str(keep), "--prune"]]
    def restore_tagged(self, dest, tag): return [[self.exe, "restore", "-q", "latest", "--tag", tag, "--target", dest]]
    def ls(self): return [[self.exe, "snapshots", "-q"]]

class Holdfast(Tool):
    name = bin = "holdfast"; copies = 1
    def stores(self): return sum((["--store", f"r{i}=file:{self.repo}/{i}"] for i in range(self.copies)), [])
    def call(self, *words): return [self.exe, "--verbose", *self.stores(), *words]
    def requests(self, err):               # what --verbose says at the end, summed over stores and commands
        n = defaultdict(int)
        for count, kind in re.findall(r"(\d+) (put|get|stat|list|delete)\b", " ".join(l for l in err.splitlines() if "requests to " in l)): n[kind] += int(count)
        return dict(n)
    def fresh(self):
        os.makedirs(self.repo, exist_ok=True)
        self.env.update(HOLDFAST_PASSWORD="x", XDG_STATE_HOME=self.home, XDG_CONFIG_HOME=self.home)
        return [self.call("init")]
    def backup(self, src, tag): return [self.call("backup", "--tag", tag, src)]
    def restore(self, dest, src): return [self.call("restore", "latest", "--target", dest)]
    def restore_tagged(self, dest, tag): return [self.call("restore", "latest", "--tag", tag, "--target", dest)]
    def check(self): return [self.call("verify", "--read-data")]
    def forget(self, keep): return [self.call("forget", "--group-by", "", "--keep-last", str(keep)), self.call("prune", "--mercy", "0s")]
    def ls(self): return [self.call("snapshots")]

class Holdfast3(Holdfast):
    """into three directories at once"""
    name = "holdfast-3"; copies = 3

class Rustic(Tool):
    name = bin = "rustic"
    def fresh(self):
        self.env.update(RUSTIC_REPOSITORY=self.repo, RUSTIC_PASSWORD="x", RUSTIC_CACHE_DIR=self.home, RUSTIC_NO_PROGRESS="true", RUSTIC_LOG_LEVEL="error")
        return [[self.exe, "init"]]
    def backup(self, src, tag): return [[self.exe, "backup", "--tag", tag, src]]
    def restore(self, dest, src): return [[self.exe, "restore", "latest", dest]]
    def check(self): return [[self.exe, "check", "--read-data"]]
    def forget(self, keep): return [[self.exe, "forget", "--keep-last", str(keep), "--prune", "--instant-delete"]]
    def ls(self): return [[self.exe, "snapshots"]]

class ResticS3(Restic):
    """against an S3 server: BENCH_S3 = http://host:port, BENCH_S3_ROOT = the server's directory (for accounting), keys bench/benchbench"""
    name = "restic-s3"
    def s3(self):
        b = os.path.join(os.environ["BENCH_S3_ROOT"], "bench"); rm(b); os.makedirs(b); self.data = b
        self.exe = os.environ.get("BENCH_RESTIC", "restic")
        self.env.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="benchbench", AWS_DEFAULT_REGION="us-east-1")
    def fresh(self):
        self.s3(); r = super().fresh(); self.env["RESTIC_REPOSITORY"] = "s3:" + os.environ["BENCH_S3"] + "/bench/r"; return r

class RusticS3(Rustic):
    name = "rustic-s3"
    def fresh(self):
        ResticS3.s3(self); r = super().fresh(); self.exe = os.environ.get("BENCH_RUSTIC", "rustic")
        with open(self.home + "/s3.toml", "w") as f:
            f.write('[repository]\nrepository = "opendal:s3"\npassword = "x"\n[repository.options]\nbucket = "bench"\nroot = "/r"\nregion = "us-east-1"\n'
                    f'endpoint = "{os.environ["BENCH_S3"]}"\naccess_key_id = "bench"\nsecret_access_key = "benchbench"\n')
        self.env.pop("RUSTIC_REPOSITORY"); self.env.pop("RUSTIC_PASSWORD"); self.env["RUSTIC_USE_PROFILE"] = self.home + "/s3"
        return [[self.exe, "init"]]

class Borg(Tool):
    name = bin = "borg"; init = ["init", "-e", "repokey-blake2"]
    def base(self):
        self.env.update(BORG_REPO=self.repo, BORG_PASSPHRASE="x", BORG_BASE_DIR=self.home, BORG_RELOCATED_REPO_ACCESS_IS_OK="yes", BORG_CHECK_I_KNOW_WHAT_I_AM_DOING="YES")
    def fresh(self): self.base(); return [[self.exe] + self.init]
    def backup(self, src, tag): self.tag = tag; return [[self.exe, "create", "-C", "zstd,3", "::" + tag, src]]
    def restore(self, dest, src): return [["cd", dest], [self.exe, "extract", "::" + self.tag]]
    def check(self): return [[self.exe, "check", "--verify-data"]]
    def forget(self, keep): return [[self.exe, "prune", "--keep-last", str(keep)], [self.exe, "compact", "--threshold", "0"]]
    def ls(self): return [[self.exe, "list"]]

class Borg2(Borg):
    name = "borg2"; init = ["repo-create", "-e", "repokey-blake2-aes-ocb"]
    def backup(self, src, tag): self.tag = tag; return [[self.exe, "create", "-C", "zstd,3", tag, src]]
    def restore(self, dest, src): return [["cd", dest], [self.exe, "extract", self.tag]]
    def forget(self, keep): return [[self.exe, "prune", "--keep-last", str(keep)], [self.exe, "compact"]]
    def ls(self): return [[self.exe, "repo-list"]]

class Bupstash(Tool):
    name = bin = "bupstash"
    def fresh(self):
        os.makedirs(self.home, exist_ok=True)
        key = os.path.join(self.home, "key")
        if os.path.exists(key): os.unlink(key)
        self.env.update(BUPSTASH_REPOSITORY=self.repo, BUPSTASH_KEY=key, BUPSTASH_SEND_LOG=os.path.join(self.home, "send.log"), BUPSTASH_QUERY_CACHE=os.path.join(self.home, "q.cache"))
        self.n = 0
        return [[self.exe, "new-key", "-o", key], [self.exe, "init"]]
    def backup(self, src, tag): self.tag = tag; return [[self.exe, "put", "-q", "name=" + tag, src]]
    def restore(self, dest, src): return [[self.exe, "restore", "-q", "--into", dest, "name=" + self.tag]]
    def forget(self, keep):
        q = " or ".join(f"name=s{i:02}" for i in range(10 - keep)).split()
        return [[self.exe, "rm", "-q", "--allow-many"] + q, [self.exe, "gc", "-q"]]
    def ls(self): return [[self.exe, "list", "-q"]]

class Rclone(Tool):
    """No history and no dedupe: encrypted copy, the plain-transfer yardstick."""
    name = bin = "rclone"
    def fresh(self):
        pw = subprocess.run([self.exe, "obscure", "x"], capture_output=True, text=True).stdout.strip()
        os.makedirs(self.repo, exist_ok=True)
        self.env.update(RCLONE_CONFIG=os.path.join(self.home, "none.conf"), RCLONE_CONFIG_C_TYPE="crypt", RCLONE_CONFIG_C_REMOTE=self.repo, RCLONE_CONFIG_C_PASSWORD=pw)
        return []
    def version(self): return [[self.exe, "version"]]
    def backup(self, src, tag): return [[self.exe, "sync", "-q", src, "c:"]]
    def restore(self, dest, src): return [[self.exe, "copy", "-q", "c:", dest]]

class Duplicity(Tool):
    name = bin = "duplicity"
    def fresh(self):
        os.makedirs(self.repo, exist_ok=True)
        self.env.update(PASSPHRASE="x", HOME=self.home)
        return []
    def url(self): return "file://" + self.repo
    def backup(self, src, tag): return [[self.exe, "--no-print-statistics", "--archive-dir", self.home, src, self.url()]]
    def restore(self, dest, src): os.rmdir(dest); return [[self.exe, "restore", "--archive-dir", self.home, self.url(), dest]]

class Tar(Tool):
    """tar | zstd -3 -T2 : a floor for read + compress + write, no encryption, no dedupe."""
    name = "tar"; bin = "tar"
    def fresh(self): os.makedirs(self.repo, exist_ok=True); return []
    def backup(self, src, tag): self.tag = tag; return [["sh", "-c", f"tar -cf - '{src}' 2>/dev/null | zstd -q -3 -T2 -f -o '{self.repo}/{tag}.tzst'"]]
    def restore(self, dest, src): return [["sh", "-c", f"zstd -qdc '{self.repo}/{self.tag}.tzst' | tar -C '{dest}' -xf -"]]

TOOLS = {c.name: c for c in (Holdfast, Holdfast3, Restic, Rustic, ResticS3, RusticS3, Borg, Borg2, Bupstash, Rclone, Duplicity, Tar)}

# ---------------------------------------------------------------- machinery
def warm(d):
    """read everything once, so that a measured command starts with a warm page cache"""
    if not a.cold: subprocess.run(["bash", "-c", 'find "$1" -type f -print0 | xargs -0 -r cat > /dev/null', "-", d])

def measure(cmds, env, lock, read=None):
    e = dict(os.environ); e.update(env)
    os.sync()
    if read: warm(read)
    fd = None
    if lock: fd = open(lock, "w"); fcntl.flock(fd, fcntl.LOCK_EX)
    cwd = None; wall = cpu = sys_ = 0.0; rss = 0
    err = open(a.work + "/stderr", "wb")
    for c in cmds or []:
        if c[0] == "cd": cwd = c[1]; continue
        t = time.monotonic()
        p = subprocess.Popen(c, env=e, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
        _, st, ru = os.wait4(p.pid, 0)
        wall += time.monotonic() - t; cpu += ru.ru_utime + ru.ru_stime; sys_ += ru.ru_stime; rss = max(rss, ru.ru_maxrss)
        p.returncode = os.waitstatus_to_exitcode(st)
        if p.returncode:
            print("FAILED", p.returncode, c, open(a.work + "/stderr", "rb").read()[-600:], file=sys.stderr)
            if fd: fd.close()
            return None
    if fd: fd.close()
    return dict(wall=round(wall, 3), cpu=round(cpu, 3), sys=round(sys_, 3), rss=round(rss / 1024, 1))

def du(d):
    b = n = 0
    for r, _, f in os.walk(d):
        for x in f:
            try: b += os.lstat(os.path.join(r, x)).st_size; n += 1
            except OSError: pass
    return b, n

def rm(d):
    if os.path.isdir(d): subprocess.run(["rm", "-rf", d])

def record(row):
    row["date"] = time.strftime("%Y-%m-%d %H:%M")
    with open(a.out, "a") as f: f.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)

def main():
    repo, home, dest, src = (os.path.join(a.work, x) for x in ("repo", "home", "dest", "src"))
    if a.dest: dest = os.path.join(a.dest, "restored")
    os.makedirs(a.work, exist_ok=True)
    ops = a.ops.split(",")
    def clean():
        rm(repo); rm(home); os.makedirs(home)
    for s in a.sets.split(","):
        base = os.path.join(a.data, s)
        plus = os.path.join(a.data, s + "+")
        if not os.path.isdir(plus) and s == "D2": plus = os.path.join(a.data, "D5")
        for tn in a.tools.split(","):
            def stage(d):
                os.rename(d, src); return d
            def unstage(d): os.rename(src, d)
            def loc(): return getattr(t, "data", repo)
            T = TOOLS[tn]
            def new():
                clean(); t = T(repo, home)
                r = measure(t.fresh(), t.env, None)
                if r is None: raise SystemExit(f"{tn}: cannot make a repository")
                return t
            def rec(op, m, before=None, **kw):
                if m is None: record(dict(tool=tn, set=s, op=op, failed=True)); return
                b, n = du(loc())
                row = dict(tool=tn, set=s, op=op, **m, repo=b, objects=n, **kw)
                asked = t.requests(open(a.work + "/stderr").read())
                if asked: row["requests"] = asked; print(f"{tn}, {op}: requests: {' '.join(f'{k} {n}' for k, n in asked.items())}", flush=True)
                if before: row["added"] = b - before[0]; row["added_objects"] = n - before[1]
                record(row)
            if "churn" in ops:
                rm(src); subprocess.run(["cp", "-a", base, src], check=True)
                t = new()
                for k in range(10):
                    if k: subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gen.py"), "churn", src, "--step", str(k), "--fraction", "0.02"], stdout=subprocess.DEVNULL, check=True)
                    b = du(loc()); rec(f"snap{k}" if k in (0, 1, 9) else "snap", measure(t.backup(src, f"s{k:02}"), t.env, a.lock, src), b)
                    if a.verify and k >= 5: subprocess.run(["cp", "-a", src, os.path.join(a.work, f"kept{k}")], check=True)
                b = du(loc()); rec("prune", measure(t.forget(5), t.env, a.lock, loc()), b)
                if t.check(): rec("check after prune", measure(t.check(), t.env, a.lock, loc()))
                for k in range(5, 10) if a.verify else ():
                    kept = os.path.join(a.work, f"kept{k}")
                    if t.restore_tagged(dest, ""):
                        rm(dest); os.makedirs(dest)
                        rec("restore of a kept one", measure(t.restore_tagged(dest, f"s{k:02}"), t.env, a.lock, loc()))
                        found = dest + src if os.path.isdir(dest + src) else dest
                        same = subprocess.run(["diff", "-rq", kept, found], stdout=subprocess.DEVNULL).returncode == 0
                        print(f"{tn}, snapshot {k + 1} of 10 restored: {'the same' if same else 'RESTORE DIFFERS'}", flush=True)
                        rm(dest)
                    rm(kept)
                rm(src); clean(); continue
            st = stage(base)
            try:
                runs = a.runs if "first" in ops else 1
                for i in range(runs):
                    t = new()
                    m = measure(t.backup(src, f"s{i:02}"), t.env, a.lock, src)
                    if "first" in ops or "scale" in ops: rec("first", m)
                if m is None: continue
                if "scale" in ops:
                    one = os.path.join(a.work, "one"); os.makedirs(one, exist_ok=True)
                    for i in range(3):
                        open(os.path.join(one, "f"), "w").write(f"{i} {time.time()}")
                        b = du(loc()); rec("one file", measure(t.backup(one, f"o{i}"), t.env, a.lock), b)
                        if t.ls(): rec("list", measure(t.ls(), t.env, a.lock))
                if "again" in ops:
                    for i in range(a.runs):
                        b = du(loc()); rec("again", measure(t.backup(src, f"t{i:02}"), t.env, a.lock, src), b)
                if "restore" in ops:
                    for i in range(2):
                        rm(dest); os.makedirs(dest)
                        rec("restore", measure(t.restore(dest, src), t.env, a.lock, loc()))
                    if a.verify and subprocess.run(["diff", "-rq", src, next((r for r, ds, fs in os.walk(dest) if set(os.listdir(src)) <= set(os.listdir(r))), dest)], stdout=subprocess.DEVNULL).returncode: print("RESTORE DIFFERS", tn, s)
                    rm(dest)
                if "check" in ops and t.check():
                    rec("check", measure(t.check(), t.env, a.lock, loc()))
                if "incr" in ops and os.path.isdir(plus):
                    unstage(st); st = stage(plus)
                    b = du(loc()); rec("incr", measure(t.backup(src, "i00"), t.env, a.lock, src), b)
            finally:
                unstage(st)
            clean()

def table():
    rows = defaultdict(list)
    for l in open(a.table):
        r = json.loads(l)
        if not r.get("failed"): rows[(r["set"], r["op"], r["tool"])].append(r)
    med = lambda v: statistics.median(v)
    last = None
    for (s, op, tool), v in sorted(rows.items(), key=lambda kv: (kv[0][0], kv[0][1], med([r["wall"] for r in kv[1]]))):
        if last != (s, op):
            print(f"\n**{s}, {op}**\n\n| tool | runs | wall s | (min-max) | CPU s | of it sys | peak RSS MiB | repo MB | objects | added MB |\n|---|---|---|---|---|---|---|---|---|---|"); last = (s, op)
        w = [r["wall"] for r in v]
        ad = [r["added"] / 1e6 for r in v if "added" in r]
        print(f"| {tool} | {len(v)} | {med(w):.2f} | {min(w):.2f}-{max(w):.2f} | {med([r['cpu'] for r in v]):.2f} | {med([r.get('sys', 0) for r in v]):.2f} | {med([r['rss'] for r in v]):.0f} | {med([r['repo'] for r in v])/1e6:.1f} | {med([r['objects'] for r in v]):.0f} | {f'{med(ad):.2f}' if ad else ''} |")

def wide():
    rows = defaultdict(list); tools = []
    for f in a.wide.split(","):
        for l in open(f):
            r = json.loads(l)
            if r.get("failed"): continue
            rows[(r["set"], r["op"], r["tool"])].append(r)
            if r["tool"] not in tools: tools.append(r["tool"])
    med = lambda k, v: statistics.median([r[k] for r in v])
    print("| set, operation | " + " | ".join(tools) + " |\n|---" + "|---" * len(tools) + "|")
    for s, op in sorted({(k[0], k[1]) for k in rows}):
        c = []
        for t in tools:
            v = rows.get((s, op, t))
            c.append(f"{med('wall', v):.2f} s ({med('cpu', v):.1f}, {med('rss', v):.0f})" if v else "")
        print(f"| {s} {op} | " + " | ".join(c) + " |")

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--data"); p.add_argument("--work"); p.add_argument("--tools", default="restic,rustic")
p.add_argument("--sets", default="D1"); p.add_argument("--ops", default="first,again,restore,check,incr")
p.add_argument("--runs", type=int, default=3); p.add_argument("--out", default="results.jsonl")
p.add_argument("--dest", help="restore into this directory (a tmpfs keeps the file system's own cost out)"); p.add_argument("--cold", action="store_true", help="do not pre-read inputs"); p.add_argument("--lock"); p.add_argument("--table"); p.add_argument("--wide", help="one row per set and operation, one column per tool: wall (CPU s, peak MiB)"); p.add_argument("--verify", action="store_true")
a = p.parse_args()
if a.work: a.work = os.path.abspath(a.work)
table() if a.table else wide() if a.wide else main()
