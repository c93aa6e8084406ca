import json
import re
import subprocess
import sys

import numpy as np
import pytest

from fastseg import report
from fastseg.errors import DataError, UsageError
from fastseg.host.files import write_csv
from fastseg.pictures import drawing
from fastseg.pictures import page as page_module
from fastseg.pictures.page import file_html, page
from fastseg.pictures.tables import Table, number
from fastseg.tasks.segmentation.picture import overlay_png


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    w, v, u = np.indices((12, 32, 40)) - np.array([7, 15, 18]).reshape(3, 1, 1, 1)
    radius = np.sqrt((2 * w) ** 2 + v**2 + u**2)
    label = np.select([radius < 4, radius < 7, radius < 11], [1, 3, 2]).astype(np.uint8)
    image = rng.standard_normal((4, 12, 32, 40)).astype(np.float32) + label
    return image, label


def write_metrics(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(steps=60):
    for step in range(1, steps + 1):
        yield {"step": step, "epoch": step // 20, "loss": 2 / step, "lr": 1e-3}
        if step % 20 == 0:
            yield {"step": step, "epoch": step // 20, "val_dice": 0.5 + step / 200}


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_colour(picture, colour, least=5):
    from matplotlib.colors import to_rgb

    return (np.abs(picture - to_rgb(colour)).max(-1) < 0.01).sum() >= least


def test_best_slice_shows_every_class(volume):
    _, label = volume
    assert drawing.best_slice(label, None) == 7
    assert drawing.best_slice(np.zeros_like(label), label) == 7
    assert drawing.best_slice(np.zeros_like(label)) == 6
    large_but_dull = label.copy()
    large_but_dull[1] = 0
    large_but_dull[1, :20, :20] = 2
    assert drawing.best_slice(large_but_dull) == 7
    with pytest.raises(UsageError):
        drawing.best_slice(None, None)


def test_progress_png_draws_both_curves(tmp_path):
    out = report.progress_png(write_metrics(tmp_path / "m.jsonl", rows()), tmp_path / "a" / "p.png")
    picture = pixels(out)
    half = picture.shape[1] // 2
    for side in (picture[:, :half], picture[:, half:]):
        assert has_colour(side, drawing.CLASS_COLOURS[0], 100)
    assert [p.name for p in out.parent.iterdir()] == ["p.png"]


def test_progress_png_takes_dice_by_region_and_a_run_without_rows(tmp_path):
    named = [{"step": s, "val_dice": {"WT": 0.9, "ET": 0.2 + s / 100}} for s in (10, 20)]
    out = report.progress_png(write_metrics(tmp_path / "m.jsonl", named), tmp_path / "p.png")
    for colour in drawing.CLASS_COLOURS[:2]:
        assert has_colour(pixels(out), colour, 20)
    empty = report.progress_png(tmp_path / "not-yet.jsonl", tmp_path / "empty.png")
    assert pixels(empty).min() < 0.5


def test_metrics_may_end_in_the_middle_of_a_line(tmp_path):
    path = write_metrics(tmp_path / "m.jsonl", rows(3))
    path.write_text(path.read_text() + '{"step": 4, "lo')
    assert [row["step"] for row in report.read_metrics(path)] == [1, 2, 3]


def test_overlay_draws_truth_and_prediction(volume, tmp_path):
    image, label = volume
    shifted = np.roll(label, 4, 2)
    both = pixels(overlay_png(image, label, shifted, tmp_path / "both.png", title="A"))
    for colour in drawing.CLASS_COLOURS[:3]:
        assert has_colour(both, colour, 50)
    exact = pixels(overlay_png(image, label, label, tmp_path / "exact.png", title="A"))
    assert (both != exact).any()
    alone = pixels(overlay_png(image, None, label, tmp_path / "alone.png", title="A"))
    third = both.shape[1] // 6
    assert has_colour(both[:, -2 * third : -third], drawing.CLASS_COLOURS[1], 50)
    assert not has_colour(alone[:-60, -2 * third : -third], drawing.CLASS_COLOURS[1])


def test_overlay_of_one_channel_and_flat_image(volume, tmp_path):
    _, label = volume
    out = overlay_png(
        np.zeros((1, *label.shape), np.float32), label, label * 0, tmp_path / "o.png",
        modalities=("ct",), classes=("background", "a", "b", "c"),
    )  # fmt: skip
    assert has_colour(pixels(out), drawing.CLASS_COLOURS[0], 20)


def test_summary_is_one_picture_that_grows_with_the_overlays(volume, tmp_path):
    image, label = volume
    metrics = write_metrics(tmp_path / "m.jsonl", rows())
    scores = [{"case": "A", "dice_WT": 0.9, "dice_TC": 0.8, "dice_ET": 0.7}]
    heights = []
    for count in (0, 1, 3):
        overlays = [drawing.Overlay(f"case {i}", image, label, label) for i in range(count)]
        out = report.summary_png(tmp_path / f"{count}.png", metrics, overlays, scores)
        heights.append(len(pixels(out)))
    assert heights[0] < heights[1] < heights[2]


def test_report_page_is_self_contained(volume, tmp_path):
    image, label = volume
    run = tmp_path / "run <1>"
    run.mkdir()
    write_metrics(run / "metrics.jsonl", [*rows(), {"step": 61, "skipped": "loss nan"}])
    overlay_png(image, label, label, run / "overlays" / "a.png")
    (run / "config.json").write_text('{"note": "<script>"}')
    scores = {"dice_WT": 0.875, "hd95_mm_WT": 2.0, "dice_regions": 0.8, "legacy_slice_dice": 0.6}
    found = {"regions": ["WT"], "cases": [{"case": "Q7", **scores}], "mean": scores}
    (run / "evaluation.json").write_text(json.dumps(found))
    page = report.report(run).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script>" not in page
    assert "run &lt;1&gt;" in page
    assert "Q7" in page
    assert "0.875" in page
    assert "<td>skipped steps</td><td>1</td>" in page


def test_report_refuses_other_folders_and_records(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.jsonl"):
        report.report(tmp_path)
    write_metrics(tmp_path / "metrics.jsonl", rows(2))
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(DataError, match=r"evaluation\.json"):
        report.report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_drawing_leaves_no_global_state(tmp_path):
    code = (
        "import sys; from fastseg import report;"
        "assert 'matplotlib' not in sys.modules;"
        f"report.progress_png({str(tmp_path / 'm.jsonl')!r}, {str(tmp_path / 'p.png')!r});"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_table_as_text_markdown_and_html():
    table = Table("A & B", ["case", "Dice"], [["x|<1>", "0.9"], ["longer", "–"], ["mean", "0.95"]])
    assert table.text().splitlines() == [
        "A & B", "case    Dice", "x|<1>    0.9", "longer     –", "mean    0.95",
    ]  # fmt: skip
    assert table._replace(title="").text(totals=1).splitlines() == [
        "case    Dice", "-" * 12, "x|<1>    0.9", "longer     –", "-" * 12, "mean    0.95",
    ]  # fmt: skip
    assert table.text(totals=0).count("---") == table.text(totals=2).count("---") // 2
    assert table.markdown("of one run", level=3) == (
        "### A & B\n\nof one run\n\n| case | Dice |\n| --- | --- |\n"
        "| x\\|&lt;1> | 0.9 |\n| longer | – |\n| mean | 0.95 |"
    )
    assert table._replace(rows=table.rows[:1]).html() == (
        "<h2>A &amp; B</h2><table><tr><th>case</th><th>Dice</th></tr>"
        "<tr><td>x|&lt;1&gt;</td><td>0.9</td></tr></table>"
    )
    assert Table("", [], [["k", "v"]]).html() == "<table><tr><td>k</td><td>v</td></tr></table>"
    assert Table("", [], [["k", "1"], ["long", "2"]]).text() == "k     1\nlong  2"
    assert [number(0.12345), number(31.25, 1), number(None), number("a")] == [
        "0.123", "31.2", "–", "a",
    ]  # fmt: skip


def test_page_escapes_title_and_files(tmp_path):
    (tmp_path / "a.json").write_text('"<b>"')
    text = page("<run>", [file_html(tmp_path / "a.json"), file_html(tmp_path / "b.json")])
    assert "<b>" not in text
    assert "<run>" not in text
    assert "a.json</summary>" in text
    assert "b.json" not in text


def test_names_are_no_formulas(volume, tmp_path):
    image, label = volume
    names = ("background", r"$\frac$", "$", "_{")
    overlay_png(image, label, label, tmp_path / "a.png", title=r"$\frac$", classes=names)
    assert (tmp_path / "a.png").exists()


def test_damaged_lines_of_metrics_are_left_out_with_one_warning(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\xff\n{"st\n7\n{"step": 2}\n{"ste')
    assert page_module.read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 3 lines are damaged, line 2 the first"
    ]


def test_texts_of_a_csv_file_are_no_formulas(tmp_path):
    write_csv(tmp_path / "a.csv", [{"case": "=1+1", "dice": -0.5}, {"case": "A", "dice": 1.0}])
    assert (tmp_path / "a.csv").read_text() == "case,dice\n'=1+1,-0.5\nA,1.0\n"
