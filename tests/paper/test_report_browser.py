"""The report page in a browser: headless Chromium, driven by Playwright, on a page made from hand-made runs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apfl.data.setting import parse_setting
from apfl.paper.labels import TEST_MEANINGS
from apfl.paper.report.report import build
from apfl.storage.files import write_json, write_npz
from apfl.study.cells import artefacts, cells, runs
from apfl.study.load import load_study
from apfl.study.outputs import OUTPUTS
from tests.documents import REFERENCE
from tests.helpers.paper_runs import row, write_run

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>"
STUDY = f"""
name: tiny
seeds: [0, 1]
data:
  digits: {{source: digits}}
  cifar10: {{source: torchvision}}
semantics:
  minilm: {{source: packaged}}
training: {{rounds: 2}}
apfl: {{semantics: minilm}}
methods:
  local: {{}}
  fedavg: {{}}
  fedavg-ft: {{}}
  fedprox: {{title: "{HOSTILE}"}}
  apfl: {{}}
tables:
  table1: {{dataset: digits}}
  table2: {{datasets: [digits, cifar10], clients: [5], alphas: ["0.01", "0.05", "0.1"]}}
  table3: {{datasets: [digits], methods: [local, fedavg-ft, apfl]}}
figures:
  figure4: {{panels: {{digits: dirichlet-alpha0.1}}}}
"""
LOST = "fedprox/seed1"
"""Of the runs of this method and seed there is no record."""


def chromium() -> str:
    """The browser of the distribution; where tests must be complete, its absence is a failure."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("needs Chromium: apt-get install chromium")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


def write_runs(results: Path, study) -> None:
    """What every run of the study would leave, with accuracies that differ from place to place."""
    shown = {
        run: cell for output in ("table2", "table3", "figure4") for cell in cells(study, output) for run in cell.runs
    }
    rng = np.random.default_rng(0)
    for run in runs(study):
        folder = results / run.path
        if run.stage == "memorize":
            write_json(folder / "run.json", {"stage": "memorize", "status": "finished", "seconds": 5.0})
            Image.fromarray(rng.integers(0, 255, (60, 90, 4), dtype=np.uint8)).save(folder / "samples.png")
            continue
        tests = {**OUTPUTS["table2"].tests, **OUTPUTS["table3"].tests}
        model = shown[run.path].model if run.path in shown else "global"
        rows = [
            row(float(rng.uniform(0.2, 0.9)), round=number, model=model, test=test, role=role, client=client)
            for number in range(3)
            for client, (role, names) in enumerate(tests.items())
            for test in names
        ]
        write_run(results, run.path, rows, module=run.method)
        if run.path.endswith(LOST):
            (folder / "run.json").unlink()
    for entry in artefacts(study):
        if entry.kind == "partition":
            clients = parse_setting(entry.spec["setting"]).clients
            counts = rng.integers(0, 50, (clients, 10))
            write_npz(results / entry.path, counts=counts, dropout=np.arange(clients) == 8, unseen=np.arange(10) > 8)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "tiny.yaml").write_text(STUDY)
    study = load_study(folder / "tiny.yaml")
    write_runs(folder / "results", study)
    (folder / "report.html").write_text(build(study, folder / "results", "tiny.yaml"))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    path = chromium()
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, file: Path) -> Iterator:
    """Opens the page in a window of a size; in the end nothing may have gone wrong, nor been asked for elsewhere."""
    contexts, said, asked, opened = [], [], set(), set()

    def make(width: int = 1280, height: int = 900, which: Path | None = None, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.add(request.url.split("#")[0]))
        page.goto((which or file).as_uri())
        opened.add((which or file).as_uri())
        return page

    yield make
    for context in contexts:
        context.close()
    assert not said
    assert {url for url in asked if not url.startswith("data:")} == opened


def choose(page, test: str) -> None:
    page.locator(".bar label").filter(has_text=re.compile(f"^{test}$")).click()


def visible(page, selector: str) -> list[str]:
    return [one.inner_text() for one in page.locator(selector).all() if one.is_visible()]


def column(page, title: str) -> list[tuple[str, float]]:
    """Of Table 2: the setting of each group in the study, as shown, and its pooled number in a column."""
    heads = [
        head.inner_text().split("\n")[0].strip(" ↕↑↓")
        for head in page.locator("#table2 thead").first.locator("th").all()
    ]
    place = heads.index(title) - 2
    groups = page.locator("#table2 table").first.locator("tbody.lines:has([data-test])").all()
    names = [group.locator("th.group").inner_text() for group in groups]
    values = [group.locator("tr[data-test=pooled] td").nth(place).inner_text() for group in groups]
    return [(name, float(value.split()[0])) for name, value in zip(names, values, strict=True)]


def test_the_switch_shows_one_test_everywhere_and_all_again(open_page):
    page = open_page()
    before = visible(page, "[data-test]")
    for test in ("pooled", "own"):
        choose(page, test)
        shown = [one for one in page.locator("[data-test]").all() if one.is_visible()]
        assert {one.get_attribute("data-test") for one in shown} == {test}
        assert {one.evaluate("one => one.localName") for one in shown} == {"tr", "figure"}
        names = page.locator("#table2 tbody.lines:has(tr[data-test]) th.group").all()
        assert len(names) == 6 and all(name.is_visible() for name in names)
        assert page.locator("#table2 tbody:has(tr[data-test]) tr.published:visible").count() == 3, "it stays beside it"
    choose(page, "monopoly")
    assert page.locator("#table2 .absent").is_visible() and not page.locator("#table3 .absent").is_visible()
    assert visible(page, "#table3 tr[data-test=monopoly] th[scope=row]") == ["monopoly classes"] * 2
    choose(page, "all")
    assert visible(page, "[data-test]") == before


def test_arrow_keys_move_the_switch(open_page):
    page = open_page()
    page.locator("input[name=test]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("input[name=test]:checked").get_attribute("value") == "pooled"
    assert not page.locator("#table2 tr[data-test=own]").first.is_visible()


@pytest.mark.parametrize("press", ["click", "Enter", "Space"])
def test_a_column_is_sorted_within_each_data_set_and_put_back(open_page, press):
    page = open_page()
    start = column(page, "FedAvg")
    head = page.locator("#table2 table").first.locator("thead th").filter(has_text="FedAvg").first
    seen = []
    for _ in range(3):
        head.locator("button").click() if press == "click" else head.locator("button").press(press)
        seen.append((head.get_attribute("aria-sort"), column(page, "FedAvg")))
    parts = [start[:3], start[3:]]
    down = [one for part in parts for one in sorted(part, key=lambda pair: -pair[1])]
    up = [one for part in parts for one in sorted(part, key=lambda pair: pair[1])]
    assert seen == [("descending", down), ("ascending", up), ("none", start)]
    assert start not in (down, up), "a test that sorting would pass by doing nothing"


def test_sorting_follows_the_test_that_is_shown(open_page):
    page = open_page()
    choose(page, "own")
    page.locator("#table2 button.sort").first.click()
    first = page.locator("#table2 table").first
    texts = [one.inner_text() for one in first.locator("tr[data-test=own] td:nth-of-type(1)").all()]
    numbers = [float(text.split()[0]) for text in texts]
    assert numbers == sorted(numbers[:3], reverse=True) + sorted(numbers[3:], reverse=True)


def test_a_plain_table_is_sorted_by_values_not_by_what_is_printed(open_page):
    page = open_page()
    page.locator("#cost summary").click()
    page.locator("#cost button.sort").filter(has_text="total time").click()
    cells_ = page.locator("#cost tbody tr td:nth-child(4)").all()
    values = [float(one.get_attribute("data-value")) for one in cells_]
    assert values == sorted(values, reverse=True) and len(set(values)) > 1


@pytest.mark.parametrize("press", ["click", "Enter"])
def test_a_number_opens_its_seeds_and_run_json_and_escape_closes_it(open_page, file, press):
    page = open_page()
    button = page.locator("#table2 tr[data-test=own] button.open").first
    button.click() if press == "click" else button.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert button.inner_text() in dialog.locator("h2").inner_text()
    rows = dialog.locator("tbody tr").all()
    values = [float(one.locator("td").nth(1).inner_text()) for one in rows]
    assert f"{np.mean(values):.2f}" == button.inner_text().split()[0]
    dialog.locator("summary").first.click()
    text = dialog.locator("details").first.inner_text()
    path = dialog.locator("summary").first.inner_text()
    record = json.loads((file.parent / "results" / path / "run.json").read_text())
    assert all(str(part) in text for part in (record["commit"], record["code"], record["versions"]["torch"]))
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert button.evaluate("one => one === document.activeElement"), "the keyboard goes on where it was"


def test_a_personalization_leads_to_the_runs_that_it_starts_from(open_page):
    page = open_page()
    page.locator("#table3 tbody.lines").first.locator("tr").last.locator("button.open").last.click()
    paths = [one.text_content() for one in page.locator("dialog summary").all()]
    assert any("/generators/" in path for path in paths) and any("/fedavg/" in path for path in paths)


def test_a_number_that_lacks_a_seed_says_which_run_is_missing(open_page):
    page = open_page()
    page.locator("button.open").filter(has_text="(1/2)").first.click()
    dialog = page.locator("dialog")
    assert "not run" in dialog.locator("tbody").inner_text()
    assert dialog.locator("details .absent").count() == 1
    page.keyboard.press("Escape")
    page.locator(".warning a").click()
    assert page.locator("#missing").is_visible()
    assert "snakemake --configfile=tiny.yaml results/tiny/tables/table2.csv" in page.locator("#missing").inner_text()


def test_runs_are_found_by_words(open_page):
    page = open_page()
    page.locator("#provenance summary").click()
    page.locator("#filter").fill("fedavg/ seed1 0.05")
    shown = visible(page, "#runs tbody th")
    assert shown and all("/fedavg/seed1" in path and "0.05" in path for path in shown)
    page.locator("#runs tbody button:visible").first.press("Enter")
    assert shown[0] in page.locator("dialog summary").first.inner_text()


def test_a_title_that_looks_like_markup_is_text(open_page):
    page = open_page()
    assert page.locator("#table2 thead").first.inner_text().count(HOSTILE) == 1
    page.locator("button.open").filter(has_text="(1/2)").first.click()
    assert HOSTILE in page.locator("dialog dl").first.inner_text()


def test_the_words_of_the_switch_are_explained(open_page):
    page = open_page()
    said = page.locator(".meanings").inner_text()
    assert all(f"{test}, {meaning}" in said for test, meaning in TEST_MEANINGS.items())
    assert not page.locator(".bar .meaning").is_visible()
    for test, meaning in TEST_MEANINGS.items():
        choose(page, test)
        assert visible(page, ".bar .meaning") == [meaning]
    choose(page, "all")
    assert not page.locator(".bar .meaning").is_visible()


WIDER = """() => {
  const all = [...document.querySelectorAll("main *")].filter((one) => one.getClientRects().length);
  const edge = (one) => one.getBoundingClientRect().right > innerWidth + 0.5;
  const scrolls = (one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0
    && getComputedStyle(one).display !== "inline" && one.namespaceURI.endsWith("xhtml");
  const tabular = (one) => one.closest("table") || one.querySelector(":scope > table");
  return all.filter((one) => !tabular(one) && (edge(one) || scrolls(one)))
    .map((one) => one.outerHTML.slice(0, 200));
}"""
"""What is wider than it has room for, if it is neither a table, nor in one, nor the box in which one scrolls."""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["hand-made", "reference"])
def test_nothing_is_wider_than_the_page_but_tables_in_boxes_that_scroll(open_page, which, width):
    page = open_page(width, which=REFERENCE / "report.html" if which == "reference" else None)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits) and page.evaluate(WIDER) == []
    page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
    assert page.evaluate(fits) and page.evaluate(WIDER) == []
    boxes = page.locator(".scroll:visible")
    assert boxes.count() and boxes.locator("> :not(table)").count() == 0
    cut = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"
    assert page.locator("th.group:visible").evaluate_all(cut) == []
    page.locator("#table2 button.open").first.click()
    page.locator("dialog summary").first.click()
    assert page.evaluate(fits)
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")


def test_on_a_phone_the_names_of_rows_stay_while_a_table_scrolls(open_page):
    page = open_page(390, 844)
    box = page.locator("#table2 .scroll").first
    assert box.evaluate("one => one.scrollWidth > one.clientWidth")
    name = page.locator("#table2 th.group").first
    before = name.bounding_box()["x"]
    box.evaluate("one => one.scrollLeft = 150")
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)


def test_without_scripts_everything_is_there_to_read(open_page):
    page = open_page(java_script_enabled=False)
    assert not page.locator(".bar").is_visible()
    tested = page.locator("#table2 tr[data-test], #figure4 figure").all()
    assert tested and all(one.is_visible() for one in tested)


def test_it_is_printed_without_controls_and_no_table_is_cut(open_page):
    page = open_page(1032, 700)  # A4 landscape within its margins
    page.locator("#table2 button.open").first.click()
    page.emulate_media(media="print")
    assert not page.locator("dialog").is_visible() and not page.locator(".bar").is_visible()
    tables = page.locator("table:visible, svg:visible").all()
    assert tables and max(one.bounding_box()["x"] + one.bounding_box()["width"] for one in tables) <= 1032
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
