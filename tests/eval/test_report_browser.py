"""The HTML report in a real browser, from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from pefttools.eval.reporting import write_report
from tests.eval.sample import EVIL, write_sample


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser_path = shutil.which("chromium")
    if browser_path is None:
        assert not os.environ.get("CI"), "chromium is missing"
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("report")
    write_sample(folder, rows=400)
    file = write_report(folder)["html"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page: Any = browser.new_page(viewport={"width": 1300, "height": 900})
        page.messages = []
        page.requests = []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("#figure-memory .main-svg")
        page.file = file
        yield page
        browser.close()


def _column(page: Any, index: int, table: str = "results") -> list[str]:
    return page.eval_on_selector_all(f"#{table} tbody tr", f"rows => rows.map(row => row.cells[{index}].dataset.value)")


def test_the_table_sorts(page: Any) -> None:
    heads = page.locator("#results thead th")
    trained = next(i for i in range(heads.count()) if "Trained" in heads.nth(i).inner_text())
    heads.nth(trained).locator("button").click()
    falling = [float(value) for value in _column(page, trained)]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) > 1
    assert heads.nth(trained).get_attribute("aria-sort") == "descending"
    heads.nth(trained).locator("button").press("Enter")
    assert [float(value) for value in _column(page, trained)] == sorted(falling)
    assert heads.nth(trained).get_attribute("aria-sort") == "ascending"
    heads.nth(0).locator("button").click()
    names = _column(page, 0)
    assert heads.nth(trained).get_attribute("aria-sort") == "none"
    assert names[0].startswith("lora") or names[0] > names[-1]


def test_the_table_of_memory_is_seen_whole_and_sorts_by_itself(page: Any) -> None:
    before = _column(page, 0)
    heads = page.locator("#resources thead th")
    titles = heads.all_inner_texts()
    gpu = next(index for index, title in enumerate(titles) if "GPU memory, predicted" in title)
    heads.nth(gpu).locator("button").click()
    sizes = [float(value) for value in _column(page, gpu, "resources")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    assert _column(page, 0) == before
    for table in ("results", "resources", "parts"):
        assert page.eval_on_selector(f"#{table}", "table => table.scrollWidth <= table.parentElement.clientWidth"), (
            table
        )


def test_figures_are_drawn(page: Any) -> None:
    for name in ("memory", "parameters"):
        assert page.locator(f"#figure-{name} .scatterlayer .point").count() == 3
        assert page.locator(f"#figure-{name} .errorbar").count() == 3
        assert page.locator(f"#figure-{name} .scatterlayer .js-line").count() == 1, "the Pareto front"
    assert page.locator("#figure-loss .scatterlayer .js-line").count() == 3
    assert page.locator("#figure-parts .barlayer .point").count() == 12


def test_nothing_is_fetched_and_the_console_is_clean(page: Any) -> None:
    fetched = [url for url in page.requests if not url.startswith("data:")]
    assert fetched == [page.file.as_uri()]
    assert page.messages == []


def test_a_label_that_is_a_script_is_shown_not_run(page: Any) -> None:
    assert page.title().startswith("Sample <script>")
    assert EVIL in page.locator("#results").inner_text()
    assert EVIL in page.locator("h1").inner_text()
    drawn = page.locator("#figure-memory .legendtext").all_text_contents()
    assert any("<script>" in text for text in drawn)


def test_the_page_is_small_and_says_where_figures_cannot_be_drawn(page: Any) -> None:
    """plotly's script is compressed in it; a browser that can't unpack it still shows the tables."""
    assert page.file.stat().st_size < 2_300_000
    older = page.context.browser.new_page()
    older.add_init_script("delete window.DecompressionStream")
    older.goto(page.file.as_uri())
    assert older.locator("#figure-memory").inner_text() == "The figure needs a newer browser."
    assert older.locator("#results tbody tr").count() == page.locator("#results tbody tr").count()
    older.close()
