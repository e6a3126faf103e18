#!/usr/bin/env python3
"""Measures garbage collection on one node with many blobs: how many deletions a second, and what it costs pulls and pushes.

  gc.py --portolan FILE --loadgen FILE --dir DIR --json OUT [--blobs 1000000] [--files 50000] [--garbage 100000] [--pairs 5]

BLOBS blobs in all, of which FILES are files of their own (66 KiB) and the others lie in packs (1 KiB); GARBAGE of the small
ones are named by nothing. Collection is paused until all are there; grace is two seconds. Then
  1. the garbage goes, with no other load: deletions (records swept) a second, and when the files are gone;
  2. PAIRS times, in turn: half of the load the node bears, once with collection paused and once while garbage is swept, at
     its default throttle; p99 of pulls and of pushes, their medians over the pairs, and the ratio of each pair.
Nothing is measured before the node is quiet: what a push or a collection leaves to do in the background belongs to no half.
A run that broke off goes on with the same DIR where filling stopped."""
import argparse, base64, datetime, json, os, re, shutil, statistics, subprocess, sys, time, urllib.request

from onenode import Node, Report, ended

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--portolan", required=True)
ap.add_argument("--loadgen", required=True)
ap.add_argument("--dir", required=True)
ap.add_argument("--json", required=True)
ap.add_argument("--blobs", type=int, default=1_000_000)
ap.add_argument("--files", type=int, default=50_000)
ap.add_argument("--garbage", type=int, default=100_000)
ap.add_argument("--pairs", type=int, default=5)
ap.add_argument("--seconds", type=int, default=20, help="of each half of a pair")
ap.add_argument("--port", type=int, default=24500)
ap.add_argument("--fill-only", action="store_true", help="fill, and measure in a later run")
ap.add_argument("--keep", action="store_true", help="leave DIR behind")
a = ap.parse_args()
node, mark = Node(a.portolan, a.dir, a.port), os.path.join(a.dir, "filled.json")
row = Report(a.json, {"blobs": a.blobs, "files": a.files, "garbage": a.garbage}).row
basic = base64.b64encode(open(node.key).read().strip().encode()).decode()
LAYERS = 100


def run(*args, limit=7200):
    p = subprocess.run(args, capture_output=True, text=True, timeout=limit)
    if p.returncode:
        sys.exit(f"{args}: {p.stderr[-400:]}")
    return p.stdout


def portolan(*args):
    return run(a.portolan, *args, "--admin", node.admin, "--credentials-file", node.key)


def good(process):
    """The report of a load without an error."""
    r = ended(process)
    if r["errors"]:
        sys.exit(f"bench: {r['errors']} errors: {r['error_samples']}")
    return r


def metrics():
    text = urllib.request.urlopen(urllib.request.Request(node.admin + "/metrics", headers={"Authorization": "Basic " + basic}), timeout=10).read().decode()
    found = {}
    for name, labels, value in re.findall(r'^(portolan_gc_\w+)(\{[^}]*\})? ([\d.e+-]+)$', text, re.M):
        found[name + labels] = float(value)
    return found


def swept(m):
    return sum(v for k, v in m.items() if k.startswith("portolan_gc_collected_total") and 'what="swept"' in k)


def images(count, size, repository):
    """Pushes images of LAYERS layers that nobody else has, in runs short enough to be kept in memory."""
    while count > 0:
        now = min(count, max(1, (512 << 20) // (size * LAYERS)), 1000)
        told = json.loads(run(a.loadgen, "image-push", "-url", node.url, "-header", f"Authorization: Basic {basic}", "-repo", repository, "-repos", "8",
                              "-n", str(now), "-c", "32", "-layers", str(LAYERS), "-layersize", str(size), "-mode", "put", "-max-seconds", "3600"))
        if told.get("errors"):
            sys.exit(f"image-push: {told}")
        count -= now
        yield now


def garbage(count):
    good(node.bench("blob-push", "--size", "1KiB", "-n", str(count), "-c", "64", "--repositories", "4", "--prefix", "garbage"))


def fill():
    done = json.load(open(mark)) if os.path.exists(mark) else {"small": 0, "files": 0, "garbage": 0}
    small = (a.blobs - a.files - a.garbage) // (LAYERS + 1)
    t0 = time.time()

    def note(**kw):
        done.update(kw)
        json.dump(done, open(mark, "w"))
    for now in images(a.files // LAYERS - done["files"], 66 << 10, "used/files"):
        note(files=done["files"] + now)
    for now in images(small - done["small"], 1 << 10, "used/small"):
        note(small=done["small"] + now)
    while done["garbage"] < a.garbage:
        now = min(20_000, a.garbage - done["garbage"])
        garbage(now)
        note(garbage=done["garbage"] + now)
    row("filled", seconds=round(time.time() - t0, 1), **done)


def is_done(since):
    """Whether a whole cycle that began after then found nothing to take away."""
    last = json.loads(portolan("gc", "status", "-o", "json"))["last"] or {}
    found = [last.get(k, 1) for k in ("links", "uses", "unused", "condemned", "swept")]
    return not any(found) and datetime.datetime.fromisoformat(last["began_at"]).timestamp() > since


def collect(deadline):
    """Lets the garbage go; records swept, seconds from the resume to the last sweep, and between the first and the last."""
    before, t0 = metrics(), time.time()
    portolan("gc", "resume")
    portolan("gc", "run", "--allow-fraction", "1")
    last, last_at, first_at, asked = swept(before), None, None, time.time()
    while time.time() - t0 < deadline:
        m = metrics()
        if swept(m) > last:
            last, last_at = swept(m), time.time()
            first_at = first_at or last_at
        if time.time() - asked > 2:
            asked = time.time()
            if is_done(t0) and not m.get("portolan_gc_files_waiting", 0):
                return last - swept(before), (last_at or asked) - t0, (last_at or 0) - (first_at or 0)
        time.sleep(0.1)
    sys.exit(f"not all was collected within {deadline} s")


def processor_s():
    fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quiet(deadline=900):
    """Waits until the node has worked for less than a twentieth of five seconds."""
    t0, before = time.time(), processor_s()
    while time.time() - t0 < deadline:
        time.sleep(5)
        now = processor_s()
        if now - before < 0.25:
            return
        before = now
    sys.exit(f"the node is not quiet within {deadline} s")


def sweeps(since, deadline=600):
    """Waits until garbage is being swept."""
    t0 = time.time()
    while swept(metrics()) == since:
        if time.time() - t0 > deadline:
            sys.exit(f"nothing was swept within {deadline} s")
        time.sleep(0.05)


def pair(number):
    load = lambda: (node.bench("manifest-get", "--images", "64", "-c", "8", "--rate", str(rate["pull"]), "--duration", f"{a.seconds}s"),
                    node.bench("blob-push", "--size", "1KiB", "-c", "8", "--rate", str(rate["push"]), "--duration", f"{a.seconds}s", "--prefix", "load"))
    figures = {}
    garbage(a.garbage // 2)
    for what in ("without", "with") if number % 2 else ("with", "without"):
        quiet()
        if what == "with":
            before = swept(metrics())
            portolan("gc", "resume")
            portolan("gc", "run", "--allow-fraction", "1")
            sweeps(before)
            before = swept(metrics())
        pulls, pushes = (good(p) for p in load())
        figures[what] = {"pull_p99_ms": pulls["p99_ms"], "pull_p50_ms": pulls["p50_ms"], "push_p99_ms": pushes["p99_ms"], "push_p50_ms": pushes["p50_ms"]}
        if what == "with":
            figures[what]["swept"] = swept(metrics()) - before
            collect(600)
            portolan("gc", "pause")
    row(f"pair {number}", **{w: figures[w] for w in ("without", "with")})
    return figures


process = node.start("gc.grace=2s", "gc.fuse_percent=100")
try:
    node.ready(process)
    # it may refuse uploads for a moment
    time.sleep(2)
    portolan("gc", "pause")
    fill()
    if not a.fill_only:
        quiet()
        count, seconds, sweeping = collect(1800)
        row("garbage with no load", swept=count, seconds=round(seconds, 1), swept_s=round(count / seconds), seconds_of_sweeps=round(sweeping, 1))
        portolan("gc", "pause")
        quiet()
        most = {"pull": good(node.bench("manifest-get", "--images", "64", "-c", "8", "--duration", "8s")),
                "push": good(node.bench("blob-push", "--size", "1KiB", "-c", "8", "--duration", "8s", "--prefix", "load"))}
        # both at once: a quarter of what each alone reaches is half of what the node bears
        rate = {k: max(1, int(r["ops_s"] / 4)) for k, r in most.items()}
        row("most, each alone", **{k: round(r["ops_s"]) for k, r in most.items()}, half=rate)
        pairs = [pair(n) for n in range(1, a.pairs + 1)]
        for what in ("pull_p99_ms", "push_p99_ms") if pairs else ():
            ratios = [p["with"][what] / p["without"][what] for p in pairs]
            row(what, without=statistics.median(p["without"][what] for p in pairs), with_gc=statistics.median(p["with"][what] for p in pairs),
                ratio=round(statistics.median(ratios), 2), ratios=[round(r, 2) for r in sorted(ratios)],
                noise=[round(p["without"][what], 2) for p in pairs])
finally:
    node.stop(process)
if not (a.keep or a.fill_only):
    shutil.rmtree(a.dir, ignore_errors=True)
