def test_it_runs(snowflake_server):
    with snowflake_server.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("select 1").fetchall() == [(1,)]
