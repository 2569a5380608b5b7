"""The short path from a socket to the batcher and back: plain infer calls without an ASGI scope, cycle or task for each.

Everything else, and whatever is unusual about an infer call (a body in chunks, compressed, or JSON that is long; `Expect`;
HTTP/1.0; a pipelined request; a client that does not read, that weighs encodings, or wants to know its times), goes uvicorn's
ordinary way; so does all where traces are sent. Both ways are answered by the same functions, with the same bytes
(docs/adr/0010).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nograd.errors import NogradError, ProtocolError, UnauthorizedError
from nograd.server.access import CLIENT_LEFT, Access, sentence
from nograd.server.asked import ACCEPTED, DEADLINE, PLAIN, REQUEST_ID, TIMING, Asked, asked_of
from nograd.server.binary import MOST_DIGITS, BinaryAnswer
from nograd.server.bodies import Room
from nograd.server.encodings import COMPRESSED_FROM, coding_of
from nograd.server.http import JSON, OCTETS, App, Headers, Reply, answer_reply, encoded, error_reply, header_length

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from nograd.server.served import ServedModel
    from nograd.server.table import Find

__all__ = ["ShortPathProtocol"]

LONGEST_BODY = 65536
"""Bytes of JSON; uvicorn stops reading beyond, until the application asks for more."""

OFFSET = b"inference-header-content-length"
"""A body with tensors in binary: its memory is reserved, and filled as it comes, however long it is."""

UNUSUAL = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", TIMING))

LOOKED_AT = UNUSUAL | {ACCEPTED, DEADLINE, OFFSET, REQUEST_ID}


class ShortPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol; infer calls of a server's models take the short path."""

    cycle: Any
    """The newest request's: uvicorn's, or a `_Call`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        # What uvicorn would do on the way, and this does not: log accesses, count concurrency, add a prefix to paths.
        is_plain = not any((self.access_log, self.root_path, self.limit_concurrency))
        self._paths = app.infer_paths if isinstance(app, App) and is_plain and app.service.tracing is None else {}
        self._service = app.service if isinstance(app, App) else None
        self._longest = app.max_body_bytes if isinstance(app, App) else 0
        self._call: _Call | None = None
        self._length: bytes | None = None
        self._offset: bytes | None = None
        self._is_usual = True
        self._accepts: bytes | None = None
        self._asks = False
        self._key: str | None = None
        self._said: tuple[Any, bytes] = (None, b"")

    # -- reading a request

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._length = self._offset = None
        self._is_usual = True
        self._accepts = None
        self._asks = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._is_usual = self._is_usual and self._length is None
            self._length = value
        elif name in LOOKED_AT:
            self._look_at(name, value)

    def _look_at(self, name: bytes, value: bytes) -> None:
        """Note a header that says how an infer call is to be answered, or that it is none of the usual ones."""
        if name == ACCEPTED:
            self._is_usual = self._is_usual and self._accepts is None and b";" not in value
            self._accepts = value
        elif name == OFFSET:
            self._is_usual = self._is_usual and self._offset is None
            self._offset = value
        elif name in UNUSUAL:
            self._is_usual = False
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        else:
            self._asks = True

    def on_headers_complete(self) -> None:
        find = self._paths.get(self.url)
        if find is not None and self._may_be_short() and (asked := self._asked()) is not None and self._may_enter():
            keep_alive = self.parser.should_keep_alive()
            self._call = self.cycle = _Call(self, find, self.url, asked, self._accepts, keep_alive=keep_alive)
            self._call.key = self._key
            if self._offset is not None and self._length is not None:
                self._call.room = Room(int(self._offset), int(self._length))
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _asked(self) -> Asked | None:
        """Return what the headers ask for; None where that is a mistake, of which the ordinary way tells."""
        if not self._asks:
            return PLAIN
        asked = asked_of(self.headers)
        try:
            asked.timeout_s  # noqa: B018  it raises
        except ProtocolError:
            return None
        return asked

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

    def _may_enter(self) -> bool:
        """True with an API key, or where none is needed; without one the ordinary way refuses."""
        if self._service is None or self._service.door.is_open:
            return True
        try:
            self._key = self._service.door.enter(self.headers, self.url.decode("latin-1"))
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

    def write(
        self,
        call: _Call,
        status: int,
        kind: bytes,
        body: bytes,
        headers: Headers = (),
        tensors: Sequence[memoryview | bytes] = (),
    ) -> None:
        """Write the answer of a call, as uvicorn would have; what stands behind its body is not copied."""
        size = len(body) + sum(map(len, tensors))
        said, common = self._said
        now = self.server_state.default_headers  # another list every second, for the date
        if said is not now:
            common = b"".join([b"%b: %b\r\n" % header for header in now])
            self._said = now, common
        more = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b""
        end = b"\r\n" if call.keep_alive else b"connection: close\r\n\r\n"
        head = (STATUS_LINE[status], common, b"content-type: %b\r\ncontent-length: %d\r\n" % (kind, size), more, end, body)
        self._call = None
        call.response_complete = True
        if tensors:
            self.transport.writelines([b"".join(head), *tensors])
        else:
            self.transport.write(b"".join(head))
        self.note(call, status, size)
        if not call.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def note(self, call: _Call, status: int, bytes_out: int) -> None:
        """Tell the access log, where there is one."""
        if self._service is None or (log := self._service.access) is None:
            return
        client = self.client[0] if self.client else None
        request_id = call.request_id if status != CLIENT_LEFT else None
        log.note(
            Access(
                time.time(),
                "http",
                "POST",
                call.path.decode("latin-1"),
                None if call.model is None else call.model.name,
                request_id,
                status,
                time.monotonic() - call.begun,
                len(call.body) if call.room is None else call.room.filled,
                bytes_out,
                client,
                call.key,
                None if call.error is None else sentence(call.error),
            )  # fmt: skip
        )


class _Call:
    """One infer call; stands where uvicorn has its cycle, and has of it what `HttpToolsProtocol` looks at."""

    __slots__ = (
        "_accepts", "_asked", "_find", "_forget", "_protocol", "begun", "body", "error", "keep_alive", "key", "model", "path",
        "request_id", "response_complete", "room",
    )  # fmt: skip

    def __init__(
        self,
        protocol: ShortPathProtocol,
        find: Find,
        path: bytes,
        asked: Asked,
        accepts: bytes | None,
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._find = find
        self.model: ServedModel | None = None
        self.path = path
        self._asked = asked
        self._accepts = accepts
        self.key: str | None = None
        self.request_id: str | None = None
        self.error: Exception | None = None
        self.begun = time.monotonic()
        self._forget: Callable[[], object] | None = None
        self.body = b""
        self.room: Room | None = None
        """For a body with tensors in binary."""

        self.keep_alive = keep_alive
        self.response_complete = False

    def begin(self) -> None:
        """Have it answered: its body was read."""
        timeout_s = self._asked.timeout_s if self._asked is not PLAIN else None
        try:
            model = self.model = self._find()
        except NogradError as error:  # unloaded while its body came
            self._done(error)
            return
        forget: Callable[[], object] | None
        forget = model.submit(self.body, self._done, timeout_s) if self.room is None else None
        if forget is None:
            forget = self._go_on(self._infer(timeout_s))
        if not self.response_complete:  # else it would keep the model, as long as the connection is idle
            self._forget = forget

    def _go_on(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Have the rest of the call done by a task; return what cancels it."""

        async def rest() -> None:
            try:
                await work
            except asyncio.CancelledError:  # the client has left; or uvicorn ends, and has waited long enough
                self._protocol.transport.close()
                raise

        task = self._protocol.loop.create_task(rest())
        tasks = self._protocol.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task.cancel

    async def _infer(self, timeout_s: float | None) -> None:
        answer: bytes | BinaryAnswer | Exception
        try:
            model = self.model = self._find()
            body, tail = (self.body, None) if self.room is None else self.room.body()
            answer = await model.infer(body, tail, timeout_s=timeout_s)
        except Exception as error:  # noqa: BLE001  told to the client
            answer = error
        self._done(answer)

    def _done(self, answer: bytes | BinaryAnswer | Exception) -> None:
        protocol = self._protocol
        self._forget = None
        self.request_id = self.model.answered_id if self.model is not None else None
        if protocol.transport.is_closing():  # the client has left
            self.response_complete = True
            protocol.note(self, CLIENT_LEFT, 0)
        elif isinstance(answer, bytes) and len(answer) < COMPRESSED_FROM:
            protocol.write(self, 200, JSON, answer, self._asked.echoed if self._asked is not PLAIN else ())
        elif isinstance(answer, Exception):
            self.error = answer
            self._write(*error_reply(answer, f"POST {self.path.decode('latin-1')}"))
        elif isinstance(answer, bytes):
            self._write(*answer_reply(answer))
        else:
            headers = (*header_length(answer), *self._asked.echoed)  # tensors are never compressed
            protocol.write(self, 200, OCTETS, answer.json, headers, answer.tensors)

    def _write(self, reply: Reply, headers: Headers) -> None:
        """Write an answer that is an error, in binary or long; that last one compressed, where the client takes it."""
        status, kind, body = reply
        coding = coding_of(self._accepts, kind, len(body))
        if coding.name:
            self._forget = self._go_on(self._write_compressed(reply, headers))
        else:
            self._protocol.write(self, status, kind, body, (*headers, *coding.headers, *self._asked.echoed))

    async def _write_compressed(self, reply: Reply, headers: Headers) -> None:
        status, kind, body = reply
        body, coding = await encoded(body, kind, self._accepts)
        if not self._protocol.transport.is_closing():
            self._protocol.write(self, status, kind, body, (*headers, *coding, *self._asked.echoed))

    def forget(self) -> None:
        """The client has left: nothing is computed for nobody."""
        if not self.response_complete:
            self._protocol.note(self, CLIENT_LEFT, 0)
        self.response_complete = True
        if self._forget is not None:
            self._forget()
