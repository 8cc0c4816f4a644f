"""Judge images with a Triton that serves our model, without oodguard: tritonclient, NumPy and Pillow alone.

    pip install "tritonclient[grpc]" numpy pillow
    python raw_triton.py localhost:8001 photos photo.jpg other.jpg

Everything that is needed is in the model's configuration: classes, preprocessing, and one quantile curve a score, from
which any target acceptance gives its thresholds. Prints one JSON object an image.
"""

import json
import sys

import numpy as np
import tritonclient.grpc
from PIL import Image, ImageOps

FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}


def read_manifest(client, model):
    """The newest version's number and manifest."""
    parameters = client.get_model_config(model).config.parameters
    versions = [int(key.split(".")[1]) for key in parameters if key.endswith(".graph_sha256")]
    newest = max(v for v in versions if client.is_model_ready(model, str(v)))
    return str(newest), json.loads(parameters[f"oodguard.{newest}.manifest"].string_value)


def load_pixels(path, how):
    """A photo of 8 bits upright, cropped, squashed or padded to what the graph takes: [height, width, 3] uint8."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    filter, height, width = FILTERS[how["interpolation"]], how["crop"], how["width"] or how["crop"]
    # The size of the whole picture, of which the middle is taken.
    w, h = how["resize_width"] or round(how["resize"] * width / height), how["resize"]
    if how["fit"] == "crop" and w == h:
        w, h = (w * side // min(image.size) for side in image.size)
    elif how["fit"] != "squash":
        ratios = image.width / w, image.height / h
        ratio = max(ratios) if how["fit"] == "pad" else min(ratios)
        w, h = max(1, round(image.width / ratio)), max(1, round(image.height / ratio))
    canvas = Image.new("RGB", (width, height), tuple(how["fill"]))
    ends = []
    for have, want in ((w, width), (h, height)):
        start = max(0, round((have - want) / 2))
        ends.append((start, start + min(have, want), max(0, (want - have) // 2)))
    (left, right, x), (top, bottom, y) = ends
    if how["fit"] == "crop":
        across, down = image.width / w, image.height / h
        end = min(right * across, image.width), min(bottom * down, image.height)
        middle = image.resize((right - left, bottom - top), filter, box=(left * across, top * down, *end))
    else:
        middle = image.resize((w, h), filter).crop((left, top, right, bottom))
    canvas.paste(middle, (x, y))
    return np.asarray(canvas)


def surprise(curve, x):
    """How unusual a score is on in-distribution images: -log P(score >= x), with an exponential tail."""
    levels, values = np.array(curve["levels"]), np.array(curve["values"])
    knee = min(int(np.searchsorted(levels, 0.9)), len(values) - 1)
    above = values[knee + 1 :] - values[knee]
    spread = max(values[-1] - values[0], 1e-9)
    scale = max(above.mean() if len(above) else 0.0, 1e-3 * spread)
    base = -np.log1p(-levels[knee])
    if x > values[knee]:
        return base + (x - values[knee]) / scale
    return min(-np.log1p(-np.interp(x, values, levels, left=0.0)), base)


def threshold(curve, accept):
    """The score that a share `accept` of in-distribution images does not exceed."""
    return curve["values"][int(np.searchsorted(curve["levels"], accept - 1e-12))]


def sharpened(how, probabilities):
    """Chances, of the probabilities that the graph gives."""
    p = np.maximum(np.asarray(probabilities, dtype=float), 1e-30)
    odds = (p if how["floor"] is None else p / (p + how["floor"])) ** how["power"]
    return odds / odds.sum()


def judge(manifest, probabilities, scores, accept):
    """The verdict on one image. Higher scores are more out-of-distribution."""
    curves, fusion = manifest["calibration"]["curves"], manifest["calibration"]["fusion"]
    values = dict(zip(curves, map(float, scores), strict=True))
    terms = []
    for family in fusion["families"]:
        mean = np.mean([surprise(curves[name], values[name]) for name in family["scores"]])
        terms.append(np.log(family["share"]) + surprise(family["curve"], mean))
    answering = manifest["calibration"]["answering"]
    label = int(np.argmax(probabilities))
    fused = surprise(fusion["curve"], np.logaddexp.reduce(terms)) - answering["offsets"][label]
    limit = threshold(answering["curve"], accept)
    return {
        "label": manifest["classes"][label],
        "probability": float(sharpened(answering["sharpening"], probabilities)[label]),
        "is_ood": bool(fused > limit),
        "ood_score": float(fused),
        "threshold": limit,
        "scores": {name: {"value": values[name], "threshold": threshold(curves[name], accept)} for name in curves},
    }


def main(arguments):
    """Judge the images named on the command line."""
    address, model, *paths = arguments
    with tritonclient.grpc.InferenceServerClient(address) as client:
        version, manifest = read_manifest(client, model)
        for path in paths:
            pixels = load_pixels(path, manifest["preprocessing"])[None]
            tensor = tritonclient.grpc.InferInput("images", pixels.shape, "UINT8")
            tensor.set_data_from_numpy(pixels)
            answer = client.infer(model, [tensor], model_version=version)
            probabilities, scores = answer.as_numpy("probabilities")[0], answer.as_numpy("scores")[0]
            verdict = judge(manifest, probabilities, scores, manifest["targets"]["accept"])
            print(json.dumps({"path": path, **verdict}))


if __name__ == "__main__":
    main(sys.argv[1:])
