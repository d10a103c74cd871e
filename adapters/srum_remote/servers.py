"""Several servers with the same model, used in turn; one is the simplest case.

Each has a limited number of concurrent requests, so that further requests wait here and not in the server's queue.
A failed server is paused, longer each time, and then tested with a single request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import openai
from attrs import define, field

from srum_remote.wire import RequestFailed, Stop, Wire, own_pause, requested_pause

T = TypeVar("T")
FIRST_REST, LONGEST_REST = 5.0, 300.0
"""Seconds for which a server of several is paused after its first failure in a row, and at most."""
CHECK_EVERY = 0.2
"""Seconds between checks of a waiting thread whether to stop."""
log = logging.getLogger("srum")

Send = Callable[[openai.OpenAI], Any]


@define(eq=False)
class Server:
    """One server and its state."""

    wire: Wire
    where: str
    """Its URL for messages."""
    under_way: int = 0
    failures: int = 0
    """Consecutive pauses without an answer in between."""
    wakes: float = 0.0
    """End of its pause, on the monotonic clock; 0 = not paused."""
    doubtful: bool = False
    """It has failed since its last answer, so it may have been restarted."""


@define(eq=False)
class Servers:
    """Sends requests to `servers` in turn, at most `room` at once to each, with up to `retries` retries."""

    servers: Sequence[Server]
    room: int
    retries: int
    verify: Callable[[Server, Stop], None] | None = None
    """Called before a request to a doubtful server; raises what makes it unusable."""
    _next: int = field(default=0, init=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)

    @property
    def several(self) -> bool:
        return len(self.servers) > 1

    def ask(self, send: Send, read: Callable[[Any], T], stop: Stop) -> T:
        """Return `read` of the JSON that `send` receives; `read` raises ValueError for JSON of another shape.

        Retries after a lost connection, a timeout, 408, 409, 429, 5xx and invalid replies: on the same server with
        growing pauses, or on the next one. (Here and not in the client, whose pauses cannot be interrupted, and
        which does not validate replies.) Raises RequestFailed, Stopped."""
        for attempt in count():
            with self._turn(stop) as server:
                try:
                    return self._ask(server, send, read, stop)
                except RequestFailed as trouble:
                    trouble.attempts = attempt + 1
                    # all of several servers have failed more often in a row than a request is retried
                    hopeless = self.several and all(each.failures > self.retries for each in self.servers)
                    if trouble.final or attempt == self.retries or hopeless:
                        raise
                    pause = 0.0 if self.several else own_pause(attempt, trouble)
            if pause:
                stop.pause(pause)
        raise AssertionError("count() does not end")

    def survey(self, send: Send, read: Callable[[Any], T], stop: Stop) -> dict[str, T]:
        """The reply of each server, by its URL for messages. Servers without a reply are left out, unless all
        are, and doubtful ones: they are verified before their next request. Raises RequestFailed, Stopped."""
        replies = {}
        for server in self.servers if self.several else ():
            if server.doubtful:
                continue
            try:
                replies[server.where] = self._ask(server, send, read, stop)
            except RequestFailed as trouble:
                if trouble.final:
                    raise
        return replies or {self.servers[0].where: self.ask(send, read, stop)}

    def _ask(self, server: Server, send: Send, read: Callable[[Any], T], stop: Stop) -> T:
        """Send once, and update the server's state."""
        began = time.monotonic()
        try:
            if server.doubtful and self.verify is not None:
                self.verify(server, stop)
            reply = server.wire.attempt(send, read, stop)
        except RequestFailed as trouble:
            trouble.where = server.where
            server.doubtful = server.doubtful or not trouble.final
            if self.several and not trouble.final:
                self._pause(server, trouble, began)
            raise
        self._resume(server)
        return reply

    # ---- choosing a server ------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, stop: Stop) -> Iterator[Server]:
        """The next server that is not paused and has a free slot; waits for one. Raises Stopped."""
        with self._changed:
            while (server := self._free()) is None:
                self._changed.wait(CHECK_EVERY)
                stop.check()
            server.under_way += 1
            self._next = (self.servers.index(server) + 1) % len(self.servers)
        try:
            yield server
        finally:
            with self._changed:
                server.under_way -= 1
                self._changed.notify_all()

    def _free(self) -> Server | None:
        now = time.monotonic()
        in_turn = [*self.servers[self._next :], *self.servers[: self._next]]
        fit = (each for each in in_turn if each.wakes <= now)
        return next((each for each in fit if each.under_way < (1 if each.failures else self.room)), None)

    def _pause(self, server: Server, trouble: RequestFailed, began: float) -> None:
        """Pause the server; failures of concurrent requests count as one."""
        with self._changed:
            if began < server.wakes:
                return
            server.failures += 1
            rest = max(min(FIRST_REST * 2 ** (server.failures - 1), LONGEST_REST), requested_pause(trouble))
            server.wakes = time.monotonic() + rest
        log.warning("The server at %s %s. It is paused for %g seconds.", server.where, trouble.why, rest)

    def _resume(self, server: Server) -> None:
        with self._changed:
            back, server.failures, server.wakes, server.doubtful = server.failures > 0, 0, 0.0, False
            self._changed.notify_all()
        if back:
            log.warning("The server at %s answers again.", server.where)
