"""The documents: their commands, run as they stand there; their links, the files they name, and their length.

A block of the README or of docs/ that is fenced as `sh` or `python` is run. What cannot be run here stands under
`<!-- not run: why -->`, for writers to see. Ports are replaced by free ones.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from oodguard.cli.main import build
from oodguard.load_tests.process import HOST, Process, answers, free_ports

ROOT = Path(__file__).parents[1]
RUN = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FOLDERS = (".", "docs", "examples", "findings", "helm/oodguard", "images", "load_tests")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
CHANGELOG = ROOT / "CHANGELOG.md"
ROOMS = "core|pages|training|evaluation|bench|export|server|clients|review|cli|docs|helm|load_tests|scripts|tests"
# A path below a folder of the project or a source file, and a test in it.
NAMED = re.compile(rf"(?<![\w./-])((?:{ROOMS})/[\w./*-]*\b/?|[\w/*-]+\.(?:py|tpl|mjs)\b)(?:::(\w+))?")
COMMAND = re.compile(
    r"^(\$ )?(oodguard|make|pip|python|docker|helm|curl|source|tritonserver|apt-get|locust) ", re.MULTILINE
)
NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SERVE = re.compile(r"^oodguard serve .*--port [1-9]", re.MULTILINE)
SIDECAR = (
    '{"time":"2026-03-04T05:06:07Z","model":{"name":"photos","version":"1"},"accept":0.95,"label":"jade",'
    '"probability":0.4,"ood_score":9,"threshold":8,"percentile":100,"scores":{}}'
)
WAIT = 400


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line before it."""

    before: str
    kind: str
    body: str

    @property
    def marked(self) -> bool:
        return NOT_RUN.match(self.before) is not None


def blocks(document: Path) -> list[Block]:
    found: list[Block] = []
    before = ""
    inside: tuple[str, list[str]] | None = None
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and inside is None:
            inside = (line[3:], [])
        elif line == "```" and inside is not None:
            found.append(Block(before, inside[0], "".join(f"{one}\n" for one in inside[1])))
            before, inside = "", None
        elif inside is not None:
            inside[1].append(line)
        else:
            before = line
    return found


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


class Reader:
    """Somebody with the project's environment and some photos, who types what a document says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.admin_port = free_ports(2)
        self._serving: list[Process] = []
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OODGUARD_SERVE_DRAIN_DELAY": "0",
            "OODGUARD_SERVE_ADMIN_PORT": str(self.admin_port),
            "OODGUARD_PREDICT_URL": f"http://localhost:{self.port}",
            # Trained in seconds; what is said of training does not depend on them.
            "OODGUARD_TRAIN_IMAGE_SIZE": "64",
            "OODGUARD_TRAIN_VIEWS": "1",
            "OODGUARD_TRAIN_FINE_TUNE_EPOCHS": "3",
            "OODGUARD_TRAIN_EPOCHS": "20",
            "OODGUARD_TRAIN_HIDDEN": "32",
            "OODGUARD_TRAIN_CALIBRATION_FRACTION": "0.33",
        }

    def type(self, block: str) -> None:
        block = re.sub(r"\b8000\b", str(self.port), re.sub(r"\b8001\b", str(self.admin_port), block))
        while block:
            # A server stays, while what follows is typed in another terminal.
            at = next((m.start() for m in SERVE.finditer(block)), len(block))
            self._run(block[:at])
            line, _, block = block[at:].partition("\n")
            if line:
                self._serve(line)

    def _run(self, script: str) -> None:
        if not script.strip():
            return
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=WAIT,
        )
        assert ran.returncode == 0, f"{script}\nends with {ran.returncode}:\n{ran.stdout[-1500:]}\n{ran.stderr[-1500:]}"
        assert "Traceback" not in ran.stderr, ran.stderr

    def _serve(self, line: str) -> None:
        self.leave()
        command = shlex.split(line, comments=True)
        scheme = "https" if "--tls-cert" in command else "http"
        ready = partial(answers, f"{scheme}://{HOST}:{self.port}/health/ready")
        server = Process(line, command, ready=ready, environment=self._environment, folder=self.folder)
        self._serving.append(server.start())

    def leave(self) -> None:
        while self._serving:
            self._serving.pop().stop()


@pytest.fixture
def reader(tmp_path: Path, photos: Path, strangers: Path, run: Path, bundle: Path) -> Iterator[Reader]:
    """A folder with what the documents speak of: photos, other images, flagged ones, a run and its bundle."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(run, tmp_path / "runs" / "photos")
    shutil.copytree(bundle, tmp_path / "bundles" / "photos")
    for copy in ("photo.jpg", "other.jpg"):
        shutil.copyfile(photos / "test" / "jade" / "000.jpg", tmp_path / copy)
    shutil.copytree(strangers, tmp_path / "some" / "folder")
    flagged = tmp_path / "flagged"
    flagged.mkdir()
    shutil.copyfile(photos / "test" / "jade" / "001.jpg", flagged / "1.jpg")
    (flagged / "1.json").write_text(SIDECAR, encoding="utf-8")
    typing = Reader(tmp_path)
    yield typing
    typing.leave()


def runnable(document: Path) -> list[str]:
    """The blocks to run, as bash takes them."""
    found = [block for block in blocks(document) if not block.marked]
    scripts = {"sh": "{}", "python": "python -W error - <<'END'\n{}END\n"}
    return [scripts[block.kind].replace("{}", block.body) for block in found if block.kind in scripts]


@pytest.mark.parametrize("document", [d for d in RUN if runnable(d)], ids=name)
def test_commands_do_what_the_documents_say(document: Path, reader: Reader) -> None:
    for script in runnable(document):
        reader.type(script)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_command_is_run_or_says_why_not(document: Path) -> None:
    for block in blocks(document):
        if block.kind in ("", "sh") and COMMAND.search(block.body):
            assert block.kind == "sh" or block.body.startswith("$ "), f"fence it as sh:\n{block.body}"
        if block.before.startswith("<!-- not run"):
            assert block.marked, f"say why: {block.before}"
            assert block.kind in ("sh", "python"), "only commands are marked"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_that_are_not_run_have_options_that_exist(document: Path) -> None:
    for block in blocks(document):
        for line in block.body.splitlines() if block.marked else ():
            if line.startswith("oodguard "):
                build().parse_args(shlex.split(line, comments=True)[1:], print_error=False, exit_on_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, heading in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        aim = document.parent / target if target else document
        assert aim.exists(), target
        if heading:
            assert heading in map(anchor, HEADING.findall(aim.read_text(encoding="utf-8"))), f"{target}#{heading}"


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# The changelog names what earlier versions had.
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != CHANGELOG], ids=name)
def test_files_modules_and_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path, test in NAMED.findall(text):
        found = [file for base in (ROOT, document.parent) for file in base.glob(path.rstrip("/"))]
        assert found, path
        assert f"def {test}(" in found[0].read_text(encoding="utf-8") if test else True, test
    # Not the names of Services in a cluster: NAME.NAMESPACE.svc.
    for module in re.findall(r"\boodguard((?:\.[a-z_]+){2})(?<!\.svc)\b", text):
        path = ROOT.joinpath(*module.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


# Where oodguard is installed already, `pip install 'oodguard[NAME]'` adds an extra to it: messages of commands say so,
# TROUBLESHOOTING.md quotes them, and tests/test_client_alone.py does what they say. A git address is no registry.
FROM_REGISTRY = re.compile(r"pip install [^\n]*[ '\"]oodguard(\[[\w,-]+\])?(?! @ git\+)['\" \n]")
TELLING = [
    *(document for document in DOCUMENTS if document.name != "TROUBLESHOOTING.md"),
    *sorted(path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".sh", ".mjs")),
]


@pytest.mark.parametrize("document", TELLING, ids=name)
def test_nobody_is_sent_to_a_registry_that_does_not_have_the_package(document: Path) -> None:
    assert not FROM_REGISTRY.search(document.read_text(encoding="utf-8"))


def test_the_readme_fits_on_a_screen_and_the_architecture_on_a_page() -> None:
    assert (ROOT / "README.md").stat().st_size <= 10 * 1024
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\] - (unreleased|\d{{4}}-\d\d-\d\d)$", CHANGELOG.read_text(), re.MULTILINE
    )


def test_every_document_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        assert document == ROOT / "README.md" or f"({name(document)})" in text, document
