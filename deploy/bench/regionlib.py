"""What regions.py and nearest.py are made of: two regions of `portolan dev`, asked as clients and operators do, a link
between them, nodes that die, and rows held against a figure. Needs only Python's standard library."""
import base64, contextlib, hashlib, http.client, json, os, re, shutil, signal, subprocess, sys, time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ZONES = "abc"
PUBLIC, BLOB, ADMIN, DOOR = 7400, 7402, 7403, 7404  # ports of a node; the door is for other regions
BROKEN_OFF = (OSError, http.client.HTTPException)


class Failed(Exception):
    """What was to be measured can't be, or is not as it has to be."""


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def until(what, is_so, seconds=120, pause=0.2):
    """Waits for what is true in the end, and gives it back."""
    end = time.monotonic() + seconds
    while True:
        found = is_so()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


def metric(text, name):
    """The values of a metric, each with its labels; a node puts its own labels before those of the metric."""
    for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.M):
        yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


def limit(seconds):
    """Ends this process, by way of its `finally`s, when all of it takes too long."""
    def too_long(*_):
        sys.exit(f"not over after {seconds} s")
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)


class Rows:
    """What was measured: each row is printed with PASS or FAIL, and written to a file."""

    def __init__(self, path=None):
        self.path, self.rows = path, []

    def add(self, name, holds, target, **values):
        one = {"name": name, "verdict": "PASS" if holds else "FAIL", "target": target, **values}
        print(one["verdict"], name, json.dumps({"target": target, **values}), flush=True)
        self.rows.append(one)
        if self.path:
            with open(self.path, "w", encoding="utf-8") as out:
                json.dump({"rows": self.rows}, out, indent=1)

    def run(self, name, act):
        """Measures something; what can't be measured does not hold."""
        try:
            act()
        except (Failed, *BROKEN_OFF) as error:
            self.add(name, False, "to be measured", problem=str(error) or repr(error))

    def misses(self):
        return [one["name"] for one in self.rows if one["verdict"] == "FAIL"]

    def ended(self):
        """What the process ends with: 0 if everything holds and there is something."""
        misses = self.misses()
        print(f"{len(self.rows) - len(misses)} PASS, {len(misses)} FAIL", *misses, sep="\n  ", flush=True)
        return 1 if misses or not self.rows else 0


class Region:
    """A region of `portolan dev`: a node in each of its zones, at 127.<number>.<node>.1."""

    def __init__(self, dir, number, name, count=3):
        self.number, self.name, self.dir, self.nodes = number, name, os.path.join(dir, name), range(1, count + 1)
        with open(os.path.join(self.dir, "root-key"), encoding="utf-8") as key:
            self.auth = "Basic " + base64.b64encode(key.read().strip().encode()).decode()

    def ip(self, node):
        return f"127.{self.number}.{node}.1"

    def any(self, number):
        """Each node in turn."""
        return self.nodes[number % len(self.nodes)]

    def call(self, method, node, path, body=None, kind="application/json", port=PUBLIC, timeout=60):
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self.ip(node), port, timeout=timeout)
        headers = {"Authorization": self.auth, "Content-Type": kind, "Accept": MANIFEST}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def answered(self, method, node, path, *args, patience=60, **more):
        """The answer, as soon as that is neither 429 nor 503: leaders change on a busy machine, and nodes return."""
        end = time.monotonic() + patience
        while True:
            try:
                status, _, text = self.call(method, node, path, *args, **more)
                if status not in (429, 503):
                    return status, text
                told = status
            except BROKEN_OFF as error:
                told = repr(error)
            if time.monotonic() > end:
                raise Failed(f"{method} {path}: {told} for {patience} s")
            time.sleep(0.5)

    def admin(self, method, path, document=None, node=1):
        body = None if document is None else json.dumps(document)
        status, text = self.answered(method, node, path, body, port=ADMIN)
        if status >= 300:
            raise Failed(f"{method} {path}: {status} {text.decode()}")
        return json.loads(text) if text else None

    def look(self, node, path):
        """What a node tells operators now; `None` if it does not."""
        try:
            status, _, text = self.call("GET", node, path, port=ADMIN, timeout=10)
            return json.loads(text) if status == 200 else None
        except (*BROKEN_OFF, ValueError):
            return None

    def is_ready(self, node):
        try:
            return self.call("GET", node, "/readyz", port=ADMIN, timeout=5)[0] == 200
        except BROKEN_OFF:
            return False

    def leading(self):
        """The node that leads, as it says itself; `None` while none does."""
        for node in self.nodes:
            told = self.look(node, "/v1/cluster")
            if told and told["leader"] == told["node"]:
                return node
        return None

    def metrics(self, node):
        return self.answered("GET", node, "/metrics", port=ADMIN)[1].decode()

    def copies(self, digest):
        """The zones that have a copy of a blob."""
        status, text = self.answered("GET", 1, f"/v1/blobs/{digest}", port=ADMIN)
        return {copy["zone"] for copy in json.loads(text)["copies"]} if status == 200 else set()

    def blob(self, node, repository, data):
        path, kind = f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", "application/octet-stream"
        status, text = self.answered("POST", node, path, data, kind, timeout=600)
        if status != 201:
            raise Failed(f"push of a blob: {status} {text[:200]}")
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    def push(self, node, repository, tag, layers):
        """The manifest that is acknowledged when this is back; `json.dumps` of it gives its bytes."""
        config = self.blob(node, repository, b"{}")
        layers = [self.blob(node, repository, layer) for layer in layers]
        image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        path = f"/v2/{repository}/manifests/{tag}"
        status, text = self.answered("PUT", node, path, json.dumps(image), MANIFEST)
        if status != 201:
            raise Failed(f"push of a manifest: {status} {text[:200]}")
        return image

    def pull(self, node, repository, reference):
        """The bytes of a whole pull, or `None` if the image is not to be had yet. One without a blob is wrong."""
        status, _, text = self.call("GET", node, f"/v2/{repository}/manifests/{reference}")
        if status in (404, 429, 503):
            return None
        if status != 200:
            raise Failed(f"{repository}:{reference}: {status} {text[:200]}")
        total, image = len(text), json.loads(text)
        for blob in [image["config"], *image["layers"]]:
            status, _, data = self.call("GET", node, f"/v2/{repository}/blobs/{blob['digest']}", timeout=600)
            if status in (429, 503):
                return None
            if status != 200 or digest_of(data) != blob["digest"]:
                raise Failed(f"{repository}:{reference} is there, and {blob['digest']} is not: {status}")
            total += len(data)
        return total

    def copy_to(self, other, prefix="team/", **more):
        """Its only rule: what is pushed from now on to repositories that begin so is copied to another region."""
        to = {"region": other.name, "registryId": "000000000000"}
        named = {"filter": prefix, "filterType": "PREFIX_MATCH"}
        rule = {"destinations": [to], "repositoryFilters": [named], **more}
        self.admin("PUT", "/v1/replication/rules", {"rules": [rule]})


class Dev:
    """`portolan dev` with two regions. Ends when it is told to, and with this process, however that ends."""

    def __init__(self, portolan, dir, region, nodes=3, settings=()):
        self.dir, self.first, self.count = os.path.abspath(dir), region, nodes
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.regions, self.started, self.killed = [], [], {}
        self.log = os.path.join(self.dir, "dev.log")
        words = [portolan, "dev", "--regions", "2", "--nodes", str(nodes), "--region", str(region), "--dir", self.dir]
        words += ["--stop-with-stdin", *(word for setting in settings for word in ("--set", setting))]
        with open(self.log, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out)

    def begin(self):
        def is_ready():
            with open(self.log, encoding="utf-8") as text:
                told = text.read()
            if self.process.poll() is not None:
                raise Failed(told[-2000:])
            return "links.toml" in told
        until("two regions are ready", is_ready, 240)
        names = [(self.first, "dev-1"), (self.first + 1, "dev-2")]
        self.regions = [Region(self.dir, number, name, self.count) for number, name in names]

    def end(self):
        self.process.stdin.close()
        for process in self.started:
            process.terminate()
        for process in [self.process, *self.started]:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()

    def link(self, latency_ms, mbit_per_s, state="up"):
        """What lies between the regions, each way; it is so when this is back."""
        one = f'state = "{state}"\nlatency_ms = {latency_ms}\nmbit_per_s = {float(mbit_per_s)}\n'
        with open(os.path.join(self.dir, "links.toml"), "w", encoding="utf-8") as links:
            links.write(f"[dev-1.dev-2]\n{one}\n[dev-2.dev-1]\n{one}")
        time.sleep(1)

    def carried(self):
        """Bytes that dev-2's connections to dev-1 have carried, towards it and back; a quarter of a second late."""
        path = os.path.join(self.dir, "links.carried.json")

        def read():
            with contextlib.suppress(OSError, ValueError, KeyError):  # it is written anew meanwhile
                with open(path, encoding="utf-8") as told:
                    return json.load(told)["dev-2"]["dev-1"]
            return None
        return until(f"{path} can be read", read, 10, 0.01)

    def node_dir(self, region, node):
        return os.path.join(region.dir, "nodes", f"{ZONES[node - 1]}-1")

    def process_of(self, region, node):
        """The process of a node, and how it was started."""
        config = os.path.join(self.node_dir(region, node), "portolan.toml")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8") as line:
                    words = line.read().split("\0")
            except OSError:
                continue
            if "server" in words and config in words:
                return int(pid), [word for word in words if word]
        raise Failed(f"{config}: nobody runs it")

    def kill(self, region, node):
        """SIGKILL to a node; how it was started."""
        pid, words = self.process_of(region, node)
        os.kill(pid, signal.SIGKILL)
        self.killed.setdefault(region.name, set()).add(node)
        for process in self.started:
            process.poll()
        return words

    def start(self, region, node, words):
        """Starts a node that was killed. It ends with this process, as those of `portolan dev` do."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PORTOLAN_")}
        with open(os.path.join(self.node_dir(region, node), "node.log"), "a", encoding="utf-8") as log:
            self.started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=ours))

    def kill_leader(self, region):
        """SIGKILL to who leads a region, which begins again a second later; which node that was."""
        node = until(f"{region.name} has a leader", region.leading, 60)
        killed = self.killed.setdefault(region.name, set())
        if node not in killed and len(killed) == len(region.nodes) - 1 > 0:
            # `portolan dev` ends, and the link with it, when none is left of the nodes that it started itself
            node = min(killed)
            region.admin("POST", "/v1/cluster/transfer", {"to": region.admin("GET", "/v1/cluster", node=node)["node"]})
            until(f"node {node} of {region.name} leads", lambda: region.leading() == node, 30)
        words = self.kill(region, node)
        time.sleep(1)
        self.start(region, node, words)
        return node


@contextlib.contextmanager
def running(*args, keep=False, **more):
    """Two regions that are ready, and gone afterwards with their directory."""
    dev = Dev(*args, **more)
    try:
        dev.begin()
        yield dev
    finally:
        dev.end()
        if not keep:
            shutil.rmtree(dev.dir, ignore_errors=True)
