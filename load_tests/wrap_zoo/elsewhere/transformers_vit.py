"""A small Hugging Face vision transformer, trained on class folders and exported with its preprocessor_config.json.

`python transformers_vit.py PHOTOS OUT`, in the environment of requirements-transformers.txt.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SIZE, EPOCHS, BATCH = 64, 25, 32


class Logits(torch.nn.Module):
    """The model without the record that its answers come in."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[N, 3, 64, 64]` to `[N, classes]`."""
        return self.model(pixel_values=pixel_values).logits


def main(photos: Path, out: Path) -> None:
    """Train on photos/train, and write out/model.onnx with what Hugging Face saves beside a model."""
    torch.manual_seed(0)
    classes = sorted(folder.name for folder in (photos / "train").iterdir() if folder.is_dir())
    files = [(path, i) for i, name in enumerate(classes) for path in sorted((photos / "train" / name).iterdir())]
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    pixels = torch.cat(
        [processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"] for path, _ in files]
    )
    labels = torch.tensor([label for _, label in files])
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=SIZE,
        patch_size=8, id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    steps = EPOCHS * (len(files) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(files)).split(BATCH):
            if len(chosen) < BATCH:
                continue
            batch = pixels[chosen]
            if torch.rand(()) < 0.5:
                batch = batch.flip(-1)
            shift = torch.randint(-6, 7, (2,)).tolist()
            loss = model(pixel_values=batch.roll(shift, (2, 3)), labels=labels[chosen]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    batch = {"pixel_values": {0: torch.export.Dim("batch")}}
    names = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    sample = torch.zeros(2, 3, SIZE, SIZE)
    torch.onnx.export(Logits(model), (sample,), out / "model.onnx", dynamic_shapes=batch, **names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
