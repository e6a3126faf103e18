#!/usr/bin/env python3
"""Runbooks as a stranger reads them: src/docs/runbooks/<alert>.md.

    runbook.py check PORTOLAN        every alert has one and every one an alert, each has its parts; `portolan` knows
                                     every command and flag in it, the board every panel
    runbook.py block ALERT PART      the commands of a part: look, provoke, clear
    runbook.py alerts                every alert, in the order of the rules
"""
import functools
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parents[2]
BOOKS = HERE / "src/docs/runbooks"
RULES = HERE / "deploy/prometheus/alerts.yml"
BOARD = HERE / "deploy/grafana/portolan.json"
PARTS = ["Look", "Do", "Over", "Drill"]
LINES_MAX = 80


def alerts():
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def parts(alert):
    """The text below each heading; what stands before the first is ''."""
    found = {"": ""}
    heading = ""
    for line in (BOOKS / f"{alert}.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
            found[heading] = ""
        else:
            found[heading] += line + "\n"
    return found


def blocks(text):
    return re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


def block(alert, part):
    found = parts(alert)
    if part == "look":
        return blocks(found["Look"])[0]
    provoke, clear = blocks(found["Drill"])
    return {"provoke": provoke, "clear": clear}[part]


@functools.cache
def usage(portolan, words):
    done = subprocess.run([portolan, "help", *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def command_problem(portolan, line):
    """Why `portolan` would not take this line; None if it would."""
    words, rest = (), line.split()[1:]
    while "<COMMAND>" in re.search(r"^Usage: .*$", usage(portolan, words), re.M)[0]:
        plain = [word for word in rest if not word.startswith("-")]
        if not plain or usage(portolan, words + (plain[0],)) is None:
            return f"`{line}`: there is no such command"
        rest.remove(plain[0])
        words += (plain[0],)
    for flag in (word.split("=")[0] for word in rest if re.fullmatch(r"-{1,2}[a-z][a-z-]*(=.*)?", word)):
        if not re.search(rf"(^|[\s,]){re.escape(flag)}\b", usage(portolan, words)):
            return f"`{line}`: no flag {flag}"
    return None


def commands(text):
    code = "\n".join(blocks(text)) + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", text))
    for line in code.replace("\\\n", " ").splitlines():
        line = line.split(" # ")[0]
        for found in re.finditer(r"(?<![\w./-])portolan (?!\w+\.)[a-z][^|;&'\")>]*", line):
            before = line[: found.start()]
            if "systemctl" not in before and "journalctl" not in before:
                yield found[0].strip()


def strange_panels(text):
    """What a text calls a panel, and no panel of the board is called."""
    titles = {panel["title"] for panel in json.loads(BOARD.read_text())["panels"]}
    named = re.findall(r'[Pp]anels? ((?:"[^"]+"(?:\s+and\s+|,\s+)?)+)', text)
    found = [" ".join(title.split()) for part in named for title in re.findall(r'"([^"]+)"', part)]
    return [title for title in found if title not in titles]


def check(portolan):
    problems = []
    books = {path.stem for path in BOOKS.glob("Portolan*.md")}
    problems += [f"{alert}: has no runbook" for alert in alerts() if alert not in books]
    problems += [f"{book}: is no alert" for book in sorted(books - set(alerts()))]
    pointed = re.findall(r"runbook: src/docs/runbooks/(\w+)\.md", RULES.read_text())
    problems += [] if pointed == alerts() else ["an alert points to the runbook of another, or to none"]
    count = 0
    for path in sorted(BOOKS.glob("*.md")):
        text = path.read_text()
        if len(text.splitlines()) > LINES_MAX or any(len(line) > 120 for line in text.splitlines()):
            problems.append(f"{path.name}: too long to be read at night")
        found = list(commands(text))
        count += len(found)
        problems += [f"{path.name}: {why}" for why in (command_problem(portolan, line) for line in found) if why]
        problems += [f"{path.name}: the board has no panel {title!r}" for title in strange_panels(text)]
        if path.stem in books:
            problems += part_problems(path.stem)
    print(f"runbooks: {len(books)} of {len(alerts())} alerts, {count} commands of portolan, {len(problems)} problems")
    return problems


def part_problems(alert):
    found = parts(alert)
    missing = [part for part in PARTS if part not in found]
    if missing:
        return [f"{alert}: lacks {missing}"]
    wanted = [found[""].startswith(f"# {alert}\n"), len(blocks(found["Look"])) == 1, len(blocks(found["Drill"])) == 2]
    return [] if all(wanted) else [f"{alert}: its title, one block to look, or two to provoke and to clear"]


def main():
    match sys.argv[1:]:
        case ["check", portolan]:
            problems = check(portolan)
            if problems:
                sys.exit("\n".join(problems))
        case ["block", alert, part]:
            sys.stdout.write(block(alert, part))
        case ["alerts"]:
            print("\n".join(alerts()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
