"""Queries as the protocol has them: run now or in the background, remembered by id, cancelled, answered in chunks."""

from __future__ import annotations

import gzip
import json
import threading
import time
import traceback
import uuid
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tests.support.snowflake_server import statements
from tests.support.snowflake_server.arrow_results import stream, stream_text
from tests.support.snowflake_server.context import Context
from tests.support.snowflake_server.errors import SnowflakeError
from tests.support.snowflake_server.results import Result
from tests.support.snowflake_server.sessions import Access

Answer = dict[str, Any]


@dataclass
class Query:
    """One statement that was sent, and what became of it."""

    id: str
    sql: str
    session_id: int
    tag: str | None
    asynchronous: bool
    describe_only: bool
    context: Context | None
    status: str = "RUNNING"
    errno: int | None = None
    answer: Answer | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def logged(self) -> dict[str, Any]:
        return {
            "sql": self.sql,
            "query_id": self.id,
            "session_id": self.session_id,
            "tag": self.tag,
            "asynchronous": self.asynchronous,
            "describe_only": self.describe_only,
            "status": self.status,
            "errno": self.errno,
        }


class Queries:
    """All queries of the server, in the order in which they came. Safe for threads."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._by_id: dict[str, Query] = {}
        self._by_request: dict[str, Query] = {}
        self._log: list[Query] = []
        self._chunks: dict[tuple[str, int], bytes] = {}

    def log(self) -> list[dict[str, Any]]:
        with self._lock:
            return [query.logged() for query in self._log]

    def forget_log(self) -> None:
        with self._lock:
            self._log.clear()

    def forget(self) -> None:
        """Forget the log and all results."""
        with self._lock:
            for kept in (self._log, self._by_id, self._by_request, self._chunks):
                kept.clear()

    def find(self, query_id: str) -> Query | None:
        with self._lock:
            return self._by_id.get(query_id)

    def find_request(self, request_id: str) -> Query | None:
        """The query that came with this request id: a client that repeats a request must not run it twice."""
        with self._lock:
            return self._by_request.get(request_id)

    def add(self, query: Query, request_id: str) -> None:
        with self._lock:
            self._by_id[query.id] = query
            self._log.append(query)
            if request_id:
                self._by_request[request_id] = query

    def start(self, query: Query) -> None:
        threading.Thread(target=self.run, args=(query,), daemon=True).start()

    def run(self, query: Query) -> None:
        """Carry the query out, and keep its answer."""
        context = query.context
        assert context is not None
        try:
            fault = context.fault
            if fault is not None and query.asynchronous and fault.action == "latency":
                time.sleep(fault.delay)
            if fault is not None and fault.action == "error":
                raise SnowflakeError(fault.errno, fault.sqlstate, fault.message)
            answer = self._answer(statements.run(query.sql, context), query, context)
            status, errno = "SUCCESS", None
        except SnowflakeError as error:
            answer, status, errno = _failure(query, error), "FAILED_WITH_ERROR", error.errno
        except Exception as error:
            traceback.print_exc()
            own = SnowflakeError(9999, "XX000", f"The local Snowflake failed: {error!r}")
            answer, status, errno = _failure(query, own), "FAILED_WITH_ERROR", own.errno
        with self._lock:
            if query.answer is None:
                query.answer, query.status, query.errno = answer, status, errno
        query.done.set()
        context.session.last_query_id = query.id

    def abort(self, query: Query) -> None:
        """Stop a query that runs; nothing for one that has ended."""
        with self._lock:
            if query.answer is not None:
                return
            query.answer = _failure(query, SnowflakeError(604, "57014", "SQL execution canceled"))
            query.status, query.errno = "FAILED_WITH_ERROR", 604
        if query.context is not None and query.context.open_cursor is not None:
            query.context.open_cursor.interrupt()
        query.done.set()

    def chunk(self, query_id: str, number: int) -> bytes | None:
        with self._lock:
            return self._chunks.get((query_id, number))

    def _answer(self, result: Result, query: Query, context: Context) -> Answer:
        inline = context.settings.rows_inline
        data: dict[str, Any] = {
            "parameters": [{"name": "TIMEZONE", "value": "Etc/UTC"}],
            "rowtype": [column.row_type() for column in result.columns],
            "total": len(result.rows),
            "returned": len(result.rows),
            "queryId": query.id,
            "statementTypeId": result.statement_type,
            "sqlState": None,
            "finalDatabaseName": context.session.database,
            "finalSchemaName": context.session.schema,
            "finalWarehouseName": context.session.warehouse,
            "finalRoleName": context.session.role,
            "numberOfBinds": 0,
            "arrayBindSupported": True,
            "version": 1,
        }
        if isinstance(result.rows, pa.Table):
            data |= {"queryResultFormat": "arrow", "rowsetBase64": stream_text(result.rows.slice(0, inline))}
        else:
            data |= {"queryResultFormat": "json", "rowset": result.rows[:inline]}
        if result.data:
            for name in ("rowtype", "rowset", "total", "returned"):
                del data[name]
        chunks = []
        step = context.settings.rows_per_chunk
        for number, start in enumerate(range(inline, len(result.rows), step)):
            if isinstance(result.rows, pa.Table):
                rows = result.rows.slice(start, step)
                content = stream(rows)
            else:
                rows = result.rows[start : start + step]
                content = ",\n".join(json.dumps(row) for row in rows).encode()
            packed = gzip.compress(content, 1)
            with self._lock:
                self._chunks[query.id, number] = packed
            url = self._access.url(context.base_url, f"/results/{query.id}/{number}", 3_600)
            chunks.append(
                {"url": url, "rowCount": len(rows), "uncompressedSize": len(content), "compressedSize": len(packed)}
            )
        if chunks:
            data |= {"chunks": chunks, "chunkHeaders": {}, "qrmk": None}
        return {"data": data | result.data, "success": True, "code": None, "message": None}


def _failure(query: Query, error: SnowflakeError) -> Answer:
    code = f"{error.errno:06d}"
    data = {"errorCode": code, "sqlState": error.sqlstate, "queryId": query.id, "internalError": False, "pos": -1}
    return {"data": data, "success": False, "code": code, "message": error.message}


def new_query_id() -> str:
    """In the form of Snowflake's: a UUID."""
    return str(uuid.uuid4())
