from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.review.class_names import require_class_name, require_new
from oodguard.review.mark_book import MarkBook
from oodguard.review.marks import Mark, MarkKind, MarkRow, read_marks, to_csv

STRANGER, PLUM = Mark.of("stranger"), Mark.of("known", "plum")
SHA = "ab" * 32


def test_a_decision_is_in_the_file_before_it_returns(tmp_path: Path) -> None:
    with MarkBook(tmp_path / "marks.csv") as book:
        book.decide({"b/a.jpg": SHA, "c.jpg": ""}, Mark.of("new class", " lamp "), group="c.jpg")
        head, *lines = (tmp_path / "marks.csv").read_text(encoding="utf-8").splitlines()
        assert head == "path,sha256,mark,class,at,group"
        assert [line.split(",")[:4] for line in lines] == [
            ["b/a.jpg", SHA, "new class", "lamp"],
            ["c.jpg", "", "new class", "lamp"],
        ]
        assert [line.split(",")[5] for line in lines] == ["c.jpg", "c.jpg"]
        book.decide({"c.jpg": ""}, None)
        assert set(read_marks(tmp_path / "marks.csv")) == {"b/a.jpg"}
    assert not list(tmp_path.glob("*.partial"))


def test_decisions_are_taken_back_one_by_one(tmp_path: Path) -> None:
    with MarkBook(tmp_path / "marks.csv") as book:
        book.decide({"a": "", "b": ""}, STRANGER)
        book.decide({"b": "", "c": ""}, PLUM)
        book.decide({"a": ""}, None)
        assert (book.steps, book.undo()) == (3, ("a",))
        assert {path: row.mark for path, row in book.rows.items()} == {"a": STRANGER, "b": PLUM, "c": PLUM}
        assert set(book.undo()) == {"b", "c"}
        assert {path: row.mark for path, row in read_marks(book.path).items()} == {"a": STRANGER, "b": STRANGER}
        book.undo()
        assert read_marks(book.path) == {}
        with pytest.raises(InputError, match="nothing to take back"):
            book.undo()


def test_a_session_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    with MarkBook(tmp_path / "marks.csv") as book:
        book.decide({"a": SHA}, PLUM)
    with MarkBook(tmp_path / "marks.csv") as book:
        assert book.rows["a"].mark == PLUM
        book.decide({"b": ""}, STRANGER)
    assert set(read_marks(tmp_path / "marks.csv")) == {"a", "b"}


def test_two_sessions_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    with MarkBook(path), pytest.raises(EnvironmentProblem, match=r"marks\.csv is open in another oodguard review"):
        MarkBook(path).__enter__()
    with MarkBook(path):
        pass


def test_marks_survive_a_kill_at_any_time(tmp_path: Path) -> None:
    """Whenever the process dies, the file is whole and has every decision that returned."""
    path, told = tmp_path / "marks.csv", tmp_path / "told"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from oodguard.review.mark_book import MarkBook\n"
        "from oodguard.review.marks import Mark\n"
        "with MarkBook(Path(sys.argv[1])) as book, open(sys.argv[2], 'a', buffering=1) as told:\n"
        "    start = len(book.rows)\n"
        "    for number in range(start, start + 100000):\n"
        "        book.decide({f'{number}.jpg': ''}, Mark.of('stranger'))\n"
        "        told.write(f'{number}\\n')\n"
    )
    for _ in range(3):
        before = told.stat().st_size if told.exists() else 0
        running = subprocess.Popen([sys.executable, "-c", code, str(path), str(told)])
        deadline = time.monotonic() + 60
        while (told.stat().st_size if told.exists() else 0) < before + 40 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        returned = told.read_text().split()
        assert len(returned) > 10
        rows = read_marks(path)
        assert {f"{number}.jpg" for number in returned} <= set(rows)
        assert len(rows) - len(returned) <= 3
    with MarkBook(path) as book:
        assert len(book.rows) >= len(returned)


def test_a_spreadsheet_may_edit_the_file_between_and_during_sessions(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    with MarkBook(path) as book:
        book.decide({"a": "", "b": "", "c": ""}, STRANGER)
        read_before = path.read_bytes()
        book.decide({"c": "", "d": ""}, PLUM)
        # Saved with what it had read: a row of its own edited, those of this session as they were.
        rows = read_before.decode().replace("a,,stranger,", "a,,known,jade").replace(",", ";").replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + rows.encode())
        book.decide({"e": ""}, Mark.of("bad"))
    found = {name: (row.mark.kind.value, row.mark.label) for name, row in read_marks(path).items()}
    assert found == {
        "a": ("known", "jade"),
        "b": ("stranger", ""),
        "c": ("known", "plum"),
        "d": ("known", "plum"),
        "e": ("bad picture", ""),
    }


def test_taking_back_leaves_what_others_wrote_since(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    with MarkBook(path) as book:
        book.decide({"a": "", "b": ""}, STRANGER)
        text = path.read_text().replace("a,,stranger", "a,,bad picture")
        path.write_text(text)
        assert book.undo() == ("b",)
    assert {name: row.mark.kind for name, row in read_marks(path).items()} == {"a": MarkKind.BAD}


def test_cells_that_a_spreadsheet_would_run_are_quoted_and_read_back() -> None:
    rows = [MarkRow("=cmd.jpg", "", Mark.of("known", "@plum")), MarkRow("'quoted.jpg", SHA, STRANGER, "at", "-g")]
    text = to_csv(rows)
    assert text.splitlines()[1:] == ["'=cmd.jpg,,known,'@plum,,", f"''quoted.jpg,{SHA},stranger,,at,'-g"]


def test_such_cells_come_back(tmp_path: Path) -> None:
    rows = [MarkRow("=cmd.jpg", "", Mark.of("known", "@plum")), MarkRow("'quoted.jpg", SHA, STRANGER, "at", "-g")]
    (tmp_path / "m.csv").write_text(to_csv(rows), encoding="utf-8")
    assert list(read_marks(tmp_path / "m.csv").values()) == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"file,what\na,b\n", "has no columns path and mark"),
        (b"path,mark\na,odd\n", "line 2: 'odd' is no mark; marks are known, stranger, new class, bad picture"),
        (b"path,mark\na,known\n", "line 2: a picture that is known needs a class"),
        (b"path,mark,class\na,new class,../up\n", r"line 2: the class ../up has one of / \ "),
        (b"path,mark,sha256\na,bad,12e5\n", "line 2: '12e5' is no SHA-256"),
        ("path,mark,class\na,known,pr\xfcne\n".encode("latin-1"), "is not UTF-8 text; save it as CSV UTF-8"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_its_line(tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "m.csv").write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_marks(tmp_path / "m.csv")
    assert sentence in str(caught.value)


def test_rows_without_a_mark_are_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("mark\tpath\n\ta.jpg\nNEW\tb.jpg\tx\n".replace("NEW", "Stranger"))
    assert {path: row.mark for path, row in read_marks(tmp_path / "m.csv").items()} == {"b.jpg": STRANGER}


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a/b", "a\\b", "..", ".hidden", "a.", "train", "Val", "TEST", "con", "NUL.txt", "com1",
        "a\tb", "a\u202eb", "x" * 81, "a:b", "what?", "__MACOSX",
    ],
)  # fmt: skip
def test_names_that_cannot_be_folders_of_photos_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        require_class_name(name)


def test_names_are_brought_to_one_form() -> None:
    assert require_class_name(" cafe\u0301 au lait ") == "caf\xe9 au lait"
    assert require_class_name("\u30c8\u30de\u30c8") == "\u30c8\u30de\u30c8"
    assert require_new("lamp", ["plum"]) == "lamp"
    with pytest.raises(InputError, match="there is a class plum already; mark these as known: plum"):
        require_new("Plum", ["jade", "plum"])


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MarkBook(tmp_path / "marks.csv") as book:
        book.decide({"a": ""}, STRANGER)
        (tmp_path / ".marks.csv.partial").mkdir()
        with pytest.raises(EnvironmentProblem, match=r"marks\.csv cannot be written"):
            book.decide({"b": ""}, PLUM)
        assert (set(book.rows), book.steps) == ({"a"}, 1)
        (tmp_path / ".marks.csv.partial").rmdir()
        book.decide({"b": ""}, PLUM)
    assert set(read_marks(tmp_path / "marks.csv")) == {"a", "b"}
