#!/usr/bin/env python3
"""Whether the unit lets a node do what it does: unit.py UNIT TRACE, where TRACE is what `strace -f` wrote of one.

There may be no systemd that runs services here, so the filter of system calls is compared with the calls of a real node, and so
are the kinds of sockets and writable code.
"""
import functools
import re
import subprocess
import sys


@functools.cache
def group(name):
    """Every system call of a group of systemd's, groups inside it resolved."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True).stdout
    words = {line.strip() for line in text.splitlines()[1:] if line.strip() and not line.strip().startswith("#")}
    inner = [group(word) for word in words if word.startswith("@")]
    return {word for word in words if not word.startswith("@")}.union(*inner)


def allowed(unit):
    calls = group("@default")
    for line in re.findall(r"^SystemCallFilter=(.+)$", unit, re.M):
        named = set().union(*(group(word) if word.startswith("@") else {word} for word in line.lstrip("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def main():
    unit, trace = (open(path, encoding="utf-8", errors="replace").read() for path in sys.argv[1:3])
    used = set(re.findall(r"^\d+ +(\w+)\(", trace, re.M))
    problems = [f"the unit forbids {call}" for call in sorted(used - allowed(unit) - {"execve"})]
    families = set(re.findall(r"\bsocket\((AF_\w+)", trace))
    listed = set(re.search(r"^RestrictAddressFamilies=(.+)$", unit, re.M)[1].split())
    problems += [f"the unit forbids sockets of {family}" for family in sorted(families - listed)]
    if re.search(r"PROT_WRITE\|PROT_EXEC", trace):
        problems.append("writable code, which MemoryDenyWriteExecute forbids")
    print(f"unit: a node used {len(used)} system calls and sockets of {sorted(families)}; {len(problems)} problems")
    if problems or len(used) < 40:
        sys.exit("\n".join(problems) or "so few calls are no run of a node")


if __name__ == "__main__":
    main()
