"""Snowflake's functions that DuckDB lacks, or knows by another name or with another meaning: those that tests use."""

from __future__ import annotations

RENAMED = {
    "HASH": "SNOWFLAKE_HASH",
    "RANDOM": "SNOWFLAKE_RANDOM",
    "UNIFORM": "SNOWFLAKE_UNIFORM",
    "CONVERT_TIMEZONE": "SNOWFLAKE_CONVERT_TIMEZONE",
    "TO_ARRAY": "SNOWFLAKE_TO_ARRAY",
    "TO_TIMESTAMP": "TO_TIMESTAMP_NTZ",
    "TIMESTAMP_FROM_PARTS": "TIMESTAMP_NTZ_FROM_PARTS",
    "ARRAY_CONSTRUCT": "JSON_ARRAY",
    "OBJECT_CONSTRUCT": "JSON_OBJECT",
    "CURRENT_TIMESTAMP": "NOW",
    "SYSDATE": "NOW",
    "IFF": "IF",
    "NVL": "COALESCE",
    "DATEFROMPARTS": "MAKE_DATE",
    "DATE_FROM_PARTS": "MAKE_DATE",
    "STARTSWITH": "STARTS_WITH",
    "ENDSWITH": "ENDS_WITH",
    "REGEXP_LIKE": "REGEXP_FULL_MATCH",
    "RLIKE": "REGEXP_FULL_MATCH",
    "BOOLAND_AGG": "BOOL_AND",
    "BOOLOR_AGG": "BOOL_OR",
    "UUID_STRING": "UUID",
}

SEQUENCES = frozenset({"SEQ1", "SEQ2", "SEQ4", "SEQ8"})

# Functions whose first argument names a part of time, as a bare word or a string: what DuckDB calls them.
PARTS_OF_TIME = {
    "DATE_PART": "DATE_PART",
    "DATE_TRUNC": "DATE_TRUNC",
    "DATEDIFF": "DATE_DIFF",
    "TIMEDIFF": "DATE_DIFF",
    "TIMESTAMPDIFF": "DATE_DIFF",
    "DATEADD": "DATE_ADD",
    "TIMEADD": "DATE_ADD",
    "TIMESTAMPADD": "DATE_ADD",
}

EPOCHS = {
    "epoch": "FLOOR(EPOCH({}))::BIGINT",
    "epoch_second": "FLOOR(EPOCH({}))::BIGINT",
    "epoch_millisecond": "EPOCH_MS({})",
    "epoch_microsecond": "EPOCH_US({})",
    "epoch_nanosecond": "EPOCH_NS({})",
}

# HASH is another function than Snowflake's: as good, but with other values.
# RANDOM takes no notice of its seed, since Snowflake promises no repetition either.
MACROS = """
CREATE MACRO SNOWFLAKE_HASH
    (a) AS (hash(a)::HUGEINT - 9223372036854775808)::BIGINT,
    (a, b) AS (hash(a, b)::HUGEINT - 9223372036854775808)::BIGINT,
    (a, b, c) AS (hash(a, b, c)::HUGEINT - 9223372036854775808)::BIGINT,
    (a, b, c, d) AS (hash(a, b, c, d)::HUGEINT - 9223372036854775808)::BIGINT,
    (a, b, c, d, e) AS (hash(a, b, c, d, e)::HUGEINT - 9223372036854775808)::BIGINT,
    (a, b, c, d, e, f) AS (hash(a, b, c, d, e, f)::HUGEINT - 9223372036854775808)::BIGINT;
CREATE MACRO SNOWFLAKE_RANDOM
    () AS ((random() - 0.5) * 18446744073709549568)::BIGINT,
    (seed) AS ((random() - 0.5) * 18446744073709549568)::BIGINT;
CREATE MACRO SNOWFLAKE_UNIFORM(low, high, source) AS
    (low + (source::HUGEINT + 9223372036854775808) % (high - low + 1))::BIGINT;
CREATE MACRO SNOWFLAKE_CONVERT_TIMEZONE
    (target, moment) AS timezone(target, moment),
    (source, target, moment) AS timezone(target, timezone(source, moment));
CREATE MACRO SNOWFLAKE_TO_ARRAY(a) AS list_transform(a, lambda x : to_json(x));
CREATE MACRO ARRAY_SIZE(a) AS json_array_length(a);
CREATE MACRO BITAND(a, b) AS a & b;
CREATE MACRO CHARINDEX(part, whole) AS strpos(whole, part);
CREATE MACRO DIV0(a, b) AS CASE WHEN b = 0 THEN 0 ELSE a / b END;
CREATE MACRO EQUAL_NULL(a, b) AS a IS NOT DISTINCT FROM b;
CREATE MACRO NVL2(a, b, c) AS CASE WHEN a IS NOT NULL THEN b ELSE c END;
CREATE MACRO PARSE_JSON(a) AS a::JSON;
CREATE MACRO SQUARE(a) AS a * a;
CREATE MACRO TIMESTAMP_NTZ_FROM_PARTS(y, m, d, h, i, s) AS make_timestamp(y, m, d, h, i, s::DOUBLE);
CREATE MACRO TO_BINARY
    (a) AS unhex(a),
    (a, format) AS CASE upper(format)
        WHEN 'HEX' THEN unhex(a) WHEN 'UTF-8' THEN encode(a) WHEN 'BASE64' THEN from_base64(a)
        ELSE error('TO_BINARY knows HEX, UTF-8 and BASE64') END;
CREATE MACRO TO_BOOLEAN(a) AS a::BOOLEAN;
CREATE MACRO TO_CHAR(a) AS a::VARCHAR;
CREATE MACRO TO_DATE(a) AS a::DATE;
CREATE MACRO TO_DECIMAL(a) AS a::DECIMAL(38, 0);
CREATE MACRO TO_DOUBLE(a) AS a::DOUBLE;
CREATE MACRO TO_NUMBER(a) AS a::DECIMAL(38, 0);
CREATE MACRO TO_TIME(a) AS a::TIME;
CREATE MACRO TO_TIMESTAMP_NTZ(a) AS a::TIMESTAMP_NS;
CREATE MACRO TO_VARCHAR(a) AS a::VARCHAR;
CREATE MACRO TO_VARIANT(a) AS to_json(a);
CREATE MACRO TRY_TO_DOUBLE(a) AS TRY_CAST(a AS DOUBLE);
CREATE MACRO TRY_TO_NUMBER(a) AS TRY_CAST(a AS DECIMAL(38, 0));
CREATE MACRO ZEROIFNULL(a) AS COALESCE(a, 0);
"""
