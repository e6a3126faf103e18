#!/usr/bin/env python3
"""What only shows in a large registry, on one node of ours: how soon it is ready after a crash, and how much memory it takes.

  large.py --portolan BINARY --dir DIR --json OUT [--manifests 1000000] [--layer 10GiB] [--port 24400]

Fills the registry through its API with `portolan bench fill`, kills the node with SIGKILL while it takes writes, starts
it again and waits for /readyz; then pushes one generated layer through it and samples the memory. DIR is used again when
it exists, so a long fill need not be repeated. Loopback only; every step is bounded in time.
"""
import argparse, json, os, shutil, signal, subprocess, sys, threading, time, urllib.error, urllib.request

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--portolan", required=True)
ap.add_argument("--dir", required=True)
ap.add_argument("--json", required=True)
ap.add_argument("--manifests", type=int, default=1_000_000)
ap.add_argument("--clients", type=int, default=256)
ap.add_argument("--layer", default="10GiB")
ap.add_argument("--port", type=int, default=24400)
ap.add_argument("--fill-seconds", type=int, default=4 * 3600)
ap.add_argument("--keep", action="store_true", help="leave DIR behind")
a = ap.parse_args()
os.makedirs(a.dir, exist_ok=True)
data, key, log = (os.path.join(a.dir, n) for n in ("data", "root-key", "log"))
url, admin = f"http://127.0.0.1:{a.port}", f"http://127.0.0.1:{a.port + 3}"
if not os.path.exists(key):
    with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(f"PTLN{os.urandom(8).hex().upper()}:{os.urandom(24).hex()}\n")
out = {"meta": {"name": "portolan, one node", "manifests": a.manifests, "layer": a.layer, "load1": os.getloadavg()[0]}, "rows": []}


def row(label, **kw):
    out["rows"].append({"label": label, **kw})
    print(label, kw, flush=True)
    with open(a.json, "w") as f:
        json.dump(out, f, indent=1)


def start():
    doors = [f"--set=listen.{d}=127.0.0.1:{a.port + i}" for i, d in enumerate(("public", "raft", "blob", "admin"))]
    return subprocess.Popen([a.portolan, "server", "--data-dir", data, *doors, f"--set=auth.root_key_file={key}", "--set=log.access=false"],
                            stdout=subprocess.DEVNULL, stderr=open(log, "a"))


def ready(process, limit=600):
    t0 = time.time()
    while time.time() - t0 < limit:
        if process.poll() is not None:
            sys.exit(f"the node ended by itself: {open(log).read()[-800:]}")
        try:
            if urllib.request.urlopen(admin + "/readyz", timeout=1).status == 200:
                return time.time() - t0
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.02)
    sys.exit("the node was not ready in time")


def memory(pid):
    f = {}
    for l in open(f"/proc/{pid}/status"):
        k, _, v = l.partition(":")
        if k in ("VmRSS", "RssAnon"):
            f[k] = int(v.split()[0]) / 1024
    return f


def cpu(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def bench(*args, limit):
    p = subprocess.run([a.portolan, "bench", "-o", "json", "--registry", url, "--credentials-file", key, *args],
                       capture_output=True, text=True, timeout=limit)
    if p.returncode:
        sys.exit(f"bench {args}: {p.stderr[-400:]}")
    return json.loads(p.stdout)


node = start()
try:
    row("ready at the first start", seconds=round(ready(node), 2))
    time.sleep(5)
    row("idle memory, empty", **{k: round(v, 1) for k, v in memory(node.pid).items()})
    mark = os.path.join(a.dir, "filled")
    done = int(open(mark).read()) if os.path.exists(mark) else 0
    if done < a.manifests:
        c0 = cpu(node.pid)
        r = bench("fill", "--first", str(done), "--repositories", "50", "-n", str(a.manifests - done), "-c", str(a.clients), limit=a.fill_seconds)
        if r["errors"]:
            sys.exit(f"fill: {r['errors']} errors: {r['error_samples']}")
        open(mark, "w").write(str(a.manifests))
        row("fill", manifests=r["ok"], seconds=r["seconds"], ops_s=r["ops_s"], p99_ms=r["p99_ms"], last_tenth_to_first=r.get("last_to_first"),
            cpu_us_op=round((cpu(node.pid) - c0) * 1e6 / r["ok"], 1), memory={k: round(v, 1) for k, v in memory(node.pid).items()})
    # kill it while it takes writes: the log behind the last snapshot has to be applied again
    writer = subprocess.Popen([a.portolan, "bench", "--registry", url, "--credentials-file", key, "manifest-put", "-c", "64", "--duration", "20s"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(8)
    node.send_signal(signal.SIGKILL)
    node.wait()
    writer.terminate()
    writer.wait()
    node = start()
    row("ready after kill -9", seconds=round(ready(node), 2), manifests=a.manifests)
    time.sleep(10)
    row("idle memory, filled", **{k: round(v, 1) for k, v in memory(node.pid).items()})
    samples, stop, c0 = [], threading.Event(), cpu(node.pid)
    before = memory(node.pid)

    def sample():
        while not stop.wait(0.25):
            samples.append(memory(node.pid))

    t = threading.Thread(target=sample)
    t.start()
    r = bench("blob-push", "--size", a.layer, "-n", "1", "-c", "1", limit=3600)
    stop.set()
    t.join()
    anon = [s["RssAnon"] for s in samples]
    tenth = max(1, len(anon) // 10)
    row(f"one layer of {a.layer}", seconds=r["seconds"], mb_s=r["mb_s"], errors=r["errors"], cpu_ms_per_mb=round((cpu(node.pid) - c0) * 1e3 / (r["bytes"] / 1e6), 3),
        anon_before_mb=round(before["RssAnon"], 1), anon_first_tenth_mb=round(max(anon[:tenth]), 1), anon_last_tenth_mb=round(max(anon[-tenth:]), 1),
        anon_peak_mb=round(max(anon), 1), rss_peak_mb=round(max(s["VmRSS"] for s in samples), 1))
finally:
    node.terminate()
    try:
        node.wait(60)
    except subprocess.TimeoutExpired:
        node.kill()
if not a.keep:
    shutil.rmtree(a.dir, ignore_errors=True)
