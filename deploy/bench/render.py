#!/usr/bin/env python3
"""Medians of the rounds of a run, as Markdown: targets, then a table for each section.   render.py DIR [--into FILE]

DIR holds NAME.ROUND.json of registry_bench.py and etcd_bench.sh, large.json and settings.txt. --into replaces what stands
between the lines "<!-- results -->" and "<!-- end of results -->" of FILE.
"""
import argparse, glob, json, os, re, statistics

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dir")
ap.add_argument("--into")
a = ap.parse_args()


def key(label):
    """labels of lists carry the numbers that were reached"""
    return re.sub(r"\s+", " ", re.sub(r"\(\d+( tags)?\)", "", label)).replace(" ,", ",").strip()


systems, names, order = {}, {}, []
for path in sorted(glob.glob(os.path.join(a.dir, "*.*.json"))):
    system = os.path.basename(path).split(".")[0]
    doc = json.load(open(path))
    names[system] = doc["meta"]["name"]
    rows = doc["rows"] + [{"section": "memory", "label": k, "rss_mb": doc["meta"][k]["rss_mb"]} for k in ("idle", "after") if k in doc["meta"]]
    for r in rows:
        k = (r.get("section", "etcd"), key(r["label"]))
        if k not in order:
            order.append(k)
        systems.setdefault(system, {}).setdefault(k, []).append(r)


def median(system, section, label, field):
    got = [r[field] for r in systems.get(system, {}).get((section, label), []) if isinstance(r.get(field), (int, float)) and not isinstance(r.get(field), bool)]
    return statistics.median(got) if got else None


def n(x, d=1):
    return "-" if x is None else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.{d}f}"


large = {}
if os.path.exists(os.path.join(a.dir, "large.json")):
    large = {r["label"]: r for r in json.load(open(os.path.join(a.dir, "large.json")))["rows"]}
lines = []
say = lines.append
if os.path.exists(os.path.join(a.dir, "settings.txt")):
    say("```\n" + open(os.path.join(a.dir, "settings.txt")).read().rstrip() + "\n```\n")

say("### Targets\n\n| what | target | measured | reached |\n| --- | ---: | ---: | --- |")


def target(what, value, bound, at_most, unit="", digits=1):
    if value is None or bound is None:
        return
    reached = value <= bound if at_most else value >= bound
    say(f"| {what} | {'≤' if at_most else '≥'} {n(bound, digits)}{unit} | {n(value, digits)}{unit} | {'yes' if reached else 'no, by a factor of ' + n(max(value, bound) / max(min(value, bound), 1e-9), 2)} |")


def share(value, factor):
    return None if value is None else value * factor


m = "manifests"
for verb in ("HEAD", "GET"):
    row = f"{verb} by tag, 32 conns"
    target(f"manifest {verb} by tag, server CPU", median("portolan", m, row, "cpu_us_op"), 80, True, " µs")
    target(f"the same with Bearer", median("portolan-bearer", m, row, "cpu_us_op"), 100, True, " µs")
    target(f"manifest {verb} by tag, rate, ⅓ of nginx", median("portolan", m, row, "ops_s"), share(median("nginx", m, row, "ops_s"), 1 / 3), False, "/s")
target("manifest GET by tag on a follower of three, rate, etcd's linearizable gets", median("portolan3-follower", m, "GET by tag, 128 conns", "ops_s"), median("etcd", "etcd", "linearizable get, 64 clients", "ops_s"), False, "/s")
put = "PUT new manifest by new tag, {} repos, c=64"
for repos in (1, 32):
    target(f"manifest PUT, 64 clients, three nodes, {repos} repositories, ½ of etcd's puts", median("portolan3-leader", "mput", put.format(repos), "ops_s"), share(median("etcd", "etcd", "put 1 KiB, 64 clients", "ops_s"), 0.5), False, "/s")
    target(f"the same, p99", median("portolan3-leader", "mput", put.format(repos), "p99_ms"), 100, True, " ms")
target("last tenth of 100,000 tags, share of the first one's rate", median("portolan-tags", "lists", "PUT 100000 tags, c=64", "last_tenth_to_first"), 0.9, False, digits=2)
push = "POST+PUT {}, c={}"
target("1 KiB blob push, 32 clients", median("portolan", "blobpush", push.format("1 KiB", 32), "ops_s"), 1000, False, "/s")
target("the same, three nodes", median("portolan3-leader", "blobpush", push.format("1 KiB", 32), "ops_s"), 500, False, "/s")
target("1 KiB blob GET, server CPU", median("portolan", "blobget", "1 KiB, c=8", "cpu_us_op"), 100, True, " µs")
target("100 MiB push, one client, server CPU per MB", median("portolan", "blobpush", push.format("100 MiB", 1), "cpu_ms_per_mb"), 1.5, True, " ms", 2)
target("100 MiB push, one client, three nodes, 0.6 × distribution's one", median("portolan3-leader", "blobpush", push.format("100 MiB", 1), "mb_s"), share(median("distribution", "blobpush", push.format("100 MiB", 1), "mb_s"), 0.6), False, " MB/s")
target("100 MiB GET, 8 clients, ¾ of nginx", median("portolan", "blobget", "100 MiB, c=8", "mb_s"), share(median("nginx", "blobget", "100 MiB, c=8", "mb_s"), 0.75), False, " MB/s")
target("100 MiB GET, 8 clients, server CPU per MB", median("portolan", "blobget", "100 MiB, c=8", "cpu_ms_per_mb"), 0.6, True, " ms", 2)
page = "tags/list?n=100, c=1"
target("tags/list?n=100 at 100,000 tags, p50", median("portolan-tags", "lists", page, "p50_ms"), 1, True, " ms", 2)
target("the same, p99", median("portolan-tags", "lists", page, "p99_ms"), 5, True, " ms", 2)
target("500 referrers, p50", median("portolan", "lists", "referrers, c=1", "p50_ms"), 2, True, " ms", 2)
herd = next((k[1] for k in order if k[0] == "herd"), "")
target("herd of 500 × 40 MiB, time, 1.5 × nginx", median("portolan", "herd", herd, "seconds"), share(median("nginx", "herd", herd, "seconds"), 1.5), True, " s")
target("the same, memory", median("portolan", "herd", herd, "peak_rss_mb"), 150, True, " MB")
target("ready after a crash with 1,000,000 manifests", large.get("ready after kill -9", {}).get("seconds"), 5, True, " s", 2)
target("idle memory, one node", median("portolan", "memory", "idle", "rss_mb"), 80, True, " MB")
idle3 = median("portolan3-follower", "memory", "idle", "rss_mb")
target("idle memory, each of three (and a third of their parent)", share(idle3, 1 / 3), 80, True, " MB")
layer = next((r for l, r in large.items() if l.startswith("one layer")), {})
target("memory while one large layer goes through, last tenth, 1.1 × the first", layer.get("anon_last_tenth_mb"), share(layer.get("anon_first_tenth_mb"), 1.1), True, " MB")

titles = {"manifests": ("Manifests", "requests per second (p99 ms; server CPU µs)", lambda g: f"{n(g('ops_s'))} ({n(g('p99_ms'))}; {n(g('cpu_us_op'))})"),
          "blobget": ("Blob GET", "MB/s (requests per second; server CPU ms per MB)", lambda g: f"{n(g('mb_s'))} ({n(g('ops_s'))}; {n(g('cpu_ms_per_mb'), 2)})"),
          "blobpush": ("Blob push", "per second (MB/s; p99 ms; server CPU µs)", lambda g: f"{n(g('ops_s'))} ({n(g('mb_s'))}; {n(g('p99_ms'))}; {n(g('cpu_us_op'))})"),
          "images": ("Whole images", "per second (MB/s; server CPU ms per image)", lambda g: f"{n(g('ops_s'), 2)} ({n(g('mb_s'))}; {n(share(g('cpu_us_op'), 1e-3))})"),
          "mput": ("Manifest PUT", "per second (p50/p99 ms; server CPU µs)", lambda g: f"{n(g('ops_s'))} ({n(g('p50_ms'))}/{n(g('p99_ms'))}; {n(g('cpu_us_op'))})"),
          "herd": ("Herd", "seconds (errors; server CPU s; peak memory MB)", lambda g: f"{n(g('seconds'))} ({n(g('errors'), 0)}; {n(g('server_cpu_s'))}; {n(g('peak_rss_mb'))})"),
          "lists": ("Lists", "p50 ms (p99 ms; per second; server CPU µs)", lambda g: f"{n(g('p50_ms'), 2)} ({n(g('p99_ms'), 2)}; {n(g('ops_s'))}; {n(g('cpu_us_op'))})"),
          "etcd": ("etcd", "per second (p50/p99 ms; CPU µs of the three servers)", lambda g: f"{n(g('ops_s'))} ({n(g('p50_ms'))}/{n(g('p99_ms'))}; {n(g('servers_cpu_us_op'))})"),
          "memory": ("Memory", "MB resident", lambda g: n(g("rss_mb")))}
for section, (title, legend, cell) in titles.items():
    keys = [k for k in order if k[0] == section]
    have = [s for s in names if any(k in systems[s] for k in keys)]
    if not have:
        continue
    say(f"\n### {title}: {legend}\n\n| row | " + " | ".join(names[s] for s in have) + " |\n| --- |" + " ---: |" * len(have))
    for k in keys:
        cells = []
        for s in have:
            rows = systems[s].get(k)
            errors = sum(r.get("errors", 0) + r.get("status_errors", 0) for r in rows or [])
            failed = rows and any(r.get("failed") for r in rows)
            cells.append("" if not rows else "failed" if failed else cell(lambda field: median(s, *k, field)) + (f" **{errors} errors**" if errors else ""))
        say(f"| {k[1]} | " + " | ".join(cells) + " |")
if large:
    say("\n### One node, large\n\n| step | measured |\n| --- | --- |")
    for label, r in large.items():
        say(f"| {label} | " + ", ".join(f"{k} {v}" for k, v in r.items() if k != "label") + " |")
loads = [r["other_load"] for rows in systems.values() for rs in rows.values() for r in rs if "other_load" in r]
if loads:
    say(f"\nMedian share of the machine that others took during a row: {100 * statistics.median(loads):.0f} %, at most {100 * max(loads):.0f} %.")

text = "\n".join(lines) + "\n"
if a.into:
    old = open(a.into).read()
    begin, end = "<!-- results -->\n", "<!-- end of results -->"
    head, rest = old.split(begin, 1)
    open(a.into, "w").write(head + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1])
else:
    print(text, end="")
