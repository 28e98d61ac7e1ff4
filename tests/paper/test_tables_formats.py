"""Tables as Markdown, LaTeX and HTML, and the holes in their CSV files."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from apfl.paper.numbers.metrics import collect
from apfl.paper.tables import accuracy as tables
from apfl.paper.tables import formats as render
from apfl.paper.tables.holes import holes
from apfl.paper.tables.layout import Entry, Group, Panel, Section, Table, TableLine
from apfl.study.outputs import Output
from tests.helpers.paper_runs import both, cell, write_cell, write_run


def small(label="5 clients", column="FedAvg", remark="not run"):
    entries = (Entry("61.50 ± 0.50", number=True, bold=True), Entry(remark))
    groups = (Group(label, (TableLine("own test", entries),)),)
    panel = Panel("", (column, "Local"), (Section("CIFAR-10", groups),))
    return Table(Output("table2", "Accuracy in %."), (panel,), ("A note.",), rows=None)


class Reader(HTMLParser):
    """Collects the cells of a page's rows, and checks that its elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def read(text):
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def test_markdown_sets_the_best_in_bold():
    assert "| CIFAR-10 | 5 clients | own test | **61.50 ± 0.50** | not run |" in render.markdown(small()).splitlines()


def test_markdown_rows_have_as_many_cells_as_the_head():
    lines = [line for line in render.markdown(small(column="a|b")).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}


def test_latex_sets_the_best_in_bold_and_escapes_what_is_special():
    text = render.latex(small(label="A_n, 50 % & more_so", column="AP-FL [x_y]"))
    assert r"\textbf{61.50 $\pm$ 0.50} & not run \\" in text
    assert r"$A_n$, 50 \% \& more\_so & own test" in text
    assert r"AP-FL {[}x\_y{]}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_a_bracket_at_the_start_of_a_latex_row_is_no_argument_of_the_line_break():
    assert "\\\\\n[" not in render.latex(small(label="[odd]"))


def test_html_sets_the_best_in_bold_and_escapes_what_is_foreign():
    page = render.FORMATS["html"](small(column="<script>alert(1)</script>", remark="R&D"))
    assert "<script>" not in page
    assert "<strong>61.50 ± 0.50</strong>" in page
    reader = read(page)
    assert reader.rows[0] == ["setting", "", "<script>alert(1)</script>", "Local"]
    assert reader.rows[-1] == ["5 clients", "own test", "61.50 ± 0.50", "R&D"]


def test_html_needs_nothing_from_elsewhere():
    page = render.FORMATS["html"](small())
    assert "http:" not in page and "https:" not in page
    assert "src=" not in page


@pytest.mark.parametrize("kind", render.FORMATS)
def test_every_format_holds_the_published_and_the_reproduced_number(tmp_path, kind):
    ours = cell("FedAvg")
    write_cell(tmp_path, ours, 0.5, 0.6)
    table = tables.build("table2", [ours], collect(tmp_path, ours.runs))
    (path,) = [path for path in render.write(table, tmp_path / "tables") if path.suffix == f".{kind}"]
    text = path.read_text()
    assert "65.77" in text
    assert "55.00" in text
    assert "not run" in text


def written(results, cells, partial=False):
    runs = [run for ours in cells for run in ours.runs]
    render.write(tables.build("table2", cells, collect(results, runs, partial)), results / "tables")
    return results / "tables" / "table2.csv"


def test_a_full_table_has_no_holes(tmp_path):
    ours = cell("FedAvg")
    write_cell(tmp_path, ours, 0.5, 0.6)
    assert holes(written(tmp_path, [ours])) == []


def test_holes_are_named_and_what_the_study_does_not_run_is_none(tmp_path):
    cells = [cell("FedAvg"), cell("Local"), cell("SCAFFOLD")]
    write_run(tmp_path, cells[0].runs[0], both(0.5))
    write_cell(tmp_path, cells[1], 0.5, 0.5)
    for run in cells[2].runs:
        write_run(tmp_path, run, both(0.5), status="diverged", module="scaffold")
    found = holes(written(tmp_path, cells, partial=True))
    assert len(found) == 4
    assert [line.rsplit(": ", 1)[1] for line in found] == ["1 of 2 seeds"] * 2 + ["diverged"] * 2
    assert "FedAvg" in found[0]
    assert "pooled" in found[0]


def test_a_table_without_any_cell_of_the_study_is_a_hole(tmp_path):
    assert holes(written(tmp_path, [])) == ["table2: the study runs no cell of it"]
