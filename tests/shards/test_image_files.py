import argparse
import io
import warnings

import numpy as np
import PIL
import pytest
from PIL import Image, features
from support.pictures import picture, save

from normhpc.errors import DataError, InputError
from normhpc.shards.convert import Unreadable
from normhpc.shards.image_files import Preparation, add_options, decoded, preparation_of, read


def pixels(row):
    return row.images["images"]


def bytes_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_row_of_an_image(tmp_path):
    path = save(picture(50, 30), tmp_path / "a.jpg")
    row = read(((str(path),), 3), preparation=Preparation(16))
    with Image.open(path) as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert pixels(row).dtype == np.uint8
    assert np.array_equal(pixels(row), expected)
    assert (row.label, row.extra) == (3, {"orig_size": (30, 50)})


def test_the_first_path_that_exists_is_read(tmp_path):
    first, second = save(picture(8, 8, seed=1), tmp_path / "a.png"), save(picture(8, 8, seed=2), tmp_path / "b.png")
    absent = str(tmp_path / "a.png" / "no folder.png")
    for paths, seed in [((absent, str(first), str(second)), 1), ((absent, str(second), str(first)), 2)]:
        assert np.array_equal(
            pixels(read((paths, 0), preparation=Preparation(8))), np.asarray(picture(8, 8, seed=seed))
        )


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_other_modes_become_rgb(tmp_path, mode):
    ending = {"L": "jpg", "CMYK": "jpg"}.get(mode, "png")
    made = picture(20, 20).convert(mode) if mode in ("1", "P") else picture(20, 20, mode)
    path = save(made, tmp_path / f"a.{ending}")
    row = read(((str(path),), 0), preparation=Preparation(20))
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(pixels(row), np.asarray(image.convert("RGB")))
    if mode == "L":
        assert (pixels(row)[..., 0] == pixels(row)[..., 2]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped(tmp_path, mode):
    clear = picture(9, 9, mode)
    path = save(clear, tmp_path / "a.png")
    opaque = clear.copy()
    opaque.putalpha(255)
    assert np.array_equal(
        pixels(read(((str(path),), 0), preparation=Preparation(9))), np.asarray(opaque.convert("RGB"))
    )


def test_a_palette_with_transparency_gives_its_colours(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    path = tmp_path / "a.png"
    image.save(path, transparency=b"\x80\x40")
    assert (pixels(read(((str(path),), 0), preparation=Preparation(4))) == (10, 20, 30)).all()


def test_jpeg_is_the_resized_image_at_quality_95(tmp_path):
    path = save(picture(60, 40), tmp_path / "a.jpg")
    row = read(((str(path),), 0), preparation=Preparation(32, "crop", "lanczos", "jpeg"))
    with Image.open(path) as image:
        scaled = image.resize((48, 32), Image.Resampling.LANCZOS).crop((8, 0, 40, 32))
    assert row.images == bytes_of(scaled, "JPEG", quality=95)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_size_0_keeps_the_bytes_of_a_jpeg(tmp_path, mode):
    path = save(picture(60, 40, mode), tmp_path / "a.jpg")
    row = read(((str(path),), 0), preparation=Preparation(0, encoding="jpeg"))
    assert (row.images, row.extra["orig_size"]) == (path.read_bytes(), (40, 60))


def test_size_0_makes_a_jpeg_of_what_is_none(tmp_path):
    path = save(picture(20, 24, "RGBA"), tmp_path / "a.png")
    row = read(((str(path),), 0), preparation=Preparation(0, encoding="jpeg"))
    with Image.open(path) as image:
        assert row.images == bytes_of(image.convert("RGB"), "JPEG", quality=95)


def test_images_left_as_they_are_have_one_shape(tmp_path):
    path = save(picture(20, 24), tmp_path / "a.png")
    row = read(((str(path),), 0), preparation=Preparation(0), shape=(24, 20))
    assert np.array_equal(pixels(row), np.asarray(picture(20, 24)))
    with pytest.raises(DataError) as caught:
        read(((str(path),), 0), preparation=Preparation(0), shape=(24, 24))
    assert str(caught.value) == (
        f"{path}: expected 24 x 24 pixels (height x width) like the first image, got 24 x 20; "
        "give --size to bring all to one"
    )


def cut_jpeg():
    content = bytes_of(picture(200, 200), "JPEG")
    return content[: len(content) // 2]


def damaged_png():
    content = bytearray(bytes_of(picture(64, 64), "PNG"))
    content[60:70] = bytes(10)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "^empty file$"),
        (b"no image at all", "^not an image$"),
        (cut_jpeg(), r"^not a whole image: image file is truncated \(\d+ bytes not processed\)$"),
        (damaged_png(), r"^not a whole image: "),
        (bytes_of(picture(9, 9).convert("I;16"), "PNG"), r"^more than 8 bits a channel \(Pillow's mode I;16\)$"),
        (bytes_of(picture(9, 9, "L").convert("F"), "TIFF"), r"^more than 8 bits a channel \(Pillow's mode F\)$"),
        (
            bytes_of(Image.new("1", (65_536, 1)), "PNG"),
            r"^1 x 65536 pixels, more than 65,535 in a row or column$",
        ),
    ],
    ids=["empty", "text", "cut", "damaged", "16 bits", "float", "long"],
)
def test_what_is_no_image_is_skipped_with_a_reason(content, reason):
    with pytest.raises(Unreadable, match=reason):
        decoded(content)


def test_reasons_are_the_same_every_time():
    texts = set()
    for _ in range(3):
        with pytest.raises(Unreadable) as caught:
            decoded(b"no image at all")
        texts.add(str(caught.value))
    assert texts == {"not an image"}


def test_large_images_are_read_without_a_warning_and_huge_ones_refused(monkeypatch):
    content = bytes_of(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(content).size == (100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(Unreadable, match=r"^not a whole image: Image size \(10000 pixels\) exceeds limit"):
        decoded(content)


def test_a_file_that_is_not_there_is_skipped(tmp_path):
    with pytest.raises(Unreadable, match=r"^missing$"):
        read(((str(tmp_path / "a.jpg"), str(tmp_path / "b" / "a.jpg")), 0), preparation=Preparation(8))


def test_a_file_that_is_there_and_cannot_be_read_stops_the_conversion(tmp_path):
    """A network file system may give it at the next attempt: a row must not be left out for a moment's fault."""
    with pytest.raises(DataError) as caught:
        read(((str(tmp_path),), 0), preparation=Preparation(8))
    assert str(caught.value) == (
        f"{tmp_path}: cannot be read: Is a directory; mend it or take it out, then run the conversion again"
    )


def test_what_the_index_is_told():
    libjpeg = features.version_feature("libjpeg_turbo") or features.version("jpg")
    versions = {"mode": "RGB", "pillow": PIL.__version__, "libjpeg": libjpeg}
    assert Preparation(32, "crop").preprocessing() == {"size": 32, "resize": "crop", "filter": "bicubic"} | versions
    assert Preparation(0, encoding="jpeg").preprocessing() == {"size": 0, "quality": 95} | versions
    (raw,) = Preparation(32).fields()
    assert (raw.name, raw.dtype, raw.shape, raw.layout) == ("images", "|u1", (32, 32, 3), "NHWC")
    (as_they_are,) = Preparation(0).fields((5, 7))
    assert as_they_are.shape == (5, 7, 3)
    (packed,) = Preparation(32, encoding="jpeg").fields()
    assert (packed.name, packed.dtype, packed.shape) == ("jpeg", "|u1", ())


def options(*arguments, size=256):
    parser = argparse.ArgumentParser()
    add_options(parser, size=size, zero="as they are")
    return parser.parse_args(arguments)


def test_options():
    assert preparation_of(options()) == Preparation(256, "squash", "bicubic", "raw")
    given = options("--size", "64", "--resize", "letterbox", "--filter", "bilinear", "--encoding", "jpeg")
    assert preparation_of(given) == Preparation(64, "letterbox", "bilinear", "jpeg")


@pytest.mark.parametrize("size", ["-1", "65536"])
def test_sizes_that_no_image_has(size):
    with pytest.raises(InputError) as caught:
        preparation_of(options("--size", size))
    assert str(caught.value) == f"--size: expected pixels from 1 to 65,535, or 0 for images as they are, got {size}"
