from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.core.errors import InputError
from oodguard.training.photos.labelled import load_photos, load_unlabelled
from oodguard.training.photos.split import near_duplicate_groups, split_off


def test_train_and_test_folders(photos: Path, tmp_path: Path) -> None:
    found = load_photos(photos, tmp_path)
    assert found.classes == ("amber", "jade", "plum")
    assert (len(found.pool), len(found.test)) == (180, 45)


def test_one_class_folder_a_zip_of_it_and_a_wrapping_folder_are_the_same(photos: Path, tmp_path: Path) -> None:
    plain = load_photos(photos / "train", tmp_path)
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted((photos / "train").rglob("*.jpg")):
            bundle.write(path, Path("wrapped") / path.relative_to(photos / "train"))
    zipped = load_photos(archive, tmp_path / "cache")
    assert zipped.fingerprint == plain.fingerprint
    assert len(zipped.pool) == 180
    assert zipped.test == ()


def test_val_may_lack_classes_but_not_add_them(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(photos, root)
    shutil.copytree(photos / "test" / "jade", root / "val" / "jade")
    assert len(load_photos(root, tmp_path).pool) == 195
    shutil.copytree(photos / "test" / "jade", root / "val" / "teal")
    with pytest.raises(InputError, match="teal"):
        load_photos(root, tmp_path)


def test_bad_sources_are_one_sentence(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    lonely = tmp_path / "lonely"
    shutil.copytree(photos / "train" / "amber", lonely / "amber")
    few = tmp_path / "few"
    shutil.copytree(photos / "train", few)
    for path in sorted((few / "plum").iterdir())[1:]:
        path.unlink()
    for source, message in (
        ("absent", "does not exist"),
        ("empty", "no images"),
        ("text.zip", "neither a folder nor a zip"),
        ("lonely", "one class"),
        ("few", r"plum \(1\)"),
    ):
        with pytest.raises(InputError, match=message):
            load_photos(tmp_path / source, tmp_path / "cache")


def test_a_zip_cannot_write_outside(tmp_path: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("../../evil.jpg", b"x")
    with pytest.raises(InputError, match="outside"):
        load_photos(archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.jpg"))


def test_unlabelled_folders_take_any_layout(strangers: Path, tmp_path: Path) -> None:
    assert len(load_unlabelled(strangers)) == 12
    with pytest.raises(InputError, match="not a folder"):
        load_unlabelled(tmp_path / "absent")


def test_near_duplicates_stay_together_and_the_split_is_seeded() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 60)
    items = rng.normal(size=(4 * 20, 16)) + 2 * np.repeat(np.eye(4, 16), 20, axis=0)
    features = (np.repeat(items, 3, axis=0) + 0.01 * rng.normal(size=(240, 16))).astype(np.float32)
    groups = near_duplicate_groups(features, labels)
    for item in range(80):
        assert len(set(groups[3 * item : 3 * item + 3])) == 1
    for group in np.unique(groups):
        assert len(set(labels[groups == group])) == 1
    rest, held = split_off(labels, groups, fraction=0.2, seed=1)
    assert not set(groups[rest]) & set(groups[held])
    assert set(rest) | set(held) == set(range(240))
    assert set(labels[rest]) == set(labels[held]) == {0, 1, 2, 3}
    again = split_off(labels, groups, fraction=0.2, seed=1)
    np.testing.assert_array_equal(held, again[1])
    assert not np.array_equal(held, split_off(labels, groups, fraction=0.2, seed=2)[1])


def test_a_class_never_goes_over_whole() -> None:
    labels = np.repeat([0, 1], [40, 4])
    groups = np.concatenate([np.arange(40), np.full(4, 99)])
    for seed in range(6):
        rest, _ = split_off(labels, groups, fraction=0.5, seed=seed)
        assert set(labels[rest]) == {0, 1}


def test_similar_things_do_not_chain_into_one_group() -> None:
    """Each of 30 garments is like the next one, and the first is nothing like the last: no group holds them all."""
    angles = np.linspace(0, np.pi / 2, 30)
    arc = np.stack([np.cos(angles), np.sin(angles), np.zeros(30)], axis=1)
    copies = arc[[5, 20]]  # the same pictures again
    # Another class, whose photos reach a cosine of 0.95 with the arc: closer than that is nearly the same.
    other = 0.95 * arc + np.array([0, 0, np.sqrt(1 - 0.95**2)])
    features = np.concatenate([arc, copies, other]).astype(np.float32)
    labels = np.repeat([0, 1], [32, 30])
    groups = near_duplicate_groups(features, labels)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for group in np.unique(groups):
        members = unit[groups == group]
        assert (members @ members.T).min() > 0.94
    assert groups[30] == groups[5]
    assert groups[31] == groups[20]
    assert len(np.unique(groups[:30])) > 2


def test_photos_in_linked_folders_are_found_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(real / f"{number}.png")
    root = tmp_path / "photos"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "a" / "deep" / "linked").symlink_to(real, target_is_directory=True)
    (root / "a" / "circle").symlink_to(root, target_is_directory=True)
    found = load_unlabelled(root)
    assert [photo.path.name for photo in found] == ["0.png", "1.png", "2.png"]
