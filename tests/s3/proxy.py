#!/usr/bin/env python3
"""proxy.py LISTEN UPSTREAM: passes HTTP on to an S3 server, and breaks on demand.

POST /-/fault with one of these as JSON; each ends by itself after "count" requests, if it is given:
  {"kind": "none"}
  {"kind": "outage"}        connections are closed without an answer
  {"kind": "silence"}       requests are taken and never answered
  {"kind": "slow-down"}     503 SlowDown
  {"kind": "lost-answer"}   the request is carried out, and the connection closed without an answer
"method" and "query" (a part of the query string) narrow a fault to some requests. GET /-/count tells how many requests
of each method were passed on, and how many a fault met.
"""
import collections
import http.client
import http.server
import json
import sys
import threading
import time

LOCK = threading.Lock()
FAULT = {"kind": "none"}
COUNT = collections.Counter()
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


def fault_for(method, path):
    """The fault that meets a request, counted down."""
    with LOCK:
        kind, query = FAULT.get("kind"), path.partition("?")[2]
        if kind == "none" or FAULT.get("method", method) != method or FAULT.get("query", "") not in query:
            COUNT[method] += 1
            return "none"
        COUNT["fault"] += 1
        if "count" in FAULT:
            FAULT["count"] -= 1
            if FAULT["count"] <= 0:
                FAULT["kind"] = "none"
        return kind


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def control(self, body):
        if self.path == "/-/fault":
            with LOCK:
                FAULT.clear()
                FAULT.update(json.loads(body))
        self.answer(200, json.dumps(COUNT).encode())

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/-/"):
            return self.control(body)
        kind = fault_for(self.command, self.path)
        if kind in ("outage", "silence"):
            time.sleep(0 if kind == "outage" else 60)
            self.close_connection = True
            return None
        if kind == "slow-down":
            return self.answer(503, SLOW_DOWN, [("Content-Type", "application/xml")])
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            whole = answer.read()
        finally:
            upstream.close()
        if kind == "lost-answer":
            self.close_connection = True
            return None
        skipped = ("content-length", "transfer-encoding", "connection")
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in skipped]
        if self.command == "HEAD":
            self.send_response_only(answer.status)
            for name, value in [*headers, ("Content-Length", answer.getheader("Content-Length") or "0")]:
                self.send_header(name, value)
            self.end_headers()
            return None
        return self.answer(answer.status, whole, headers)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = take


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        """Clients that break off are what is tested here."""


if __name__ == "__main__":
    host, port = sys.argv[1].rsplit(":", 1)
    server = Server((host, int(port)), Proxy)
    server.upstream = sys.argv[2]
    server.serve_forever()
