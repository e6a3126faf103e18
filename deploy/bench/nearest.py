#!/usr/bin/env python3
"""Six nodes over two regions, and clients of every zone: where their bytes come from, and what that costs.

  nearest.py [--portolan BINARY] [--dir DIR] [--json OUT] [--rows zones,decisions,forged,dead,paused,full] [--seconds 10]

Starts `portolan dev --regions 2` with 10 ms each way between them, and says with `PUT /v1/places` which networks the
clients of each zone are in: 127.<region+2>.<1 to 6>.0/24. Each client calls from such an address, follows redirects and
shows its credential to whom it asked first only, as most clients do. Bytes are counted at the clients, by the node that
sent them. Real clients through a redirect, with TLS and credentials, are in tests/clients/run.sh nearest.

Prints a line for each row, with what it is held against; ends with 1 if one of them does not hold. Needs only Python's
standard library; loopback only; every step is bounded in time, all of them by --limit.
"""
import argparse, base64, collections, concurrent.futures, contextlib, hashlib, http.client, itertools, json, os, random, re
import shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.parse

CACHE = os.environ.get("PORTOLAN_CACHE") or os.path.expanduser("~/.cache/portolan")
BUILT = os.path.join(os.environ.get("CARGO_TARGET_DIR") or os.path.join(CACHE, "target"), "debug/portolan")
ROWS = "zones,decisions,forged,dead,paused,full"
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--portolan", default=BUILT, help="left out: what `make build` made")
ap.add_argument("--dir", help="left out: one that is removed afterwards")
ap.add_argument("--json", help="where the rows go as well")
ap.add_argument("--rows", default=ROWS)
ap.add_argument("--region", type=int, default=64, help="second number of the addresses; this one and the next two")
ap.add_argument("--images", type=int, default=8, help="half of them are pushed in each region")
ap.add_argument("--mib", type=int, default=4, help="size of a layer; each image has two")
ap.add_argument("--rounds", type=int, default=2, help="how often each client asks each node for each image")
ap.add_argument("--seconds", type=float, default=10, help="how long clients pull before a fault, and during it")
ap.add_argument("--connections", type=int, default=300, help="connections that a node takes; the full one has as many")
ap.add_argument("--limit", type=int, default=1800, help="seconds that all of it may take")
ap.add_argument("--keep", action="store_true")
a = ap.parse_args()
if set(a.rows.split(",")) - set(ROWS.split(",")):
    ap.error(f"--rows: some of {ROWS}")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LEAST = 64 * 1024  # blobs from this size on are redirected
RECENT = 0.15  # a node that has answered so lately is believed to be there, seconds
HOPS = 4  # redirects that a client follows
WAIT = 30  # seconds that a client waits for a byte
ZONES = "abc"
Place = collections.namedtuple("Place", "region zone network")
rows, misses, started = [], [], []


def row(name, holds, **values):
    print(name, json.dumps({"holds": holds, **values}), flush=True)
    rows.append({"name": name, "holds": holds, **values})
    if not holds:
        misses.append(name)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as out:
            json.dump({"rows": rows}, out, indent=1)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def until(what, is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.2)


class Region:
    """A region of three nodes, one in each zone."""

    def __init__(self, number, name, dir):
        self.number, self.name, self.dir = number, name, os.path.join(dir, name)
        with open(os.path.join(self.dir, "root-key"), encoding="utf-8") as key:
            self.auth = "Basic " + base64.b64encode(key.read().strip().encode()).decode()
        first = 1 if name == "dev-1" else 4
        self.places = [Place(name, zone, first + at) for at, zone in enumerate(ZONES)]

    def ip(self, node):
        return f"127.{self.number}.{node}.1"

    def call(self, method, node, path, body=None, kind="application/json", port=7400):
        connection = http.client.HTTPConnection(self.ip(node), port, timeout=60)
        try:
            connection.request(method, path, body, {"Authorization": self.auth, "Content-Type": kind, "Accept": MANIFEST})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def settled(self, method, node, path, *args, **more):
        """The answer, as soon as that is not 503: leaders change on a busy machine."""
        for _ in range(60):
            status, body = self.call(method, node, path, *args, **more)
            if status != 503:
                return status, body
            time.sleep(0.5)
        sys.exit(f"{method} {path}: 503 for half a minute")

    def admin(self, method, path, document=None):
        body = None if document is None else json.dumps(document)
        status, text = self.settled(method, 1, path, body, port=7403)
        if status >= 300:
            sys.exit(f"{method} {path}: {status} {text.decode()}")
        return json.loads(text) if text else None

    def push(self, node, repository, tag, layers):
        named = []
        for data in [b"{}", *layers]:
            digest = digest_of(data)
            status, text = self.settled("POST", node, f"/v2/{repository}/blobs/uploads/?digest={digest}", data, "application/octet-stream")
            if status != 201:
                sys.exit(f"push of a blob: {status} {text[:200]}")
            named.append({"mediaType": "application/octet-stream", "digest": digest, "size": len(data)})
        image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": named[0], "layers": named[1:]}
        status, text = self.settled("PUT", node, f"/v2/{repository}/manifests/{tag}", json.dumps(image), MANIFEST)
        if status != 201:
            sys.exit(f"push of a manifest: {status} {text[:200]}")
        return named

    def copies(self, digest):
        """The zones that have a copy of a blob."""
        status, text = self.settled("GET", 1, f"/v1/blobs/{digest}", port=7403)
        return {copy["zone"] for copy in json.loads(text)["copies"]} if status == 200 else set()

    def metrics(self):
        return "\n".join(self.settled("GET", node, "/metrics", port=7403)[1].decode() for node in (1, 2, 3))


class Broken(Exception):
    """A pull that came to nothing."""


class Client:
    """A client in the network of a zone, or in none (network 9)."""

    addresses = itertools.cycle(range(1, 250))

    def __init__(self, place):
        self.place = place
        self.source = f"127.{a.region + 2}.{place.network if place else 9}.{next(self.addresses)}"

    def get(self, region, node, path, headers=None):
        """Pulls a blob by the node that is asked: which node sent it (its address), how many bytes."""
        host, port, shown = region.ip(node), 7400, {"Authorization": region.auth}
        for _ in range(HOPS):
            connection = http.client.HTTPConnection(host, port, timeout=WAIT, source_address=(self.source, 0))
            try:
                connection.request("GET", path, headers={**shown, **(headers or {})})
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise Broken(f"{host}: {error!r}") from error
            finally:
                connection.close()
            if answer.status != 307:
                break
            to = urllib.parse.urlsplit(answer.getheader("Location"))
            host, port, path, shown = to.hostname, to.port, f"{to.path}?{to.query}", {}
        if answer.status != 200 or digest_of(data) not in path:
            raise Broken(f"{host}: {answer.status}, {len(data)} bytes")
        return host, len(data)


def at(host):
    """Region and zone of the node with an address."""
    _, number, node, _ = map(int, host.split("."))
    return {r.number: r.name for r in regions}[number], ZONES[node - 1]


def bucket_counts(text, asked):
    """Decisions by their upper bound, seconds; summed over nodes."""
    found = collections.Counter()
    for labels, count in re.findall(r"^portolan_nearest_decision_seconds_bucket\{(.*)\} (\d+)$", text, re.M):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named.get("asked") == asked:
            found[float(named["le"])] += int(count)
    return found


def decided(text):
    """Decisions by their reason; summed over nodes."""
    found = collections.Counter()
    for labels, count in re.findall(r"^portolan_nearest_decisions_total\{(.*)\} (\d+)$", text, re.M):
        found[dict(re.findall(r'(\w+)="([^"]*)"', labels))["reason"]] += int(count)
    return found


def metrics():
    return "\n".join(region.metrics() for region in regions)


def pulls():
    """Each client asks each node for each blob."""
    everywhere = [place for region in regions for place in region.places]
    for _ in range(a.rounds):
        for place, region, node, (repository, blobs) in itertools.product(everywhere, regions, (1, 2, 3), images):
            for blob in blobs:
                yield place, region, node, f"/v2/{repository}/blobs/{blob['digest']}", blob["digest"]


def zones():
    has = {(r.name, blob["digest"]): r.copies(blob["digest"]) for r in regions for _, blobs in images for blob in blobs}
    tally, failed, lock = collections.Counter(), [], threading.Lock()

    def one(pull):
        place, region, node, path, digest = pull
        try:
            host, count = Client(place).get(region, node, path)
        except Broken as error:
            with lock:
                failed.append(str(error))
            return
        with lock:
            tally["bytes"] += count
            if place.zone in has[place.region, digest]:
                tally["with_copy"] += count
                tally["own_zone"] += count if at(host) == (place.region, place.zone) else 0
            tally["own_region"] += count if at(host)[0] == place.region else 0
            tally["pulls"] += 1

    before, began = metrics(), time.monotonic()
    planned = list(pulls())
    random.shuffle(planned)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, planned))
    after = metrics()
    share = tally["own_zone"] / max(1, tally["with_copy"])
    reasons = decided(after)
    reasons.subtract(decided(before))
    row("bytes from the client's zone, where it has a copy", share >= 0.99 and not failed, target="0.99 at least", share=round(share, 5),
        share_from_own_region=round(tally["own_region"] / max(1, tally["bytes"]), 5), pulls=tally["pulls"], bytes=tally["bytes"],
        failed=len(failed), failed_samples=failed[:3], seconds=round(time.monotonic() - began, 1), reasons=dict(+reasons))


def decisions():
    """How long nodes take to decide, in buckets: the bound under which 99 % of the decisions are."""
    before = metrics()
    pool_of = [pull for pull in pulls() if pull[4] == images[0][1][1]["digest"]]
    for place, region, node, path, _ in pool_of * 3:
        with contextlib.suppress(Broken):
            Client(place).get(region, node, path)
    after = metrics()
    for asked, name, bound in (("node", "decision by a node, p99", 0.001), ("region", "decision with another region, p99", None)):
        counts = bucket_counts(after, asked)
        counts.subtract(bucket_counts(before, asked))
        total = counts[float("inf")]
        p99 = next((le for le in sorted(counts) if counts[le] >= 0.99 * total), None) if total else None
        holds = p99 is not None and (bound is None or p99 <= bound)
        share = {str(le): round(counts[le] / total, 4) for le in sorted(counts) if le <= 0.1} if total else {}
        row(name, holds, target=f"{bound} s at most" if bound else "told only", at_most_s=p99, decisions=total, share_below=share)


def forged():
    """What a client says of itself, at every node: who serves is the same as without."""
    claims = ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "Client-IP")
    repository, blobs = images[0]
    path = f"/v2/{repository}/blobs/{blobs[1]['digest']}"
    everywhere = [place for region in regions for place in region.places]
    changed, looked = [], 0
    for place, region, node in itertools.product([*everywhere, None], regions, (1, 2, 3)):
        client = Client(place)

        def served(headers):
            # a busy machine is too slow for another region now and then: who serves mostly is meant
            try:
                found = collections.Counter(client.get(region, node, path, headers)[0] for _ in range(3))
            except Broken as error:
                return str(error)
            return found.most_common(1)[0][0]

        plain = served({})
        for claimed in random.sample(everywhere, 2):
            address = f"127.{a.region + 2}.{claimed.network}.7"
            values = {name: address for name in claims} | {"Forwarded": f"for={address}", "X-Forwarded-Host": "evil.example"}
            looked += 1
            if served(values) != plain:
                changed.append(f"{place} at {region.name}/{node} claims {claimed}")
    row("forged headers change who serves", not changed, target="never", looked_at=looked, changed=len(changed), samples=changed[:3])


def process_of(region, node):
    """The process of a node, and how it was started."""
    config = os.path.join(region.dir, "nodes", f"{ZONES[node - 1]}-1", "portolan.toml")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as line:
                words = line.read().split("\0")
        except OSError:
            continue
        if "server" in words and config in words:
            return int(pid), [word for word in words if word]
    sys.exit(f"{config}: nobody runs it")


@contextlib.contextmanager
def dead(region, node):
    pid, words = process_of(region, node)
    os.kill(pid, signal.SIGKILL)
    yield
    sink = subprocess.DEVNULL
    started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=sink, stderr=sink))


@contextlib.contextmanager
def paused(region, node):
    pid, _ = process_of(region, node)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def full(region, node):
    """All connections that the node takes are somebody else's, who keeps them, and takes those that come free."""
    held, is_full, stop = [], threading.Event(), threading.Event()

    def is_taken():
        source = (f"127.{a.region + 2}.200.{random.randint(1, 250)}", 0)
        try:
            one = socket.create_connection((region.ip(node), 7400), timeout=1, source_address=source)
        except OSError:
            return False
        try:
            one.sendall(f"GET /v2/ HTTP/1.1\r\nHost: {region.ip(node)}:7400\r\n\r\n".encode())
            if one.recv(1):
                held.append(one)
                return True
        except OSError:
            pass
        one.close()
        return False

    def hold():
        while not stop.is_set():
            if not is_taken():
                is_full.set()
                time.sleep(0.02)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        if not is_full.wait(60):
            sys.exit(f"{region.ip(node)} takes connections without end: {len(held)}")
        yield
    finally:
        stop.set()
        holder.join()
        for one in held:
            one.close()


def fault(name, put):
    """Clients of one zone pull all the time, by nodes of both regions, and a node of that zone is lost meanwhile."""
    home, target = regions[0], 2
    place, (repository, blobs) = home.places[target - 1], images[0]
    path = f"/v2/{repository}/blobs/{blobs[1]['digest']}"
    asked = [(home, 1), (home, 3), (regions[1], 1)]
    told, lock, stop = [], threading.Lock(), threading.Event()

    def is_sent():
        try:
            return all(Client(place).get(*one, path)[0] == home.ip(target) for one in asked)
        except Broken:
            return False

    until("clients are sent to the node", is_sent)

    def work(region, node):
        client = Client(place)
        while not stop.is_set():
            began = time.monotonic()
            try:
                said = client.get(region, node, path)[0]
            except Broken as error:
                said = error
            with lock:
                told.append((began, time.monotonic() - began, said, region.name))
            time.sleep(0.02)

    # whoever ends the measurement early does not wait for them
    threads = [threading.Thread(target=work, args=one, daemon=True) for one in asked]
    for thread in threads:
        thread.start()
    time.sleep(a.seconds)
    with put(home, target):
        lost = time.monotonic()
        time.sleep(a.seconds)
        mended = time.monotonic()
        stop.set()
        for thread in threads:
            thread.join()
    usual = [took for began, took, said, _ in told if began + took < lost and not isinstance(said, Broken)]
    if not usual:
        sys.exit("no pull came to an end before the fault: more --seconds")
    parts = {
        "under_way": [one for one in told if one[0] < lost <= one[0] + one[1]],
        "in_the_first_moment": [one for one in told if lost <= one[0] < lost + RECENT],
        "after_it": [one for one in told if lost + RECENT <= one[0] < mended],
    }
    values = {}
    for part, some in parts.items():
        good = [took for _, took, said, _ in some if not isinstance(said, Broken)]
        bad = [str(said) for _, _, said, _ in some if isinstance(said, Broken)]
        values[part] = {"pulls": len(some), "failed": len(bad), "failed_samples": bad[:2], "worst_s": round(max(good, default=0), 3)}
        values[part]["slowest_any_s"] = round(max((one[1] for one in some), default=0), 3)
    cost = max(values["in_the_first_moment"]["slowest_any_s"], values["after_it"]["slowest_any_s"]) - statistics.median(usual)
    failed = values["in_the_first_moment"]["failed"] + values["after_it"]["failed"]
    served_by = collections.Counter("/".join(at(said)) for _, _, said, _ in parts["after_it"] if not isinstance(said, Broken))
    began = time.monotonic()
    until(f"clients are sent to the node that was {name}", is_sent)
    row(f"a {name} target", failed == 0 and cost < 1, target="no failed pull, less than 1 s", cost_s=round(cost, 3), failed=failed,
        usual_median_s=round(statistics.median(usual), 4), **values, served_by=dict(served_by), sent_there_again_after_s=round(time.monotonic() - began, 1))


def prepare(dir):
    with open(os.path.join(dir, "links.toml"), "w", encoding="utf-8") as links:
        one = 'state = "up"\nlatency_ms = 10\nmbit_per_s = 10000.0\n'
        links.write(f"[dev-1.dev-2]\n{one}\n[dev-2.dev-1]\n{one}")
    clients = [
        {"network": f"127.{a.region + 2}.{place.network}.0/24", "region": place.region, "zone": place.zone}
        for region in regions for place in region.places
    ]
    for region, other in (regions, regions[::-1]):
        region.admin("PUT", "/v1/places", {"clients": clients, "redirect_bytes_min": LEAST})
        to = [{"region": other.name, "registryId": "000000000000"}]
        filters = [{"filter": "team/", "filterType": "PREFIX_MATCH"}]
        region.admin("PUT", "/v1/replication/rules", {"rules": [{"destinations": to, "repositoryFilters": filters}]})
    for number in range(a.images):
        region, layers = regions[number % 2], [random.randbytes(a.mib << 20) for _ in range(2)]
        images.append((f"team/app{number}", region.push(1 + number % 3, f"team/app{number}", "v1", layers)))

    def is_everywhere():
        return all(region.copies(blob["digest"]) == set(ZONES) for region in regions for _, blobs in images for blob in blobs[1:])

    until("every zone has a copy of every layer", is_everywhere, 300)


def begin(dir):
    log = os.path.join(dir, "dev.log")
    words = [a.portolan, "dev", "--regions", "2", "--region", str(a.region), "--dir", dir, "--stop-with-stdin"]
    words += ["--set", f"http.max_connections={a.connections}"]
    with open(log, "w", encoding="utf-8") as out:
        dev = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out)

    def is_ready():
        with open(log, encoding="utf-8") as text:
            told = text.read()
        if dev.poll() is not None:
            sys.exit(told[-2000:])
        return "links.toml" in told

    return dev, is_ready


def end(dev):
    dev.stdin.close()
    for process in started:
        process.terminate()
    for process in [dev, *started]:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def too_long(*_):
    sys.exit(f"not over after {a.limit} s")


def main():
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(a.limit)
    dir = os.path.abspath(a.dir or tempfile.mkdtemp(prefix="nearest-"))
    shutil.rmtree(dir, ignore_errors=True)
    os.makedirs(dir)
    dev, is_ready = begin(dir)
    try:
        until("two regions are ready", is_ready)
        regions.extend([Region(a.region, "dev-1", dir), Region(a.region + 1, "dev-2", dir)])
        prepare(dir)
        acts = {"zones": zones, "decisions": decisions, "forged": forged}
        faults = {"dead": dead, "paused": paused, "full": full}
        for name in a.rows.split(","):
            acts[name]() if name in acts else fault(name, faults[name])
    finally:
        end(dev)
        if not a.keep:
            shutil.rmtree(dir, ignore_errors=True)
    print(json.dumps({"rows": rows, "do_not_hold": misses}, indent=1))
    return 1 if misses else 0


regions, images = [], []
sys.exit(main())
