"""The curve is drawn in all three forms, and a title cannot become markup."""

from assistant.training import plot


def test_the_terminal_curve_falls_from_the_left():
    losses = [5.0 - 4.0 * i / 99 for i in range(100)]
    lines = plot.terminal(losses, [(50, 3.0), (100, 1.0)], width=20, height=4)
    assert len(lines) == 6 and lines[0].lstrip().startswith("4.9") and "100 steps" in lines[4] and "1.000 at 100" in lines[5]
    top, bottom = lines[0].split("│")[1], lines[3].split("│")[1]
    assert len(top) == len(bottom) == 20 and top[0] != " " and top[-1] == " " and " " not in bottom
    assert plot.terminal([], []) == [] and plot.terminal([2.0, 2.0], [])


def test_long_runs_are_averaged():
    curve = plot.smoothed([1.0, 3.0] * 1000, 100)
    assert len(curve) == 100 and curve[-1] == (2000, 2.0) and all(value == 2.0 for _, value in curve)


def test_pictures_are_written(tmp_path):
    plot.png(tmp_path / "a.png", [3.0, 2.0, 1.0], [(3, 1.5)], "x")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plot.page(tmp_path / "a.html", [3.0, 2.0, 1.0], [(3, 1.5)], "<script>alert(1)</script>")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script" in page and page.count("<polyline") == 2 and "http" not in page
