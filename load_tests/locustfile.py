"""Locust users for a running server: all three body types, single images and small batches.

OODGUARD_IMAGES=some/folder locust -f load_tests/locustfile.py --host http://localhost:8000
"""

from __future__ import annotations

import base64
import os
import random
from pathlib import Path

from locust import HttpUser, between, task

from oodguard.training.preprocess import IMAGE_SUFFIXES

FOLDER = Path(os.environ.get("OODGUARD_IMAGES", ".oodguard-cache/example/samples"))
IMAGES = [p.read_bytes() for p in sorted(FOLDER.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
if not IMAGES:
    raise SystemExit(f"no images under {FOLDER}; set OODGUARD_IMAGES to a folder of images")


class Caller(HttpUser):
    """Posts images as applications do, with a little time to think."""

    wait_time = between(0.05, 0.3)

    @task(6)
    def raw(self) -> None:
        """One image as a raw body."""
        headers = {"content-type": "application/octet-stream"}
        self.client.post("/predict", data=random.choice(IMAGES), headers=headers, name="/predict raw")

    @task(3)
    def multipart(self) -> None:
        """Up to four images as files."""
        chosen = random.choices(IMAGES, k=random.randint(1, 4))
        files = [("image", (f"{i}", image)) for i, image in enumerate(chosen)]
        self.client.post("/predict", files=files, name="/predict multipart")

    @task(1)
    def encoded(self) -> None:
        """One image as base64 in JSON."""
        text = base64.b64encode(random.choice(IMAGES)).decode()
        self.client.post("/predict", json={"images": [text]}, name="/predict json")
