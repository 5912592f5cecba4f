"""docs/configs.md: what the configs say, and a query of one's own as the page tells it."""

import re

import duckdb
import pytest

from fileset_integrations import config_table
from fileset_integrations.schemas import SHAPES
from tests.support import ROOT
from tests.support.app import commands_of, fileset_train

PAGE = ROOT / "docs" / "configs.md"


@pytest.mark.checkout
def test_the_page_is_what_the_configs_say():
    text = PAGE.read_text(encoding="utf-8")

    assert config_table.renewed(text) == text, "python -m fileset_integrations.config_table docs/configs.md"


def test_every_group_option_and_shape_is_on_the_page():
    text = config_table.tables()
    files = [path.relative_to(config_table.folder()) for path in config_table.folder().rglob("*.yaml")]
    options = {f"{path.parent.as_posix()}={path.stem}" for path in files if path.parent.name}

    assert options == set(re.findall(r"^\| `([\w/]+=\w+)` \|", text, re.MULTILINE))
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))
    assert {"train", "source", "data", "keras_trainer"} <= set(SHAPES)


def test_a_document_without_a_place_for_the_tables_is_refused():
    with pytest.raises(ValueError, match="no part between '<!-- groups -->'"):
        config_table.renewed("# Configs")


@pytest.mark.checkout
def test_a_query_of_ones_own_is_trained_on_as_the_page_says(tmp_path):
    [command] = commands_of(PAGE)

    ended = fileset_train(tmp_path, *command, "callbacks=none")

    assert ended.status == 0, ended.err
    assert "query: 1,000 validation rows" in ended.out and "The model beats every baseline in RMSE." in ended.out
    assert (tmp_path / "data" / "houses" / "query").is_dir()


@pytest.mark.checkout
def test_a_query_in_a_file_of_ones_own_works_as_the_page_says(tmp_path):
    own = re.search(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(own)
    duckdb.sql(
        "SELECT 1.0 + i % 5 AS rooms, 30.0 + i % 9 AS area, 90.0 * (i % 5) AS price, 'c' || i % 3 AS city "
        "FROM range(3000) t(i)"
    ).write_parquet(str(tmp_path / "houses.parquet"))

    ended = fileset_train(
        tmp_path, "--config-dir=mine", "experiment=mine", "callbacks=none", "logger=none", "trainer.max_epochs=1"
    )

    assert ended.status == 0, ended.err
    assert "houses: 600 validation rows" in ended.out
