"""The pages and pictures of bench/results are those that its records have; bench/compare.py."""

import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from fastseg import models, recipes
from fastseg.bench import cases
from fastseg.bench.cases import CASES, PASSES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="no records beside the tests")


@pytest.fixture(scope="module")
def summary():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import summary

        yield summary


@pytest.fixture(scope="module")
def stored(summary):
    return summary.records.stored()


def test_every_page_is_that_of_its_record(summary, stored):
    wanted = summary.texts(stored)
    for path, text in wanted.items():
        assert path.read_text(encoding="utf8") == text, f"{path}: run python bench/summary.py"
    prose = {RESULTS / name for name in summary.pages.PROSE}
    assert set(RESULTS.rglob("*.md")) == set(wanted) | prose


def test_pictures_carry_what_they_show(summary, stored):
    image = pytest.importorskip("PIL.Image")
    drawn = summary.pictures(stored)
    assert RESULTS / "speed.png" in drawn
    for path, (digest, _) in drawn.items():
        assert image.open(path).text["Description"] == digest, path
    assert (RESULTS / "speed.png").stat().st_size <= 60_000


def test_the_table_of_the_first_page_is_the_records_own(summary, stored, monkeypatch, tmp_path):
    if summary.BEGIN in summary.README.read_text(encoding="utf8"):
        for path, text in summary.readme(stored).items():
            assert path.read_text(encoding="utf8") == text, "run python bench/summary.py --readme"
    page = tmp_path / "README.md"
    monkeypatch.setattr(summary, "README", page)
    page.write_text("# Name\n")
    with pytest.raises(ValueError, match=r"README\.md has no lines <!-- speed -->"):
        summary.readme(stored)
    page.write_text(f"# Name\n\n{summary.BEGIN}\nold\n{summary.END}\n\nAnd so on.\n")
    (text,) = summary.readme(stored).values()
    assert text == f"# Name\n\n{summary.marked(stored, 'bench/results/')}\n\nAnd so on.\n"
    rows = re.findall(r"\]\(bench/results/\S+\.md\) \|$", text, re.MULTILINE)
    assert len(rows) == len(summary.speed.OPERATORS)


def test_links_lead_somewhere():
    pages = [*RESULTS.rglob("*.md"), RESULTS.parent / "README.md"]
    links = [
        (page, page.parent / link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf8"))
    ]
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf8")
        links += [(name, ROOT / link) for link in re.findall(r"bench/results/[\w./-]*\w", text)]
    assert len(links) > 50
    assert not [(str(page), str(link)) for page, link in links if not link.exists()]


def test_every_case_is_explained():
    text = (RESULTS.parent / "README.md").read_text(encoding="utf8")
    starts = re.findall(r"`([a-z0-9-]+-)\*`", text)
    unnamed = {name for name in CASES if not any(map(name.startswith, starts))}
    assert {name.split("-")[0] for name in unnamed} == {"call", "crossover"}
    assert not [start for start in starts if not any(name.startswith(start) for name in CASES)]
    words = re.findall(r"^fastseg bench ((?:[a-z0-9][\w-]* )*)", text, re.MULTILINE)
    assert cases.chosen([word for line in words for word in line.split()], None)


def test_one_command_writes_and_checks(summary, monkeypatch, tmp_path, capsys):
    name = "operators/call-epyc-avx2-2cores"
    (tmp_path / "operators").mkdir()
    for stem in (name, "operators/all-but-spectral-epyc-avx2-2cores"):
        shutil.copy(RESULTS / f"{stem}.json", tmp_path / f"{stem}.json")
    monkeypatch.setattr(summary.records, "RESULTS", tmp_path)
    assert summary.main(["--check"]) == 1
    assert not list(tmp_path.rglob("*.md"))
    assert summary.main([]) == summary.main(["--check"]) == 0
    page = tmp_path / f"{name}.md"
    assert page.read_text() == (RESULTS / f"{name}.md").read_text()
    page.write_text(page.read_text().replace("10.9", "9.9"))
    capsys.readouterr()
    assert summary.main(["--check"]) == 1
    assert capsys.readouterr().out.strip().endswith(f"{name}.md")


def result_of(heap="warm", **milliseconds):
    def row(time):
        spread = [time / 1e3] * 3
        times = {"quartiles_s": spread, "over_ours": [time / milliseconds["fastseg"]] * 3}
        return {"error": {"y": 1e-7}} | dict.fromkeys(PASSES, times)

    rows = {name: row(time) for name, time in milliseconds.items()}
    return {"id": "A1", "family": "spectral", "heap": heap, "shape": [8, 16, 240, 240],
            "providers": rows}  # fmt: skip


def test_the_best_rival_is_no_kernel_of_ours_and_computes_the_same(summary):
    result = result_of(fastseg=1.0, matmul=2.0, reference=3.0, neuraloperator=4.0, classic=5.0)
    best = summary.speed.best_rival
    assert best(result, "forward") == "neuraloperator"
    result["providers"]["neuraloperator"]["error"]["y"] = 1.4
    assert best(result, "forward") == "classic"
    assert best(result_of(fastseg=1.0, matmul=2.0), "forward") is None


def test_a_row_is_of_its_newest_record_on_the_machine(summary):
    machine = {"cpu": "CPU", "isa": "avx2", "threads": 2, "torch": "2.13.0"}

    def record(day, heap="warm", of=machine, **options):
        return {"date": f"2026-01-{day:02}", "machine": of, "options": options,
                "cases": [result_of(heap, fastseg=float(day))]}  # fmt: skip

    others = [record(5, quick=True), record(6, heap="default"), record(7, dtype="bfloat16"),
              record(8, of=machine | {"isa": "avx512"})]  # fmt: skip
    records = [(Path(f"{i}.json"), r) for i, r in enumerate([record(2), record(1), *others])]
    found = summary.speed.newest(records, "CPU, AVX2, 2 threads")
    assert {name: one.path for name, one in found.items()} == {"conv2d-240": "0.md"}


def test_two_checkouts_are_compared(summary, capfd):
    import compare

    assert set(compare.LAYERS) <= set(CASES)
    found = (import_module(f"{recipes.__name__}.{name}").recipe() for name in compare.SYSTEMS)
    assert {recipe.system for recipe in found} == set(models.SYSTEMS)
    compare.compare("call", [ROOT, ROOT], 3)
    row = r"\| call \| 200-calls \| (\S+) \| (\S+) \| (\S+) \|"
    before, after, ratio = map(float, re.search(row, capfd.readouterr().out).groups())
    assert min(before, after) > 0
    assert 0.01 < ratio < 100
