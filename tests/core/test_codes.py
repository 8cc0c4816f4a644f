from __future__ import annotations

import json
import pickle
import re
from http import HTTPStatus

import grpc
import pytest

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError, InputError
from oodguard.core.problems import Problem, problem, problem_of, summary_of

# 499 is nginx's: nobody is left to read it.
STATUSES = {status.value for status in HTTPStatus} | {499}
GRPC_NAMES = {status.name for status in grpc.StatusCode} - {"OK", "UNKNOWN"}


@pytest.mark.parametrize("code", Code)
def test_a_code_is_its_name_and_knows_how_it_looks_over_http_and_grpc(code: Code) -> None:
    assert code == code.name.lower()
    assert re.fullmatch(r"[a-z0-9_]+", code)
    assert 400 <= code.status < 600
    assert code.status in STATUSES
    assert code.phrase[0].isupper()
    assert code.grpc_status in GRPC_NAMES
    assert Code(str(code)) is code
    assert pickle.loads(pickle.dumps(code)) is code


def test_a_problem_is_made_of_its_code_and_travels_as_text() -> None:
    found = problem(Code.EMPTY, "the image is empty", index=2, file="a.png")
    assert (found.status, found.title, found.code, found.index, found.file) == (422, "Empty image", "empty", 2, "a.png")
    assert json.loads(found.model_dump_json())["code"] == "empty"
    assert Problem.model_validate_json(found.model_dump_json()) == found


def test_what_nobody_expected_is_internal_and_says_nothing() -> None:
    assert problem_of(ImageError(Code.EMPTY, "nothing there")) == problem(Code.EMPTY, "nothing there")
    for error in (ValueError("secret"), InputError("secret")):
        found = problem_of(error)
        assert (found.code, found.status) == ("internal", 500)
        assert "secret" not in found.detail


def test_a_summary_has_the_status_that_all_share_or_its_own() -> None:
    empty, damaged, odd = (problem(code, "x") for code in (Code.EMPTY, Code.CANNOT_DECODE, Code.UNSUPPORTED_TYPE))
    assert summary_of((odd,)) == odd
    alike, mixed = summary_of((odd, odd)), summary_of((empty, damaged, odd))
    assert (alike.status, alike.code, alike.errors) == (415, "all_failed", (odd, odd))
    assert (mixed.status, mixed.code, mixed.title) == (422, "all_failed", "No image could be used")
