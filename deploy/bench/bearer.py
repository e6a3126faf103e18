#!/usr/bin/env python3
"""Manifest reads with a bearer token, by `portolan bench`: server CPU per operation, as registry_bench.py counts it.

  bearer.py --portolan BINARY --url URL --key FILE --pid PID --json OUT [--seconds 5]
"""
import argparse, json, os, subprocess

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("portolan", "url", "key", "json"):
    ap.add_argument(f"--{name}", required=True)
ap.add_argument("--pid", type=int, required=True)
ap.add_argument("--seconds", type=int, default=5)
a = ap.parse_args()


def cpu():
    f = open(f"/proc/{a.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def bench(*args):
    c = [a.portolan, "bench", "-o", "json", "--registry", a.url, "--credentials-file", a.key, "--bearer", *args]
    return json.loads(subprocess.run(c, capture_output=True, text=True, check=True, timeout=300).stdout)


rows = []
for workload in ("manifest-head", "manifest-get"):
    for conns in (32, 128):
        bench(workload, "-n", "64", "-c", "1")  # the images are there now, and cost nothing below
        c0 = cpu()
        r = bench(workload, "--duration", f"{a.seconds}s", "-c", str(conns))
        # the run pushes its 64 images again, which the reads outnumber by far
        r.update(section="manifests", label=f"{workload[9:].upper()} by tag, {conns} conns", cpu_us_op=round((cpu() - c0) * 1e6 / max(1, r["ok"]), 1))
        rows.append(r)
        print(r["label"], {k: r[k] for k in ("ops_s", "p99_ms", "errors", "cpu_us_op")}, flush=True)
json.dump({"meta": {"name": "portolan, Bearer"}, "rows": rows}, open(a.json, "w"), indent=1)
