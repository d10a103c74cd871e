"""A chat server on loopback that does what a test says, and the ways of misbehaving that we could think of."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Act = Callable[["Handler"], None]
"""What to do with a request."""


class Handler(BaseHTTPRequestHandler):
    """Notes what is asked, and then does what the test says."""

    server: Server
    protocol_version = "HTTP/1.1"
    body: Any = None

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.take(self)

    def do_GET(self) -> None:
        self.server.take(self)

    def reply(self, status: int, body: bytes | str, length: int | None = None, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def say(self, text: Any, finish: str = "stop", **more: Any) -> None:
        message = {"role": "assistant", "content": text, **more}
        self.reply(200, json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}))

    def say_as(self, model: str, text: str) -> None:
        """With the name of the model that answers."""
        self.reply(200, json.dumps({"model": model, "choices": [{"message": {"content": text}}]}))

    def asked(self) -> str:
        """The text of the question."""
        text: str = self.body["messages"][0]["content"][1]["text"]
        return text

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """`act(handler)` answers; `acts` holds what to do first, one for each request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.act: Act = echo
        self.acts: list[Act] = []
        self.taken: list[Handler] = []
        self.closing = threading.Event()
        self.in_flight = self.most = self.tired = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> list[str]:
        return [handler.asked() for handler in self.taken if handler.body]

    def take(self, handler: Handler) -> None:
        with self.lock:
            self.taken.append(handler)
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            act = self.acts.pop(0) if self.acts else self.act
        try:
            act(handler)
        finally:
            with self.lock:
                self.in_flight -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what this file is about


@contextmanager
def serving() -> Iterator[Server]:
    """A server at work, closed at the end."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def forget_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the addresses and keys of the environment out of a test."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def echo(handler: Handler) -> None:
    handler.say(f"answer to {handler.asked()}")


# ---- acts ------------------------------------------------------------------------------------------------------------


def trickle(handler: Handler, byte: bytes) -> None:
    for _ in range(100):
        if handler.server.closing.wait(0.02):
            return
        handler.wfile.write(byte)


def trickle_body(handler: Handler) -> None:
    """A byte now and then: no read ever waits long, and the reply never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    trickle(handler, b" ")


def trickle_until_closed(handler: Handler) -> None:
    """The same without a length: the end of the connection counts as the end of the reply."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message": {"content": "x"}}]}')
    trickle(handler, b" ")


def trickle_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    trickle(handler, b"x")


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(5000):
        handler.wfile.write(b"1000\r\n" + b" " * 4096 + b"\r\n")


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def with_status(status: int, body: str = "", **headers: str) -> Act:
    return lambda handler: handler.reply(status, body, **headers)


def with_body(body: str | bytes, **headers: str) -> Act:
    return lambda handler: handler.reply(200, body, **headers)


def saying(text: Any, finish: str = "stop", **more: Any) -> Act:
    return lambda handler: handler.say(text, finish, **more)


def silent(handler: Handler) -> None:
    """No answer, until the test is over or the server tires of it."""
    if not handler.server.closing.wait(10):
        handler.server.tired += 1
