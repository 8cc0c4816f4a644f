"""The commands of the documents, run as they stand there, and the links between documents.

A block fenced as `sh` is run. What cannot be run here stands under `<!-- not run: why -->`, for writers to see. Ports
are replaced by free ones.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from oodguard.cli.main import build
from oodguard.load_tests.process import HOST, Process, answers, free_ports

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(
    r"^(\$ )?(oodguard|make|pip|python|docker|helm|curl|source|tritonserver|apt-get|locust) ", re.MULTILINE
)
NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
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
        ready = partial(answers, f"http://{HOST}:{self.port}/health/ready")
        server = Process(line, command, ready=ready, environment=self._environment, folder=self.folder)
        self._serving.append(server.start())

    def leave(self) -> None:
        while self._serving:
            self._serving.pop().stop()


@pytest.fixture
def reader(tmp_path: Path, photos: Path, strangers: Path, bundle: Path) -> Iterator[Reader]:
    """A folder with what the documents speak of: photos, other images, flagged ones, and a bundle."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(bundle, tmp_path / "bundles" / "photos")
    shutil.copyfile(photos / "test" / "jade" / "000.jpg", tmp_path / "photo.jpg")
    shutil.copytree(strangers, tmp_path / "some" / "folder")
    flagged = tmp_path / "flagged"
    flagged.mkdir()
    shutil.copyfile(photos / "test" / "jade" / "001.jpg", flagged / "1.jpg")
    (flagged / "1.json").write_text(SIDECAR, encoding="utf-8")
    typing = Reader(tmp_path)
    yield typing
    typing.leave()


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(b.kind == "sh" and not b.marked for b in blocks(d))], ids=name
)
def test_commands_do_what_the_documents_say(document: Path, reader: Reader) -> None:
    commands = [block.body for block in blocks(document) if block.kind == "sh" and not block.marked]
    for body in commands:
        reader.type(body)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_command_is_run_or_says_why_not(document: Path) -> None:
    for block in blocks(document):
        if block.kind in ("", "sh") and COMMAND.search(block.body):
            assert block.kind == "sh" or block.body.startswith("$ "), f"fence it as sh:\n{block.body}"
        if block.before.startswith("<!-- not run"):
            assert block.marked, f"say why: {block.before}"
            assert block.kind == "sh", "only commands are marked"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_that_are_not_run_have_options_that_exist(document: Path) -> None:
    for block in blocks(document):
        for line in block.body.splitlines() if block.marked else ():
            if line.startswith("oodguard "):
                build().parse_args(shlex.split(line, comments=True)[1:], print_error=False, exit_on_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if target and not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_every_document_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for document in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{document.name})" in text, document.name
