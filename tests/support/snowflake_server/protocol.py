"""The endpoints that the connector talks to: login, tokens, queries, results, the object store."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.support.snowflake_server.context import Context
from tests.support.snowflake_server.engine import Engine
from tests.support.snowflake_server.errors import SnowflakeError
from tests.support.snowflake_server.faults import TRANSPORT, Fault, Plan
from tests.support.snowflake_server.objects import PREFIX, Objects
from tests.support.snowflake_server.planted import ACCESS_TOKEN, PASSWORD
from tests.support.snowflake_server.queries import Queries, Query, new_query_id
from tests.support.snowflake_server.sessions import (
    MASTER_SECONDS,
    SESSION_SECONDS,
    Access,
    Clock,
    ServerSession,
    Sessions,
)
from tests.support.snowflake_server.settings import Settings
from tests.support.snowflake_server.stages import Store
from tests.support.snowflake_server.statements import bound_values
from tests.support.snowflake_server.web import Request, Response, json_response

_POLL_SECONDS = 40.0  # how long a request for a result waits for it

_DONE = {"data": None, "success": True, "code": None, "message": None}


class Snowflake:
    """The server's parts, and the answer to every request but the tests' own."""

    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.access = Access(self.clock)
        self.sessions = Sessions(self.clock)
        self.queries = Queries(self.access)
        self.plan = Plan()
        self.settings = Settings()
        self.store = store
        self.objects = Objects(store, self.access, self.clock, self.plan, self.settings)
        self.engine = Engine(self._presigned_url)
        self.base_url = ""

    def answer(self, request: Request) -> Response:
        fault = self.plan.take(request=f"{request.method} {request.target}")
        if fault is not None and (fault.action == "status" or (fault.action == "reset" and fault.after == 0)):
            return Response(fault=fault)  # nothing is done
        response = self.objects.answer(request) if request.path.startswith(PREFIX) else self._route(request)
        response.fault = response.fault or fault
        return response

    def _route(self, request: Request) -> Response:
        path = request.path.replace("//", "/")
        match path.strip("/").split("/"):
            case ["session", "v1", "login-request"]:
                return self._login(request)
            case ["session", "token-request"]:
                return self._renew(request)
            case ["session", "heartbeat"]:
                _, refusal = self._session(request)
                return refusal or json_response(_DONE)
            case ["session"]:
                session, _ = self._session(request)
                if session is not None and request.query.get("delete") == "true":
                    self.sessions.close(session)
                return json_response(_DONE)
            case ["queries", "v1", "query-request"]:
                return self._query(request)
            case ["queries", "v1", "abort-request"]:
                query = self.queries.find_request(_json(request).get("requestId", ""))
                return self._abort(query)
            case ["queries", query_id, "abort-request"]:
                return self._abort(self.queries.find(query_id))
            case ["queries", query_id, "result"]:
                return self._result(request, query_id)
            case ["monitoring", "queries", query_id]:
                return self._status(query_id)
            case ["results", query_id, number]:
                return self._chunk(request, query_id, number)
            case ["telemetry", "send", *_]:
                return json_response(_DONE)
        return Response(404)

    # --- sessions ----------------------------------------------------------------------------------------------------

    def _login(self, request: Request) -> Response:
        data = _json(request)["data"]
        token = data.get("TOKEN") or data.get("PASSWORD")
        if token not in (PASSWORD, ACCESS_TOKEN):
            return _refusal("390100", "Incorrect username or password was specified.")
        query = request.query
        session = self.sessions.open(
            user=(data.get("LOGIN_NAME") or "TESTER").upper(),
            database=_folded(query.get("databaseName")),
            schema=_folded(query.get("schemaName")),
            warehouse=_folded(query.get("warehouse")),
            role=_folded(query.get("roleName")) or "SYSADMIN",
            parameters=dict(data.get("SESSION_PARAMETERS") or {}),
        )
        if session.database is not None and session.schema is None:
            session.schema = "PUBLIC"
        return json_response(
            _DONE
            | {
                "data": {
                    "token": session.token,
                    "masterToken": session.master_token,
                    "validityInSeconds": SESSION_SECONDS,
                    "masterValidityInSeconds": MASTER_SECONDS,
                    "displayUserName": session.user,
                    "serverVersion": "9.0.0-local",
                    "firstLogin": False,
                    "remMeToken": None,
                    "remMeValidityInSeconds": 0,
                    "healthCheckInterval": 45,
                    "sessionId": session.id,
                    "idToken": None,
                    "idTokenValidityInSeconds": 0,
                    "responseData": None,
                    "parameters": [{"name": "TIMEZONE", "value": "Etc/UTC"}],
                    "sessionInfo": {
                        "databaseName": session.database,
                        "schemaName": session.schema,
                        "warehouseName": session.warehouse,
                        "roleName": session.role,
                    },
                }
            }
        )

    def _renew(self, request: Request) -> Response:
        session = self.sessions.renew(_token(request))
        if session is None:
            return _refusal("390114", "Authentication token has expired. The user must authenticate again.")
        data = {
            "sessionToken": session.token,
            "validityInSecondsST": SESSION_SECONDS,
            "masterToken": session.master_token,
            "validityInSecondsMT": MASTER_SECONDS,
            "sessionId": session.id,
        }
        return json_response(_DONE | {"data": data})

    def _session(self, request: Request) -> tuple[ServerSession | None, Response | None]:
        """The session of a request, and the refusal if it may not go on."""
        token = _token(request)
        session = self.sessions.find(token)
        if session is None:
            return None, _refusal("390111", "Session no longer exists. New login required to access the service.")
        if not self.sessions.is_valid(session, token):
            return session, _refusal("390112", "Your session has expired. Please login again.")
        return session, None

    # --- queries -----------------------------------------------------------------------------------------------------

    def _query(self, request: Request) -> Response:
        session, refusal = self._session(request)
        if refusal is not None or session is None:
            return refusal or Response(401)
        body = _json(request)
        sql = body["sqlText"]
        fault = self.plan.take(statement=sql)
        if fault is not None:
            if fault.action == "expired":
                return _refusal("390112", "Your session has expired. Please login again.")
            if fault.action == "status" or (fault.action == "reset" and fault.after == 0):
                return Response(fault=fault)  # nothing is done
        known = self.queries.find_request(request.query.get("requestId", ""))
        query = known or self._new_query(body, session, fault)
        if known is None:
            self.queries.add(query, request.query.get("requestId", ""))
            if query.asynchronous:
                self.queries.start(query)
            else:
                self.queries.run(query)
        if query.asynchronous:
            response = json_response(_pending(query, "333334"))
        else:
            query.done.wait()
            response = json_response(query.answer)
        response.fault = _in_transport(fault, query)
        return response

    def _new_query(self, body: dict[str, Any], session: ServerSession, fault: Fault | None) -> Query:
        parameters = {**session.parameters, **(body.get("parameters") or {})}
        query_id = new_query_id()
        context = Context(
            query_id=query_id,
            session=session,
            engine=self.engine,
            store=self.store,
            objects=self.objects,
            access=self.access,
            clock=self.clock,
            settings=self.settings,
            base_url=self.base_url,
            parameters=bound_values(body.get("bindings")),
            describe_only=bool(body.get("describeOnly")),
            fault=fault,
        )
        return Query(
            id=query_id,
            sql=body["sqlText"],
            session_id=session.id,
            tag=parameters.get("QUERY_TAG"),
            asynchronous=bool(body.get("asyncExec")),
            describe_only=context.describe_only,
            context=context,
        )

    def _result(self, request: Request, query_id: str) -> Response:
        _, refusal = self._session(request)
        if refusal is not None:
            return refusal
        query = self.queries.find(query_id)
        if query is None:
            return _refusal("000709", f"Statement {query_id} not found")
        if not query.done.wait(_POLL_SECONDS):
            return json_response(_pending(query, "333333"))
        return json_response(query.answer)

    def _status(self, query_id: str) -> Response:
        query = self.queries.find(query_id)
        found = []
        if query is not None:
            answer = query.answer or {}
            found.append(
                {
                    "id": query_id,
                    "status": query.status,
                    "state": query.status,
                    "errorCode": answer.get("code"),
                    "errorMessage": answer.get("message"),
                }
            )
        return json_response(_DONE | {"data": {"queries": found}})

    def _abort(self, query: Query | None) -> Response:
        if query is not None:
            self.queries.abort(query)
        return json_response(_DONE)

    def _chunk(self, request: Request, query_id: str, number: str) -> Response:
        if self.access.check(request.path, request.raw_query, request.query, request.headers) is not None:
            return Response(403)
        chunk = self.queries.chunk(query_id, int(number))
        return Response(404) if chunk is None else Response(body=chunk, headers={"Content-Encoding": "gzip"})

    def _presigned_url(self, stage_key: str, path: str, lifetime: int) -> str:
        stage = self.store.by_key(stage_key)
        if stage is None:
            raise SnowflakeError(2003, "02000", "The stage was dropped.")
        return self.objects.url(self.base_url, stage, path, lifetime)


def _in_transport(fault: Fault | None, query: Query) -> Fault | None:
    """What of a statement's fault concerns the way of its answer."""
    if fault is None or fault.action not in TRANSPORT:
        return None
    return None if fault.action == "latency" and query.asynchronous else fault


def _pending(query: Query, code: str) -> dict[str, Any]:
    data = {
        "queryId": query.id,
        "getResultUrl": f"/queries/{query.id}/result",
        "queryAbortsAfterSecs": 300,
        "progressDesc": None,
    }
    return {"data": data, "success": True, "code": code, "message": "Query execution in progress."}


def _refusal(code: str, message: str) -> Response:
    return json_response({"data": None, "success": False, "code": code, "message": message})


def _token(request: Request) -> str:
    """The token of `Authorization: Snowflake Token="..."`."""
    return request.headers.get("authorization", "").partition('"')[2].rstrip('"')


def _json(request: Request) -> dict[str, Any]:
    body = request.body
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    decoded = json.loads(body or b"{}")
    assert isinstance(decoded, dict)
    return decoded


def _folded(name: str | None) -> str | None:
    """A name from the connection's parameters: in capitals, unless it is quoted."""
    if not name:
        return None
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.upper()
