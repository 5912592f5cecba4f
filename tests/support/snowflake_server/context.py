"""What a statement runs in: its session, its bindings, its query id, and the parts of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb

from tests.support.snowflake_server.dialect import Session
from tests.support.snowflake_server.engine import Engine
from tests.support.snowflake_server.errors import SnowflakeError, syntax
from tests.support.snowflake_server.faults import Fault
from tests.support.snowflake_server.objects import Objects
from tests.support.snowflake_server.sessions import Access, Clock, ServerSession
from tests.support.snowflake_server.settings import Settings
from tests.support.snowflake_server.stages import Location, Store, parse_location


@dataclass
class Context:
    """One statement's surroundings."""

    query_id: str
    session: ServerSession
    engine: Engine
    store: Store
    objects: Objects
    access: Access
    clock: Clock
    settings: Settings
    base_url: str
    parameters: list[Any] = field(default_factory=list)  # values of ? in the text
    describe_only: bool = False
    fault: Fault | None = None
    open_cursor: duckdb.DuckDBPyConnection | None = None

    @property
    def dialect(self) -> Session:
        session = self.session
        return Session(
            session.database,
            session.schema,
            literals={
                "CURRENT_DATABASE": session.database,
                "CURRENT_SCHEMA": session.schema,
                "CURRENT_USER": session.user,
                "CURRENT_ROLE": session.role,
                "CURRENT_WAREHOUSE": session.warehouse,
                "CURRENT_ACCOUNT": "LOCAL",
                "CURRENT_ACCOUNT_NAME": "LOCAL",
                "CURRENT_REGION": "LOCAL",
                "CURRENT_SESSION": str(session.id),
                "CURRENT_VERSION": "9.0.0-local",
                "LAST_QUERY_ID": session.last_query_id,
            },
            stage=lambda text: self.store.stage(self.location(text).stage).key,
        )

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """The statement's connection to the engine, which `abort` interrupts."""
        if self.open_cursor is None:
            self.open_cursor = self.engine.cursor(self.session.database, self.session.schema)
        return self.open_cursor

    def location(self, text: str) -> Location:
        return parse_location(text, self.session.database, self.session.schema)

    def complete(self, name: list[str], parts: int) -> list[str]:
        """A name with the session's database and schema in front, where they are left out."""
        if len(name) > parts:
            raise syntax(f"too many parts in the name {'.'.join(name)}")
        full = [self.session.database, self.session.schema][: parts - len(name)] + name
        if None in full:
            message = "Cannot perform the operation. This session does not have a current database."
            raise SnowflakeError(90105, "22000", f"{message} Call 'USE DATABASE', or use a qualified name.")
        return [str(part) for part in full]
