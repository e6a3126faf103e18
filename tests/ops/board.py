#!/usr/bin/env python3
"""Checks deploy/grafana/portolan.json.

    board.py check PROMTOOL SCRATCH  its shape, and that every query names metrics that exist
    board.py ask URL JOB             runs every query at a Prometheus: each must return data; but those below the row
                                     "Blobs in a bucket", for their metrics begin with the first request to one
    board.py ask URL JOB bucket      runs those, at a Prometheus of nodes with a bucket

What Grafana itself would say is not tried: it is in no package registry.
"""
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parents[2]
BOARD = HERE / "deploy/grafana/portolan.json"
WIDTH = 24
BUCKET_ROW = "Blobs in a bucket"
BUCKET_METRICS = r"portolan_(bucket|blob_cache)_\w+"
KINDS = {"timeseries", "stat", "state-timeline", "row", "text"}


def queries(board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel, target


def bucket_panels(board):
    """The panels between that row and the next one."""
    row, found = "", []
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif row == BUCKET_ROW:
            found.append(panel)
    return found


def known_names():
    """Metrics of the product, and of the rules that are recorded from them."""
    listed = re.findall(r"^\| `(\w+)` \| (\w+)", (HERE / "src/docs/metrics.md").read_text(), re.M)
    names = {"up", "ALERTS"}
    for name, kind in listed:
        names |= {name} if kind != "histogram" else {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    rules = (HERE / "deploy/prometheus/alerts.yml").read_text()
    return names | set(re.findall(r"record: (\S+)", rules))


def unknown(expression):
    named = re.findall(r"(?<![\w:\"])((?:portolan|process)[_:][\w:]+|up|ALERTS)(?=[{\[\s)/*<>=-]|$)", expression)
    return [name for name in named if name not in known_names()], named


def check(board):
    problems = []
    for field in ("title", "uid", "schemaVersion", "templating", "time", "panels"):
        if field not in board:
            problems.append(f"the board has no {field}")
    ids, cells = set(), {}
    for panel in board["panels"]:
        name = f"panel {panel.get('id')} {panel.get('title')!r}"
        if panel["id"] in ids:
            problems.append(f"{name}: its id stands twice")
        ids.add(panel["id"])
        if panel["type"] not in KINDS or not panel.get("title"):
            problems.append(f"{name}: type {panel['type']} or title")
        place = panel["gridPos"]
        if place["x"] + place["w"] > WIDTH:
            problems.append(f"{name}: beyond the right edge")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in cells:
                    problems.append(f"{name}: lies on {cells[x, y]}")
                    break
                cells[x, y] = name
        if panel["type"] not in ("row", "text") and not panel.get("targets"):
            problems.append(f"{name}: asks for nothing")
        if panel["type"] == "timeseries" and not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"{name}: has no unit")
        if panel["type"] not in ("row", "text") and not panel.get("description"):
            problems.append(f"{name}: does not say what it shows")
    apart = bucket_panels(board)
    if not apart:
        problems.append(f"no panel stands below the row {BUCKET_ROW!r}")
    for panel, target in queries(board):
        strange, named = unknown(target["expr"])
        if panel in apart and not all(re.fullmatch(BUCKET_METRICS, name) for name in named):
            problems.append(f"panel {panel['id']} {panel['title']!r}: needs no bucket: {target['expr']}")
        if strange or not named:
            problems.append(f"panel {panel['id']} {panel['title']!r}: names {strange or 'no metric'}: {target['expr']}")
        if 'job="$job"' not in target["expr"]:
            problems.append(f"panel {panel['id']} {panel['title']!r}: is not of one job: {target['expr']}")
    return problems


def filled(expression, job):
    return expression.replace("$job", job).replace("$__rate_interval", "20s").replace("$__interval", "5s")


def parse(board, promtool):
    """promtool reads each query as the expression of a rule."""
    rules = [{"record": f"board:{n}", "expr": filled(t["expr"], "portolan")} for n, (_, t) in enumerate(queries(board))]
    path = pathlib.Path(promtool[1])
    path.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run([promtool[0], "check", "rules", "--lint=none", str(path)], capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def ask(board, url, job, has_bucket):
    """Problems, and how many queries were not asked."""
    problems, apart, left = [], bucket_panels(board), 0
    for panel, target in queries(board):
        if (panel in apart) != has_bucket:
            left += 1
            continue
        question = urllib.parse.urlencode({"query": filled(target["expr"], job)})
        with urllib.request.urlopen(f"{url}/api/v1/query?{question}", timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
        values = [sample["value"][1] for sample in result]
        if not any(value != "NaN" for value in values):
            problems.append(f"panel {panel['id']} {panel['title']!r}: no data: {target['expr']}")
    return problems, left


def main():
    board = json.loads(BOARD.read_text())
    match sys.argv[1:]:
        case ["check", promtool, scratch]:
            problems = check(board) + parse(board, (promtool, scratch))
        case ["ask", url, job]:
            problems, left = ask(board, url, job, has_bucket=False)
            print(f"board: not asked, for they need a bucket: {left} queries")
        case ["ask", url, job, "bucket"]:
            problems, left = ask(board, url, job, has_bucket=True)
            print(f"board: not asked, for they need no bucket: {left} queries")
        case _:
            sys.exit(__doc__)
    count = len(list(queries(board)))
    print(f"board: {len(board['panels'])} panels, {count} queries, {len(problems)} problems")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
