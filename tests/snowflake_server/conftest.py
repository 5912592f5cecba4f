"""The local Snowflake, asked by the genuine connector."""

import pytest

from tests.support.stage_files import SSE


@pytest.fixture
def ask(snowflake_server, kept_snowflake_connection):
    """Run one statement in the schema DB1.S1, which is empty; returns all rows."""
    with kept_snowflake_connection.cursor() as cursor:
        yield lambda sql, *arguments, **options: cursor.execute(sql, *arguments, **options).fetchall()


@pytest.fixture
def filled(ask) -> None:
    """The stage FS and the table T of 10,000 rows."""
    ask(f"create stage fs {SSE}")
    ask("create table t as select seq4() as i, sqrt(i) as x, 'row ' || i as s from table(generator(rowcount => 10000))")
