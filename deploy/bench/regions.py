#!/usr/bin/env python3
"""Two regions with a slow link between them: how long images take, what they cost on the link, many who want one, and
what comparing the regions costs.

  regions.py --portolan BINARY --dir DIR --json OUT [--rows lag,flow,layers,backfill,herd,source,never,sweep] [--seconds 60]

Starts `portolan dev --regions 2` with 50 ms each way and 100 Mbit/s between them. Times are from the 201 in the one region
to the end of a whole pull in the other. Bytes are counted on the link itself, both ways, protocol and all. What is held
against a bound says PASS or FAIL, and ends with 1 then. Needs only Python's standard library, and `ss` (iproute2) for the
source that is killed; loopback only; every step is bounded in time.
"""
import argparse, base64, concurrent.futures, hashlib, http.client, json, os, random, re, shutil, signal, subprocess, sys
import threading, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--portolan", required=True)
ap.add_argument("--dir", required=True)
ap.add_argument("--json", required=True)
ap.add_argument("--rows", default="lag,flow,layers,backfill,herd,source,never,sweep")
ap.add_argument("--seconds", type=int, default=60, help="how long images are pushed for a row")
ap.add_argument("--region", type=int, default=61, help="second number of the addresses")
ap.add_argument("--images", type=int, default=10_000, help="images of the backfill")
ap.add_argument("--kills", type=int, default=3, help="leaders killed during the backfill; 0 gives what one pass costs")
ap.add_argument("--clients", type=int, default=1000, help="clients of the herd")
ap.add_argument("--large", type=int, default=1024, help="MiB of the large image")
ap.add_argument("--tags", type=int, default=100_000, help="tags that are compared")
ap.add_argument("--repositories", type=int, default=100, help="repositories that they are in, one manifest in each")
ap.add_argument("--keep", action="store_true")
a = ap.parse_args()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
rows = []


def row(name, **values):
    print(name, json.dumps(values), flush=True)
    rows.append({"name": name, **values})
    json.dump({"rows": rows}, open(a.json, "w"), indent=1)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


class Region:
    def __init__(self, number, name):
        self.number, self.name = number, name
        self.key = open(os.path.join(a.dir, name, "root-key")).read().strip()
        self.auth = "Basic " + base64.b64encode(self.key.encode()).decode()

    def ip(self, node):
        return f"127.{self.number}.{node}.1"

    def call(self, method, node, path, body=None, kind=None, port=7400, timeout=60, source=None):
        c = http.client.HTTPConnection(self.ip(node), port, timeout=timeout, source_address=source)
        try:
            headers = {"Authorization": self.auth}
            if kind:
                headers["Content-Type"] = kind
            c.request(method, path, body, headers)
            r = c.getresponse()
            return r.status, dict(r.getheaders()), r.read()
        finally:
            c.close()

    def admin(self, method, node, path, document=None):
        body = None if document is None else json.dumps(document)
        status, _, text = self.call(method, node, path, body, "application/json", port=7403)
        if status >= 300:
            sys.exit(f"{method} {path}: {status} {text.decode()}")
        return json.loads(text) if text else None

    def blob(self, node, repository, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        status, _, text = self.call("POST", node, f"/v2/{repository}/blobs/uploads/?digest={digest}", data, timeout=600)
        if status != 201:
            raise RuntimeError(f"push of a blob: {status} {text[:200]}")
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}

    def push(self, node, repository, tag, layers):
        config = self.blob(node, repository, b"{}")
        image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [self.blob(node, repository, l) for l in layers]}
        status, _, text = self.call("PUT", node, f"/v2/{repository}/manifests/{tag}", json.dumps(image), MANIFEST)
        if status != 201:
            raise RuntimeError(f"push of a manifest: {status} {text[:200]}")
        return image

    def pull(self, node, repository, tag, read=True):
        """The bytes of a whole pull, or None if it is not there."""
        status, _, text = self.call("GET", node, f"/v2/{repository}/manifests/{tag}")
        if status != 200:
            return None
        total, image = len(text), json.loads(text)
        for blob in [image["config"], *image["layers"]]:
            status, _, data = self.call("GET", node, f"/v2/{repository}/blobs/{blob['digest']}", timeout=600)
            if status != 200 or "sha256:" + hashlib.sha256(data).hexdigest() != blob["digest"]:
                raise RuntimeError(f"{repository}:{tag} is there, and {blob['digest']} is not: {status}")
            total += len(data)
        return total

    def followed(self, other):
        for node in (1, 2, 3):
            for region in self.admin("GET", node, "/v1/regions")["regions"]:
                if region["region"] == other and region["followed"]:
                    return region
        return None


def carried():
    """Bytes that the connections of the receiving region have carried, both ways."""
    return sum(json.load(open(os.path.join(a.dir, "links.carried.json")))["dev-2"]["dev-1"])


def link(latency_ms, mbit_per_s):
    one = f'state = "up"\nlatency_ms = {latency_ms}\nmbit_per_s = {float(mbit_per_s)}\n'
    open(os.path.join(a.dir, "links.toml"), "w").write(f"[dev-1.dev-2]\n{one}\n[dev-2.dev-1]\n{one}")
    time.sleep(1)


def rule(**more):
    filters = [{"filter": "team/", "filterType": "PREFIX_MATCH"}]
    to = [{"region": "dev-2", "registryId": "000000000000"}]
    eu.admin("PUT", 1, "/v1/replication/rules", {"rules": [{"destinations": to, "repositoryFilters": filters, **more}]})


def noise(size):
    return random.randbytes(size)


def settled():
    """Waits until nothing is under way."""
    until = time.time() + 600
    while time.time() < until:
        region = us.followed("dev-1")
        if region and region["followed"]["open"] == 0:
            return
        time.sleep(0.5)


def pushed_at_a_pace(repository, seconds, per_second, size):
    """Pushes small images, waits for each in the other region; seconds each took."""
    took, failed, lock = [], [], threading.Lock()

    def one(number):
        tag, node = f"{repository.split('/')[1]}-{number}", 1 + number % 3
        try:
            eu.push(node, repository, tag, [noise(size)])
            began = time.time()
            while us.pull(1 + (number + 1) % 3, repository, tag) is None:
                if time.time() - began > 120:
                    raise RuntimeError("not there after two minutes")
                time.sleep(0.03)
            with lock:
                took.append(time.time() - began)
        except Exception as error:
            with lock:
                failed.append(str(error))

    threads, start = [], time.time()
    for number in range(seconds * per_second):
        time.sleep(max(0, start + number / per_second - time.time()))
        t = threading.Thread(target=one, args=(number,))
        t.start()
        threads.append(t)
    for t in threads:
        t.join()
    if failed:
        sys.exit(f"{len(failed)} images failed: {failed[:3]}")
    return took


def told(took):
    return {"images": len(took), "p50_s": round(quantile(took, 0.5), 3), "p99_s": round(quantile(took, 0.99), 3), "worst_s": round(max(took), 3)}


def lag():
    settled()
    before, size = carried(), 64 * 1024
    took = pushed_at_a_pace("team/lag", a.seconds, 10, size)
    settled()
    beyond = (carried() - before) / len(took) - size - 2
    row("10 small images a second", **told(took), bytes_beyond_each=round(beyond))


def flow():
    settled()
    rule()  # else the first pull would go to where it comes from
    parts = [noise(64 << 20) for _ in range(a.large // 64)]
    total = sum(map(len, parts))
    before = carried()
    eu.push(1, "team/flow", "large", parts)
    acknowledged, result = time.time(), {}

    def watch():
        while us.call("HEAD", 2, "/v2/team/flow/manifests/large")[0] != 200:
            time.sleep(0.2)
        result["seconds"] = time.time() - acknowledged

    t = threading.Thread(target=watch)
    t.start()
    first = carried()
    took = pushed_at_a_pace("team/small", min(a.seconds, int(total * 8 / 100e6 * 0.7)), 10, 64 * 1024)
    t.join()
    used = (carried() - first) * 8 / 100e6 / result["seconds"]
    settled()
    small = len(took) * 64 * 1024
    row("1 GiB flows", seconds=round(result["seconds"], 1), bytes_to_blob_bytes=round((carried() - before) / (total + small), 4), link_used=round(used, 3))
    row("10 small images a second meanwhile", **told(took))
    rule(readThrough="full")


def layers():
    settled()
    base, first, second = noise(20 << 20), noise(1 << 20), noise(1 << 20)
    eu.push(1, "team/layers", "v1", [base, first])
    while us.pull(2, "team/layers", "v1") is None:
        time.sleep(0.1)
    settled()
    before = carried()
    eu.push(1, "team/layers", "v2", [base, second])
    while us.pull(2, "team/layers", "v2") is None:
        time.sleep(0.1)
    settled()
    row("v2 with one new layer of 1 MiB", bytes_to_new_bytes=round((carried() - before) / len(second), 4))


def backfill():
    settled()
    eu.admin("PUT", 1, "/v1/replication/rules", {"rules": []})
    names = [(f"team/old{number % 20}", f"v{number}") for number in range(a.images)]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        sizes = list(pool.map(lambda at: (eu.push(1 + at[0] % 3, *at[1], [noise(random.randint(8, 24) * 1024)]), 0)[0]["layers"][0]["size"], enumerate(names)))
    before, began, kills, etas = carried(), time.time(), 0, []
    rule(readThrough="full", backfill={"enabled": True})
    while True:
        time.sleep(1)
        try:
            states = [region for node in (1, 2, 3) for region in us.admin("GET", node, "/v1/regions")["regions"]]
        except OSError:
            continue
        state = next((s["backfill"] for s in states if s["backfill"]), None)
        if state and state["ended_at"]:
            break
        if state:
            etas.append(state["eta_seconds"])
            if kills < a.kills and state["settled"] > (kills + 1) * state["total"] / (a.kills + 2):
                kill(us, leader(us))
                kills += 1
        if time.time() - began > 3600:
            sys.exit(f"not over after an hour: {state}")
    seconds = time.time() - began
    settled()
    row("backfill", images=a.images, seconds=round(seconds, 1), kills=kills, settled=state["settled"], total=state["total"],
        bytes_to_one_pass=round((carried() - before) / sum(sizes), 4), blob_bytes=sum(sizes), first_eta_s=etas[:3])
    for name, tag in random.sample(names, 50):
        if us.pull(1, name, tag) is None:
            sys.exit(f"{name}:{tag} is not there")


def leader(region):
    for node in (1, 2, 3):
        try:
            for other in region.admin("GET", node, "/v1/regions")["regions"]:
                if other["followed"]:
                    return node
        except OSError:
            pass
    return 1


def kill(region, node):
    """SIGKILL to a node, and the same process again."""
    name = "abc"[node - 1] + "-1"
    config = os.path.join(a.dir, region.name, "nodes", name, "portolan.toml")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if "server" in words and config in words:
            os.kill(int(pid), signal.SIGKILL)
            time.sleep(1)
            words = [w for w in words if w]
            started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            return


def between_zones():
    """Bytes of blobs that nodes of us have read from nodes in other zones, by the zone of who read."""
    read = {}
    for node in (1, 2, 3):
        for line in us.call("GET", node, "/metrics", port=7403)[2].decode().splitlines():
            found = re.match(r'portolan_blob_fetched_bytes_total\{from="([^"]*)"\} (\S+)', line)
            if found and found[1] not in ("own disk", "abc"[node - 1]):
                read[node] = read.get(node, 0) + float(found[2])
    return {node: read.get(node, 0) for node in (1, 2, 3)}


def beside(stop, took):
    """A client that pulls small images of us at each node in turn, until the herd is through; seconds each pull took."""
    number = 0
    while not stop.is_set():
        began = time.time()
        if us.pull(1 + number % 3, "team/beside", f"v{number % 8}") is None:
            raise RuntimeError("an image that was there is not")
        took.append(time.time() - began)
        number += 1
        time.sleep(0.02)


def herd(kills=0):
    settled()
    size = 40 << 20
    layer = noise(size)
    for number in range(8):
        us.push(1 + number % 3, "team/beside", f"v{number}", [noise(16 * 1024)])
    quiet, loud, over = [], [], threading.Event()
    t = threading.Thread(target=beside, args=(over, quiet))
    t.start()
    time.sleep(10)
    over.set()
    t.join()
    before, zones = carried(), between_zones()
    image = eu.push(1, "team/herd", f"v{kills}", [layer])
    digest, ends, errors, lock = image["layers"][0]["digest"], [], [], threading.Lock()
    began = time.time()

    def one(number):
        try:
            c = http.client.HTTPConnection(us.ip(1 + number % 3), 7400, timeout=600)
            c.request("GET", f"/v2/team/herd/blobs/{digest}", headers={"Authorization": us.auth})
            r, hasher, got = c.getresponse(), hashlib.sha256(), 0
            while part := r.read(1 << 20):
                got += len(part)
                if number < 20:
                    hasher.update(part)
            if r.status != 200 or got != size or number < 20 and "sha256:" + hasher.hexdigest() != digest:
                raise RuntimeError(f"{r.status}, {got} bytes")
            with lock:
                ends.append(time.time() - began)
        except Exception as error:
            with lock:
                errors.append(repr(error))

    over = threading.Event()
    threads = [threading.Thread(target=one, args=(n,)) for n in range(a.clients)]
    other = threading.Thread(target=beside, args=(over, loud))
    for t in [*threads, other]:
        t.start()
    for number in range(kills):
        # 40 MiB take more than three seconds on the link: in the midst of it
        while carried() - before < size * (number + 1) / (kills + 1):
            time.sleep(0.05)
        kill(eu, serving())
    for t in threads:
        t.join()
    over.set()
    other.join()
    settled()
    crossed = {node: round((read - zones[node]) / size, 4) for node, read in between_zones().items()}
    row("herd" if not kills else "herd, its source killed", clients=a.clients, errors=len(errors), error_samples=errors[:3],
        kills=kills, p50_s=round(quantile(ends or [0], 0.5), 2), worst_s=round(max(ends or [0]), 2),
        bytes_on_link_to_size=round((carried() - before) / size, 4), bytes_from_other_zones_to_size=crossed,
        other_clients_p99_s={"without": round(quantile(quiet, 0.99), 3), "with": round(quantile(loud, 0.99), 3)})


def serving():
    """The node of eu that the link has got most bytes from in the last quarter of a second: who gives the layer."""
    def received():
        sockets = subprocess.run(["ss", "-tinHO", "dport", "=", "7404"], capture_output=True, text=True, check=True).stdout
        found = re.findall(rf"127\.{a.region}\.(\d+)\.1:7404 .*?bytes_received:(\d+)", sockets)
        return {node: sum(int(count) for at, count in found if at == node) for node, _ in found}
    first = received()
    time.sleep(0.25)
    gained = {node: count - first.get(node, 0) for node, count in received().items()}
    return int(max(gained, key=gained.get, default="1"))


def never():
    """Pulls each image whole, by tag and by digest, from the moment it is acknowledged, while leaders die on both sides."""
    time.sleep(3)  # the other region hears of the rule with the next round of its stream
    settled()
    left, lock, tally, stop = iter(range(a.images)), threading.Lock(), {"pulls": 0, "unavailable": 0, "broken_off": 0}, threading.Event()
    wrong = []

    def read(path):
        """The answer to a GET at any node of us that is not 503; a connection that breaks off is tried again."""
        until = time.time() + 120
        while time.time() < until:
            try:
                status, headers, body = us.call("GET", random.randint(1, 3), path, timeout=30)
                if status not in (429, 503):
                    return status, body
                key = "unavailable"
            except (OSError, http.client.HTTPException):
                key = "broken_off"
            with lock:
                tally[key] += 1
            time.sleep(0.2)
        return 0, b""

    def image(number):
        name, tag = f"team/never{number % 50}", f"v{number}"
        layers = [noise(random.choice([300, 5000, 90_000]))]
        while True:
            try:
                pushed = eu.push(random.randint(1, 3), name, tag, layers)
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                time.sleep(0.2)
        digest = "sha256:" + hashlib.sha256(json.dumps(pushed).encode()).hexdigest()
        for reference in (tag, digest):
            status, body = read(f"/v2/{name}/manifests/{reference}")
            if status != 200:
                wrong.append(f"{name}:{reference}: {status}")
                continue
            for blob in [pushed["config"], *pushed["layers"]]:
                status, data = read(f"/v2/{name}/blobs/{blob['digest']}")
                if status != 200 or "sha256:" + hashlib.sha256(data).hexdigest() != blob["digest"]:
                    wrong.append(f"{name}@{blob['digest']}: {status}, {len(data)} bytes")
            with lock:
                tally["pulls"] += 1

    def work():
        while not wrong:
            with lock:
                number = next(left, None)
            if number is None:
                return
            image(number)

    def nemesis():
        while not stop.wait(10):
            for region in (eu, us):
                kill(region, leader(region))
                tally["kills"] = tally.get("kills", 0) + 1
                if stop.wait(5):
                    return

    threads = [threading.Thread(target=work) for _ in range(24)]
    began, killer = time.time(), threading.Thread(target=nemesis)
    for t in [*threads, killer]:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    killer.join()
    row("acknowledged there, pulled here", images=a.images, seconds=round(time.time() - began, 1), wrong=len(wrong), wrong_samples=wrong[:5], **tally)


def tags_of(region):
    """Tags that a region has, as one of its nodes counts them now and then."""
    text = region.call("GET", 1, "/metrics", port=7403)[2].decode()
    found = re.search(r"^portolan_usage_tags(?:\{.*\})? (\S+)$", text, re.M)
    return float(found[1]) if found else 0


def set_tags(images, each):
    """Sets tags on images, by some connections that are kept."""
    headers = {"Authorization": eu.auth, "Content-Type": MANIFEST}
    workers = 32

    def put(c, path, image):
        for _ in range(100):
            try:
                c.request("PUT", path, image, headers)
                r = c.getresponse()
                text = r.read()
            except (OSError, http.client.HTTPException):
                c.close()  # and opened again by the next request
                time.sleep(0.2)
                continue
            if r.status == 201:
                return
            if r.status not in (429, 503):
                raise RuntimeError(f"{path}: {r.status} {text[:200]}")
            time.sleep(0.2)
        raise RuntimeError(f"{path} is not taken")

    def work(worker):
        c = http.client.HTTPConnection(eu.ip(1 + worker % 3), 7400, timeout=60)
        for name, image in images[worker::workers]:
            for number in range(each):
                put(c, f"/v2/{name}/manifests/t{number}", image)
        c.close()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def told_last():
    """Who leads us, and the last comparison with eu, if there was one, as it tells of it."""
    until = time.time() + 60
    while time.time() < until:
        for node in (1, 2, 3):
            status, _, text = us.call("GET", node, "/v1/replication/report", port=7403)
            if status == 200:
                return node, {region["region"]: region["last"] for region in json.loads(text)["regions"]}["dev-1"]
        time.sleep(0.5)
    sys.exit("no node of us tells of comparisons")


def compared():
    """Has us compare all with eu: the report, the bytes on the link meanwhile, and whether nothing else was compared."""
    node, before = told_last()
    until = time.time() + 600
    while before and not before["ended_at"]:
        if time.time() > until:
            sys.exit(f"a comparison is not over after ten minutes: {before}")
        time.sleep(0.5)
        node, before = told_last()
    number, first, began = before["number"] if before else 0, carried(), time.time()
    us.admin("POST", node, "/v1/replication/compare/dev-1", {})
    while time.time() < began + 600:
        time.sleep(0.2)
        leads, last = told_last()
        if leads != node:
            sys.exit("another node leads now: nothing was measured")
        if last and last["number"] > number and last["of"] == "all repositories" and last["ended_at"]:
            seconds = time.time() - began
            time.sleep(1)  # what the link has carried is written down a moment later
            return last, seconds, carried() - first, last["number"] == number + 1
    sys.exit(f"the comparison is not over after ten minutes: {last}")


def is_clean(report):
    return report["clean"] and report["equal"] == report["repositories"]


def sweep():
    settled()
    each = -(-a.tags // a.repositories)
    before, began = tags_of(us), time.time()
    names, layer = [f"team/sweep{number}" for number in range(a.repositories)], noise(1024)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        pushed = pool.map(lambda at: json.dumps(eu.push(1 + at[0] % 3, at[1], "first", [layer])), enumerate(names))
        images = list(zip(names, pushed))
    set_tags(images, each)
    pushed_s, wanted = time.time() - began, (each + 1) * a.repositories
    while tags_of(us) - before < wanted:
        if time.time() - began > 3600:
            sys.exit(f"not there after an hour: {tags_of(us) - before} of {wanted} tags")
        time.sleep(1)
    arrived_s = time.time() - began
    settled()
    # the first one looks at what has just arrived; by the next ones nothing is left to be found
    for _ in range(10):
        report = compared()[0]
        if is_clean(report):
            break
    else:
        sys.exit(f"the regions are not equal: {report}")
    for _ in range(10):
        report, seconds, count, is_alone = compared()
        if is_alone:
            break
    else:
        sys.exit("comparisons of what has changed are made all the time")
    most = 1_000_000
    holds = is_clean(report) and report["records"] >= a.tags and count <= most
    row("a comparison without differences", verdict="PASS" if holds else "FAIL", bytes_on_link=count, at_most=most,
        tags=each * a.repositories, repositories=report["repositories"], records=report["records"],
        differences=report["differences"], seconds=round(seconds, 1), pushed_s=round(pushed_s, 1), arrived_s=round(arrived_s, 1))


started = []
shutil.rmtree(a.dir, ignore_errors=True)
os.makedirs(a.dir)
log = open(os.path.join(a.dir, "dev.log"), "w")
words = [a.portolan, "dev", "--regions", "2", "--region", str(a.region), "--dir", a.dir, "--stop-with-stdin"]
dev = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log)
try:
    until = time.time() + 120
    while "links.toml" not in open(log.name).read():
        if time.time() > until or dev.poll() is not None:
            sys.exit(open(log.name).read()[-2000:])
        time.sleep(0.5)
    eu, us = Region(a.region, "dev-1"), Region(a.region + 1, "dev-2")
    rule(readThrough="full") if {"herd", "source", "never"} & set(a.rows.split(",")) else rule()
    link(50, 100)
    eu.push(1, "team/first", "v1", [b"first"])
    while us.pull(2, "team/first", "v1") is None:
        time.sleep(0.2)
    for name in a.rows.split(","):
        {"lag": lag, "flow": flow, "layers": layers, "backfill": backfill, "herd": herd, "source": lambda: herd(1), "never": never, "sweep": sweep}[name]()
finally:
    dev.stdin.close()
    for process in started:
        process.terminate()
    try:
        dev.wait(60)
    except subprocess.TimeoutExpired:
        dev.kill()
    if not a.keep:
        shutil.rmtree(a.dir, ignore_errors=True)
sys.exit(1 if any(one.get("verdict") == "FAIL" for one in rows) else 0)
