"""Every odd kind of image either gives the right pixels or a clear error."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from pydantic import ValidationError

from oodguard.core.errors import ImageError, InputError
from oodguard.core.preprocessing import (
    FILTERS,
    ImageLimits,
    Preprocessing,
    load_pixels,
    network_input,
    open_image,
    size_of,
    to_pixels,
    upright,
)
from oodguard.core.reduced import REDUCED_MARGINS, REDUCED_TOLERANCE, turned

PLAIN = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(width: int = 40, height: int = 32) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 7, x + y], axis=-1).astype(np.uint8))


def code_of(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load_pixels(data, PLAIN, limits or ImageLimits())
    return caught.value.code


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_supported_format_decodes_to_the_same_picture(kind: str) -> None:
    pixels = load_pixels(encoded(gradient(), kind), PLAIN)
    reference = load_pixels(encoded(gradient(), "PNG"), PLAIN)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - reference.astype(int)).mean() < 12


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (load_pixels(encoded(image, "PNG"), PLAIN) == 255).all()
    half = Image.new("LA", (32, 32), (0, 128))
    assert abs(int(load_pixels(encoded(half, "PNG"), PLAIN)[0, 0, 0]) - 127) <= 1


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((32, 32), 32768, dtype=np.uint16))
    assert abs(int(load_pixels(encoded(image, "PNG"), PLAIN)[0, 0, 0]) - 127) <= 1


def test_palette_with_transparency_and_one_bit_images() -> None:
    palette = gradient().convert("P")
    data = encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert (open_image(data).getpixel((0, 0))) == (255, 255, 255)
    assert set(np.unique(load_pixels(encoded(Image.new("1", (32, 32), 1), "PNG"), PLAIN))) == {255}


def test_cmyk_jpeg() -> None:
    pixels = load_pixels(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), PLAIN)
    assert pixels[16, 16, 0] > 200
    assert pixels[16, 16, 1] < 60


def test_an_animation_counts_by_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert load_pixels(data, PLAIN)[16, 16, 0] > 240


def test_exif_rotation_equals_the_upright_image() -> None:
    upright = gradient(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(load_pixels(turned, PLAIN), load_pixels(encoded(upright, "PNG"), PLAIN))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 5)])
def test_tiny_and_thin_images_work(size: tuple[int, int]) -> None:
    pixels = load_pixels(encoded(Image.new("RGB", size, (10, 200, 30)), "PNG"), PLAIN)
    assert (pixels == (10, 200, 30)).all()


def test_the_centre_is_cropped() -> None:
    wide = Preprocessing(resize=32, crop=16, mean=(0, 0, 0), std=(1, 1, 1))
    image = Image.new("RGB", (64, 32), "black")
    image.paste((255, 255, 255), (24, 8, 40, 24))
    assert (to_pixels(image, wide) == 255).mean() > 0.8


def test_damaged_and_foreign_files_have_their_own_codes() -> None:
    jpeg = encoded(gradient(200, 200), "JPEG")
    assert code_of(b"") == "empty"
    assert code_of(b"hello, this is text") == "unsupported_type"
    assert code_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_type"
    assert code_of(jpeg[: len(jpeg) // 2]) == "cannot_decode"
    assert code_of(jpeg, ImageLimits(max_bytes=100)) == "too_many_bytes"
    assert code_of(jpeg, ImageLimits(max_pixels=39_999)) == "too_many_pixels"


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    started = time.monotonic()
    assert code_of(bomb) == "too_many_pixels"
    assert time.monotonic() - started < 1.0


def test_random_bytes_behind_every_signature_never_escape() -> None:
    rng = np.random.default_rng(0)
    for signature in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"RIFF\x00\x00\x00\x00WEBP",
    ):
        for _ in range(20):
            assert code_of(signature + rng.bytes(300)) in {"unsupported_type", "cannot_decode", "too_many_pixels"}


def photo(width: int, height: int) -> bytes:
    """A JPEG with both smooth and fine structure."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(3)
    waves = np.stack([np.sin(x / 37), np.cos(y / 23), np.sin((x + y) / 5)], axis=-1) * 90 + 128
    stream = io.BytesIO()
    noisy = np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def picture(width: int, height: int) -> Image.Image:
    """Blurred noise with detail at every scale that survives the final resize."""
    rng = np.random.default_rng(width * height)
    layers = []
    for cells in (6, 24, 96):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers.append(np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32))
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


@pytest.mark.parametrize("size", [(1025, 1030), (2049, 2047)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_side_that_the_reduction_does_not_divide_stretches_nothing(
    size: tuple[int, int], subsampling: str, orientation: int
) -> None:
    """The decoder rounds the reduced size up: its last row and column are larger than the picture."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(*size).save(stream, "JPEG", quality=95, subsampling=subsampling, exif=exif)
    full = Preprocessing(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    quick = full.model_copy(update={"reduced_jpeg": True})
    exact, reduced = (load_pixels(stream.getvalue(), one).astype(float) for one in (full, quick))
    assert np.abs(exact - reduced).mean() < 0.75 * REDUCED_TOLERANCE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_extent_of_a_reduced_picture_turns_with_it(orientation: int) -> None:
    """A white picture in a black grid: after turning both, the extent holds the white."""
    grid = Image.new("L", (9, 7))
    grid.paste(255, (0, 0, 8, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    grid.info["exif"] = exif.tobytes()
    whole = ImageOps.exif_transpose(grid)
    left, top, right, bottom = turned((8.0, 5.0), grid.size, orientation)
    assert whole.getbbox() == (left, top, right, bottom)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_reduced_picture_says_its_true_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture(1200, 900).save(stream, "JPEG", exif=exif)
    small = open_image(stream.getvalue(), shrink_for=PLAIN.model_copy(update={"reduced_jpeg": True}))
    assert max(small.size) == 150
    assert size_of(small) == ((900, 1200) if orientation in (6, 8) else (1200, 900))
    assert size_of(upright(Image.open(stream))) == ((900, 1200) if orientation in (6, 8) else (1200, 900))


@pytest.mark.parametrize("name", ["oodguard.origin", "oodguard.extent"])
def test_texts_of_a_file_say_nothing_about_how_it_was_decoded(name: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text(name, "0")
    data = encoded(gradient(), "PNG", pnginfo=text)
    assert (load_pixels(data, PLAIN) == load_pixels(encoded(gradient(), "PNG"), PLAIN)).all()
    given = upright(Image.open(io.BytesIO(data)))
    assert size_of(given) == (40, 32)
    assert (to_pixels(given, PLAIN) == load_pixels(data, PLAIN)).all()


@pytest.mark.parametrize(
    ("changed", "size", "scaling"),
    [
        ({}, (64, 32), 1.0),
        ({}, (16, 64), 2.0),
        ({"fit": "pad"}, (16, 64), 0.5),
        ({"fit": "squash", "width": 64}, (16, 64), 4.0),
    ],
)
def test_what_a_picture_is_scaled_by(changed: dict[str, object], size: tuple[int, int], scaling: float) -> None:
    assert PLAIN.model_copy(update=changed).scaling(*size) == scaling


@pytest.mark.parametrize(("size", "reduced"), [((900, 700), True), ((2000, 520), True), ((500, 250), False)])
def test_a_reduced_jpeg_stays_within_the_stated_tolerance(size: tuple[int, int], reduced: bool) -> None:
    full = Preprocessing(resize=128, crop=112, mean=(0, 0, 0), std=(1, 1, 1))
    quick = full.model_copy(update={"reduced_jpeg": True})
    data = photo(*size)
    small = open_image(data, shrink_for=quick).size
    assert (small != size) is reduced
    assert min(small) >= min(size[0], size[1], REDUCED_MARGINS[2] * full.resize)
    difference = np.abs(load_pixels(data, quick).astype(int) - load_pixels(data, full).astype(int))
    assert difference.mean() < REDUCED_TOLERANCE
    assert bool(difference.any()) is reduced


def fitted(fit: str, **more: object) -> Preprocessing:
    return Preprocessing.model_validate(
        {"resize": 32, "crop": 32, "fit": fit, "mean": (0, 0, 0), "std": (1, 1, 1), **more}
    )


def halves(width: int, height: int) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def test_a_squashed_picture_is_all_there_and_a_padded_one_lies_between_bars() -> None:
    image = halves(128, 64)
    squashed = to_pixels(image, fitted("squash"))
    assert (squashed[:, :14] == (255, 0, 0)).all()
    assert (squashed[:, 18:] == (0, 0, 255)).all()
    padded = to_pixels(image, fitted("pad", fill=(1, 2, 3)))
    assert (padded[:8] == (1, 2, 3)).all()
    assert (padded[24:] == (1, 2, 3)).all()
    assert (padded[8:24, :14] == (255, 0, 0)).all()
    assert (padded[8:24, 18:] == (0, 0, 255)).all()
    # Cut to the middle half: no bars are left of the padded picture, and an eighth of each colour.
    middle = to_pixels(image, fitted("pad", resize=64, fill=(1, 2, 3)))
    assert (middle[:, :14] == (255, 0, 0)).all()
    assert not (middle == (1, 2, 3)).all(axis=-1).any()


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_an_input_that_is_not_square(fit: str) -> None:
    how = fitted(fit, crop=24, resize=24, width=48)
    assert (how.size, how.shape, how.frame) == ((24, 48), (24, 48, 3), (24, 48))
    wide, tall = (to_pixels(halves(*size), how) for size in ((200, 100), (100, 200)))
    assert wide.shape == tall.shape == (24, 48, 3)
    # The wide picture has the input's shape, so that every fit shows all of it.
    assert (wide[:, :22] == (255, 0, 0)).all()
    assert (wide[:, 26:] == (0, 0, 255)).all()
    red = (tall[..., 0] > 127) & (tall[..., 2] < 128)
    assert red.sum(1)[12] == {"crop": 24, "squash": 24, "pad": 6}[fit]


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 30_000)])
def test_a_thin_picture_costs_no_more_than_a_square_one(fit: str, size: tuple[int, int]) -> None:
    how = fitted(fit, crop=224, resize=256)
    image = Image.new("RGB", size, (10, 200, 30))
    tracemalloc.start()
    started = time.monotonic()
    pixels = to_pixels(image, how)
    seconds, (_, most) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (pixels == (10, 200, 30)).all(axis=-1).any()
    assert seconds < 0.5
    assert most < 4 << 20


def test_shrinking_a_thin_picture_first_moves_it_by_rounding_alone() -> None:
    image = picture(40, 2000)
    whole = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(to_pixels(image, fitted("squash", crop=224, resize=224)) - whole).max() <= 2


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(2049, 1030), (700, 2500)])
def test_reduced_decoding_keeps_its_tolerance_for_every_fit(
    fit: str, interpolation: str, orientation: int, size: tuple[int, int]
) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(*size).save(stream, "JPEG", quality=95, exif=exif)
    full = fitted(fit, crop=96, resize=96, width=160, interpolation=interpolation)
    quick = full.model_copy(update={"reduced_jpeg": True})
    exact, reduced = (load_pixels(stream.getvalue(), one).astype(float) for one in (full, quick))
    assert np.abs(exact - reduced).mean() < REDUCED_TOLERANCE
    small = open_image(stream.getvalue(), shrink_for=quick).size
    upright = size[::-1] if orientation == 6 else size
    if interpolation in ("nearest", "box"):
        assert small == upright
        return
    # Squashed, the side that is shrunk less decides; padded, the picture is shrunk by one ratio.
    ratios = upright[0] / 160, upright[1] / 96
    least = max(ratios) if fit == "pad" else min(ratios)
    power = next((p for p, margin in REDUCED_MARGINS.items() if p * margin <= least), 1)
    assert small == (-(-upright[0] // power), -(-upright[1] // power))


def test_network_input_is_what_frameworks_compute() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torchvision = network_input(pixels, PLAIN.model_copy(update={"mean": mean, "std": std}), layout="NCHW")
    expected = (pixels / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    assert torchvision.dtype == np.float32
    np.testing.assert_array_equal(torchvision, expected.transpose(0, 3, 1, 2))
    caffe = fitted("crop", channels="bgr", scale=1, mean=(103.939, 116.779, 123.68))
    blue, green, red = network_input(pixels, caffe).reshape(-1, 3).T
    np.testing.assert_array_equal(red, pixels[..., 0].ravel() - np.float32(123.68))
    np.testing.assert_array_equal(green, pixels[..., 1].ravel() - np.float32(116.779))
    np.testing.assert_array_equal(blue, pixels[..., 2].ravel() - np.float32(103.939))
    inception = fitted("crop", scale=127.5, mean=(1, 1, 1))
    assert network_input(np.array([[[0, 255, 51]]], np.uint8), inception).ravel().tolist() == [-1, 1, np.float32(-0.6)]
    half = network_input(pixels, inception, dtype="float16")
    np.testing.assert_array_equal(half, (pixels / np.float32(127.5) - 1).astype(np.float16))


def test_a_network_of_bytes_takes_pixels_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    found = network_input(pixels, fitted("crop", scale=1, channels="bgr"), layout="NCHW", dtype="uint8")
    np.testing.assert_array_equal(found, pixels[..., ::-1].transpose(2, 0, 1))
    with pytest.raises(InputError, match="takes uint8, so pixels enter it as they are"):
        network_input(pixels, fitted("crop"), dtype="uint8")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"std": (0.2, 0, 0.2)}, "no std may be 0"),
        ({"scale": 0}, "greater than 0"),
        ({"fill": (0, 0, 256)}, "less than or equal to 255"),
        ({"mean": (0, float("nan"), 0)}, "finite number"),
        ({"crop": 8, "resize": 4096, "width": 4096}, "at most 4096"),
    ],
)
def test_a_preprocessing_that_cannot_be_computed_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        fitted("crop", **wrong)
