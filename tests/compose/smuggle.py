#!/usr/bin/env python3
"""Sends messages with two readings to a proxy in front of the registry, and one that claims to come from elsewhere.

B14: smuggle.py HOST PORT MARK. The answer must be 4xx, or 501 for a coding nobody knows, or a closed connection; and
there must be one. What hides behind a message carries MARK in its path: the caller looks for it in the nodes' access
logs, where it would mean that proxy and node read the message differently.
"""
import socket
import sys

HOST, PORT, MARK = sys.argv[1], int(sys.argv[2]), sys.argv[3]
BARE_LF = "chunk extension with LF"
SEEN = "GET /v2/seen/tags/list HTTP/1.1\r\nHost: r\r\n\r\n"
HIDDEN = f"GET /v2/{MARK}/tags/list HTTP/1.1\r\nHost: r\r\n\r\n"


def post(*headers, body="", method="POST", path="/v2/x/blobs/uploads/"):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{PORT}", *headers]
    return "\r\n".join(lines) + "\r\n\r\n" + body


CASES = {
    "length and chunked": post("Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n" + HIDDEN),
    "chunked and length": post("Transfer-Encoding: chunked", f"Content-Length: {5 + len(HIDDEN)}", body="0\r\n\r\n" + HIDDEN),
    "two lengths": post("Content-Length: 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "a list of lengths": post(f"Content-Length: 0, {len(HIDDEN)}", body=HIDDEN),
    "length with a sign": post("Content-Length: +5", body="abcde" + HIDDEN),
    "negative length": post("Content-Length: -1", body=HIDDEN),
    "space before the colon": post("Content-Length : 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "unknown coding": post("Transfer-Encoding: xchunked", body="0\r\n\r\n" + HIDDEN),
    "chunked twice": post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked, identity", body="0\r\n\r\n" + HIDDEN),
    "chunk size with a sign": post("Transfer-Encoding: chunked", body="+5\r\nabcde\r\n0\r\n\r\n" + HIDDEN),
    "chunk size not hexadecimal": post("Transfer-Encoding: chunked", body="0x5\r\nabcde\r\n0\r\n\r\n" + HIDDEN),
    # proxies may take a bare LF for an end of line (RFC 9112 2.2). Then what follows is a request of its own, also for
    # the client, who gets an answer to it: one reading all the same.
    BARE_LF: post("Transfer-Encoding: chunked", body="5;a\nabcde\r\n0\r\n\r\n" + SEEN),
    "folded header": post("X-A: b\r\n Transfer-Encoding: chunked", "Content-Length: 0\r\n\t5", body=HIDDEN),
    "NUL in a header": post("X-A: \0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "body on GET": post(f"Content-Length: {len(HIDDEN)}", method="GET", path="/v2/", body=HIDDEN),
    "chunked body on GET": post(
        "Transfer-Encoding: chunked", method="GET", path="/v2/", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"
    ),
}


def exchange(text, patience_s=3):
    """All that comes back, and whether the other side closed the connection."""
    with socket.create_connection((HOST, PORT), timeout=patience_s) as connection:
        connection.sendall(text.encode("latin-1"))
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
        except TimeoutError:
            return answer, False
    return answer, True


def status_of(answer):
    return answer.split(b" ", 2)[1].decode() if answer else "none"


def main():
    answer, _ = exchange(post(method="GET", path="/v2/"), 1)
    if status_of(answer) != "401":
        print(f"  nobody answers as a registry does: {answer[:80]}")
        return 1
    wrong = 0
    for name, text in CASES.items():
        answer, closed = exchange(text)
        status, count = status_of(answer), answer.count(b"HTTP/1.1 ") + answer.count(b"HTTP/1.0 ")
        most = 2 if name == BARE_LF else 1
        good = count <= most and (status in ("none", "501") or status.startswith("4")) and (closed or count == most)
        wrong += not good
        print(f"  {'ok ' if good else 'BAD'} {name}: {status}, {count} answers, {'closed' if closed else 'open'}")
    return wrong


sys.exit(1 if main() else 0)
