#!/usr/bin/env python3
"""Six nodes over two regions, and clients of every zone: where their bytes come from, and what that costs.

  nearest.py [--portolan BINARY] [--dir DIR] [--json OUT] [--seconds 10]
             [--rows zones,decisions,forged,dead,paused,full]

Starts `portolan dev --regions 2` with 10 ms each way between them, and says with `PUT /v1/places` which networks the
clients of each zone are in: 127.<region+2>.<1 to 6>.0/24. Each client calls from such an address, follows redirects and
shows its credential to whom it asked first only, as most clients do. Bytes are counted at the clients, by the node that
sent them. Real clients through a redirect, with TLS and credentials, are in tests/clients/run.sh nearest.

Prints a line for each row, PASS or FAIL, with what it is held against; ends with 1 if one of them does not hold. Needs
only Python's standard library; loopback only; every step is bounded in time, all of them by --limit.
"""
import argparse, collections, concurrent.futures, contextlib, http.client, itertools, os, random, signal, socket
import statistics, sys, tempfile, threading, time, urllib.parse

sys.dont_write_bytecode = True  # nothing is left beside this file
import regionlib
from regionlib import BROKEN_OFF, PUBLIC, ZONES, Failed, digest_of, metric, until

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

LEAST = 64 * 1024  # blobs from this size on are redirected
RECENT = 0.15  # a node that has answered so lately is believed to be there, seconds
HOPS = 4  # redirects that a client follows
WAIT = 30  # seconds that a client waits for a byte
Place = collections.namedtuple("Place", "region zone network")
rows, dev = None, None


def places(region):
    """Where the clients of each zone of a region are."""
    first = 1 if region.name == "dev-1" else 4
    return [Place(region.name, zone, first + at) for at, zone in enumerate(ZONES)]


def everywhere():
    return [place for region in regions for place in places(region)]


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
        host, port, shown = region.ip(node), PUBLIC, {"Authorization": region.auth}
        for _ in range(HOPS):
            connection = http.client.HTTPConnection(host, port, timeout=WAIT, source_address=(self.source, 0))
            try:
                connection.request("GET", path, headers={**shown, **(headers or {})})
                answer = connection.getresponse()
                data = answer.read()
            except BROKEN_OFF as error:
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
    for labels, count in metric(text, "portolan_nearest_decision_seconds_bucket"):
        if labels["asked"] == asked:
            found[float(labels["le"])] += int(count)
    return found


def decided(text):
    """Decisions by their reason; summed over nodes."""
    found = collections.Counter()
    for labels, count in metric(text, "portolan_nearest_decisions_total"):
        found[labels["reason"]] += int(count)
    return found


def metrics():
    return "\n".join(region.metrics(node) for region in regions for node in region.nodes)


def pulls():
    """Each client asks each node for each blob."""
    for _ in range(a.rounds):
        for place, region, node, (repository, blobs) in itertools.product(everywhere(), regions, (1, 2, 3), images):
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
    rows.add("bytes from the client's zone, where it has a copy", share >= 0.99 and not failed, "0.99 at least",
             share=round(share, 5), share_from_own_region=round(tally["own_region"] / max(1, tally["bytes"]), 5),
             pulls=tally["pulls"], bytes=tally["bytes"], failed=len(failed), failed_samples=failed[:3],
             seconds=round(time.monotonic() - began, 1), reasons=dict(+reasons))


def decisions():
    """How long nodes take to decide, in buckets: the bound under which 99 % of the decisions are."""
    before = metrics()
    pool_of = [pull for pull in pulls() if pull[4] == images[0][1][1]["digest"]]
    for place, region, node, path, _ in pool_of * 3:
        with contextlib.suppress(Broken):
            Client(place).get(region, node, path)
    after = metrics()
    bounds = (("node", "decision by a node, p99", 0.001), ("region", "decision with another region, p99", None))
    for asked, name, bound in bounds:
        counts = bucket_counts(after, asked)
        counts.subtract(bucket_counts(before, asked))
        total = counts[float("inf")]
        p99 = next((le for le in sorted(counts) if counts[le] >= 0.99 * total), None) if total else None
        holds = p99 is not None and (bound is None or p99 <= bound)
        share = {str(le): round(counts[le] / total, 4) for le in sorted(counts) if le <= 0.1} if total else {}
        target = f"{bound} s at most" if bound else "told only"
        rows.add(name, holds, target, at_most_s=p99, decisions=total, share_below=share)


def forged():
    """What a client says of itself, at every node: who serves is the same as without."""
    claims = ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "Client-IP")
    repository, blobs = images[0]
    path = f"/v2/{repository}/blobs/{blobs[1]['digest']}"
    changed, looked = [], 0
    for place, region, node in itertools.product([*everywhere(), None], regions, (1, 2, 3)):
        client = Client(place)

        def served(headers):
            # a busy machine is too slow for another region now and then: who serves mostly is meant
            try:
                found = collections.Counter(client.get(region, node, path, headers)[0] for _ in range(3))
            except Broken as error:
                return str(error)
            return found.most_common(1)[0][0]

        plain = served({})
        for claimed in random.sample(everywhere(), 2):
            address = f"127.{a.region + 2}.{claimed.network}.7"
            values = {name: address for name in claims}
            values |= {"Forwarded": f"for={address}", "X-Forwarded-Host": "evil.example"}
            looked += 1
            if served(values) != plain:
                changed.append(f"{place} at {region.name}/{node} claims {claimed}")
    rows.add("forged headers change who serves", not changed, "never", looked_at=looked, changed=len(changed),
             samples=changed[:3])


@contextlib.contextmanager
def dead(region, node):
    words = dev.kill(region, node)
    try:
        yield
    finally:
        dev.start(region, node, words)


@contextlib.contextmanager
def paused(region, node):
    pid, _ = dev.process_of(region, node)
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
            one = socket.create_connection((region.ip(node), PUBLIC), timeout=1, source_address=source)
        except OSError:
            return False
        try:
            one.sendall(f"GET /v2/ HTTP/1.1\r\nHost: {region.ip(node)}:{PUBLIC}\r\n\r\n".encode())
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
            raise Failed(f"{region.ip(node)} takes connections without end: {len(held)}")
        yield
    finally:
        stop.set()
        holder.join()
        for one in held:
            one.close()


def fault(name, put):
    """Clients of one zone pull all the time, by nodes of both regions, and a node of that zone is lost meanwhile."""
    home, target = regions[0], 2
    place, (repository, blobs) = places(home)[target - 1], images[0]
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
        raise Failed("no pull came to an end before the fault: more --seconds")
    parts = {
        "under_way": [one for one in told if one[0] < lost <= one[0] + one[1]],
        "in_the_first_moment": [one for one in told if lost <= one[0] < lost + RECENT],
        "after_it": [one for one in told if lost + RECENT <= one[0] < mended],
    }
    values = {}
    for part, some in parts.items():
        good = [took for _, took, said, _ in some if not isinstance(said, Broken)]
        bad = [str(said) for _, _, said, _ in some if isinstance(said, Broken)]
        values[part] = {"pulls": len(some), "failed": len(bad), "failed_samples": bad[:2]}
        values[part]["worst_s"] = round(max(good, default=0), 3)
        values[part]["slowest_any_s"] = round(max((one[1] for one in some), default=0), 3)
    slowest = max(values[part]["slowest_any_s"] for part in ("in_the_first_moment", "after_it"))
    cost = slowest - statistics.median(usual)
    failed = values["in_the_first_moment"]["failed"] + values["after_it"]["failed"]
    good = [said for _, _, said, _ in parts["after_it"] if not isinstance(said, Broken)]
    served_by = collections.Counter("/".join(at(said)) for said in good)
    began = time.monotonic()
    until(f"clients are sent to the node that was {name}", is_sent)
    rows.add(f"a {name} target", failed == 0 and cost < 1, "no failed pull, less than 1 s", cost_s=round(cost, 3),
             failed=failed, usual_median_s=round(statistics.median(usual), 4), **values, served_by=dict(served_by),
             sent_there_again_after_s=round(time.monotonic() - began, 1))


def prepare():
    dev.link(10, 10_000)
    clients = [
        {"network": f"127.{a.region + 2}.{place.network}.0/24", "region": place.region, "zone": place.zone}
        for place in everywhere()
    ]
    for region, other in (regions, regions[::-1]):
        region.admin("PUT", "/v1/places", {"clients": clients, "redirect_bytes_min": LEAST})
        region.copy_to(other)
    for number in range(a.images):
        region, parts = regions[number % 2], [random.randbytes(a.mib << 20) for _ in range(2)]
        pushed = region.push(region.any(number), f"team/app{number}", "v1", parts)
        images.append((f"team/app{number}", [pushed["config"], *pushed["layers"]]))

    def is_everywhere():
        layers = [blob["digest"] for _, blobs in images for blob in blobs[1:]]
        return all(region.copies(digest) == set(ZONES) for region in regions for digest in layers)

    until("every zone has a copy of every layer", is_everywhere, 300)


def main():
    global rows, dev
    rows = regionlib.Rows(a.json)
    regionlib.limit(a.limit)
    dir, settings = a.dir or tempfile.mkdtemp(prefix="nearest-"), [f"http.max_connections={a.connections}"]
    with regionlib.running(a.portolan, dir, a.region, settings=settings, keep=a.keep) as dev:
        regions.extend(dev.regions)
        prepare()
        acts = {"zones": zones, "decisions": decisions, "forged": forged}
        faults = {"dead": dead, "paused": paused, "full": full}
        for name in a.rows.split(","):
            rows.run(name, acts.get(name) or (lambda: fault(name, faults[name])))
    return rows.ended()


regions, images = [], []
try:
    sys.exit(main())
except Failed as failed:
    sys.exit(str(failed))
