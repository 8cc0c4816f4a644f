"""Heads appended to foreign graphs: of every opset, arithmetic and shape, with not a bit of a probability changed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from oodguard.core.calibration import Calibration
from oodguard.core.classifier import FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import QualityError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME
from oodguard.core.scores import ScoreName
from oodguard.export.anatomy import arithmetic
from oodguard.export.fuse import AppendedHeads
from oodguard.export.graph import OUTPUTS, heads_to_onnx, run_graph, session
from oodguard.export.merge import merge
from oodguard.export.names import all_names
from oodguard.export.opsets import OLDEST, Rewriter, opset_of
from oodguard.export.parity import TOLERANCE
from oodguard.export.unchanged import ChangedProbabilities, Own, joined, require_unchanged
from oodguard.training.heads.guard import GuardHeads
from tests import foreign
from tests.foreign import CLASSES, WIDTH, pictures

NEWEST = onnx.defs.onnx_opset_version()
# Of ONNX Runtime 1.31; the reference evaluator knows them all.
NEWEST_RUN = 26
MAKERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": lambda: foreign.plain(17),
    "weights as inputs": lambda: foreign.plain(12, ir_version=3),
    "sigmoid": lambda: foreign.plain(17, activation="Sigmoid"),
    "float16": foreign.half,
    "integers": foreign.integers,
    "ONNX Runtime's own operators": foreign.microsoft,
    "one by one": foreign.one_by_one,
}


def appended(heads: GuardHeads) -> bytes:
    return heads_to_onnx(AppendedHeads(SimpleNamespace(heads=heads)).eval(), width=WIDTH, classes=CLASSES)  # type: ignore[arg-type]


def own(model: onnx.ModelProto, heads: GuardHeads) -> Own:
    graph = bytes(model.SerializeToString())
    running = session(graph)
    with torch.no_grad():
        _, scores = heads(foreign.rows_of(running, pictures(60, seed=5)))
    names = heads.shapes.scores
    columns = {name: scores[:, place].double().numpy() for place, name in enumerate(names)}
    return Own(graph=graph, heads=heads, calibration=Calibration.fit(columns))


def batches() -> list[np.ndarray]:
    """Of 8, and of what is left."""
    return [pictures(8, seed=6), pictures(3, seed=7)]


@pytest.fixture(scope="module")
def heads() -> GuardHeads:
    return foreign.fitted_heads(foreign.plain(17))


@pytest.fixture(scope="module")
def added(heads: GuardHeads) -> bytes:
    return appended(heads)


def test_heads_are_written_in_every_opset(heads: GuardHeads, added: bytes) -> None:
    """Each operator that they hold has its rule, and the graph means the same: for runtimes and for the definition."""
    kinds = {node.op_type for node in onnx.load_from_string(added).graph.node}
    assert {"Split", "Unsqueeze", "ReduceMax", "ReduceLogSumExp", "LogSoftmax", "Shape", "TopK"} <= kinds
    images = pictures(8, seed=3)
    for opset in range(OLDEST, NEWEST + 1):
        reference = own(foreign.plain(min(opset, NEWEST_RUN)), heads)
        model = foreign.plain(opset, ir_version=7 if opset < 20 else 10)
        made = merge(model.SerializeToString(), added, metadata={})
        merged = onnx.load_from_string(made)
        onnx.checker.check_model(merged, full_check=True)
        assert (opset_of(merged), merged.ir_version) == (opset, model.ir_version)
        assert [value.name for value in merged.graph.output] == list(OUTPUTS)
        probabilities, scores, rows, distances = ReferenceEvaluator(merged).run(None, {INPUT_NAME: images})
        expected, by_torch = reference.answers(session(reference.graph), images)
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        assert reference.calibration.score_errors(by_torch, scores).max() < TOLERANCE
        if opset <= NEWEST_RUN:
            found = run_graph(session(made), images)
            assert found.distances is not None
            np.testing.assert_array_equal(found.neighbours, rows)
            np.testing.assert_allclose(found.distances, distances, atol=1e-5)
            assert require_unchanged(reference, made, batches()) == 11


@pytest.mark.parametrize("opset", [12, 13, 17, 18])
def test_openvino_agrees(heads: GuardHeads, added: bytes, opset: int) -> None:
    model = foreign.plain(opset)
    made = merge(model.SerializeToString(), added, metadata={})
    images, core = pictures(8, seed=3), openvino.Core()
    compiled = core.compile_model(core.read_model(made), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({INPUT_NAME: images})
    expected, scores = own(model, heads).answers(session(bytes(model.SerializeToString())), images)
    np.testing.assert_allclose(found[PROBABILITIES_NAME], expected, atol=1e-5)
    assert own(model, heads).calibration.score_errors(scores, found["scores"]).max() < 1e-3


@pytest.mark.parametrize("kind", MAKERS)
def test_no_bit_of_a_probability_changes(kind: str) -> None:
    model = MAKERS[kind]()
    its = own(model, foreign.fitted_heads(model))
    graph, images = joined(its, appended(its.heads), batches, metadata={"oodguard.name": "mine"})
    assert images == 11
    merged = onnx.load_from_string(graph)
    metadata = {one.key: one.value for one in merged.metadata_props}
    assert (metadata["names"], metadata["oodguard.name"]) == ("{0: 'a', 1: 'b'}", "mine")
    assert merged.producer_name == model.producer_name
    assert {one.domain: one.version for one in merged.opset_import} == {
        one.domain: one.version for one in model.opset_import
    }
    assert [value.name for value in merged.graph.input] == [INPUT_NAME]
    kinds = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in merged.graph.node][: len(kinds)] == kinds


def test_a_quantised_graph_needs_its_logits_to_stay_an_output() -> None:
    """Without a reader of the logits ONNX Runtime computes the softmax of other numbers."""
    model = foreign.integers()
    its = own(model, foreign.fitted_heads(model))
    added = without_logits(appended(its.heads))
    with pytest.raises(ChangedProbabilities, match=r"probabilities differs .* by up to \d\.\de-\d\d at a batch of 8"):
        require_unchanged(its, merge(its.graph, added, metadata={}), batches(), exact=False)
    graph, _ = joined(its, added, batches, metadata={}, exact=False)
    outputs = [value.name for value in onnx.load_from_string(graph).graph.output]
    assert outputs == [*OUTPUTS, LOGITS_NAME]
    assert run_graph(session(graph), batches()[0]).scores.shape == (8, len(its.heads.shapes.scores))


def without_logits(heads: bytes) -> bytes:
    """The same heads, their scores of the classifier's own logits made of zeros instead."""
    model = onnx.load_from_string(heads)
    zeros = helper.make_node("MatMul", [FEATURE_NAME, "zeros"], ["nothing"], name="nothing")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((WIDTH, CLASSES), dtype=np.float32), "zeros"))
    for node in model.graph.node:
        node.input[:] = ["nothing" if name == LOGITS_NAME else name for name in node.input]
    model.graph.node.insert(0, zeros)
    return bytes(model.SerializeToString())


def test_where_no_way_leaves_them_alone_nothing_is_exported(heads: GuardHeads, added: bytes) -> None:
    other = foreign.plain(17)
    (bias,) = [tensor for tensor in other.graph.initializer if tensor.name == "bias"]
    bias.CopyFrom(numpy_helper.from_array(np.nextafter(numpy_helper.to_array(bias), np.float32(9)), "bias"))
    its = own(foreign.plain(17), heads)
    with pytest.raises(QualityError, match=r"by up to \d\.\de-\d\d .* --feature or --logits"):
        require_unchanged(its, merge(other.SerializeToString(), added, metadata={}), batches())
    model = onnx.load_from_string(added)
    (means,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("density.mean")]
    means.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(means) * np.float32(1.01), means.name))
    with pytest.raises(QualityError, match=r"the graph's (knn|mahalanobis) differs from PyTorch's"):
        joined(its, model.SerializeToString(), batches, metadata={})


def test_a_feature_far_from_zero_keeps_its_digits() -> None:
    """A mean of ten thousand and a spread of one: the folded products alone would differ by far more."""
    model = foreign.plain(17)
    (last,) = [node for node in model.graph.node if FEATURE_NAME in node.output]
    for node in model.graph.node:
        node.input[:] = ["near" if name == FEATURE_NAME else name for name in node.input]
    last.output[0] = "near"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e4), "far"))
    place = list(model.graph.node).index(last)
    model.graph.node.insert(place + 1, helper.make_node("Add", ["near", "far"], [FEATURE_NAME], name="away"))
    its = own(model, foreign.fitted_heads(model))
    heads = its.heads.shapes.scores
    graph, _ = joined(its, appended(its.heads), batches, metadata={}, exact=False)
    _, scores = its.answers(session(its.graph), batches()[0])
    errors = its.calibration.score_errors(scores, run_graph(session(graph), batches()[0]).scores).max(0)
    trained = [heads.index(name) for name in (ScoreName.PDS, ScoreName.ENERGY, ScoreName.AMP, ScoreName.ICE)]
    assert errors[trained].max() < TOLERANCE


def test_names_that_the_guard_needs_are_freed(added: bytes) -> None:
    model = foreign.plain(17)
    taken = {"scores", "distances", "label", "accept", "guard.heads.wide"}
    assert taken <= all_names(model.graph)
    merged = onnx.load_from_string(merge(model.SerializeToString(), added, metadata={}))
    written = [name for node in merged.graph.node for name in node.output]
    assert len(written) == len(set(written))
    names = all_names(merged.graph)
    assert {"scores_own", "distances_own", "label_own", "accept_own", "guard.heads.wide"} <= names
    assert "guard_1.heads.wide" in names
    scan = onnx.load_from_string(merge(foreign.one_by_one().SerializeToString(), added, metadata={}))
    assert "scores_own" in all_names(scan.graph)


def test_what_only_a_dropped_output_needed_goes_and_dead_nodes_stay(added: bytes) -> None:
    model = foreign.plain(17)
    # The logits of a branch of their own, as of a quantised graph, and a node that nothing reads.
    for node in model.graph.node:
        node.output[:] = ["inner" if name == LOGITS_NAME else name for name in node.output]
        node.input[:] = ["inner" if name == LOGITS_NAME else name for name in node.input]
    model.graph.node.append(
        helper.make_node("Gemm", [FEATURE_NAME, "last", "bias"], [LOGITS_NAME], name="again", transB=1)
    )
    model.graph.node.append(helper.make_node("Neg", [FEATURE_NAME], ["unread"], name="dead"))
    read = {node.name for node in merged_nodes(model, added)}
    assert {"again", "dead"} <= read
    unread = {node.name for node in merged_nodes(model, without_logits(added))}
    assert "dead" in unread
    assert "again" not in unread


def merged_nodes(model: onnx.ModelProto, heads: bytes) -> list[onnx.NodeProto]:
    return list(onnx.load_from_string(merge(model.SerializeToString(), heads, metadata={})).graph.node)


def test_arithmetic_of_foreign_graphs() -> None:
    found = {kind: arithmetic(make()) for kind, make in MAKERS.items()}
    assert (found.pop("integers"), found.pop("float16")) == ("int8", "fp16")
    assert set(found.values()) == {"fp32"}


# An operator as newer versions have it, its constant inputs, and its attributes.
NEWER: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("ReduceMax", [[1]], {"keepdims": 0}),
    ("ReduceMin", [[0, 2]], {"keepdims": 1}),
    ("ReduceMean", [[-1]], {"keepdims": 1}),
    ("ReduceSum", [[0]], {"keepdims": 0}),
    ("ReduceProd", [], {"keepdims": 0}),
    ("Unsqueeze", [[0, 4]], {}),
    ("Split", [[1, 3]], {"axis": 2}),
    ("Shape", [], {"start": 1, "end": 2}),
    ("Shape", [], {"start": -2}),
    ("Shape", [], {}),
    ("Reshape", [[2, -1]], {"allowzero": 1}),
    ("Reshape", [[0, -1]], {"allowzero": 0}),
    ("Softmax", [], {"axis": -1}),
    ("Cast", [], {"to": TensorProto.INT32, "saturate": 1}),
]


@pytest.mark.parametrize("place", range(len(NEWER)))
def test_each_rule_keeps_the_meaning(place: int) -> None:
    kind, constants, attributes = NEWER[place]
    given = np.random.default_rng(place).normal(size=(2, 3, 4)).astype(np.float32)
    held = [numpy_helper.from_array(np.array(value, dtype=np.int64), f"c{i}") for i, value in enumerate(constants)]
    outputs = ["y", "z"] if kind == "Split" else ["y"]
    node = helper.make_node(kind, ["x", *(tensor.name for tensor in held)], outputs, name="one", **attributes)
    expected = evaluated([node], held, outputs, 20, given)
    for target in range(OLDEST, NEWEST + 1):
        written = Rewriter(held, source=20, target=target).rewrite([node])
        for found, wanted in zip(
            evaluated(written.nodes, written.constants, outputs, target, given), expected, strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def evaluated(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], outputs: list[str], opset: int, given: np.ndarray
) -> list[np.ndarray]:
    """By ONNX Runtime, and by the reference evaluator for versions that it does not know yet."""
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    if opset > NEWEST_RUN:
        return list(ReferenceEvaluator(model).run(None, {"x": given}))
    return list(session(model.SerializeToString()).run(None, {"x": given}))


def test_an_operator_without_a_rule_is_named() -> None:
    def lowered(kind: str, *inputs: str, domain: str = "", **attributes: object) -> None:
        node = helper.make_node(kind, ["x", *inputs], ["y"], domain=domain, **attributes)
        Rewriter([numpy_helper.from_array(np.array([0, 3]), "zero")], source=20, target=12).rewrite([node])

    with pytest.raises(NotImplementedError, match=r"Mod has no rule for opset 12; add one to export/opsets\.py"):
        lowered("Mod", "zero")
    with pytest.raises(NotImplementedError, match="there is no GridSample in opset 12"):
        lowered("GridSample", "grid")
    with pytest.raises(NotImplementedError, match="another axis than the last"):
        lowered("Softmax", axis=1)
    with pytest.raises(NotImplementedError, match="to no elements"):
        lowered("Reshape", "zero", allowzero=1)
    with pytest.raises(NotImplementedError, match="ReduceMax computes axes, which opset 12 wants as a constant"):
        lowered("ReduceMax", "axes")
    with pytest.raises(NotImplementedError, match="noop_with_empty_axes"):
        lowered("ReduceSum", noop_with_empty_axes=1)
    with pytest.raises(NotImplementedError, match="num_outputs"):
        lowered("Split", num_outputs=2)
    with pytest.raises(NotImplementedError, match="Cast with saturate"):
        lowered("Cast", to=TensorProto.INT32, saturate=0)
    with pytest.raises(NotImplementedError, match=r"Gelu of com\.microsoft"):
        lowered("Gelu", domain="com.microsoft")
