"""Judge images over the Open Inference Protocol: tritonclient against oodguard's own server, without oodguard.

    pip install "tritonclient[http]" numpy
    python open_inference.py localhost:8000 photos photo.jpg other.jpg

Encoded images go in, as BYTES; label, verdict and score come out, one row an image.
"""

import sys

import numpy as np
import tritonclient.http

ASKED = ("label", "is_ood", "ood_score", "threshold", "error")


def main(address, model, *paths):
    """Print one line an image."""
    images = np.empty(len(paths), dtype=object)
    for index, path in enumerate(paths):
        with open(path, "rb") as file:
            images[index] = file.read()
    tensor = tritonclient.http.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(images, binary_data=True)
    outputs = [tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in ASKED]
    with tritonclient.http.InferenceServerClient(address) as client:
        answer = client.infer(model, [tensor], outputs=outputs)
    # `error` is asked for, so that a bad image is a row of its own and does not cost the others their answer.
    for path, label, is_ood, score, limit, error in zip(paths, *map(answer.as_numpy, ASKED), strict=True):
        if error:
            print(f"{path}: {error.decode()}")
        else:
            verdict = "out of distribution" if is_ood else label.decode()
            print(f"{path}: {verdict} ({score:.2f}, threshold {limit:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
