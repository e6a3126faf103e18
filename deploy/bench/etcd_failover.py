#!/usr/bin/env python3
"""How long three etcd members take no write after their leader is lost: what `jepsen` measures of ours, beside it.

  etcd_failover.py --etcd FILE --dir DIR [--kills 20] [--how kill|pause] [--heartbeat 100] [--election 500] [--json OUT]

Members on loopback, each with a directory of its own, synced as etcd is by default. 32 writers put a key through the members'
JSON gateways in turn and give a request half a second, so that one begins about every 16 ms whoever hangs. The leader is
killed (SIGKILL) or paused (SIGSTOP, four seconds), a writer's longest wait between two acknowledged puts around that moment is
the gap. etcd draws its election timeout between --election and twice that; it takes no less than five heartbeats. Everything
is on this machine, and ends by itself."""
import argparse, base64, http.client, json, os, shutil, signal, statistics, subprocess, sys, threading, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--etcd", required=True)
ap.add_argument("--dir", required=True)
ap.add_argument("--kills", type=int, default=20)
ap.add_argument("--how", choices=["kill", "pause"], default="kill")
ap.add_argument("--heartbeat", type=int, default=100)
ap.add_argument("--election", type=int, default=500)
ap.add_argument("--down", type=float, default=4.0)
ap.add_argument("--port", type=int, default=24700)
ap.add_argument("--json")
a = ap.parse_args()
shutil.rmtree(a.dir, ignore_errors=True)
os.makedirs(a.dir)
client, peer = (lambda i: a.port + 2 * i), (lambda i: a.port + 2 * i + 1)
cluster = ",".join(f"m{i}=http://127.0.0.1:{peer(i)}" for i in range(3))
members = [None] * 3
acknowledged, lock, over = [], threading.Lock(), threading.Event()


def start(i, state="new"):
    urls = [f"--listen-client-urls=http://127.0.0.1:{client(i)}", f"--advertise-client-urls=http://127.0.0.1:{client(i)}",
            f"--listen-peer-urls=http://127.0.0.1:{peer(i)}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer(i)}"]
    members[i] = subprocess.Popen([a.etcd, f"--name=m{i}", f"--data-dir={a.dir}/m{i}", *urls, f"--initial-cluster={cluster}", f"--initial-cluster-state={state}",
                                   f"--heartbeat-interval={a.heartbeat}", f"--election-timeout={a.election}"], stdout=subprocess.DEVNULL, stderr=open(f"{a.dir}/m{i}.log", "a"))


def ask(i, path, body, limit):
    talk = http.client.HTTPConnection("127.0.0.1", client(i), timeout=limit)
    try:
        talk.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = talk.getresponse()
        text = answer.read()
        return json.loads(text) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        talk.close()


def leader(limit=30):
    until = time.time() + limit
    while time.time() < until:
        for i in range(3):
            s = ask(i, "/v3/maintenance/status", {}, 1)
            if s and s.get("leader", "0") != "0" and s["leader"] == s["header"]["member_id"]:
                return i
        time.sleep(0.05)
    sys.exit("no leader was found in time")


def write(n):
    k = 0
    while not over.is_set():
        k += 1
        key, value = (base64.b64encode(t.encode()).decode() for t in (f"w{n}/{k % 100}", f"{k}" * 20))
        if ask((n + k) % 3, "/v3/kv/put", {"key": key, "value": value}, 0.5):
            with lock:
                acknowledged.append(time.time())
        time.sleep(0.01)


for i in range(3):
    start(i)
gaps = []
try:
    leader()
    writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(32)]
    [w.start() for w in writers]
    for kill in range(a.kills):
        time.sleep(2.5)
        i = leader()
        with lock:
            acknowledged[:] = acknowledged[-100:]
        at = time.time()
        members[i].send_signal(signal.SIGKILL if a.how == "kill" else signal.SIGSTOP)
        if a.how == "kill":
            members[i].wait()
        time.sleep(a.down)
        with lock:
            seen = sorted(t for t in acknowledged if t > at - 1)
        before = max([t for t in seen if t <= at], default=at)
        later = [before] + [t for t in seen if t > at] + [time.time()]
        gaps.append(round(max(y - x for x, y in zip(later, later[1:])) * 1000))
        print(f"{a.how} {kill + 1}: m{i}, {gaps[-1]} ms without a write", flush=True)
        if a.how == "kill":
            start(i, "existing")
        else:
            members[i].send_signal(signal.SIGCONT)
finally:
    over.set()
    for m in members:
        m and m.poll() is None and (m.send_signal(signal.SIGCONT), m.kill(), m.wait())
told = {"how": a.how, "kills": a.kills, "heartbeat_ms": a.heartbeat, "election_ms": a.election, "median_ms": statistics.median(gaps), "worst_ms": max(gaps), "gaps_ms": gaps}
print(json.dumps(told))
if a.json:
    json.dump(told, open(a.json, "w"))
shutil.rmtree(a.dir, ignore_errors=True)
