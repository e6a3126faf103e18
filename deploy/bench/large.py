#!/usr/bin/env python3
"""What only shows in a large registry, on one node of ours: how soon it is ready after a crash, and how much memory it takes.

  large.py --portolan BINARY --dir DIR --json OUT [--manifests 1000000] [--layer 10GiB] [--port 24400]

Fills the registry through its API with `portolan bench fill`, kills the node with SIGKILL while it takes writes, starts
it again and waits for /readyz; then pushes one generated layer through it and samples the memory. DIR is used again when
it exists, so a long fill need not be repeated. Loopback only; every step is bounded in time.
"""
import argparse, os, shutil, signal, sys, threading, time

from onenode import Node, Report, ended

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
node, report = Node(a.portolan, a.dir, a.port), Report(a.json, {"name": "portolan, one node", "manifests": a.manifests, "layer": a.layer})
row = report.row


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
    return ended(node.bench(*args), limit)


process = node.start()
try:
    row("ready at the first start", seconds=round(node.ready(process), 2))
    time.sleep(5)
    row("idle memory, empty", **{k: round(v, 1) for k, v in memory(process.pid).items()})
    mark = os.path.join(a.dir, "filled")
    done = int(open(mark).read()) if os.path.exists(mark) else 0
    if done < a.manifests:
        c0 = cpu(process.pid)
        r = bench("fill", "--first", str(done), "--repositories", "50", "-n", str(a.manifests - done), "-c", str(a.clients), limit=a.fill_seconds)
        if r["errors"]:
            sys.exit(f"fill: {r['errors']} errors: {r['error_samples']}")
        open(mark, "w").write(str(a.manifests))
        row("fill", manifests=r["ok"], seconds=r["seconds"], ops_s=r["ops_s"], p99_ms=r["p99_ms"], last_tenth_to_first=r.get("last_to_first"),
            cpu_us_op=round((cpu(process.pid) - c0) * 1e6 / r["ok"], 1), memory={k: round(v, 1) for k, v in memory(process.pid).items()})
    # kill it while it takes writes: the log behind the last snapshot has to be applied again
    writer = node.bench("manifest-put", "-c", "64", "--duration", "20s")
    time.sleep(8)
    process.send_signal(signal.SIGKILL)
    process.wait()
    writer.terminate()
    writer.wait()
    process = node.start()
    row("ready after kill -9", seconds=round(node.ready(process), 2), manifests=a.manifests)
    time.sleep(10)
    row("idle memory, filled", **{k: round(v, 1) for k, v in memory(process.pid).items()})
    samples, stop, c0 = [], threading.Event(), cpu(process.pid)
    before = memory(process.pid)

    def sample():
        while not stop.wait(0.25):
            samples.append(memory(process.pid))

    t = threading.Thread(target=sample)
    t.start()
    r = bench("blob-push", "--size", a.layer, "-n", "1", "-c", "1", limit=3600)
    stop.set()
    t.join()
    anon = [s["RssAnon"] for s in samples]
    tenth = max(1, len(anon) // 10)
    row(f"one layer of {a.layer}", seconds=r["seconds"], mb_s=r["mb_s"], errors=r["errors"], cpu_ms_per_mb=round((cpu(process.pid) - c0) * 1e3 / (r["bytes"] / 1e6), 3),
        anon_before_mb=round(before["RssAnon"], 1), anon_first_tenth_mb=round(max(anon[:tenth]), 1), anon_last_tenth_mb=round(max(anon[-tenth:]), 1),
        anon_peak_mb=round(max(anon), 1), rss_peak_mb=round(max(s["VmRSS"] for s in samples), 1))
finally:
    node.stop(process)
if not a.keep:
    shutil.rmtree(a.dir, ignore_errors=True)
