#!/usr/bin/env python3
"""Stands before nodes and writes down what clients ask and with which credential: one line of JSON a request.

front.py LOG [--tls CERT KEY] [--ca FILE] [--say-https] [--agent FRONT=NAME] FRONT...
FRONT is NAME=HOST:PORT=NODE:PORT or NAME=HOST:PORT=NODE:PORT=SOURCE, with the address it calls the node from.
Clients speak HTTPS with --tls; nodes do with --ca, and with --say-https they are told that clients do.
With --agent a front tells its node that clients call themselves so.
"""
import argparse
import http.client
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}
CHUNK = 1 << 16


class Front(BaseHTTPRequestHandler):
    """One request after the other of a connection; each is passed on by a connection of its own."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def pass_on(self):
        front = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(self.chunks())
        node, code, length = front.connect(), 0, 0
        try:
            headers = [(name, value) for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP]
            node.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                is_agent = name.lower() == "user-agent"
                node.putheader(name, front.agent if is_agent and front.agent else value)
            if front.options.say_https:
                node.putheader("X-Forwarded-Proto", "https")
            if body and "Content-Length" not in self.headers:
                node.putheader("Content-Length", str(len(body)))
            node.endheaders(body or None)
            answer = node.getresponse()
            code, length = answer.status, self.answer(answer)
        except (OSError, http.client.HTTPException) as error:
            self.close_connection = True
            print(f"{front.name}: {self.command} {self.path}: {error!r}", file=sys.stderr, flush=True)
        finally:
            node.close()
            front.note(self, code, length)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, answer):
        """Hands an answer on as it comes; returns how many bytes of body there were."""
        self.send_response_only(answer.status)
        has_length = False
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                has_length |= name.lower() == "content-length"
                self.send_header(name, value)
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        if has_body and not has_length:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while has_body and (chunk := answer.read1(CHUNK)):
            self.wfile.write(chunk)
            sent += len(chunk)
        return sent


class Server(ThreadingHTTPServer):
    """A front: where it listens, which node is behind it."""

    daemon_threads = True
    request_queue_size = 128
    log_lock = threading.Lock()

    def __init__(self, text, options, log):
        self.name, listen, node, *source = text.split("=")
        self.options, self.log = options, log
        self.node, self.source = address(node), (source[0], 0) if source else None
        self.trust = ssl.create_default_context(cafile=options.ca) if options.ca else None
        super().__init__(address(listen), Front)
        masked, _, agent = (options.agent or "").partition("=")
        self.agent = agent if masked == self.name else None
        self.tls = None
        if options.tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*options.tls)

    def finish_request(self, request, client_address):
        """In the connection's own thread: a client that does not finish its handshake holds nobody up."""
        try:
            request.settimeout(60)
            wrapped = self.tls.wrap_socket(request, server_side=True) if self.tls else request
        except (ssl.SSLError, OSError):
            return
        super().finish_request(wrapped, client_address)
        if self.tls:
            wrapped.close()

    def handle_error(self, *of):
        """Clients that go away are no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*of)

    def connect(self):
        host, port = self.node
        if self.trust:
            return http.client.HTTPSConnection(host, port, timeout=60, source_address=self.source, context=self.trust)
        return http.client.HTTPConnection(host, port, timeout=60, source_address=self.source)

    def note(self, request, code, length):
        path, _, query = request.path.partition("?")
        line = {
            "front": self.name, "method": request.command, "path": path, "query": query, "status": code, "bytes": length,
            "headers": {name.lower(): value for name, value in request.headers.items()},
        }
        with self.log_lock:
            print(json.dumps(line), file=self.log, flush=True)


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--ca")
    parser.add_argument("--say-https", action="store_true")
    parser.add_argument("--agent")
    parser.add_argument("fronts", nargs="+")
    options = parser.parse_args()
    with open(options.log, "a", encoding="utf-8") as log:
        servers = [Server(text, options, log) for text in options.fronts]
        threads = [threading.Thread(target=server.serve_forever) for server in servers]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        for thread in threads:
            thread.join()


main()
