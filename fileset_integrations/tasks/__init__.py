"""Small real data sets, as DuckDB connections: the tables that the recipes' queries read."""
