"""Images to arrays, against the pixels that they were made of."""

import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fileset_integrations.errors import ColumnError, MissingDependencyError, NullValueError, SpecError
from fileset_integrations.kernels import images
from fileset_integrations.kernels.images import decode

UINT8 = np.dtype(np.uint8)
SHAPE = (2, 3, 3)


def pixels(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, form="PNG", mode=None) -> bytes:
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form)
    return file.getvalue()


def column(*values, type_=None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, type_ or pa.binary())])


# --- encoded images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.int64])
def test_pixels_come_back_in_the_layout_and_dtype_asked_for(channels, layout, dtype):
    known = pixels(5, 4, 6, channels)
    made = column(*map(encoded, known))

    found = decode(made, 4, 6, channels, layout, np.dtype(dtype), "photo")

    assert found.dtype == dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, known if layout == "HWC" else known.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_formats_without_loss_keep_every_pixel(form):
    grey = pixels(4, 4, 1)
    options = {"lossless": True} if form == "WEBP" else {}
    file = io.BytesIO()
    Image.fromarray(grey[..., 0]).save(file, form, **options)

    found = decode(column(file.getvalue()), 4, 4, 1, "HWC", UINT8, "photo")

    np.testing.assert_array_equal(found[0], grey)


def test_a_jpeg_has_the_pixels_that_pillow_finds_in_it():
    data = encoded(pixels(*SHAPE), "JPEG")

    found = decode(column(data), *SHAPE, "HWC", UINT8, "photo")

    np.testing.assert_array_equal(found[0], np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels, wanted", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_colours_are_converted_to_the_number_of_channels(mode, channels, wanted):
    data = encoded(pixels(*SHAPE), "TIFF" if mode == "CMYK" else "PNG", mode)

    found = decode(column(data), 2, 3, channels, "HWC", UINT8, "photo")

    expected = np.asarray(Image.open(io.BytesIO(data)).convert(wanted)).reshape(2, 3, channels)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize(
    "type_",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary()), "fixed"],
    ids=str,
)
def test_byte_strings_of_every_type_hold_images(type_):
    known = pixels(6, *SHAPE)
    values = [encoded(image, "BMP") for image in known]  # equally many bytes for equal sizes
    array = pa.array(values, pa.binary(len(values[0])) if type_ == "fixed" else type_)
    chunks = pa.chunked_array([array[1:3], array[:0], array[3:5], array[5:]])

    np.testing.assert_array_equal(decode(chunks, *SHAPE, "HWC", UINT8, "photo"), known[1:])


def test_another_size_is_refused_or_resized():
    data = column(encoded(pixels(*SHAPE)), encoded(pixels(9, 7, 3)))

    with pytest.raises(
        ColumnError, match=r"'photo', row 1: an image of 9 x 7 pixels.*2 x 3 are asked for.*resize=True"
    ):
        decode(data, *SHAPE, "HWC", UINT8, "photo")
    found = decode(data, *SHAPE, "HWC", UINT8, "photo", resize=True)
    np.testing.assert_array_equal(found[0], pixels(*SHAPE))
    expected = Image.fromarray(pixels(9, 7, 3)).resize((3, 2), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[1], np.asarray(expected))


def test_many_large_images_are_decoded_each_in_its_row(monkeypatch):
    monkeypatch.setattr(images, "_LARGE_PIXELS", 1)  # else this would take images of 128 x 128
    monkeypatch.setattr(images.os, "sched_getaffinity", lambda _: range(3), raising=False)
    known = pixels(100, *SHAPE)
    made = [encoded(image) for image in known]

    np.testing.assert_array_equal(decode(column(*made), *SHAPE, "HWC", UINT8, "photo"), known)
    made[40], made[70], made[99] = b"nothing", b"", made[99][:-40]
    for broken in (40, 70, 99):
        with pytest.raises(ColumnError, match=f"'photo', row {broken}: no image"):
            decode(column(*made), *SHAPE, "HWC", UINT8, "photo")
        made[broken] = made[0]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # on some broken TIFF files
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@given(share=st.floats(0, 1))
@example(share=0.0)
@example(share=0.5)
def test_of_an_image_that_was_cut_off_there_is_no_half(form, share):
    whole = encoded(pixels(20, 20, 3), form)
    cut = whole[: int(share * len(whole))]
    broken = pa.chunked_array([[encoded(pixels(20, 20, 3))], [cut]])

    try:
        found = decode(broken, 20, 20, 3, "HWC", UINT8, "photo")
    except ColumnError as error:
        assert "'photo', row 1: no image that Pillow can decode (" in str(error)
        assert "b'" not in str(error)
        assert error.__cause__ is None
    else:  # what was cut off held no pixels
        assert len(cut) > 0.9 * len(whole)
        np.testing.assert_array_equal(found[1], decode(column(whole), 20, 20, 3, "HWC", UINT8, "photo")[0])


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_image_never_become_one(data):
    with pytest.raises(ColumnError, match="'photo', row 0: no image that Pillow can decode"):
        decode(column(data), *SHAPE, "HWC", UINT8, "photo")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)

    with pytest.raises(ColumnError, match=r"row 0: no image that Pillow can decode \(DecompressionBombError\)"):
        decode(column(encoded(pixels(8, 8, 3))), 8, 8, 3, "HWC", UINT8, "photo")


def test_images_of_more_than_eight_bits_are_refused():
    file = io.BytesIO()
    Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 9_000).save(file, "PNG")

    with pytest.raises(ColumnError, match=r"'photo', row 0: an image of mode 'I;16'.*more than 8 bits"):
        decode(column(file.getvalue()), 2, 3, 1, "HWC", UINT8, "photo")


def test_without_pillow_the_extra_is_named_and_raw_images_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)

    with pytest.raises(MissingDependencyError, match=r"fileset-integrations\[images\]"):
        decode(column(b"x"), *SHAPE, "HWC", UINT8, "photo")
    raw = column(pixels(18).tobytes(), type_=pa.binary(18))
    assert decode(raw, *SHAPE, "HWC", UINT8, "photo").tobytes() == pixels(18).tobytes()


# --- raw images ------------------------------------------------------------------------------------------------------


RAW = {
    **{kind: kind for kind in (pa.binary(18), pa.binary(), pa.large_binary(), pa.binary_view())},
    **{kind: kind for kind in (pa.dictionary(pa.int8(), pa.binary()),)},
    **{kind(pa.uint8()): kind for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)},
    pa.list_(pa.uint8(), 18): None,
    pa.list_(pa.list_(pa.uint8(), 9)): (2, 9),
    pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 3), 2): SHAPE,
}


@pytest.mark.parametrize("type_", RAW, ids=str)
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_raw_images_of_every_type_keep_every_pixel(type_, layout):
    known = pixels(6, *SHAPE)
    bytes_ = pa.types.is_dictionary(type_) or not hasattr(type_, "value_type")
    shape = RAW[type_] if isinstance(RAW[type_], tuple) else (18,)
    values = [image.tobytes() if bytes_ else image.reshape(shape).tolist() for image in known]
    array = pa.array(values, type_)
    chunks = pa.chunked_array([array[1:3], array[:0], array[3:5], array[5:]])

    found = decode(chunks, *SHAPE, layout, np.dtype(np.float32), "photo", raw=True)

    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, known[1:] if layout == "HWC" else known[1:].transpose(0, 3, 1, 2))
    if not bytes_ or type_ == pa.binary(18):  # by the type alone
        np.testing.assert_array_equal(decode(chunks, *SHAPE, "HWC", UINT8, "photo"), known[1:])


def test_raw_images_may_have_any_number_of_channels():
    known = pixels(1, 2, 3, 7)

    found = decode(column(known.tobytes()), 2, 3, 7, "HWC", UINT8, "photo", raw=True)

    np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize(
    "chunks",
    [
        [pa.array([[1, 2, 3, 4]], pa.list_(pa.uint8())), pa.array([[1, 2, 3]], pa.list_(pa.uint8()))],
        [pa.array([[[1, 2], [3, 4]], [[1, 2]]], pa.list_(pa.list_(pa.uint8(), 2)))],
        [pa.array([b"1234", b"12345"]), pa.array([b"1"])],
    ],
    ids=["flat", "nested", "bytes"],
)
def test_a_raw_image_of_another_size_is_named_by_column_and_row(chunks):
    with pytest.raises(ColumnError, match=r"'photo', row 1: \d bytes, where a raw image of 2 x 2 x 1 has 4"):
        decode(pa.chunked_array(chunks), 2, 2, 1, "HWC", UINT8, "photo", raw=True)


def test_raw_images_of_another_fixed_size_are_refused():
    with pytest.raises(ColumnError, match=r"row 0: 3 bytes, where a raw image of 2 x 2 x 1 has 4"):
        decode(column(b"123", type_=pa.binary(3)), 2, 2, 1, "HWC", UINT8, "photo", raw=True)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [pa.binary(), pa.list_(pa.uint8()), pa.list_(pa.uint8(), 18)], ids=str)
def test_columns_without_rows_have_images_of_the_same_shape(type_):
    for empty in (pa.chunked_array([], type_), column(type_=type_)):
        assert decode(empty, *SHAPE, "HWC", UINT8, "photo").shape == (0, *SHAPE)
        assert decode(empty, *SHAPE, "CHW", UINT8, "photo").shape == (0, 3, 2, 3)


@pytest.mark.parametrize(
    "made",
    [
        column(None),
        column(None, type_=pa.list_(pa.uint8())),
        column([1, 2, None, 4], type_=pa.list_(pa.uint8())),
        column([[1, 2], None], type_=pa.list_(pa.list_(pa.uint8(), 2))),
    ],
    ids=lambda made: str(made.type),
)
def test_nulls_are_refused_by_name(made):
    with pytest.raises(NullValueError, match="'photo'"):
        decode(made, 2, 2, 1, "HWC", UINT8, "photo")


@pytest.mark.parametrize(
    "type_, message",
    [
        (pa.string(), r"'photo' is string, which holds no images"),
        (pa.list_(pa.int64()), r"'photo' is list<.*int64>, and raw images.*CAST\(photo AS UTINYINT\[\]\)"),
        (pa.list_(pa.list_(pa.uint8())), r"'photo' is list<.*list<.*raw images"),
        (pa.float32(), r"'photo' is float, which holds no images"),
        (pa.decimal128(5, 2), r"'photo' is decimal128\(5, 2\), which holds no images"),
    ],
)
def test_what_holds_no_images_is_refused_by_name_and_type(type_, message):
    with pytest.raises(ColumnError, match=message):
        decode(pa.chunked_array([], type_), *SHAPE, "HWC", UINT8, "photo")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"height": 0}, r"at least 1, not \(0, 3, 3\)"),
        ({"layout": "WHC"}, "layout='WHC'"),
        ({"dtype": np.dtype(np.int8)}, "dtype=int8 does not hold 0 to 255"),
        ({"dtype": np.dtype(bool)}, "dtype=bool does not hold"),
        ({"channels": 2}, "channels=2: encoded images have 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, message):
    arguments = {"height": 2, "width": 3, "channels": 3, "layout": "HWC", "dtype": UINT8, "name": "photo"} | change

    with pytest.raises(SpecError, match=message):
        decode(column(b"x"), **arguments)
