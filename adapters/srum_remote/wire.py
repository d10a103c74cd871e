"""Requests bounded in time and bytes, never redirected, and interrupted when the caller stops.

Needs the extra srum[remote]. httpx bounds every single read, so a server that sends single bytes could keep a request
open indefinitely. Here each attempt has its own connection, and a timer (or the caller, from another thread) closes it,
which wakes the waiting thread: apart from name resolution, nothing exceeds its time.
"""

from __future__ import annotations

import email.utils
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx
import openai

from srum_core.errors import clean

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_REQUESTED = 0.5, 30.0, 120.0
"""Seconds before the first retry, the longest own pause, and the longest that a server may request."""
_chance = random.Random()  # its own, so that a run's random numbers do not depend on retries


class Stopped(Exception):
    """The caller has stopped."""


class RequestFailed(Exception):
    """A failed attempt: the cause (the predicate of a sentence about the server), and the fix."""

    def __init__(
        self, why: str, advice: str, *, final: bool = False, wait: float = 0.0, status: int = 0, body: str = ""
    ) -> None:
        super().__init__(why)
        self.why, self.advice, self.final, self.wait = why, advice, final, wait
        self.status, self.body = status, body
        """Of the HTTP reply; the body is unfiltered, not for messages."""
        self.attempts = 1
        self.where = ""
        """The URL of the server for messages."""


class _Connection:
    """The connection of one attempt, which other threads may close; `late`: it timed out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = self.late = False

    def opened(self, new: socket.socket) -> None:
        with self._lock:
            self._socket = new
            if self._cut:
                _shut(new)

    def cut(self, late: bool = False) -> None:
        with self._lock:
            self.late = self.late or (late and not self._cut)
            self._cut = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connection: socket.socket) -> None:
    """Shut down both directions, below TLS; the reading thread receives the end of the stream."""
    with suppress(OSError):  # closed already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Stop:
    """Stops all requests of one call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._open: set[_Connection] = set()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            for connection in self._open:
                connection.cut()

    @property
    def over(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        if self.over:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait, at most until the stop. Raises Stopped."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def connection(self, seconds: float) -> Iterator[_Connection]:
        """One attempt's connection, closed after `seconds` or by `set`."""
        connection = _Connection()
        with self._lock:
            self.check()
            self._open.add(connection)
        timer = threading.Timer(seconds, connection.cut, kwargs={"late": True})
        timer.daemon = True
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(connection)


class Wire:
    """An OpenAI client whose every request is bounded."""

    def __init__(self, url: str, key: str, timeout: float, max_reply: int, setting: Callable[[str], str]) -> None:
        """`setting` returns an option's name for messages."""
        self._timeout, self._max_reply, self._setting = timeout, max_reply, setting
        self._here = threading.local()
        client: Any = httpx.Client(
            timeout=timeout,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            event_hooks={"request": [self._watch], "response": [self._bound]},
        )
        headers = {"Accept-Encoding": "identity"}
        self.client = openai.OpenAI(
            base_url=url, api_key=key, http_client=client, timeout=timeout, max_retries=0, default_headers=headers
        )

    def attempt(self, send: Callable[[openai.OpenAI], Any], read: Callable[[Any], T], stop: Stop) -> T:
        """Return `read` of the JSON that `send` receives; `read` raises ValueError for JSON of another shape. Sent
        once. Raises RequestFailed, Stopped."""
        with stop.connection(self._timeout) as connection:
            self._here.connection = connection
            try:
                body = send(self.client).http_response.content
            except openai.APIStatusError as error:
                raise self._refused(error.response) from None
            except (openai.APIConnectionError, httpx.HTTPError) as error:
                stop.check()
                if isinstance(error.__cause__, RequestFailed):  # some versions of the client wrap foreign exceptions
                    raise error.__cause__ from None
                if connection.late or isinstance(error, openai.APITimeoutError):
                    raise self._late() from None
                cause = error.__cause__ or error
                raise RequestFailed(
                    f"lost or refused the connection ({shown(cause) or type(cause).__name__})",
                    "Check whether it is running, and its log.",
                ) from None
            stop.check()
            if connection.late:  # closing the stream here can look like the end of a reply
                raise self._late()
        try:
            return read(_json(body))
        except ValueError as error:
            begins = f': "{shown(body)}"' if body else ""
            raise RequestFailed(f"sent {error}{begins}", "Check that this is an OpenAI-compatible server.") from None

    def _late(self) -> RequestFailed:
        return RequestFailed(
            f"gave no complete reply within {self._timeout:g} seconds",
            f"Raise {self._setting('timeout')}, or lower {self._setting('concurrency')}.",
        )

    def _refused(self, response: Any) -> RequestFailed:
        status = response.status_code
        why = f'returned {status} {shown(response.reason_phrase)}: "{shown(response.content)}"'
        if status < 400:
            to = shown(response.headers.get("location", ""))
            return RequestFailed(f"returned {status}, a redirect ({to})", "Redirects are not followed.", final=True)
        again = status in (408, 409, 429) or status >= 500
        advice = self._advice(status) or ("Check its log." if again else "It does not accept the request.")
        wait, body = _retry_after(response.headers.get("retry-after", "")), response.content.decode(errors="replace")
        return RequestFailed(why, advice, final=not again, wait=wait, status=status, body=body)

    def _advice(self, status: int) -> str:
        """The fix for a specific status; "" = none."""
        setting = self._setting
        if status in (401, 403):
            return f"Put a key that it accepts into the environment variable that {setting('key_env')} names."
        if status == 404:
            return f'Check {setting("url")} (it usually ends in "/v1") and {setting("model")}.'
        return f"Lower {setting('concurrency')}, or raise {setting('retries')}." if status == 429 else ""

    # ---- httpx's hooks, in the thread of the request ----------------------------------------------------------------

    def _watch(self, request: httpx.Request) -> None:
        connection = self._here.connection

        def trace(event: str, info: dict[str, Any]) -> None:
            # TLS wraps the socket in a new one; the last one is in use.
            if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                connection.opened(info["return_value"].get_extra_info("socket"))

        request.extensions["trace"] = trace

    def _bound(self, response: httpx.Response) -> None:
        # Compressed replies could grow without bound when unpacked; none was requested.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RequestFailed("sent a compressed reply", "None was requested; check what answers there.", final=True)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Bounded(response.stream, self._max_reply, self._setting("max_reply"))


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, most: int, setting: str) -> None:
        self._stream, self._most, self._setting = stream, most, setting

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        for chunk in self._stream:
            total += len(chunk)
            if total > self._most:
                raise RequestFailed(
                    f"sent more than {self._most} bytes for one reply",
                    f"Raise {self._setting}, or check what answers there.",
                    final=True,
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def shown(text: object) -> str:
    """The start of a received text, cleaned for messages."""
    return clean(text, 200)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("something that is not JSON" if body else "an empty reply") from None


def own_pause(attempt: int, trouble: RequestFailed) -> float:
    """Seconds to wait after the `attempt`-th attempt (from 0) failed, where there is no other server."""
    own: float = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * _chance.uniform(0.75, 1)
    return max(own, requested_pause(trouble))


def requested_pause(trouble: RequestFailed) -> float:
    """Seconds that the server requested, up to a limit."""
    return min(trouble.wait, LONGEST_REQUESTED)


def _retry_after(header: str) -> float:
    """Seconds that Retry-After requests, as a number or as a date; 0 where it is invalid."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
