"""`config.pbtxt` field by field, read with Triton's own schema: a field it does not have is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as schema

from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.errors import FormatError, InputError
from oodguard.core.manifest import FileRef, Manifest, load_manifest
from oodguard.core.triton import Configuration, describe, failure_of, hashes
from oodguard.export.triton.config import model_config, render
from oodguard.export.triton.options import TritonOptions


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


def parse(text: str) -> Any:
    return text_format.Parse(text, schema.ModelConfig())


def config(manifest: Manifest, parameters: dict[str, str] | None = None, **options: Any) -> Any:
    return parse(model_config("discs", {7: manifest}, parameters or {}, ["golden-1"], TritonOptions(**options)))


def test_the_default_is_the_onnxruntime_backend_on_the_cpu(manifest: Manifest) -> None:
    found = config(manifest)
    assert (found.name, found.backend, found.platform, found.max_batch_size) == ("discs", "onnxruntime", "", 8)
    (image,) = found.input
    assert (image.name, image.data_type, list(image.dims)) == ("images", schema.TYPE_UINT8, [72, 72, 3])
    outputs = [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in found.output]
    assert outputs == [
        ("probabilities", schema.TYPE_FP32, [3]),
        ("scores", schema.TYPE_FP32, [8]),
        ("neighbours", schema.TYPE_INT32, [3]),
        ("distances", schema.TYPE_FP32, [3]),
    ]
    assert found.version_policy.latest.num_versions == 2
    (group,) = found.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (schema.ModelInstanceGroup.KIND_CPU, 1, [])
    assert found.parameters["intra_op_thread_count"].string_value == "0"
    assert not found.HasField("optimization")
    assert not found.HasField("sequence_batching")
    assert found.default_model_filename == ""


def test_batching_and_the_queue_policy(manifest: Manifest) -> None:
    found = config(manifest, max_batch=16, max_delay=0.0015, max_queue=9, queue_timeout=0.25)
    batching, policy = found.dynamic_batching, found.dynamic_batching.default_queue_policy
    assert (found.max_batch_size, batching.max_queue_delay_microseconds) == (16, 1500)
    assert policy.timeout_action == schema.ModelQueuePolicy.REJECT
    assert (policy.default_timeout_microseconds, policy.max_queue_size) == (250_000, 9)
    assert policy.allow_timeout_override
    assert not batching.preserve_ordering


def test_warm_up_runs_one_image_and_a_full_batch(manifest: Manifest) -> None:
    one, full = config(manifest).model_warmup
    assert (one.batch_size, full.batch_size) == (1, 8)
    for sample in (one, full):
        assert list(sample.inputs) == ["images"]
        tensor = sample.inputs["images"]
        assert (tensor.data_type, list(tensor.dims)) == (schema.TYPE_UINT8, [72, 72, 3])
        assert tensor.input_data_file == "golden-1"
    assert [sample.batch_size for sample in config(manifest, max_batch=1).model_warmup] == [1]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest:3", {"latest": {"num_versions": 3}}),
        ("all", {"all": {}}),
        ("only:7", {"specific": {"versions": ["7"]}}),
    ],
)
def test_version_policies(manifest: Manifest, policy: str, expected: dict[str, Any]) -> None:
    from google.protobuf.json_format import MessageToDict

    found = config(manifest, policy=policy).version_policy
    assert MessageToDict(found, preserving_proto_field_name=True) == expected


def test_gpus_tensorrt_and_cuda_graphs(manifest: Manifest) -> None:
    options = {"device": "gpu", "gpus": (0, 2), "instances": 2, "tensorrt": True, "tensorrt_cache": "/cache"}
    found = config(manifest, **options, cuda_graphs=True)
    (group,) = found.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (schema.ModelInstanceGroup.KIND_GPU, 2, [0, 2])
    (accelerator,) = found.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "trt_profile_min_shapes": "images:1x72x72x3",
        "trt_profile_opt_shapes": "images:8x72x72x3",
        "trt_profile_max_shapes": "images:8x72x72x3",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_cuda_graph_enable": "1",
    }
    half = manifest.model_copy(update={"precision": "fp16"})
    (accelerator,) = config(half, device="gpu", tensorrt=True).optimization.execution_accelerators.ListFields()[0][1]
    assert accelerator.parameters["precision_mode"] == "FP16"
    with pytest.raises(InputError, match="share one TensorRT"):
        model_config("discs", {7: manifest, 8: half}, {}, [], TritonOptions(device="gpu", tensorrt=True))


def test_versions_share_what_they_have_in_common(manifest: Manifest) -> None:
    more = manifest.outputs[0].model_copy(update={"shape": ("batch", 5)})
    nearer = manifest.outputs[2].model_copy(update={"shape": ("batch", 2)})
    other = manifest.model_copy(update={"outputs": (more, manifest.outputs[1], nearer, manifest.outputs[3])})
    found = parse(model_config("discs", {7: manifest, 8: other}, {}, [], TritonOptions()))
    assert [list(tensor.dims) for tensor in found.output] == [[-1], [8], [-1], [3]]
    bare = manifest.model_copy(update={"outputs": manifest.outputs[:2], "bank": None})
    with pytest.raises(InputError, match="returns probabilities, scores, neighbours, distances and the new one"):
        model_config("discs", {7: manifest, 8: bare}, {}, [], TritonOptions())
    larger = manifest.input.model_copy(update={"shape": ("batch", 96, 96, 3)})
    with pytest.raises(InputError, match="72 x 72 x 3"):
        model_config("discs", {7: manifest, 8: manifest.model_copy(update={"input": larger})}, {}, [], TritonOptions())


def test_the_parameters_are_enough_to_judge(manifest: Manifest, bundle: Path) -> None:
    images = {g.path: (bundle / g.path).read_bytes() for g in manifest.golden}
    bank = (bundle / BANK_FILE).read_bytes()
    found = Configuration.of(config(manifest, describe(7, manifest, images, bank)))
    assert hashes(found.parameters) == {7: manifest.graph_sha256}
    told = found.described(7)
    assert len(told.manifest.golden) == 1
    assert told.golden == images[told.manifest.golden[0].path]
    for field in ("classes", "scores", "calibration", "preprocessing", "input", "outputs", "parity", "graph_sha256"):
        assert getattr(told.manifest, field) == getattr(manifest, field)
    assert told.bank == Bank.read(bundle / BANK_FILE)
    assert found.version_of(manifest, pinned=None, where="here") == 7
    # Of a bundle with thumbnails the model repository has them; the configuration does not.
    named = FileRef(path="thumbnails.zip", bytes=1, sha256="0" * 64)
    more = manifest.model_copy(update={"thumbnails": named.path, "files": (*manifest.files, named)})
    without = Configuration.of(config(more, describe(7, more, images, bank))).described(7).manifest
    assert without.thumbnails is None
    assert named not in without.files
    # A model without a bank is judged all the same.
    bare = manifest.model_copy(update={"outputs": manifest.outputs[:2], "bank": None})
    assert Configuration.of(config(bare, describe(7, bare, images, None))).described(7).bank is None


def test_a_configuration_that_does_not_fit_is_refused(manifest: Manifest, bundle: Path) -> None:
    images = {manifest.golden[0].path: (bundle / manifest.golden[0].path).read_bytes()}
    parameters = describe(7, manifest, images, (bundle / BANK_FILE).read_bytes())
    with pytest.raises(FormatError, match=r"oodguard\.7\.bank is not the bank in the manifest"):
        Configuration.of(config(manifest, parameters | {"oodguard.7.bank": "{}"})).described(7)
    with pytest.raises(FormatError, match="contradicts itself"):
        Configuration.of(config(manifest, parameters | {"oodguard.7.graph_sha256": "0" * 64})).described(7)
    with pytest.raises(FormatError, match=r"no parameter oodguard\.8\.manifest"):
        Configuration.of(config(manifest, parameters)).described(8)
    with pytest.raises(FormatError, match="not one of ours"):
        Configuration.of(config(manifest, parameters | {"oodguard.7.manifest": "{}"})).described(7)
    fits = Configuration.of(config(manifest, parameters))
    with pytest.raises(FormatError, match="none of ours"):
        Configuration.of(config(manifest)).version_of(manifest, pinned=None, where="here")
    with pytest.raises(FormatError, match="does not serve the graph"):
        fits.version_of(manifest, pinned=6, where="here")
    narrow = manifest.outputs[1].model_copy(update={"shape": ("batch", 9)})
    with pytest.raises(FormatError, match="scores should be FP32"):
        fits.version_of(
            manifest.model_copy(update={"outputs": (manifest.outputs[0], narrow, *manifest.outputs[2:])}),
            pinned=None,
            where="x",
        )


def test_text_that_needs_care_survives() -> None:
    odd = 'quotes " and \\ backslashes,\nlines, \u00e4\u732b\U0001f408 \x01'
    found = parse(render({"name": "x", "parameters": {odd: {"string_value": odd}}}))
    assert found.parameters[odd].string_value == odd


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"gpus": (0,)}, "device gpu"),
        ({"tensorrt": True}, "device gpu"),
        ({"tensorrt": True, "device": "gpu", "backend": "python"}, "onnxruntime"),
        ({"cuda_graphs": True, "device": "gpu"}, "tensorrt"),
        ({"tensorrt_cache": "/x"}, "tensorrt"),
        ({"policy": "newest"}, "policy"),
        ({"policy": "only:0"}, "policy"),
        ({"model": "a/b"}, "name"),
        ({"max_batch": 0}, "greater"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        TritonOptions(**given)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("StatusCode.UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", "overloaded"),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", "deadline_missed"),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", "deadline_missed"),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", "not_ready"),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'x' is not found", "not_ready"),
        ("StatusCode.INTERNAL", "Stub process 'x_0_0' is not healthy.", "engine_failed"),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape for input", "engine_failed"),
        ("", "", "engine_failed"),
    ],
)
def test_what_tritons_answers_mean(status: str, message: str, expected: str) -> None:
    assert failure_of(status, message) == expected
