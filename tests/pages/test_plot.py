from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from oodguard.pages.page import Illustration, Page, render
from oodguard.pages.plot import GRID, INK, PAPER, draw

LABEL = "<b>$x_1$ & \u82f9\u679c \udcff"


def paint(figure: Any) -> None:
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, 4, 1], color=INK, label=LABEL)
    axes.fill_between([0, 1, 2], [0, 1, 0], color="#0072b2", alpha=0.2)
    axes.set_title("title")
    axes.legend()


def test_a_plot_is_the_same_every_time_and_takes_the_colours_of_the_page() -> None:
    first, second = (draw(paint, name="a", alt="A line.") for _ in range(2))
    assert first == second
    for stand_in in (INK, GRID, PAPER):
        assert stand_in not in first.svg
    assert "currentColor" in first.svg
    assert "#0072b2" in first.svg


def test_two_plots_on_a_page_keep_their_names_apart(parse_page: Callable[[str], Element]) -> None:
    plots = [draw(paint, name=name, alt=f"Plot {name}") for name in ("a", "b")]
    tree = parse_page(
        render(Page(title="t", subtitle="s", first=tuple(Illustration(plot=p, caption="c") for p in plots)))
    )
    labels = [e.get("aria-label") for e in tree.iter() if e.get("aria-label")]
    assert labels == ["Plot a", "Plot b"]
    used = [e.get("clip-path") for e in tree.iter() if e.get("clip-path")]
    assert used
    ids = {e.get("id") for e in tree.iter()}
    assert all(value[5:-1] in ids for value in used if value)


def test_labels_stay_text_whatever_they_hold(parse_page: Callable[[str], Element]) -> None:
    plot = draw(paint, name="a", alt='"><script>')
    tree = parse_page(render(Page(title="t", subtitle="s", first=(Illustration(plot=plot, caption="c"),))))
    shown = "".join(tree.itertext())
    assert "<b>$x_1$ & \u82f9\u679c \ufffd" in shown
