"""`config.pbtxt`: a Triton model configuration as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from oodguard.core.errors import InputError
from oodguard.core.manifest import Manifest, Precision, TensorSpec
from oodguard.core.triton import DATATYPES
from oodguard.export.triton.options import TritonOptions

MICRO = 1_000_000
TENSORRT_MODES: Mapping[Precision, str] = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}


MAPS = ("parameters", "inputs")


class Word(str):
    """A value that stands unquoted in the text format: the name of an enumeration's member."""


def model_config(
    name: str,
    versions: Mapping[int, Manifest],
    parameters: Mapping[str, str],
    warmup: Sequence[str],
    options: TritonOptions,
) -> str:
    """The configuration of a model whose served `versions` are given.

    `parameters` describe the versions; `warmup` are files of one image's pixels each, in the model's warm-up folder.
    Raises `InputError` when one configuration cannot hold for all of the versions.
    """
    newest = versions[max(versions)]
    for number, manifest in versions.items():
        if manifest.input.shape[1:] != newest.input.shape[1:]:
            raise InputError(
                f"version {number} of {name} takes other images ({_sides(manifest)}) than the new one "
                f"({_sides(newest)}), and a Triton model has one input shape; choose another --triton-model or a "
                "--triton-policy without that version"
            )
        if manifest.output_names != newest.output_names:
            raise InputError(
                f"version {number} of {name} returns {', '.join(manifest.output_names)} and the new one "
                f"{', '.join(newest.output_names)}, and a Triton model has one list of outputs; choose another "
                "--triton-model or a --triton-policy without that version"
            )
    fields: dict[str, object] = {
        "name": name,
        "backend": options.backend,
        "max_batch_size": options.max_batch,
        "input": [_tensor(newest.input, newest.input.shape[1:])],
        "output": [_output(versions, place) for place in range(len(newest.outputs))],
        "version_policy": _policy(options),
        "instance_group": [_instances(options)],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(options.max_delay * MICRO),
            "default_queue_policy": {
                "timeout_action": Word("REJECT"),
                "default_timeout_microseconds": round(options.queue_timeout * MICRO),
                "allow_timeout_override": True,
                "max_queue_size": options.max_queue,
            },
        },
        "parameters": {key: {"string_value": value} for key, value in _settings(options, parameters).items()},
        "model_warmup": [_warmup(newest.input, file, 1) for file in warmup]
        # Every batch size has its own kernels and its own memory; the largest is worth the wait.
        + [_warmup(newest.input, file, options.max_batch) for file in warmup[:1] if options.max_batch > 1],
    }
    if options.tensorrt:
        fields["optimization"] = {
            "execution_accelerators": {"gpu_execution_accelerator": [_tensorrt(versions, options)]}
        }
    return render(fields)


def _sides(manifest: Manifest) -> str:
    return " x ".join(map(str, manifest.input.shape[1:]))


def _tensor(spec: TensorSpec, dims: Sequence[int | str]) -> dict[str, object]:
    return {"name": spec.name, "data_type": Word(f"TYPE_{DATATYPES[spec.dtype]}"), "dims": list(dims)}


def _output(versions: Mapping[int, Manifest], place: int) -> dict[str, object]:
    """An output; an axis that differs between versions, as the classes may, is left open."""
    specs = [manifest.outputs[place] for manifest in versions.values()]
    dims = [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*(spec.shape[1:] for spec in specs), strict=True)]
    return _tensor(specs[-1], dims)


def _policy(options: TritonOptions) -> dict[str, object]:
    if options.only:
        return {"specific": {"versions": list(options.only)}}
    return {"latest": {"num_versions": options.latest}} if options.latest else {"all": {}}


def _instances(options: TritonOptions) -> dict[str, object]:
    group: dict[str, object] = {"kind": Word(f"KIND_{options.device.upper()}"), "count": options.instances}
    return {**group, "gpus": list(options.gpus)} if options.gpus else group


def _settings(options: TritonOptions, parameters: Mapping[str, str]) -> dict[str, str]:
    # The name is the onnxruntime backend's; our own model for the python backend reads it, too.
    return {"intra_op_thread_count": str(options.threads), **parameters}


def _warmup(spec: TensorSpec, file: str, batch: int) -> dict[str, object]:
    tensor = {**_tensor(spec, spec.shape[1:]), "input_data_file": file}
    name = tensor.pop("name")
    return {"name": f"{file} x {batch}", "batch_size": batch, "inputs": {str(name): tensor}}


def _tensorrt(versions: Mapping[int, Manifest], options: TritonOptions) -> dict[str, object]:
    precisions = {manifest.precision for manifest in versions.values()}
    if len(precisions) > 1:
        raise InputError(
            f"versions of {', '.join(sorted(precisions))} cannot share one TensorRT setting; choose another "
            "--triton-model or a --triton-policy with one of them"
        )
    spec = versions[max(versions)].input
    sides = "x".join(map(str, spec.shape[1:]))
    chosen = {
        # Lower precision than the graph's own would move the scores away from their thresholds.
        "precision_mode": TENSORRT_MODES[precisions.pop()],
        # One engine for all batch sizes; without a range TensorRT builds again whenever a new size comes.
        "trt_profile_min_shapes": f"{spec.name}:1x{sides}",
        "trt_profile_opt_shapes": f"{spec.name}:{options.max_batch}x{sides}",
        "trt_profile_max_shapes": f"{spec.name}:{options.max_batch}x{sides}",
    }
    if options.tensorrt_cache:
        chosen |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.tensorrt_cache}
    if options.cuda_graphs:
        chosen["trt_cuda_graph_enable"] = "1"
    return {"name": "tensorrt", "parameters": chosen}


def render(fields: Mapping[str, object], indent: str = "") -> str:
    """Fields in protobuf's text format: a sequence is a repeated field; `MAPS` are maps, of key and value pairs."""
    lines: list[str] = []
    for key, value in fields.items():
        if key in MAPS and isinstance(value, Mapping):
            pairs = [{"key": k, "value": v} for k, v in value.items()]
            lines += [f"{indent}{key} {_braces(pair, indent)}" for pair in pairs]
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{key} {_braces(one, indent)}")
            else:
                lines.append(f"{indent}{key}: {_scalar(one)}")
    return "\n".join(lines) + ("\n" if lines and not indent else "")


def _braces(fields: Mapping[str, object], indent: str) -> str:
    inside = render(fields, indent + "  ")
    return f"{{\n{inside}\n{indent}}}" if inside else "{}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # JSON's escapes are among protobuf's; other text stands as it is, in UTF-8.
    return str(value) if isinstance(value, Word | int) else json.dumps(str(value), ensure_ascii=False)
