"""Engines run a query and write its result as Parquet files."""
