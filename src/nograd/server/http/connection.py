"""One HTTP connection: uvicorn's protocol with limits, timeouts and strict framing.

A request that breaks a rule gets one response, after those of the requests before it, and the connection is closed. An upgrade
is declined by ignoring it: the request is answered over HTTP/1.1 (docs/adr/0032).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nograd.errors import ProtocolError
from nograd.server.call import Call
from nograd.server.http.app import App
from nograd.server.http.connection_limits import Activity, Clock, ConnectionLimits, LimitVerdict, Phase
from nograd.server.http.early_refusals import RefusedError, refusal_of
from nograd.server.http.framing import ChunkOverhead, check_framing, head_size, head_without_upgrade
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.logs import event

__all__ = ["Connection"]

IDLE, HEAD, BODY, DECLINED = Phase  # attributes of an enumeration are slow to look up

LINGER_S = 2.0
"""Seconds to discard what a refused client still sends. If the server closed at once, the client could lose the response."""


class Connection(HttpToolsProtocol):
    """A connection of a server."""

    cycle: Any
    """Cycle of the newest request; None before the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        self.limits = ConnectionLimits.of(app.service.config if isinstance(app, App) else ServeConfig())
        self.phase = IDLE
        self._messages = 0
        self._clock = Clock(self.loop.time())
        self._must_measure = False
        """Whether the head being read may exceed the limit, because it arrived in pieces or in a long piece."""

        self._head_bytes = 0
        self._measured = 0
        """Number of the message that `_head_bytes` counts."""

        self._chunks: ChunkOverhead | None = None
        """Overhead of a chunked body."""

        self._refusal: RefusedError | None = None
        """Response to send after the responses to earlier requests."""

        self._is_refused = False
        """Whether reading has ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # asyncio declares the base class
        limit = self.limits.max_connections
        if len(self.connections) > limit:
            sentence = f"this server has {limit} open connections, its limit (--max-connections); retry later"
            self._is_refused = True
            refusal = RefusedError(503, sentence, ((b"retry-after", b"1"),))
            self._note(refusal, b"")
            self.transport.write(refusal.response(self.server_state.default_headers))
            self.transport.close()

    # -- reading

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._must_measure = self.phase is HEAD or len(data) > self.limits.max_header_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrades(memoryview(data), upgrade)
        except httptools.HttpParserError as error:
            self._refuse_bytes(error)
        if self.phase:
            self._measure(len(data))

    def _decline_upgrades(self, data: memoryview, upgrade: httptools.HttpParserUpgrade) -> None:
        """Parse a request again without its `Upgrade`: httptools treats all bytes after such a head as another protocol."""
        waiting: httptools.HttpParserUpgrade | None = upgrade
        while waiting is not None:
            data = data[waiting.args[0] :]
            head = head_without_upgrade(self.parser, self.url, self.headers)
            self.parser, waiting = self._new_parser(), None
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as another:
                waiting = another
            except httptools.HttpParserError as error:
                self._refuse_bytes(error)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # like uvicorn: bytes after the last request are skipped
        return parser

    def _measure(self, size: int) -> None:
        """Check the size of an incomplete request after a piece of this size."""
        if self.phase is BODY:
            if self._chunks is not None and not self._is_refused:
                self._chunks.add(size)
                if self._chunks.total > self.limits.max_header_bytes:
                    self.refuse(self._too_long("the chunk extensions and trailers"))
            return
        if self._measured != self._messages:
            self._measured, self._head_bytes = self._messages, head_size(self.url, self.headers)
        else:
            self._head_bytes += size
        if not self._is_refused:
            try:
                self._check_head(self._head_bytes)
            except RefusedError as refusal:
                self.refuse(refusal)

    def _check_head(self, size: int) -> None:
        """Refuse a head above the limits.

        Raises:
            RefusedError: 431.
        """
        if size > self.limits.max_header_bytes:
            raise self._too_long("the request line and headers")
        if len(self.headers) > self.limits.max_headers:
            raise RefusedError(
                431, f"the request has more than {self.limits.max_headers} headers, this server's limit (--max-headers)"
            )

    def _too_long(self, what: str) -> RefusedError:
        return RefusedError(
            431, f"{what} have more than {self.limits.max_header_bytes} bytes, this server's limit (--max-header-size)"
        )

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.phase = HEAD
        self._messages += 1

    def on_headers_complete(self) -> None:
        if self._must_measure or len(self.headers) > self.limits.max_headers:
            self._check_head(head_size(self.url, self.headers))
        self.begin_request()

    def begin_request(self) -> None:
        """Begin a request with a complete head, like uvicorn."""
        parser, headers = self.parser, self.headers
        is_chunked = check_framing(parser.get_method(), parser.get_http_version(), headers)
        if parser.should_upgrade():
            self.phase = DECLINED
            return
        url, expects = self.url, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()
        self.headers = []  # for trailers, which the request does not see
        self._chunks = ChunkOverhead() if is_chunked else None
        self.phase = BODY

    def on_body(self, body: bytes) -> None:
        if self._chunks is not None:
            self._chunks.subtract(len(body))
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Note that the size of a chunk was read."""
        if self._chunks is not None:
            self._chunks.begin_chunk()

    def on_message_complete(self) -> None:
        if self.phase is not DECLINED:
            self.phase, self._chunks = IDLE, None
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next pipelined request; uvicorn would also start a timer, which the server's watch replaces."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)

    # -- rejecting

    def _refuse_bytes(self, error: httptools.HttpParserError) -> None:
        refusal = refusal_of(error)
        if refusal is None:
            context = {"message": "reading a request failed", "exception": error.__context__}
            self.loop.call_exception_handler(context)
            refusal = RefusedError(500, f"the server failed on this request: {type(error.__context__).__name__}")
        self.refuse(refusal)

    def refuse(self, refusal: RefusedError) -> None:
        """Answer the current request, or the connection, with an error after all earlier responses; then close.

        A request that already has a response, or a part of it, gets no second one.
        """
        event("request_refused", logging.DEBUG, status=refusal.status, reason=str(refusal), client=self._address)
        self._is_refused = True
        is_in_body = self.phase is BODY
        if not is_in_body:  # else the request has a record of its own
            self._note(refusal, b"" if self.phase is IDLE else self.url)
        self.phase, self._chunks = IDLE, None
        if is_in_body and not self._withdraw(refusal):
            return
        if self.cycle is None or self.cycle.response_complete:
            self._send_refusal(refusal)
        else:
            self._refusal = refusal

    def _note(self, refusal: RefusedError, url: bytes) -> None:
        """Write a line of the access log for a request that was refused before its head was complete."""
        app = self.config.app
        if not isinstance(app, App) or app.service.access is None:
            return
        path = url.partition(b"?")[0].decode("latin-1")
        call = Call(app.service, "http", "-", path, client=self._address)  # the parser has the method of complete heads only
        call.error = ProtocolError(str(refusal))
        call.finish(refusal.status, len(refusal.body))

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    def _withdraw(self, refusal: RefusedError) -> bool:
        """Withdraw the request whose body is being read; return False if its response was started."""
        cycle = self.cycle
        if self.pipeline:  # it waits for an earlier request; `on_response_complete` starts it later
            self.pipeline.popleft()
            self._refusal = refusal
            return False
        if cycle.response_complete:
            self._linger()
            return False
        if cycle.response_started:
            cycle.keep_alive = False
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Cancel the newest request's work."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.cycle = None

    def _send_refusal(self, refusal: RefusedError) -> None:
        self._refusal = None
        if not self.transport.is_closing():
            self.transport.write(refusal.response(self.server_state.default_headers))
            self._linger()

    def _linger(self) -> None:
        """Close after the client has received the response, or soon: a close with unread bytes would discard the response."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:  # TLS
            self.transport.close()

    def shutdown(self) -> None:
        if self._is_refused and self._refusal is None:
            self.transport.close()
        else:
            super().shutdown()

    # -- timeouts

    def enforce_timeouts(self, now: float) -> LimitVerdict:
        """Refuse or close the connection if its client has taken too long; return the reason."""
        verdict = self._clock.check(self._activity(), now, self.limits)
        if verdict is not LimitVerdict.UNREAD and (self._is_refused or self.transport.is_closing()):
            return LimitVerdict.KEEP
        if verdict is LimitVerdict.IDLE:
            self.transport.close()
        elif verdict is LimitVerdict.UNREAD:
            self.transport.abort()
        elif verdict is LimitVerdict.HEAD:
            seconds = self.limits.header_timeout_s
            self.refuse(RefusedError(408, f"the headers were incomplete after {seconds:g} s (--header-timeout)"))
        elif verdict is LimitVerdict.BODY:
            seconds = self.limits.body_timeout_s
            self.refuse(RefusedError(408, f"the body was incomplete after {seconds:g} s (--timeout)"))
        return verdict

    def _activity(self) -> Activity:
        is_due = self.phase is IDLE and self.cycle is not None and not self.cycle.response_complete
        unread = self.transport.get_write_buffer_size()
        return Activity(self.phase, self._messages, is_due or self.flow.read_paused, unread)
