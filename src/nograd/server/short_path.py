"""The short path from a socket to the batcher and back: plain infer calls without an ASGI scope, cycle or task for each.

Everything else, and whatever is unusual about an infer call (a body in chunks, compressed, or long; `Expect`; HTTP/1.0; a
pipelined request; a client that does not read), goes uvicorn's ordinary way. Both ways are answered by the same functions,
with the same bytes (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nograd.server.binary import BinaryAnswer
from nograd.server.http import JSON, App, Headers, answer_reply, error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from nograd.server.served import ServedModel

__all__ = ["ShortPathProtocol"]

LONGEST_BODY = 65536
"""Bytes; uvicorn stops reading beyond, until the application asks for more."""

UNUSUAL = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", b"inference-header-content-length"))


class ShortPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol; infer calls of a server's models take the short path."""

    cycle: Any
    """The newest request's: uvicorn's, or a `_Call`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        # What uvicorn would do on the way, and this does not: log accesses, count concurrency, add a prefix to paths.
        is_plain = not any((self.access_log, self.root_path, self.limit_concurrency))
        self._paths = app.infer_paths if isinstance(app, App) and is_plain else {}
        self._longest = min(LONGEST_BODY, app.max_body_bytes) if isinstance(app, App) else 0
        self._call: _Call | None = None
        self._length: bytes | None = None
        self._is_usual = True
        self._said: tuple[Any, bytes] = (None, b"")

    # -- reading a request

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._length = None
        self._is_usual = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._is_usual = self._is_usual and self._length is None
            self._length = value
        elif name in UNUSUAL:
            self._is_usual = False
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        model = self._paths.get(self.url)
        if model is not None and self._may_be_short():
            self._call = self.cycle = _Call(self, model, self.url, keep_alive=self.parser.should_keep_alive())
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _may_be_short(self) -> bool:
        length, parser = self._length, self.parser
        return (
            self._is_usual
            and length is not None
            and length.isdigit()
            and int(length) <= self._longest
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
        )

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is not None and call is self.cycle:
            call.body = call.body + body if call.body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        call = self._call
        if call is not None and call is self.cycle:
            call.begin()
        else:
            super().on_message_complete()

    # -- the connection's end

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.forget()
        if isinstance(self.cycle, _Call):
            self.cycle = None
        super().connection_lost(exc)

    # -- writing an answer

    def write(self, call: _Call, status: int, kind: bytes, body: bytes, headers: Headers = ()) -> None:
        """Write the answer of a call, as uvicorn would have."""
        said, common = self._said
        now = self.server_state.default_headers  # another list every second, for the date
        if said is not now:
            common = b"".join([b"%b: %b\r\n" % header for header in now])
            self._said = now, common
        more = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b""
        end = b"\r\n" if call.keep_alive else b"connection: close\r\n\r\n"
        head = (STATUS_LINE[status], common, b"content-type: %b\r\ncontent-length: %d\r\n" % (kind, len(body)), more, end, body)
        self._call = None
        call.response_complete = True
        self.transport.write(b"".join(head))
        if not call.keep_alive:
            self.transport.close()
        self.on_response_complete()


class _Call:
    """One infer call; stands where uvicorn has its cycle, and has of it what `HttpToolsProtocol` looks at."""

    __slots__ = ("_forget", "_model", "_path", "_protocol", "body", "keep_alive", "response_complete")

    def __init__(self, protocol: ShortPathProtocol, model: ServedModel, path: bytes, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._model = model
        self._path = path
        self._forget: Callable[[], object] | None = None
        self.body = b""
        self.keep_alive = keep_alive
        self.response_complete = False

    def begin(self) -> None:
        """Have it answered: its body was read."""
        forget: Callable[[], object] | None = self._model.submit(self.body, self._done)
        if forget is None:
            task = self._protocol.loop.create_task(self._infer())
            tasks = self._protocol.tasks
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            forget = task.cancel
        self._forget = forget

    async def _infer(self) -> None:
        answer: bytes | BinaryAnswer | Exception
        try:
            answer = await self._model.infer(self.body)
        except Exception as error:  # noqa: BLE001  told to the client
            answer = error
        except asyncio.CancelledError:  # the client has left; or uvicorn ends, and has waited long enough
            self._protocol.transport.close()
            raise
        self._done(answer)

    def _done(self, answer: bytes | BinaryAnswer | Exception) -> None:
        protocol = self._protocol
        if protocol.transport.is_closing():  # the client has left
            self.response_complete = True
        elif isinstance(answer, bytes):
            protocol.write(self, 200, JSON, answer)
        elif isinstance(answer, BinaryAnswer):
            (status, kind, body), headers = answer_reply(answer)
            protocol.write(self, status, kind, body, headers)
        else:
            (status, kind, body), headers = error_reply(answer, f"POST {self._path.decode('latin-1')}")
            protocol.write(self, status, kind, body, headers)

    def forget(self) -> None:
        """The client has left: nothing is computed for nobody."""
        self.response_complete = True
        if self._forget is not None:
            self._forget()
