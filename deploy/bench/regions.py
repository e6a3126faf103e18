#!/usr/bin/env python3
"""Two regions with a slow link between them: how long images take, what they cost on the link, what is to be had while
nodes die and the link is down, many who want one image, and what comparing the regions costs.

  regions.py --portolan BINARY --dir DIR --json OUT [--seconds 60]
             [--rows lag,through,flow,layers,backfill,herd,onenode,source,never,down,sweep]

Starts `portolan dev --regions 2` with 50 ms each way and 100 Mbit/s between them. Times are from the 201 in the one
region to the end of a whole pull in the other. Bytes are counted on the link itself, both ways, protocol and all;
between zones by the kernel, on the connections between nodes. Each row is held against its figure and says PASS or
FAIL; ends with 1 if one says FAIL. Needs only Python's standard library, and `ss` (iproute2) for the herds; loopback
only; every step is bounded in time, all of them by --limit.
"""
import argparse, collections, concurrent.futures, contextlib, hashlib, http.client, json, multiprocessing, random, re
import resource, subprocess, sys, threading, time

sys.dont_write_bytecode = True  # nothing is left beside this file
import regionlib
from regionlib import ADMIN, BLOB, BROKEN_OFF, DOOR, MANIFEST, PUBLIC, ZONES, Failed, digest_of, metric, quantile, until

LINK = (50, 100)  # ms each way, Mbit/s
SMALL = 64 * 1024  # bytes of a small image's layer
MIB = 1 << 20
FULL = {"readThrough": "full"}
rows, dev, eu, us = None, None, None, None


def apart(act, *args):
    """One that nobody waits for when the time is over."""
    return threading.Thread(target=act, args=args, daemon=True)


def noise(size):
    return random.randbytes(size)


def total():
    """Bytes that the link has carried, both ways."""
    return sum(dev.carried())


def followed():
    """What the leader of us knows of eu; `None` while none does."""
    for node in us.nodes:
        told = us.look(node, "/v1/regions") or {"regions": []}
        for region in told["regions"]:
            if region["region"] == eu.name and region["followed"]:
                return region["followed"]
    return None


def settled():
    """Waits until us has applied all that eu has now, and the bytes of that are counted."""
    def applied():
        told = [eu.look(node, "/v1/cluster") for node in eu.nodes]
        return max((one["applied_index"] for one in told if one), default=0)

    index = until("eu tells how far it is", applied)

    def is_there():
        state = followed()
        return state and state["received_index"] >= index and state["open"] == 0

    until("us has applied all that eu has", is_there, 600)
    time.sleep(0.6)


def ruled(**more):
    """Sets the rule, once what is under way has arrived: another one would not send it. Back when us knows of it."""
    settled()
    eu.copy_to(us, **more)
    settled()


def at_a_pace(repository, seconds, per_second):
    """Pushes small images, waits for each in the other region; seconds each took, and what failed."""
    took, failed, lock = [], [], threading.Lock()

    def one(number):
        tag, node = f"{repository.split('/')[1]}-{number}", us.any(number + 1)
        try:
            eu.push(eu.any(number), repository, tag, [noise(SMALL)])
            began = time.monotonic()
            until(f"{tag} is there", lambda: us.pull(node, repository, tag), 120, 0.03)
            with lock:
                took.append(time.monotonic() - began)
        except (Failed, *BROKEN_OFF) as error:
            with lock:
                failed.append(repr(error))

    threads, start = [], time.monotonic()
    for number in range(seconds * per_second):
        time.sleep(max(0, start + number / per_second - time.monotonic()))
        threads.append(apart(one, number))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if not took:
        raise Failed(f"no image arrived: {failed[:3]}")
    return took, failed


def told(took, failed):
    p50, p99 = quantile(took, 0.5), quantile(took, 0.99)
    values = {"images": len(took), "failed": len(failed), "failed_samples": failed[:3], "p50_s": round(p50, 3)}
    return p50, p99, {**values, "p99_s": round(p99, 3), "worst_s": round(max(took), 3)}


def lag(name="10 small images a second", repository="team/lag", **rule):
    ruled(**rule)
    before = total()
    took, failed = at_a_pace(repository, a.seconds, 10)
    settled()
    beyond = (total() - before) / len(took) - SMALL - 2  # a layer and a config
    p50, p99, values = told(took, failed)
    holds = not failed and p50 <= 1 and p99 <= 3 and beyond <= 8 * 1024
    target = "p50 1 s, p99 3 s, 8192 bytes beyond its own for each, at most"
    rows.add(name, holds, target, **values, bytes_beyond_each=round(beyond))


def flow():
    ruled()
    parts = [noise(64 * MIB) for _ in range(max(1, a.large // 64))]
    size, before, arrived = sum(map(len, parts)), total(), []
    eu.push(1, "team/flow", "large", parts)
    began, first = time.monotonic(), dev.carried()[1]

    def is_there():
        with contextlib.suppress(*BROKEN_OFF):
            return us.call("HEAD", us.any(1), "/v2/team/flow/manifests/large")[0] == 200
        return False

    def watch():
        until("the large image is there", is_there, 900)
        arrived.extend([time.monotonic() - began, dev.carried()[1]])

    watcher = apart(watch)
    watcher.start()
    seconds = max(1, min(a.seconds, int(size * 8 / (LINK[1] * 1e6) * 0.7)))
    took, failed = at_a_pace("team/small", seconds, 10)
    watcher.join()
    if not arrived:
        raise Failed("the large image did not arrive")
    settled()
    took_s, used = arrived[0], (arrived[1] - first) * 8 / (LINK[1] * 1e6) / arrived[0]
    ratio = (total() - before) / (size + len(took) * SMALL)
    target = "0.9 of the link at least, 1.02 of the bytes at most"
    rows.add(f"{size // MIB} MiB flow", used >= 0.9 and ratio <= 1.02, target, seconds=round(took_s, 1),
             link_used=round(used, 3), bytes_to_blob_bytes=round(ratio, 4))
    p50, p99, values = told(took, failed)
    rows.add("10 small images a second meanwhile", not failed and p99 <= 10, "p99 10 s at most", **values)


def layers():
    ruled()
    base = noise(10 * MIB)

    def cost(tag, *others):
        before = total()
        eu.push(1, "team/layers", tag, [base, *others])
        until(f"{tag} is there", lambda: us.pull(us.any(1), "team/layers", tag), 180)
        settled()
        return total() - before

    ratio = cost("v1") / len(base)
    rows.add("an image of 10 MiB", ratio <= 1.02, "1.02 of the bytes at most", bytes_to_blob_bytes=round(ratio, 4))
    ratio = cost("v2", noise(MIB)) / MIB
    target = "1.02 of the new layer's bytes at most"
    rows.add("v2 with one new layer of 1 MiB", ratio <= 1.02, target, bytes_to_new_bytes=round(ratio, 4))


def taken(former):
    """How far a backfill is, as the node knows it that knows most; `None` before it begins. `former`: when the one
    before it began."""
    found = []
    for node in us.nodes:
        told = us.look(node, "/v1/regions") or {"regions": []}
        found += [region["backfill"] for region in told["regions"] if region["region"] == eu.name]
    found = [one for one in found if one and one["began_at"] != former]
    return max(found, key=lambda one: (bool(one["ended_at"]), one["settled"]), default=None)


def backfilled(prefix, kills):
    """Takes over images from before a rule, while leaders of both regions are killed."""
    settled()
    eu.admin("PUT", "/v1/replication/rules", {"rules": []})
    names = [(f"{prefix}/app{number % 20}", f"v{number}") for number in range(a.images)]

    def pushed(at):
        number, (name, tag) = at
        return eu.push(eu.any(number), name, tag, [noise(random.randint(8, 24) * 1024)])["layers"][0]["size"]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        size = sum(pool.map(pushed, enumerate(names)))
    settled()
    former = (taken(None) or {}).get("began_at")
    before, began, killed, shown = total(), time.monotonic(), [], []
    eu.copy_to(us, f"{prefix}/", backfill={"enabled": True})
    while True:
        time.sleep(1)
        state = taken(former)
        if state and state["ended_at"]:
            break
        if state and state["eta_seconds"] is not None:
            shown.append((state["settled"], state["eta_seconds"]))
        if state and len(killed) < kills and state["settled"] > (len(killed) + 1) * state["total"] / (kills + 2):
            region = (us, eu)[len(killed) % 2]
            killed.append(f"{region.name}/{dev.kill_leader(region)}")
        if time.monotonic() - began > 3600:
            raise Failed(f"not over after an hour: {state}")
    seconds = time.monotonic() - began
    settled()
    used = total() - before

    # the rule lets nothing be read through: what is there has arrived
    def is_there(at):
        return us.answered("HEAD", us.any(at[0]), f"/v2/{at[1][0]}/manifests/{at[1][1]}")[0] == 200

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        missing = list(pool.map(is_there, enumerate(names))).count(False)
    missing += sum(us.pull(us.any(1), *name) is None for name in random.sample(names, min(50, len(names))))
    half = shown[len(shown) // 2] if shown else None
    return {"seconds": round(seconds, 1), "killed": killed, "settled": state["settled"], "total": state["total"],
            "missing": missing, "shown": len(shown), "shown_at_half": half, "bytes_to_blob_bytes": used / size}


def backfill():
    once = backfilled("once", 0)
    again = backfilled("again", a.kills)
    ratio = again["bytes_to_blob_bytes"] / once["bytes_to_blob_bytes"]
    holds = once["missing"] + again["missing"] == 0 and len(again["killed"]) == a.kills and again["shown"] > 0
    target = "all are there, progress and the time left are shown, 1.02 of the bytes of a pass without kills at most"
    rows.add(f"backfill of {a.images} images", holds and ratio <= 1.02, target, bytes_to_one_pass=round(ratio, 4),
             without_kills=once, with_kills=again)


class BetweenZones:
    """Bytes that come into each node of us from its other ones, each of which is a zone, as the kernel counts them on
    their connections; and of these the copies that the region makes for itself."""

    def __init__(self):
        self.stop, self.leader = threading.Event(), until("us has a leader", us.leading, 60)
        self.first, self.stored = self.look(), self.copies()
        self.last = dict(self.first)
        self.watcher = apart(self.watch)
        self.watcher.start()

    @staticmethod
    def look():
        """What each connection has carried: to the one who was called, and to the caller."""
        said = subprocess.run(["ss", "-tinHO", "sport", "=", str(BLOB)], capture_output=True, text=True, check=True)
        ours, found = rf"127\.{us.number}\.(\d+)\.1", {}
        for called, caller, port, rest in re.findall(rf"{ours}:{BLOB} +{ours}:(\d+) (.*)", said.stdout):
            count = {name: int(value) for name, value in re.findall(r"(bytes_acked|bytes_received):(\d+)", rest)}
            found[int(called), int(caller), port] = count.get("bytes_received", 0), count.get("bytes_acked", 0)
        return found

    def watch(self):
        while not self.stop.wait(0.3):
            self.last.update(self.look())

    def copies(self):
        """Bytes of copies that came to a node: what it stored, but for the leader, which has it from the link."""
        found = {}
        for node in us.nodes:
            name = "portolan_repair_bytes_made_total" if node == self.leader else "portolan_blob_stored_bytes_total"
            found[node] = sum(value for _, value in metric(us.metrics(node), name))
        return found

    def ended(self, size):
        """By zone: all that came, the copies, and the rest, in sizes of the blob."""
        self.stop.set()
        self.watcher.join()
        self.last.update(self.look())
        into, stored = collections.Counter(), self.copies()
        for key, counts in self.last.items():
            for node, now, then in zip(key, counts, self.first.get(key, (0, 0))):
                into[node] += max(0, now - then)
        made = {node: stored[node] - self.stored[node] for node in us.nodes}

        def by_zone(count):
            return {ZONES[node - 1]: round(count[node] / size, 4) for node in us.nodes}
        read = {node: into[node] - made[node] for node in us.nodes}
        return by_zone(into), by_zone(made), by_zone(read)


def beside(stop, out):
    """A client of its own process that pulls small images of us at each node in turn; seconds each pull took."""
    took, problem = [], ""
    try:
        while not stop.is_set():
            began = time.monotonic()
            if us.pull(us.any(len(took)), "team/beside", f"v{len(took) % 8}") is None:
                raise Failed("an image that was there is not")
            took.append(time.monotonic() - began)
            time.sleep(0.02)
    except (Failed, *BROKEN_OFF) as error:
        problem = repr(error)
    out.send((took, problem))


@contextlib.contextmanager
def others():
    """While another client pulls: afterwards, how long each of its pulls took, and what failed."""
    context, found = multiprocessing.get_context("fork"), []
    stop, (here, there) = context.Event(), context.Pipe(False)
    process = context.Process(target=beside, args=(stop, there), daemon=True)
    process.start()
    try:
        yield found
    finally:
        stop.set()
        found.extend(here.recv() if here.poll(90) else ([], "the other client hangs"))
        process.terminate()
        process.join()


def serving():
    """The node of eu that the link has got most bytes from in the last quarter of a second: who gives the layer."""
    def received():
        sockets = subprocess.run(["ss", "-tinHO", "dport", "=", str(DOOR)], capture_output=True, text=True, check=True)
        found = re.findall(rf"127\.{eu.number}\.(\d+)\.1:{DOOR} .*?bytes_received:(\d+)", sockets.stdout)
        return {node: sum(int(count) for at, count in found if at == node) for node, _ in found}
    first = received()
    time.sleep(0.25)
    gained = {node: count - first.get(node, 0) for node, count in received().items()}
    if not any(gained.values()):
        raise Failed("no node of eu gives anything")
    return int(max(gained, key=gained.get))


def herd(name, kills=0, at=None):
    """Many clients want one layer that us does not have; `at`: all of them at one node."""
    ruled(**FULL)
    size = 40 * MIB
    pushed = [us.push(us.any(number), "team/beside", f"v{number}", [noise(16 * 1024)]) for number in range(8)]
    everywhere, small = set(ZONES[:len(us.nodes)]), [image["layers"][0]["digest"] for image in pushed]
    until("small images are in every zone", lambda: all(us.copies(digest) == everywhere for digest in small))
    with others() as quiet:
        time.sleep(10)
    repository, layer = f"team/{re.sub('[^a-z]+', '-', name)}", noise(size)
    before, zones = total(), BetweenZones()
    ends, errors, lock, killed = [], [], threading.Lock(), []

    def one(number):
        node, source = at or us.any(number), f"127.{a.region + 2}.{1 + number % 8}.1"
        try:
            client = http.client.HTTPConnection(us.ip(node), PUBLIC, timeout=600, source_address=(source, 0))
            client.request("GET", f"/v2/{repository}/blobs/{digest}", headers={"Authorization": us.auth})
            answer, hasher, got = client.getresponse(), hashlib.sha256(), 0
            while part := answer.read(MIB):
                got += len(part)
                if number % 50 == 0:  # not all: that would measure this process
                    hasher.update(part)
            is_wrong = number % 50 == 0 and f"sha256:{hasher.hexdigest()}" != digest
            if answer.status != 200 or got != size or is_wrong:
                raise Failed(f"{answer.status}, {got} bytes")
            with lock:
                ends.append(time.monotonic() - began)
        except (Failed, *BROKEN_OFF) as error:
            with lock:
                errors.append(repr(error))

    with others() as loud:
        digest, began = eu.push(1, repository, "v1", [layer])["layers"][0]["digest"], time.monotonic()
        threads = [apart(one, number) for number in range(a.clients)]
        for thread in threads:
            thread.start()
        try:
            for number in range(kills):
                # 40 MiB take more than three seconds on the link: in the midst of it
                share = size * (number + 1) / (kills + 1)
                until("a part is over the link", lambda: total() - before >= share, 60, 0.05)
                node = serving()
                words = dev.kill(eu, node)
                killed.append(node)
                time.sleep(1)
                dev.start(eu, node, words)
        finally:
            for thread in threads:
                thread.join()
    until("every zone has a copy", lambda: us.copies(digest) == everywhere)
    settled()
    ratio, (into, copies, read) = (total() - before) / size, zones.ended(size)
    (quiet_took, quiet_problem), (loud_took, loud_problem) = quiet, loud
    problems = [problem for problem in (quiet_problem, loud_problem) if problem]
    holds = len(ends) == a.clients and not problems and len(killed) == kills
    holds = holds and ratio <= 1.1 and max(read.values()) <= 1.1
    target = "no errors; 1.1 of the layer on the link, and into each zone beside the copy that it gets, at most"
    rows.add(name, holds, target, clients=a.clients, errors=len(errors), error_samples=errors[:3], killed=killed,
             p50_s=round(quantile(ends or [0], 0.5), 2), worst_s=round(max(ends or [0]), 2), on_link=round(ratio, 4),
             into_zones=into, of_it_copies=copies, beside_copies=read, led_by=[zones.leader, us.leading()],
             other_clients_p99_s={"without": round(quantile(quiet_took or [0], 0.99), 3),
                                  "with": round(quantile(loud_took or [0], 0.99), 3)}, other_clients_problems=problems)


def one_node():
    leader = us.leading()
    herd("herd at one node", at=next((node for node in us.nodes if node != leader), leader))


def never():
    """Pulls each image whole, by tag and by digest, from its 201 on, while leaders die on both sides."""
    ruled(**FULL)
    left, lock, tally, stop = iter(range(a.images)), threading.Lock(), collections.Counter(), threading.Event()
    wrong, trouble = [], []

    def read(path):
        """The answer to a GET at any node of us that is not "come back"; what breaks off is asked for again."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                status, headers, body = us.call("GET", random.choice(us.nodes), path, timeout=30)
                if status not in (429, 503):
                    return status, body
                key = "unavailable"
                if "Retry-After" not in headers:
                    wrong.append(f"{path}: {status} without Retry-After")
            except BROKEN_OFF:
                key = "broken_off"
            with lock:
                tally[key] += 1
            time.sleep(0.2)
        return 0, b""

    def image(number):
        name, tag = f"team/never{number % 50}", f"v{number}"
        pushed = eu.push(random.choice(eu.nodes), name, tag, [noise(random.choice([300, 5000, 90_000]))])
        for reference in (tag, digest_of(json.dumps(pushed).encode())):
            status, body = read(f"/v2/{name}/manifests/{reference}")
            if status != 200 or json.loads(body) != pushed:
                wrong.append(f"{name}:{reference}: {status}")
                continue
            for blob in [pushed["config"], *pushed["layers"]]:
                status, data = read(f"/v2/{name}/blobs/{blob['digest']}")
                if status != 200 or digest_of(data) != blob["digest"]:
                    wrong.append(f"{name}@{blob['digest']}: {status}, {len(data)} bytes")
            with lock:
                tally["pulls"] += 1

    def work():
        while not wrong:
            with lock:
                number = next(left, None)
            if number is None:
                return
            try:
                image(number)
            except (Failed, ValueError) as error:
                wrong.append(repr(error))

    def nemesis():
        while not stop.wait(5):
            for region in (eu, us):
                try:
                    dev.kill_leader(region)
                    tally[f"killed_in_{region.name}"] += 1
                    until("all nodes are back", lambda: all(map(region.is_ready, region.nodes)), 120)
                except (Failed, *BROKEN_OFF) as error:
                    trouble.append(repr(error))
                if stop.wait(5):
                    return

    threads = [apart(work) for _ in range(24)]
    began, killer = time.monotonic(), apart(nemesis)
    for thread in [*threads, killer]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    killer.join()
    is_killed = all(tally[f"killed_in_{region.name}"] for region in (eu, us))
    target = "each twice, whole, nothing missing or in part; leaders killed on both sides"
    rows.add("acknowledged there, pulled here", not wrong and tally["pulls"] == 2 * a.images and is_killed, target,
             images=a.images, seconds=round(time.monotonic() - began, 1), wrong=len(wrong), wrong_samples=wrong[:5],
             **tally, killers_trouble=trouble[:3])


def down():
    for state in ("cut", "hang"):
        link_down(state)


def link_down(state, images=12):
    """While nothing gets through, what is there and not here is answered with 503, and who pushes here goes on."""
    ruled(**FULL)
    statuses, wrong, took, lock = collections.Counter(), [], [], threading.Lock()
    name, here = f"team/down-{state}", f"team/here-{state}"

    def read(asked):
        node, (method, path) = asked
        try:
            status, headers, _ = us.call(method, node, path)
        except BROKEN_OFF as error:
            status, headers = repr(error), {}
        with lock:
            statuses[f"{status}"] += 1
            if status != 503 or "Retry-After" not in headers:
                wrong.append(f"{method} {path}: {status}")

    def push(number):
        began = time.monotonic()
        try:
            us.push(us.any(number), here, f"v{number}", [noise(SMALL)])
            if us.pull(us.any(number + 1), here, f"v{number}") is None:
                raise Failed(f"{here}:v{number} is not there")
            with lock:
                took.append(time.monotonic() - began)
        except (Failed, *BROKEN_OFF) as error:
            wrong.append(f"a push here: {error!r}")

    dev.link(*LINK, state)
    try:
        paths = []
        for number in range(images):
            image = eu.push(eu.any(number), name, f"v{number}", [noise(5000)])
            digest = digest_of(json.dumps(image).encode())
            manifests = [f"/v2/{name}/manifests/{reference}" for reference in (f"v{number}", digest)]
            paths += [(method, path) for method in ("GET", "HEAD") for path in manifests]
            paths.append(("GET", f"/v2/{name}/blobs/{image['layers'][0]['digest']}"))
        asked = [(node, path) for path in paths for node in us.nodes]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            reads, pushes = [pool.submit(read, one) for one in asked], []
            for number in range(30):
                pushes.append(apart(push, number))
                pushes[-1].start()
                time.sleep(0.5)
            concurrent.futures.wait(reads)
        for thread in pushes:
            thread.join()
    finally:
        dev.link(*LINK)
    began = time.monotonic()
    for number in range(images):
        until(f"{name}:v{number} is there", lambda: us.pull(us.any(number), name, f"v{number}"), 180)
    target = "503 with Retry-After and nothing else; each push here and its pull in less than 10 s"
    rows.add(f"the link is down ({state})", not wrong and len(took) == 30 and max(took) < 10, target, answers=statuses,
             wrong=len(wrong), wrong_samples=wrong[:5], pushes_here=len(took), slowest_s=round(max(took, default=0), 2),
             all_pulled_after_s=round(time.monotonic() - began, 1))


def tags_of(region):
    """Tags that a region has, as one of its nodes counts them now and then."""
    return sum(value for _, value in metric(region.metrics(1), "portolan_usage_tags"))


def set_tags(images, each):
    """Sets tags on images, by some connections that are kept."""
    headers = {"Authorization": eu.auth, "Content-Type": MANIFEST}
    workers = 32

    def put(client, path, image):
        for _ in range(100):
            try:
                client.request("PUT", path, image, headers)
                answer = client.getresponse()
                text = answer.read()
            except BROKEN_OFF:
                client.close()  # and opened again by the next request
                time.sleep(0.2)
                continue
            if answer.status == 201:
                return
            if answer.status not in (429, 503):
                raise Failed(f"{path}: {answer.status} {text[:200]}")
            time.sleep(0.2)
        raise Failed(f"{path} is not taken")

    def work(worker):
        client = http.client.HTTPConnection(eu.ip(eu.any(worker)), PUBLIC, timeout=60)
        for name, image in images[worker::workers]:
            for number in range(each):
                put(client, f"/v2/{name}/manifests/t{number}", image)
        client.close()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def told_last():
    """Who leads us, and the last comparison with eu, if there was one, as it tells of it."""
    def asked():
        for node in us.nodes:
            told = us.look(node, "/v1/replication/report")
            if told:
                return node, {region["region"]: region["last"] for region in told["regions"]}[eu.name]
        return None
    return until("a node of us tells of comparisons", asked, 60, 0.5)


def compared():
    """Has us compare all with eu: the report, seconds, bytes on the link, and whether nothing else was compared."""
    def quiet():
        node, last = told_last()
        return (node, last) if not last or last["ended_at"] else None

    node, before = until("no comparison is under way", quiet, 600, 0.5)
    number, first, began = before["number"] if before else 0, total(), time.monotonic()
    us.admin("POST", f"/v1/replication/compare/{eu.name}", {}, node)

    def ended():
        leads, last = told_last()
        if leads != node:
            raise Failed("another node leads now: nothing was measured")
        is_asked = last and last["number"] > number and last["of"] == "all repositories"
        return last if is_asked and last["ended_at"] else None

    last = until("the comparison is over", ended, 600)
    seconds = time.monotonic() - began
    time.sleep(1)  # what the link has carried is written down a moment later
    return last, seconds, total() - first, last["number"] == number + 1


def is_clean(report):
    return report["clean"] and report["equal"] == report["repositories"]


def sweep():
    ruled()
    each = -(-a.tags // a.repositories)
    before, began = tags_of(us), time.monotonic()
    names, layer = [f"team/sweep{number}" for number in range(a.repositories)], noise(1024)

    def pushed(at):
        return json.dumps(eu.push(eu.any(at[0]), at[1], "first", [layer]))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        images = list(zip(names, pool.map(pushed, enumerate(names))))
    set_tags(images, each)
    pushed_s, wanted = time.monotonic() - began, (each + 1) * a.repositories
    until("all tags are there", lambda: tags_of(us) - before >= wanted, 3600, 1)
    arrived_s = time.monotonic() - began
    settled()
    # the first one looks at what has just arrived; by the next ones nothing is left to be found
    until("the regions are equal", lambda: is_clean(compared()[0]), 1800)

    def alone():
        found = compared()
        return found if found[3] else None

    report, seconds, count, _ = until("nothing else is compared", alone, 1800)
    most = 1_000_000
    holds = is_clean(report) and report["records"] >= a.tags and count <= most
    rows.add(f"a comparison of {each * a.repositories} tags without differences", holds, f"{most} bytes at most",
             bytes_on_link=count, repositories=report["repositories"], records=report["records"],
             differences=report["differences"], seconds=round(seconds, 1), pushed_s=round(pushed_s, 1),
             arrived_s=round(arrived_s, 1))


ACTS = {
    "lag": lag,
    "through": lambda: lag("10 small images a second, read through", "team/through", **FULL),
    "flow": flow,
    "layers": layers,
    "backfill": backfill,
    "herd": lambda: herd("herd"),
    "onenode": one_node,
    "source": lambda: herd("herd, its source killed", 1),
    "never": never,
    "down": down,
    "sweep": sweep,
}
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--portolan", required=True)
ap.add_argument("--dir", required=True, help="is made anew, and removed afterwards")
ap.add_argument("--json", required=True, help="where the rows go as well")
ap.add_argument("--rows", default=",".join(ACTS))
ap.add_argument("--seconds", type=int, default=60, help="how long images are pushed for a row")
ap.add_argument("--region", type=int, default=61, help="second number of the addresses; this one and the next two")
ap.add_argument("--nodes", type=int, default=3, choices=(1, 3), help="of each region")
ap.add_argument("--images", type=int, default=10_000, help="images of the backfill, and of those pulled at once")
ap.add_argument("--kills", type=int, default=3, help="leaders killed during the backfill")
ap.add_argument("--clients", type=int, default=1000, help="clients of the herd")
ap.add_argument("--large", type=int, default=1024, help="MiB of the large image")
ap.add_argument("--tags", type=int, default=100_000, help="tags that are compared")
ap.add_argument("--repositories", type=int, default=100, help="repositories that they are in, one manifest in each")
ap.add_argument("--limit", type=int, default=6 * 3600, help="seconds that all of it may take")
ap.add_argument("--keep", action="store_true")
a = ap.parse_args()
if set(a.rows.split(",")) - set(ACTS):
    ap.error(f"--rows: some of {','.join(ACTS)}")


def main():
    global rows, dev, eu, us
    rows, most = regionlib.Rows(a.json), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    regionlib.limit(a.limit)
    with regionlib.running(a.portolan, a.dir, a.region, a.nodes, keep=a.keep) as dev:
        eu, us = dev.regions
        dev.link(*LINK)
        eu.copy_to(us)
        eu.push(1, "team/first", "v1", [b"first"])
        until("a first image is there", lambda: us.pull(us.any(1), "team/first", "v1"))
        for name in a.rows.split(","):
            rows.run(name, ACTS[name])
    return rows.ended()


try:
    sys.exit(main())
except Failed as failed:
    sys.exit(str(failed))
