"""The report in a real browser: on a phone, on paper, in the dark, offline, and to those who cannot see it."""

import pytest

from fileset_integrations.fileset import FileSet
from fileset_integrations.profiles.measure import profile_columns
from fileset_integrations.report.page import render
from fileset_integrations.throughput import record_throughput
from tests.support import chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium.find() is None,
        reason="there is no Chromium here (Debian: apt-get install --no-install-recommends chromium)",
    ),
]

HOSTILE = "<script>document.title = 'owned'; console.error('owned')</script>"
QUERY = f"""
SELECT i, sqrt(-2 * ln((i % 997 + 1) / 998.0)) * cos(i) AS "a column with a rather long name, which must be broken",
    CASE WHEN i % 3 = 0 THEN NULL ELSE 'carrier ' || i % 7 END AS carrier,
    DATE '2013-01-01' + (i // 50)::INTEGER AS day, $${HOSTILE}$$ AS "<img src=x onerror=console.error(1)>",
    repeat('x', 500) || i % 2 AS wide, [i, i + 1]::FLOAT[2] AS pair
FROM range(20000) t(i)
"""

# Every element with text of its own: its colour against the first background that is not transparent around it.
CONTRAST = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let least = 99;
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    if (element.closest('svg')) continue;
    const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    least = Math.min(least, (one + 0.05) / (other + 0.05));
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fs = FileSet.make(target_stage_loc=folder / "sets", name="flights_2013", query=QUERY, max_file_bytes=2**16)
    record_throughput(fs, "bench, first epoch", num_rows=20_000, seconds=0.01, cache_dir=folder / "cache", streams=8)
    page = folder / "report.html"
    cache_dir = str(folder / "cache")
    page.write_text(render(fs, profile_columns(fs), streams=(8, 32), cache_dir=cache_dir), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.start(tmp_path_factory.mktemp("profile")) as page:
        page.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        yield page


@pytest.mark.parametrize(
    ("width", "media"),
    [
        (390, {"prefers_color_scheme": "light"}),
        (390, {"prefers_color_scheme": "dark"}),
        (1280, {"prefers_color_scheme": "dark"}),
        (800, {"medium": "print"}),
    ],
)
def test_it_fits_is_legible_and_asks_for_nothing(report, browser, width, media):
    browser.told.clear()
    browser.requested.clear()

    browser.show(report, width, 844, **media)

    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(
        "[...document.querySelectorAll('body *')].every(one => one.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert browser.run(CONTRAST) >= 4.5
    assert browser.told == []
    assert [url for url in browser.requested if not url.startswith("data:")] == [report.as_uri()]
    drawn = "[...document.querySelectorAll('svg rect')].filter(one => one.getBoundingClientRect().width > 0).length"
    assert browser.run(drawn) > 100


def test_what_rows_and_names_hold_is_text_and_nothing_else(report, browser):
    browser.told.clear()
    browser.show(report, 1280, 900)

    assert browser.run("document.title") == "flights_2013: a FileSet"
    assert browser.run("document.querySelectorAll('script, img, iframe, object').length") == 0
    assert HOSTILE in browser.run("document.body.innerText")
    assert "<img src=x onerror=console.error(1)>" in browser.run("document.body.innerText")
    assert browser.told == []


def test_those_who_cannot_see_it_are_told_what_there_is(report, browser):
    browser.show(report, 1280, 900)
    told = browser.accessible()
    roles = [role for role, _ in told]

    assert {"main", "navigation", "banner", "contentinfo"} <= set(roles)
    assert roles.count("heading") > 10
    regions = {name for role, name in told if role == "region"}
    assert {"Provenance", "Columns", "Files", "How shuffling mixes the rows", "Speed of the last runs"} <= regions
    pictures = [name for role, name in told if role in ("image", "img")]
    assert len(pictures) >= 8 and all(pictures)
    assert {"Histogram of day", "Bytes of each file"} <= set(pictures)
    assert browser.run("document.documentElement.lang") == "en"


def test_it_prints_on_a_few_pages(report, browser):
    browser.show(report, 1280, 900)

    pdf = browser.pdf()

    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 12
