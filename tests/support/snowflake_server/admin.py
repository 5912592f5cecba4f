"""What tests ask of the server itself, under /_test/: faults, logs, the clock, files behind the connector's back."""

from __future__ import annotations

import json
import threading
from typing import Any

import pyarrow as pa

from tests.support.snowflake_server.faults import Fault
from tests.support.snowflake_server.lexer import split_name
from tests.support.snowflake_server.objects import PREFIX
from tests.support.snowflake_server.protocol import Snowflake
from tests.support.snowflake_server.stages import StageName, parse_location
from tests.support.snowflake_server.web import Request, Response, json_response

ROOT = "/_test/"


class Admin:
    """Answers all requests: the tests' own here, the others by the server, and keeps the log of those."""

    def __init__(self, snowflake: Snowflake) -> None:
        self._snowflake = snowflake
        self._lock = threading.Lock()
        self._requests: list[dict[str, Any]] = []

    def answer(self, request: Request) -> Response:
        if not request.path.startswith(ROOT):
            response = self._snowflake.answer(request)
            self._note(request, response)
            return response
        try:
            return json_response({"value": self._do(request.path.removeprefix(ROOT), request)})
        except Exception as error:
            return json_response({"error": f"{type(error).__name__}: {error}"})

    def _note(self, request: Request, response: Response) -> None:
        noted = {
            "method": request.method,
            "path": request.path,
            "range": request.headers.get("range"),
            "status": response.status,
            "file": self._snowflake.objects.path_of(request),
            "presigned": "X-Amz-Signature" in request.query and request.path.startswith(PREFIX),
            "fault": response.fault.action if response.fault is not None else None,
        }
        with self._lock:
            self._requests.append(noted)

    def _do(self, verb: str, request: Request) -> Any:
        server = self._snowflake
        if verb == "load":
            rows = pa.ipc.open_stream(request.body).read_all()
            database, schema, table = split_name(request.query["table"])
            server.engine.load(database, schema, table, rows)
            return rows.num_rows
        if verb == "put":
            location = parse_location(request.query["location"], None, None)
            content = server.store.new_content()
            content.write_bytes(request.body)
            server.store.put(server.store.stage(location.stage), location.path, content, server.clock.now(), {})
            return None
        arguments = json.loads(request.body or b"{}")
        match verb:
            case "ping":
                return "ready"
            case "fault":
                arguments["headers"] = tuple(tuple(pair) for pair in arguments.get("headers", ()))
                return server.plan.add(Fault(**arguments))
            case "faults":
                return server.plan.state()
            case "clear_faults":
                return server.plan.clear()
            case "statements":
                return server.queries.log()
            case "requests":
                with self._lock:
                    return list(self._requests)
            case "clear_logs":
                server.queries.forget_log()
                with self._lock:
                    return self._requests.clear()
            case "advance":
                return server.clock.advance(arguments["seconds"])
            case "expire":
                return self._expire(arguments["what"])
            case "settings":
                return server.settings.change(arguments)
            case "files":
                location = parse_location(arguments["location"], None, None)
                found = server.store.files(location)
                return [
                    {"path": path, "size": stored.size, "md5": stored.md5, "content": str(stored.content)}
                    for path, stored in found
                ]
            case "remove":
                location = parse_location(arguments["location"], None, None)
                return server.store.remove(server.store.stage(location.stage), location.path)
            case "create":
                return self._create(StageName(*arguments["name"]))
            case "reset":
                return self._reset()
            case "sessions":
                return server.sessions.count()
        raise ValueError(f"no such request: {verb}")

    def _expire(self, what: str) -> None:
        server = self._snowflake
        actions = {
            "sessions": server.sessions.expire,
            "urls": server.access.expire_urls,
            "credentials": server.access.expire_credentials,
        }
        actions[what]()

    def _reset(self) -> None:
        """A server as new, but for its open sessions, which are as after their login."""
        server = self._snowflake
        server.plan.clear()
        server.clock.reset()
        server.sessions.reset()
        server.settings.reset()
        for database in server.engine.schemas():
            server.engine.drop_database(database, if_exists=True)
            server.store.drop_schema(database, None)
        server.engine.hints.clear()
        server.queries.forget()
        with self._lock:
            self._requests.clear()

    def _create(self, name: StageName) -> None:
        engine = self._snowflake.engine
        engine.create_database(name.database, replace=False, if_not_exists=True)
        engine.create_schema(name.database, name.schema, replace=False, if_not_exists=True)
