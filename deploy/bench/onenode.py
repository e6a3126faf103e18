"""One node of ours under measurement, on loopback, and the report of what was measured."""
import json, os, subprocess, sys, time, urllib.error, urllib.request


class Report:
    """Rows under a label, written to a file after each."""

    def __init__(self, path, meta):
        self.path, self.out = path, {"meta": {**meta, "load1": os.getloadavg()[0]}, "rows": []}

    def row(self, label, **kw):
        self.out["rows"].append({"label": label, **kw})
        print(label, kw, flush=True)
        with open(self.path, "w") as f:
            json.dump(self.out, f, indent=1)


class Node:
    """A node as `portolan server` starts it, with everything it keeps in `dir`, which is used again when it exists."""

    def __init__(self, portolan, dir, port):
        os.makedirs(dir, exist_ok=True)
        self.portolan, self.port = portolan, port
        self.data, self.key, self.log = (os.path.join(dir, n) for n in ("data", "root-key", "log"))
        self.url, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 3}"
        if not os.path.exists(self.key):
            with open(os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
                f.write(f"PTLN{os.urandom(8).hex().upper()}:{os.urandom(24).hex()}\n")

    def start(self, *settings):
        """A process that need not be ready yet."""
        doors = [f"--set=listen.{d}=127.0.0.1:{self.port + i}" for i, d in enumerate(("public", "raft", "blob", "admin"))]
        more = [f"--set={s}" for s in (f"auth.root_key_file={self.key}", "log.access=false", *settings)]
        return subprocess.Popen([self.portolan, "server", "--data-dir", self.data, *doors, *more], stdout=subprocess.DEVNULL, stderr=open(self.log, "a"))

    def ready(self, process, limit=600):
        """Waits for /readyz; after how many seconds."""
        t0 = time.time()
        while time.time() - t0 < limit:
            if process.poll() is not None:
                sys.exit(f"the node ended by itself: {open(self.log).read()[-800:]}")
            try:
                if urllib.request.urlopen(self.admin + "/readyz", timeout=1).status == 200:
                    return time.time() - t0
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.02)
        sys.exit("the node was not ready in time")

    def stop(self, process):
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()

    def bench(self, *args):
        """`portolan bench`, begun; `ended` has its report."""
        return subprocess.Popen([self.portolan, "bench", "-o", "json", "--registry", self.url, "--credentials-file", self.key, *args],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, limit=7200):
    told, wrong = process.communicate(timeout=limit)
    if process.returncode:
        sys.exit(f"bench {process.args[7:]}: {wrong[-400:]}")
    return json.loads(told)
