"""A page as data, and `render`, which makes it one self-contained HTML file.

`render` escapes every text. A page loads nothing from elsewhere, and its Content-Security-Policy forbids that too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from oodguard.pages.plot import Plot
from oodguard.pages.text import plain

Tone = Literal["good", "weak", "note"]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number, its name, and its uncertainty or another detail."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """A row of `Fact`s."""

    items: tuple[Fact, ...]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Finding:
    """One sentence, with a tone: good news, a weakness, or neither."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class Findings:
    """A list of `Finding`s."""

    items: tuple[Finding, ...]
    kind: ClassVar[str] = "findings"


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True)
class CodeBlock:
    """Text to copy, such as a command."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under a head. The first column names its row.

    words: indices of further columns that hold text. strong: indices of rows to emphasise.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()
    kind: ClassVar[str] = "table"


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """A plot with its caption. The text alternative is `Plot.alt`."""

    plot: Plot
    caption: str
    kind: ClassVar[str] = "illustration"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A small image that a card shows beside its own, as a `data:` URI, and its caption; None for the caption alone."""

    image: str | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image with a title and lines of text. `image` is a `data:` URI; with None the card shows `alt` instead."""

    image: str | None
    alt: str
    title: str
    lines: tuple[str, ...] = ()
    mark: str = ""
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards in a grid, in the order given."""

    caption: str
    cards: tuple[Card, ...]
    note: str = ""
    kind: ClassVar[str] = "gallery"


Block = Facts | Findings | Prose | CodeBlock | Table | Illustration | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it. Links reach it by its `slug`."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def slug(self) -> str:
        """The title in lower-case ASCII, with hyphens in place of everything but letters and digits."""
        folded = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        return re.sub(r"[^a-z0-9]+", "-", folded).strip("-")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page: a title, the blocks of the first screen, and sections with a table of contents."""

    title: str
    subtitle: str
    first: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML. The same page always gives the same text.

    ```python
    text = render(Page(title="Report", subtitle="photos, seed 0", first=(Prose("All is well."),)))
    ```

    Raises `ValueError` if two sections have the same slug, or an image is not a `data:` URI.
    """
    slugs = [section.slug for section in page.sections]
    if len(set(slugs)) < len(slugs) or "" in slugs:
        raise ValueError(f"sections need different titles; got {slugs}")
    for block in (*page.first, *(block for section in page.sections for block in section.blocks)):
        for card in block.cards if isinstance(block, Gallery) else ():
            images = (card.image, *(beside.image for beside in card.beside))
            if not all(image is None or image.startswith("data:image/") for image in images):
                raise ValueError("a card's image must be a data: URI")
    return _template().render(page=page)


def _template() -> Template:
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["css"] = Markup((folder / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html")


def _finalize(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
