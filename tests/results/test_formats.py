import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from results.fabricate import norm_config, sealed_run, small_study

from normhpc.errors import InputError
from normhpc.results import load_runs, render, summarize
from normhpc.results.human import format_interval, format_number

CAPTION = "mean ± half-width of the 95 % Student t interval over seeds; n runs have a value"


@pytest.fixture
def cells(tmp_path):
    small_study(tmp_path)
    return summarize(load_runs(tmp_path), metrics=["test_top1", "seconds", "parameters"])


@pytest.fixture
def hostile():
    frame = pd.DataFrame({"norm.name": ["a_b & 50% <i>", "|x| \\ {y} $#~^ *`"], "n": [2, 2], "ok": [2, 1]})
    frame = frame.assign(total=2, test_top1_mean=[0.5, 0.25], test_top1_high=[0.75, 0.5])
    frame.attrs["notes"] = ["a_b < c & d|e"]
    return frame


def spelled(table, format):
    text = render(table, format)
    assert isinstance(text, str)
    assert text.endswith("\n")
    return text


@pytest.mark.parametrize("per_run", [False, True])
def test_csv_json_and_parquet_give_the_same_values_back(tmp_path, per_run):
    small_study(tmp_path)
    table = load_runs(tmp_path) if per_run else summarize(load_runs(tmp_path))
    kinds = dict(table.dtypes)
    from_csv = pd.read_csv(io.StringIO(spelled(table, "csv")), dtype=kinds)
    pd.testing.assert_frame_equal(from_csv, table, rtol=1e-15)
    from_json = pd.read_json(io.StringIO(spelled(table, "json")), precise_float=True, dtype=kinds)
    pd.testing.assert_frame_equal(from_json, table, rtol=1e-15)
    from_parquet = pd.read_parquet(io.BytesIO(render(table, "parquet")))
    pd.testing.assert_frame_equal(from_parquet, table, check_exact=True)
    assert from_parquet.attrs["notes"] == table.attrs["notes"]


def test_csv_and_json_have_every_digit(tmp_path):
    third = 1 / 3
    sealed_run(tmp_path, norm_config("batch", 0), third)
    table = summarize(load_runs(tmp_path), metrics=["test_top1"])
    (row,) = csv.DictReader(io.StringIO(spelled(table, "csv")))
    assert float(row["test_top1_mean"]) == third
    assert row["test_top1_std"] == ""
    assert json.loads(spelled(table, "json"))[0]["test_top1_mean"] == third


def test_json_writes_null_for_what_is_missing_and_whole_numbers_whole(tmp_path):
    groups = {"name": "group", "groups": 4}
    for norm in ("batch", groups):
        sealed_run(tmp_path, norm_config(norm, 0), swept={"norm": norm})
    rows = json.loads(spelled(summarize(load_runs(tmp_path), metrics=["test_top1"]), "json"))
    expected = {"data.name": "digits", "model.name": "convnet", "norm.name": "group", "norm.groups": 4}
    expected |= {"n": 1, "ok": 1, "total": 1, "failed": 0, "diverged": 0, "other": 0, "test_top1_mean": 0.9}
    assert rows[1] == expected | {"test_top1_std": None, "test_top1_low": None, "test_top1_high": None}
    assert rows[0]["norm.groups"] is None


def test_the_terminal_says_what_is_shared_once(cells):
    assert spelled(cells, "table") == (
        "data.name digits · model.name convnet\n"
        "\n"
        "norm.name   n   ok/total         test_top1         seconds   parameters\n"
        "───────────────────────────────────────────────────────────────────────\n"
        "batch       3        3/3   0.9300 ± 0.0896   5.000 ± 0.000     1234 ± 0\n"
        "layer       1        1/3            0.8000               5         1234\n"
        "\n"
        f"{CAPTION}\n"
        "note: failed: 1 of 6 runs (norm.name=layer); normhpc status names the errors\n"
        "note: diverged: 1 of 6 runs (norm.name=layer)\n"
    )


def test_the_terminal_leaves_out_fields_that_no_run_has(tmp_path):
    for seed in (0, 1):
        sealed_run(tmp_path, norm_config("batch", seed), swept={"norm.name": "batch", "norm.groups": None})
    table = summarize(load_runs(tmp_path))
    assert "norm.groups" in table.columns
    assert spelled(table, "table").splitlines()[0] == "data.name digits · model.name convnet · norm.name batch"


def test_markdown(cells):
    assert spelled(cells, "markdown") == (
        "| data.name | model.name | norm.name | n | ok/total | test_top1 | seconds | parameters |\n"
        "| :--- | :--- | :--- | ---: | ---: | ---: | ---: | ---: |\n"
        "| digits | convnet | batch | 3 | 3/3 | 0.9300 ± 0.0896 | 5.000 ± 0.000 | 1234 ± 0 |\n"
        "| digits | convnet | layer | 1 | 1/3 | 0.8000 | 5 | 1234 |\n"
        "\n"
        f"{CAPTION}\n"
        "\n"
        "- failed: 1 of 6 runs (norm.name=layer); normhpc status names the errors\n"
        "- diverged: 1 of 6 runs (norm.name=layer)\n"
    )


def test_latex_is_booktabs_with_the_best_mean_bold(cells):
    assert spelled(cells.iloc[:, :-8], "latex") == (
        "% note: failed: 1 of 6 runs (norm.name=layer); normhpc status names the errors\n"
        "% note: diverged: 1 of 6 runs (norm.name=layer)\n"
        "\\begin{tabular}{lllrrr}\n"
        "\\toprule\n"
        "data.name & model.name & norm.name & n & ok/total & test\\_top1 \\\\\n"
        "\\midrule\n"
        "digits & convnet & batch & 3 & 3/3 & \\textbf{0.9300 $\\pm$ 0.0896} \\\\\n"
        "digits & convnet & layer & 1 & 1/3 & 0.8000 \\\\\n"
        "\\bottomrule\n"
        "\\multicolumn{6}{l}{\\footnotesize mean $\\pm$ half-width of the 95 \\% Student t interval over seeds; "
        "n runs have a value} \\\\\n"
        "\\end{tabular}\n"
    )


def test_latex_html_and_markdown_agree_digit_for_digit_with_the_values(tmp_path):
    scores = {"batch": [0.91, 0.942, 0.9333], "layer": [0.7, 0.81, 0.78], "none": [0.5]}
    for norm, values in scores.items():
        for seed, top1 in enumerate(values):
            sealed_run(tmp_path, norm_config(norm, seed), top1, swept={"norm": norm})
    table = summarize(load_runs(tmp_path), metrics=["test_top1", "test_loss"])
    # as full CSV values say, to the digits of the table
    expected = []
    for row in csv.DictReader(io.StringIO(spelled(table, "csv"))):
        cells = []
        for name in ("test_top1", "test_loss"):
            mean, high = float(row[f"{name}_mean"]), row[f"{name}_high"]
            text, half = format_interval(name, mean, float(high) - mean if high else float("nan"))
            cells.append(f"{text} ± {half}" if half else text)
        expected.append([row["norm.name"], row["n"], *cells])
    assert "±" not in "".join(expected[-1])
    assert all("±" in cell for row in expected[:2] for cell in row[2:])
    lines = {
        "markdown": (r"^\| digits .*\|$", r" \| "),
        "latex": (r"^digits & .*\\\\$", " & "),
        "html": (r"^<tr><td>digits</td>.*</tr>$", "</td><td[^>]*>"),
    }
    for format, (row, between) in lines.items():
        found = []
        for line in re.findall(row, spelled(table, format), re.MULTILINE):
            plain = re.sub(r"\\(?:textbf|underline)\{([^}]*)\}", r"\1", line).replace("$\\pm$", "±").rstrip("\\ ")
            cells = [re.sub("<[^>]*>", "", cell).strip("| ") for cell in re.split(between, plain)]
            found.append([cells[2], cells[3], *cells[5:]])
        assert found == expected, format


def test_latex_escapes_what_is_special(hostile):
    text = spelled(hostile, "latex")
    assert r"a\_b \& 50\% \textless{}i\textgreater{} & 2 & 2/2 & \textbf{0.5000 $\pm$ 0.2500} \\" in text
    assert r"\textbar{}x\textbar{} \textbackslash{} \{y\} \$\#\textasciitilde{}\textasciicircum{} *` & 2 & 1/2" in text


def test_markdown_escapes_what_is_special(hostile):
    text = spelled(hostile, "markdown")
    assert "| a_b &amp; 50% &lt;i&gt; | 2 | 2/2 | 0.5000 ± 0.2500 |\n" in text
    assert "| \\|x\\| \\\\ {y} $#~^ \\*\\` | 2 | 1/2 | 0.2500 ± 0.2500 |\n" in text
    assert text.endswith("- a_b &lt; c &amp; d\\|e\n")


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.found.append(data)


def test_html_escapes_what_is_special_and_sets_the_best_bold(hostile):
    text = spelled(hostile, "html")
    parser = Texts()
    parser.feed(text)
    assert parser.found == [
        *(CAPTION, "norm.name", "n", "ok/total", "test_top1"),
        *("a_b & 50% <i>", "2", "2/2", "0.5000 ± 0.2500"),
        *("|x| \\ {y} $#~^ *`", "2", "1/2", "0.2500 ± 0.2500"),
        "a_b < c & d|e",
    ]
    assert "i" not in parser.tags
    assert text.count("<b>") == 1
    assert "<b>0.5000 ± 0.2500</b>" in text


def test_less_is_better_where_it_is_and_images_of_other_sets_are_no_rivals(tmp_path):
    for data, norm, top1, seconds in (
        ("digits", "batch", 0.9, 5.0),
        ("digits", "layer", 0.8, 4.0),
        ("synthetic", "batch", 0.1, 9.0),
        ("synthetic", "layer", 0.1, 9.5),
    ):
        config = norm_config(norm, 0, data=data)
        sealed_run(tmp_path, config, top1, swept={"data.name": data, "norm": norm}, seconds=seconds)
    table = summarize(load_runs(tmp_path), metrics=["test_top1", "seconds", "best_epoch"])
    rows = [row for row in spelled(table, "latex").splitlines() if "convnet" in row]
    assert [row.split(" & ", 5)[5] for row in rows] == [
        r"\textbf{0.9000} & 5 & 1 \\",
        r"0.8000 & \textbf{4} & 1 \\",
        r"\textbf{0.1000} & \textbf{9} & 1 \\",
        r"\textbf{0.1000} & 9.500 & 1 \\",
    ]


def test_a_row_by_chosen_fields_says_what_its_interval_is_over(tmp_path):
    small_study(tmp_path)
    runs = load_runs(tmp_path)
    assert CAPTION in spelled(summarize(runs, by=["norm.name"]), "markdown")
    text = spelled(summarize(runs, by=["model.name"]), "markdown")
    assert "Student t interval over the runs of a row; n runs have a value\n" in text
    assert "- rows by model.name are over different norm.name, not over seeds alone\n" in text


def test_runs_are_shown_without_an_interval(tmp_path):
    small_study(tmp_path)
    runs = load_runs(tmp_path)
    text = spelled(runs[["run_id", "state", "seed", "norm.name", "test_top1", "seconds"]], "table")
    lines = text.splitlines()
    assert lines[0].split() == ["run_id", "state", "seed", "norm.name", "test_top1", "seconds"]
    assert lines[2].split() == [runs["run_id"][0], "finished", "0", "batch", "0.9000", "5"]
    assert lines[6].split() == [runs["run_id"][4], "failed", "1", "layer", "-", "-"]


@pytest.mark.parametrize("format", ["table", "csv", "json", "parquet", "markdown", "latex", "html"])
def test_bytes_are_stable_and_empty_tables_have_a_form(tmp_path, format):
    small_study(tmp_path)
    for table in (load_runs(tmp_path), summarize(load_runs(tmp_path)), load_runs(tmp_path).iloc[:0]):
        assert render(table, format) == render(table.copy(), format)
    repeated = summarize(load_runs(tmp_path))
    assert render(repeated, format) == render(summarize(load_runs(tmp_path)), format)


def test_an_unknown_format_says_what_there_is(cells):
    with pytest.raises(InputError) as caught:
        render(cells, "markdwon")
    assert str(caught.value) == (
        "no format is called 'markdwon', did you mean 'markdown'? "
        "There are: table, csv, json, parquet, markdown, latex, html"
    )


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("test_top1", 0.97222, "0.9722"),
        ("best_val_top1", 1.0, "1.0000"),
        ("best_val_map_macro", 1.0, "1.0000"),
        ("test_cf1_3", 0.5, "0.5000"),
        ("generalization_ratio", 0.98765, "0.9877"),
        ("test_loss", 0.123456, "0.1235"),
        ("seconds", 12.3456, "12.35"),
        ("images_per_second", 123456.7, "123457"),
        ("parameters", 272474.0, "272474"),
        ("test_loss", float("nan"), "-"),
        ("test_loss", 0.0, "0"),
        ("test_loss", 1e-12, "0.00000000"),
    ],
)
def test_numbers_have_sensible_digits(metric, value, text):
    assert format_number(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "mean", "half", "text"),
    [
        ("test_top1", 0.93, 0.0896, ("0.9300", "0.0896")),
        ("seconds", 12.3456, 0.0123, ("12.346", "0.012")),
        ("images_per_second", 12345.6, 789.1, ("12346", "789")),
        ("seconds", 5.0, 0.0, ("5.000", "0.000")),
        ("seconds", 5.5, float("nan"), ("5.500", "")),
    ],
)
def test_means_and_half_widths_end_at_the_same_digit(metric, mean, half, text):
    assert format_interval(metric, mean, half) == text


TIES = "bold: best mean; underlined: not distinguishable from it (paired by seed, Holm, 5 %)"


def tied_study(tmp_path):
    """Of the same seeds: ``layer`` is below ``batch`` by nearly the same in each, ``instance`` now more, now less."""
    seeded = {
        "batch": (0.90, 0.92, 0.97),
        "layer": (0.89, 0.911, 0.96),
        "instance": (0.92, 0.89, 0.97),
        "rms": (0.91, 0.90),
        "none": (0.5,),
    }
    for norm, values in seeded.items():
        for seed, top1 in enumerate(values):
            sealed_run(tmp_path, norm_config(norm, seed), top1, swept={"norm": norm}, images_per_statistic=None)
    return summarize(load_runs(tmp_path), metrics=["test_top1"])


def test_what_cannot_be_told_from_the_best_is_underlined(tmp_path):
    table = tied_study(tmp_path)
    latex = [row.split(" & ", 5)[5] for row in spelled(table, "latex").splitlines() if "convnet" in row]
    marks = ["\\textbf", "0.9203 $\\pm$ 0.0892 \\\\", "\\underline", "\\underline", "0.5000 \\\\"]
    assert [row.split("{")[0] for row in latex] == marks
    assert f"\\footnotesize {TIES.replace('%', chr(92) + '%')}}}" in spelled(table, "latex")
    page = spelled(table, "html")
    assert (page.count("<b>"), page.count("<u>")) == (1, 2)
    assert f"{CAPTION}; {TIES}</caption>" in page
    assert TIES not in spelled(table, "table")


def test_ties_by_hand(tmp_path):
    """Pairs of the same seed, the p values after Holm; a cell of one seed is not judged."""
    best, layer, instance, rms = (
        np.array(values) for values in ((0.90, 0.92, 0.97), (0.89, 0.911, 0.96), (0.92, 0.89, 0.97), (0.91, 0.90))
    )
    table = tied_study(tmp_path)
    p = {
        1: scipy.stats.ttest_rel(best, layer).pvalue,
        2: scipy.stats.ttest_rel(best, instance).pvalue,
        3: scipy.stats.ttest_ind(best[:2], rms, equal_var=False).pvalue,  # they do not go together
    }
    smallest = sorted(p, key=p.get)
    assert smallest[0] == 1
    assert 3 * p[1] < 0.05 < p[3]
    assert p[2] > 0.05
    assert table.attrs["tied"] == {"test_top1": [2, 3]}


@pytest.fixture
def two_shard_sets(tmp_path):
    sets = {
        "coco": {"height": 64, "width": 64, "num_classes": 80, "multi_label": False},
        "pets": {"height": 32, "width": 48, "num_classes": 37, "multi_label": False},
    }
    for number, norm in enumerate(("batch", "rms", "none")):
        for place, (dataset, fields) in enumerate(sets.items()):
            data = {"name": "shards", "dataset": dataset, **fields}
            config = norm_config(norm, 0, data=data)
            share = 32 * (1 + place)
            swept = {"norm": norm, "data": data, "seed": 0}
            digest = {"data_digest": dataset, "images_per_statistic": [share]}
            sealed_run(tmp_path, config, 0.5 + 0.1 * number * (1 - 2 * place), swept=swept, **digest)
    return summarize(load_runs(tmp_path), metrics=["test_top1"])


def test_the_terminal_says_once_what_changes_together(two_shard_sets):
    lines = spelled(two_shard_sets, "table").splitlines()
    assert lines[:7] == [
        "data.name shards · model.name convnet · data.multi_label False",
        "",
        "data.dataset coco: data.height 64 · data.width 64 · data.num_classes 80",
        "data.dataset pets: data.height 32 · data.width 48 · data.num_classes 37",
        "",
        "norm.name   data.dataset   n   ok/total   test_top1",
        lines[6],
    ]
    assert lines[7] == "batch       coco           1        1/1      0.5000"
    assert "data.height" in spelled(two_shard_sets, "csv").splitlines()[0]


def test_sets_of_shards_are_no_rivals_and_need_not_be_the_same_data(two_shard_sets):
    rows = [row for row in spelled(two_shard_sets, "latex").splitlines() if "convnet" in row]
    assert [r"\textbf" in row for row in rows] == [False, True, False, False, True, False]
    assert two_shard_sets.attrs["notes"] == []
