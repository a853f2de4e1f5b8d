"""The page in a browser: what its script adds, and that nothing is missing without it."""

import html
import json
import re

import pytest
from report.pages import Reader, dom, grid_study, needs_chromium

from normhpc.report.page import write_report

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    grid_study(folder / "runs")
    write_report([folder / "runs"], folder / "r.html")
    return folder / "r.html"


def test_it_opens_without_a_word_on_the_console(page):
    text, said = dom(page)
    assert said == ""
    assert 'role="status"' in text


def test_nothing_is_asked_of_anybody(page, tmp_path):
    log = tmp_path / "net.json"
    dom(page, "", f"--log-net-log={log}", "--net-log-capture-mode=Everything")
    # the browser itself talks to its makers; only what a page starts has it as its initiator
    assert '"initiator":"file://' not in log.read_text()


def test_a_request_would_be_refused(page, tmp_path):
    planted = page.read_text().replace("<main>", '<main><img src="https://example.com/x.png">', 1)
    (tmp_path / "planted.html").write_text(planted)
    _, said = dom(tmp_path / "planted.html")
    assert "violates the following Content Security Policy directive" in said


def test_a_planted_script_does_not_run(page, tmp_path):
    planted = page.read_text().replace("<main>", "<main><script>document.title = 'taken'</script>", 1)
    (tmp_path / "planted.html").write_text(planted)
    text, _ = dom(tmp_path / "planted.html")
    assert "<title>taken" not in text


def shown_rows(text: str, table: str = "t-results") -> list[str]:
    part = text.partition(f'id="{table}"')[2].partition("</table>")[0].partition("<tbody>")[2]
    rows = part.split("<tr")[1:]
    return [
        row.partition(">")[2].partition(">")[2].partition("<")[0]
        for row in rows
        if "hidden" not in row.partition(">")[0]
    ]


@pytest.mark.parametrize(
    ("fragment", "rows"),
    [
        ("", ["batch", "batch", "layer", "layer", "instance", "instance"]),
        ("#sort=test_top1", ["layer", "layer", "instance", "instance", "batch", "batch"]),
        ("#sort=-norm.name", ["layer", "layer", "instance", "instance", "batch", "batch"]),
        ("#filter=INST", ["instance", "instance"]),
        ("#filter=inst%20anc&sort=-optim.lr", ["instance", "instance"]),
        ("#filter=nothing", []),
        ("#sort=nothing", ["batch", "batch", "layer", "layer", "instance", "instance"]),
    ],
)
def test_a_view_can_be_linked_to(page, fragment, rows):
    text, said = dom(page, fragment)
    assert said == ""
    assert shown_rows(text) == rows


def test_sorting_is_told_to_all_and_reaches_other_tables(page):
    text, _ = dom(page, "#sort=-test_top1")
    assert 'data-key="test_top1" class="n" aria-sort="descending"' in text
    text, _ = dom(page, "#table=time&sort=-restricted_mean&filter=99%25%20layer")
    assert shown_rows(text, "t-time") == ["layer", "layer"]
    assert text.partition("</style>")[2].partition("<script>")[0].count("aria-sort") == 1


def test_methods_can_be_hidden(page):
    text, _ = dom(page, "#hide=1")
    assert 'class="line c1 off"' in text
    assert 'class="line c0 off"' not in text
    # once in each of four legends
    assert text.partition("</style>")[2].count('aria-pressed="false"') == 4


HANDS = """
<script>
addEventListener("load", () => {
  const told = [];
  const at = (element, x, y) => {
    element.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true }));
    const tip = document.querySelector(".tip");
    told.push(tip.classList.contains("off") ? "" : tip.textContent);
  };
  const plot = document.querySelector("svg.plot[aria-label^='val top1']");
  plot.scrollIntoView();
  const box = plot.getBoundingClientRect();
  const [left, right, bottom, top] = plot.dataset.frame.split(" ").map((edge) => edge * box.width / 370);
  at(plot, box.left + right, box.top + top + 8);
  at(plot, box.left + left + 5, box.top + top);
  at(plot.querySelector("circle"), 0, 0);
  at(document.querySelector("path.run"), 0, 0);
  document.querySelector("#t-results th button").click();
  told.push(location.hash);
  document.querySelector("#t-results th button").click();
  told.push(location.hash);
  document.querySelectorAll(".legend button")[2].click();
  told.push(location.hash);
  document.title = JSON.stringify(told);
});
</script></body>"""


def test_a_pointer_is_told_what_it_is_at_and_clicks_are_in_the_address(page, tmp_path):
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text()).replace("</body>", HANDS)
    (tmp_path / "hands.html").write_text(text)
    found, said = dom(tmp_path / "hands.html")
    assert said == ""
    told = json.loads(html.unescape(re.search("<title>(.*?)</title>", found)[1]))
    # of what lies in one place the method drawn first
    assert re.fullmatch(r"(batch|instance): 4, about 0\.(90|89)\d*", told[0])
    assert told[1] == ""
    assert re.fullmatch(r"batch, optim.lr=0.1: test top1 0.901 after epoch 4", told[2])
    assert re.fullmatch(r"[0-9a-f]{16} batch, optim.lr=0.1, seed 0", told[3])
    assert told[4:] == ["#sort=norm.name", "#sort=-norm.name", "#sort=-norm.name&hide=2"]


def test_without_javascript_every_table_and_drawing_is_there(page, tmp_path):
    # Chromium dumps nothing when scripts are off for all; here the page's own is not there
    head, _, rest = page.read_text().partition("<script>")
    (tmp_path / "plain.html").write_text(head + rest.partition("</script>")[2])
    text, said = dom(tmp_path / "plain.html")
    assert said == ""
    body = text.partition("</style>")[2]
    assert "<button" not in body
    assert re.search(r"<[^>]* (hidden|class=\"off)", body) is None
    assert Reader(text).tables == Reader(page.read_text()).tables
    assert body.count("<svg") == page.read_text().partition("</style>")[2].count("<svg") > 10
