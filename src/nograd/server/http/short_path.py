"""The short path from a socket to the batcher and back: plain infer calls without an ASGI scope, cycle or task for each.

All other requests, and unusual infer calls (a chunked or compressed body, long JSON, `Expect`, HTTP/1.0, a pipelined request, a
client that does not read, accepts other encodings or requests its times), take uvicorn's ordinary path. So do all requests if
traces are sent. Both paths use the same functions and return the same bytes (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from nograd.errors import NogradError, ProtocolError, UnauthorizedError
from nograd.server.call import Call
from nograd.server.http.app import App
from nograd.server.http.bodies import BodyBuffer
from nograd.server.http.connection import BODY, HEAD, IDLE, Connection
from nograd.server.http.encodings import COMPRESSED_FROM, coding_of
from nograd.server.http.replies import JSON, OCTETS, Headers, Reply, compress_body, error_reply, infer_reply, length_header
from nograd.server.http.request_options import (
    ACCEPT_ENCODING,
    DEADLINE,
    NO_OPTIONS,
    REQUEST_ID,
    TIMING,
    RequestOptions,
    parse_options,
)
from nograd.server.protocol.binary import MOST_DIGITS, BinaryAnswer
from nograd.server.security.origins import ORIGIN
from nograd.server.telemetry.access_log import CLIENT_LEFT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from nograd.server.models.table import Find

__all__ = ["ShortPathProtocol"]

LONGEST_BODY = 65536
"""Maximum bytes of JSON; beyond it, uvicorn stops reading until the application requests more."""

OFFSET = b"inference-header-content-length"
"""Maximum bytes of a body with binary tensors, whose memory is reserved and filled as it arrives."""

UNUSUAL = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", TIMING))

LOOKED_AT = UNUSUAL | {ACCEPT_ENCODING, DEADLINE, OFFSET, ORIGIN, REQUEST_ID}


class ShortPathProtocol(Connection):
    """A connection whose infer calls of the server's models take the short path."""

    cycle: Any
    """Cycle of the newest request: uvicorn's, or an `_Exchange`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        # Unlike uvicorn, this path does not log accesses, count concurrency, or add a prefix to paths.
        is_plain = not any((self.access_log, self.root_path, self.limit_concurrency))
        self._paths = app.infer_paths if isinstance(app, App) and is_plain and app.service.tracing is None else {}
        self._service = app.service if isinstance(app, App) else None
        self._longest = app.max_body_bytes if isinstance(app, App) else 0
        self._has_cors = isinstance(app, App) and bool(app.cors)
        self._call: _Exchange | None = None
        self._length: bytes | None = None
        self._offset: bytes | None = None
        self._is_usual = True
        self._accepts: bytes | None = None
        self._has_options = False
        self._said: tuple[Any, bytes] = (None, b"")

    # -- reading a request

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.phase = HEAD
        self._messages += 1
        self._length = self._offset = None
        self._is_usual = True
        self._accepts = None
        self._has_options = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._is_usual = self._is_usual and self._length is None
            self._length = value
        elif name in LOOKED_AT:
            self._note_header(name, value)

    def _note_header(self, name: bytes, value: bytes) -> None:
        """Note a header that affects the response to an infer call, or that needs the ordinary path."""
        if name == ACCEPT_ENCODING:
            self._is_usual = self._is_usual and self._accepts is None and b";" not in value
            self._accepts = value
        elif name == OFFSET:
            self._is_usual = self._is_usual and self._offset is None
            self._offset = value
        elif name == ORIGIN:
            self._is_usual = self._is_usual and not self._has_cors
        elif name in UNUSUAL:
            self._is_usual = False
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        else:
            self._has_options = True

    def begin_request(self) -> None:
        find = self._paths.get(self.url)
        if find is not None and self._may_be_short() and (options := self._options()) is not None:
            call = Call(self._service, "http", "POST", self.url.decode("latin-1"), options=options)
            if self._may_enter(call):
                if self.client:
                    call.client = self.client[0]
                self._call = self.cycle = _Exchange(self, find, call, self._accepts, keep_alive=self.parser.should_keep_alive())
                if self._offset is not None and self._length is not None:
                    self._call.room = BodyBuffer(int(self._offset), int(self._length))
                self.phase = BODY
                return
        super().begin_request()

    def _options(self) -> RequestOptions | None:
        """Return the options in the headers; None if one is invalid: the ordinary path then returns the error."""
        if not self._has_options:
            return NO_OPTIONS
        options = parse_options(self.headers)
        try:
            options.timeout_s  # noqa: B018  it raises
        except ProtocolError:
            return None
        return options

    def _may_be_short(self) -> bool:
        length, offset, parser = self._length, self._offset, self.parser
        return (
            self._is_usual
            and length is not None
            and length.isdigit()
            and len(length) <= MOST_DIGITS
            and int(length) <= (min(self._longest, LONGEST_BODY) if offset is None else self._longest)
            and (offset is None or (offset.isdigit() and len(offset) <= MOST_DIGITS and int(offset) <= int(length)))
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
        )

    def _may_enter(self, call: Call) -> bool:
        """Return whether the request has a valid API key or needs none. Otherwise the ordinary path rejects it."""
        try:
            call.enter(self.headers, call.path)
        except UnauthorizedError:
            return False
        return True

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is not None and call is self.cycle:
            if call.room is not None:
                call.room.add(body)
            else:
                call.body = call.body + body if call.body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        call = self._call
        if call is not None and call is self.cycle and self.phase is BODY:
            self.phase = IDLE
            call.begin()
        else:
            super().on_message_complete()

    # -- end of the connection

    def abandon(self) -> None:
        if isinstance(self.cycle, _Exchange):
            self.cycle.forget()
            self._call = self.cycle = None
        else:
            super().abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.forget()
        if isinstance(self.cycle, _Exchange):
            self.cycle = None
        super().connection_lost(exc)

    # -- writing an answer

    def write(
        self,
        call: _Exchange,
        status: int,
        kind: bytes,
        body: bytes,
        headers: Headers = (),
        tensors: Sequence[memoryview | bytes] = (),
    ) -> None:
        """Write the response of a call, like uvicorn; binary tensors are not copied."""
        size = len(body) + sum(map(len, tensors))
        said, common = self._said
        now = self.server_state.default_headers  # uvicorn replaces the list every second, for the date
        if said is not now:
            common = b"".join([b"%b: %b\r\n" % header for header in now])
            self._said = now, common
        more = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b""
        end = b"\r\n" if call.keep_alive else b"connection: close\r\n\r\n"
        head = (STATUS_LINE[status], common, b"content-type: %b\r\ncontent-length: %d\r\n" % (kind, size), more, end, body)
        self._call = None
        call.response_complete = True
        call.call.finish(status, size)
        if tensors:
            self.transport.writelines([b"".join(head), *tensors])
        else:
            self.transport.write(b"".join(head))
        if not call.keep_alive:
            self.transport.close()
        self.on_response_complete()


class _Exchange:
    """One infer call on a connection, with the attributes of uvicorn's cycle that `Connection` reads."""

    __slots__ = (
        "_accept_encoding", "_cancel", "_find", "_protocol", "body", "call", "keep_alive", "response_complete", "room"
    )  # fmt: skip

    response_started = False
    """Responses are written as a whole."""

    def __init__(
        self, protocol: ShortPathProtocol, find: Find, call: Call, accept_encoding: bytes | None, *, keep_alive: bool
    ) -> None:
        self._protocol = protocol
        self._find = find
        self._accept_encoding = accept_encoding
        self._cancel: Callable[[], object] | None = None
        self.call = call
        self.body = b""
        self.room: BodyBuffer | None = None
        """Buffer of a body with binary tensors."""

        self.keep_alive = keep_alive
        self.response_complete = False

    def begin(self) -> None:
        """Answer the request: its body has arrived."""
        call = self.call
        timeout_s = call.options.timeout_s if call.options is not NO_OPTIONS else None
        call.bytes_in = len(self.body) if self.room is None else self.room.filled
        try:
            model = self._find()
            body, tail = (self.body, None) if self.room is None else self.room.body()
        except NogradError as error:  # the model was unloaded while the body arrived
            self._done(error)
            return
        cancel = model.submit(call, body, self._done, tail, timeout_s=timeout_s)
        if not self.response_complete and self._cancel is None:  # an answered exchange must not keep the model alive
            self._cancel = cancel

    def _run(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run the rest of the exchange in a task; return a function that cancels it."""

        async def rest() -> None:
            try:
                await work
            except asyncio.CancelledError:  # the client has left, or uvicorn stops after its timeout
                self._protocol.transport.close()
                raise

        task = self._protocol.loop.create_task(rest())
        tasks = self._protocol.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task.cancel

    def _done(self, answer: bytes | BinaryAnswer | Exception) -> None:
        protocol, options = self._protocol, self.call.options
        self._cancel = None
        if isinstance(answer, Exception):
            self.call.error = answer
        if protocol.transport.is_closing():  # the client has left
            self.response_complete = True
            self.call.finish(CLIENT_LEFT)
        elif isinstance(answer, bytes) and len(answer) < COMPRESSED_FROM:
            protocol.write(self, 200, JSON, answer, options.echoed if options is not NO_OPTIONS else ())
        elif isinstance(answer, Exception):
            self._write(error_reply(answer, f"POST {self.call.path}"))
        elif isinstance(answer, bytes):
            self._write(infer_reply(answer))
        else:
            headers = (*length_header(answer), *options.echoed)  # tensors are never compressed
            protocol.write(self, 200, OCTETS, answer.json, headers, answer.tensors)

    def _write(self, reply: Reply) -> None:
        """Write an error or a long answer; the latter is compressed if the client accepts that."""
        coding = coding_of(self._accept_encoding, reply.content_type, len(reply.body))
        if coding.name:
            self._cancel = self._run(self._write_compressed(reply))
        else:
            self._write_as_is(reply, reply.body, coding.headers)

    async def _write_compressed(self, reply: Reply) -> None:
        body, coding = await compress_body(reply.body, reply.content_type, self._accept_encoding)
        if not self._protocol.transport.is_closing():
            self._write_as_is(reply, body, coding)

    def _write_as_is(self, reply: Reply, body: bytes, coding: Headers) -> None:
        headers = (*reply.headers, *coding, *self.call.options.echoed)
        self._protocol.write(self, reply.status, reply.content_type, body, headers)

    def forget(self) -> None:
        """Cancel the work: the client has left."""
        if not self.response_complete:
            self.call.finish(CLIENT_LEFT)
        self.response_complete = True
        if self._cancel is not None:
            self._cancel()
