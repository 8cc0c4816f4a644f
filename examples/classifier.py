"""Fine-tune an image classifier with a plain PyTorch loop, and export it with both of PyTorch's exporters.

pip install "path/to/clone[train]"
python classifier.py photos --out mine --backbone resnet18
oodguard wrap mine/classifier.onnx --data photos --out runs/mine

`photos` holds train/ and test/ folders of class folders. Nothing here knows of a guard.
"""

import argparse
from pathlib import Path

import torch

# isort: off
from oodguard.training.backbone.timm_loader import timm, transforms  # lets torchvision import beside a CPU torch
from torchvision import datasets, models

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def network(backbone, classes):
    """A torchvision model of this name, else timm's."""
    if backbone in models.list_models():
        return models.get_model(backbone, num_classes=classes)
    return timm.create_model(backbone, num_classes=classes)


def batches(folder, size, *, train, half):
    """Batches of normalised pictures and their classes, and the classes' names."""
    shape = [transforms.RandomResizedCrop(size, scale=(0.4, 1)), transforms.RandomHorizontalFlip()]
    if not train:
        shape = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size)]
    normalize = transforms.Normalize(HALF, HALF) if half else transforms.Normalize(MEAN, STD)
    pixels = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), normalize]
    photos = datasets.ImageFolder(folder, transforms.Compose([*shape, *pixels]))
    return torch.utils.data.DataLoader(photos, batch_size=32, shuffle=train, drop_last=train), photos.classes


@torch.no_grad()
def accuracy(model, loader):
    """The share of photos that get their folder's name."""
    model.eval()
    return torch.cat([model(pictures).argmax(1) == classes for pictures, classes in loader]).float().mean().item()


def main():
    """Train, save the checkpoint, and export."""
    say = argparse.ArgumentParser(description="Fine-tune an image classifier on folders of photos.")
    say.add_argument("photos", type=Path)
    say.add_argument("--out", type=Path, required=True)
    say.add_argument("--backbone", default="resnet18")
    say.add_argument("--weights", type=Path, help="a state dict to start from; its last layer may have other classes")
    for name, default in (("size", 224), ("epochs", 10), ("seed", 0)):
        say.add_argument(f"--{name}", type=int, default=default)
    say.add_argument("--lr", type=float, default=1e-3)
    say.add_argument("--half", action="store_true", help="pixels from -1 to 1 instead of ImageNet's mean and deviation")
    args = say.parse_args()
    torch.manual_seed(args.seed)
    loader, classes = batches(args.photos / "train", args.size, train=True, half=args.half)
    model = network(args.backbone, len(classes))
    if args.weights:
        own, given = model.state_dict(), torch.load(args.weights, map_location="cpu", weights_only=True)
        # By order: names differ between the libraries that share these weights.
        pairs = zip(own, given.values(), strict=True)
        model.load_state_dict(own | {name: value for name, value in pairs if value.shape == own[name].shape})
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    steps = args.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    for epoch in range(args.epochs):
        model.train()
        for pictures, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)
    if (args.photos / "test").is_dir():
        test, _ = batches(args.photos / "test", args.size, train=False, half=args.half)
        print(f"test accuracy {accuracy(model, test):.4f}")
    model.eval()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict(), "classes": classes}, args.out / "checkpoint.pth")
    (args.out / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    sample = torch.zeros(1, 3, args.size, args.size)
    torch.onnx.export(model, (sample,), args.out / "classifier.onnx")
    names = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": {"input": {0: "n"}}}
    torch.onnx.export(model, (sample,), args.out / "classifier-script.onnx", dynamo=False, **names)


if __name__ == "__main__":
    main()
