#!/usr/bin/env python3
"""Alert rules for drills: what must last 4 s in place of minutes, windows of 20 to 90 s in place of minutes and days.

Thresholds, expressions and names stay as they are. Reads rules on standard input, writes them to standard output.
"""
import re
import sys

# 2d: longer than it takes a new leader to compare for the first time, which every drill that ends a leader waits for
WINDOWS = {"5m": "20s", "10m": "20s", "15m": "60s", "1h": "60s", "25h": "60s", "2d": "90s"}

text = sys.stdin.read()
text = re.sub(r"\bfor: \S+", "for: 4s", text)
text = re.sub(r"\[(\w+)\]", lambda found: f"[{WINDOWS[found[1]]}]", text)
text = re.sub(r"\boffset (\w+)", lambda found: f"offset {WINDOWS[found[1]]}", text)
sys.stdout.write(text)
