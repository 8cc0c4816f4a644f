"""Plots as inline SVG, without scripts; the same numbers always give the same bytes.

Text and grid take the page's colours, so that a plot is readable in light mode, in dark mode and in print. Data colours
are Okabe and Ito's, which colour-blind readers can tell apart; each series also has a dash pattern of its own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that become the page's colours.
INK = "#010203"
GRID = "#030201"
PAPER = "#020103"
_PAGE_COLOURS = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"}

SERIES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_FONTS = "'DejaVu Sans', Verdana, sans-serif"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "oodguard",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A finished plot: inline SVG, and its text alternative `alt`."""

    svg: str
    alt: str

    @property
    def markup(self) -> Markup:
        """The SVG, marked as safe for a page: matplotlib escaped every text in it."""
        return Markup(self.svg)


def dash(index: int) -> str | tuple[int, tuple[float, ...]]:
    """The dash pattern of series number `index`."""
    return DASHES[index % len(DASHES)]


def colour(index: int) -> str:
    """The colour of series number `index`."""
    return SERIES[index % len(SERIES)]


def draw(paint: Callable[[Figure], None], *, name: str, alt: str, width: float = 9.6, height: float = 3.4) -> Plot:
    """Let `paint` fill a figure of `width` x `height` inches, and return it as SVG.

    ```python
    plot = draw(lambda figure: figure.subplots().plot(x, y), name="speed", alt="Speed falls as batches grow.")
    ```

    name: letters and hyphens; each plot of a page needs a different name. Pass tick labels through `plain` yourself.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    stream = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The SVG keeps text as text, and browsers have the letters that this font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        for text in figure.findobj(Text):
            text.set_text(plain(text.get_text()))
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return Plot(svg=_inline(stream.getvalue(), name=name, alt=alt), alt=alt)


def _inline(svg: str, *, name: str, alt: str) -> str:
    """matplotlib's file as part of a page: without prologue and namespaces, with ids that no other plot has."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box is not None
    body = re.sub(r"^<svg[^>]*>", "", body)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    for stand_in, page_colour in _PAGE_COLOURS.items():
        body = body.replace(stand_in, page_colour)
    body = body.replace("'DejaVu Sans'", _FONTS)
    return f'<svg role="img" viewBox="{box[1]}" aria-label="{escape(plain(alt))}">{body.strip()}'
