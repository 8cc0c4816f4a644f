"""The documents as a site that works without a network, also from a folder: `make docs-site`.

    python scripts/docs_site.py build/site

Every document keeps its path, so the links between documents are those of the repository. A link to source text leads
to a page that shows it. Zensical builds the site, and a warning of it, such as a broken link, ends the build.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order of the journey; a test holds that every document is here once.
NAVIGATION: Mapping[str, tuple[str, ...]] = {
    "Start": ("README.md", "docs/GLOSSARY.md", "docs/TROUBLESHOOTING.md"),
    "Photos and training": ("docs/DATA.md", "docs/CHECK.md", "docs/WRAP.md", "docs/METHODS.md"),
    "Evaluate and export": ("docs/REPORT.md", "docs/BUNDLE.md", "docs/PRECISION.md", "docs/STANDALONE.md"),
    "Scores and thresholds": (
        *("docs/SCORES.md", "docs/THRESHOLD.md", "docs/ANSWERS.md", "docs/QUALITY.md", "docs/RECALIBRATE.md"),
    ),
    "Ask": ("docs/CLIENT.md", "docs/API.md", "docs/PYTHON.md", "docs/OFFLINE.md", "examples/README.md"),
    "Serve": (
        *("docs/RUNNING.md", "docs/SETTINGS.md", "docs/SECURITY.md", "docs/TRITON.md", "images/README.md"),
        *("helm/oodguard/README.md", "helm/oodguard/SIZING.md"),
    ),
    "Watch and renew": (
        *("docs/JOURNEY.md", "docs/LIFECYCLE.md", "docs/REVIEW.md", "docs/MONITORING.md", "docs/METRICS.md"),
        "helm/oodguard/RUNBOOK.md",
    ),
    "Measured": (
        *("docs/NUMBERS.md", "docs/RESULTS.md", "docs/NEAR_OOD.md", "docs/BACKBONES.md", "load_tests/README.md"),
        *("load_tests/wrap_zoo/README.md", "findings/README.md"),
    ),
    "Build": ("ARCHITECTURE.md", "docs/DECISIONS.md", "CONTRIBUTING.md", "CHANGELOG.md"),
}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^```.*?^```+$", re.MULTILINE | re.DOTALL)
# Zensical would load it from a CDN; search needs it where the site is opened from a folder.
WORKER = "iframe-worker.js"
COLOUR = re.compile(r"\x1b\[[\d;]*m")
PICTURES = (".png", ".jpg", ".svg")
LANGUAGES = {".py": "python", ".sh": "sh", ".mjs": "js", ".html": "html", ".yaml": "yaml", ".json": "json", ".md": "md"}


def documents() -> list[str]:
    """Every document that git knows, by its path."""
    return [name for name in tracked() if name.endswith(".md")]


def tracked(below: str = ".") -> list[str]:
    """The files of a folder that git knows, by their path in the repository; no links."""
    listed = subprocess.run(["git", "ls-files", below], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.splitlines() if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


def stage(tree: Path) -> None:
    """Write the pages to `tree`: documents as they are but for links to source text, and a page for each such text."""
    waiting = {name: (ROOT / name).read_text(encoding="utf-8") for name in documents()}
    done: set[str] = set()
    tree.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name(WORKER), tree / WORKER)
    while waiting:
        name, text = waiting.popitem()
        done.add(name)
        for aim in targets(name, text):
            if aim.endswith(PICTURES):
                (tree / aim).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / aim, tree / aim)
            elif not aim.endswith(".md") and f"{aim}.md" not in done:
                waiting[f"{aim}.md"] = shown(aim)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(relinked(text), encoding="utf-8")


def targets(name: str, text: str) -> Iterator[str]:
    """What a document links to in the repository, by path."""
    for _, target, _ in LINK.findall(FENCE.sub("", text)):
        if "://" not in target:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def relinked(text: str) -> str:
    """The document, with links to source text made links to the pages that show it."""
    fences = FENCE.findall(text)

    def led(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        page = "://" in target or target.endswith((".md", *PICTURES))
        return match[0] if page else f"{before}{target.rstrip('/')}.md{after}"

    prose = [LINK.sub(led, part) for part in FENCE.split(text)]
    return "".join(part + fence for part, fence in zip(prose, [*fences, ""], strict=True))


def shown(aim: str) -> str:
    """The page that shows a text of the repository, or lists a folder."""
    head = f"---\ntitle: {json.dumps(aim)}\nsearch:\n  exclude: true\n---\n\n# {aim}\n\n"
    path = ROOT / aim
    if path.is_dir():
        names = (posixpath.relpath(name, posixpath.dirname(aim)) for name in tracked(aim))
        return head + "".join(f"* [{name}]({name})\n" for name in names)
    text = path.read_text(encoding="utf-8")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{head}{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def title(name: str) -> str:
    """The first heading of a document."""
    found = re.search(r"^# (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else name


def configuration(tree: str, site: str) -> str:
    """Zensical's settings: nothing from elsewhere, search without a server, GitHub's anchors."""
    navigation = [{part: [{title(name): name} for name in names]} for part, names in NAVIGATION.items()]

    def table(entries: list[dict[str, list[dict[str, str]]]]) -> str:
        rows = (
            f"{{ {json.dumps(part)} = ["
            + ", ".join(f"{{ {json.dumps(key)} = {json.dumps(name)} }}" for page in pages for key, name in page.items())
            + "] }"
            for entry in entries
            for part, pages in entry.items()
        )
        return ",\n  ".join(rows)

    return f"""[project]
site_name = "oodguard"
docs_dir = {json.dumps(tree)}
site_dir = {json.dumps(site)}
use_directory_urls = false
nav = [
  {table(navigation)},
]

[project.theme]
font = false
features = ["navigation.indexes", "navigation.top", "content.code.copy", "search.highlight", "toc.follow"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"

[project.extra]
homepage = "index.html"
polyfills = [{json.dumps(WORKER)}]

[project.plugins.search]

[project.plugins.offline]

[project.markdown_extensions.tables]

[project.markdown_extensions.toc]
permalink = true
slugify = {{ object = "pymdownx.slugs.slugify", kwds = {{ case = "lower" }} }}

[project.markdown_extensions.pymdownx.highlight]
anchor_linenums = false

[project.markdown_extensions.pymdownx.superfences]
"""


def build(site: Path) -> None:
    """Build the site in a new folder. Raises `SystemExit` with what Zensical says where it finds fault."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        stage(work / "pages")
        (work / "zensical.toml").write_text(configuration("pages", "site"), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        ran = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(COLOUR.sub("", ran.stdout + ran.stderr).partition("Traceback")[0].strip())
        if site.exists():
            shutil.rmtree(site)
        site.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(work / "site", site)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder to write; what is there is replaced")
    out = parser.parse_args().site
    build(out)
    print(f"open {out / 'index.html'}")
