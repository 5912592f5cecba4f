"""Images to arrays: encoded ones through Pillow, raw ones as they lie."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError, MissingDependencyError, NullValueError, SpecError, how_to_install

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes of 8 bits a channel, by the number of channels
# Pillow lets other threads run while it decodes, but not while it finds out what to decode: threads help from images of
# about 128 x 128 on.
_LARGE_PIXELS = 2**14
_MOST_THREADS = 8
_THREAD_IMAGES = 8


def decode(
    column: pa.ChunkedArray,
    height: int,
    width: int,
    channels: int,
    layout: Literal["HWC", "CHW"],
    dtype: np.dtype[Any],
    name: str,
    resize: bool = False,
    raw: bool | None = None,
) -> NDArray[Any]:
    """Images of one size, shape (rows, height, width, channels), or (rows, channels, height, width) for "CHW".

    Values are 0 to 255 in every dtype: nothing is scaled. Encoded images (PNG, JPEG and all that Pillow reads) become
    grey, RGB or RGBA by the number of channels, as Pillow's `convert` does it: transparency is cut off, not blended,
    where there is no channel for it. Of several frames the first is taken; a turn that only EXIF data ask for is not
    made.

    Args:
        column: Encoded images in byte strings; or raw ones, height x width x channels bytes in that order, in lists of
            uint8, in fixed-size lists in any depth, or in byte strings.
        height: Pixels.
        width: Pixels.
        channels: 1, 3 or 4; for raw images any number.
        layout: "HWC" or "CHW", of the result.
        dtype: That of the result: uint8, or one that holds 0 to 255.
        name: The column's name, for the message of an error.
        resize: Whether encoded images of another size are resized (bilinear with antialiasing); else they are an error.
        raw: Whether byte strings are raw; None takes them for raw where the type gives them the size of a raw image,
            and for encoded elsewhere.

    Raises:
        ColumnError: The column's type holds no images, or an image is broken or of another size.
        NullValueError: There are nulls.
        SpecError: Another argument makes no sense.
        MissingDependencyError: There are images to decode, and no Pillow.
    """
    dtype = np.dtype(dtype)
    shape = (height, width, channels)
    _check_arguments(shape, layout, dtype)
    out = np.empty((len(column), *((channels, height, width) if layout == "CHW" else shape)), dtype)
    images = np.moveaxis(out, 1, 3) if layout == "CHW" else out
    if raw is None:
        raw = _holds_raw(column.type, height * width * channels)
    _check_type(column.type, raw, shape, name)
    if column.null_count:
        raise NullValueError(
            f"Column {name!r} ({column.type}) holds nulls, and there is no image to put in their place. "
            f"nulls={{{name!r}: 'drop'}} leaves such rows out."
        )
    at = 0
    for chunk in column.chunks:
        rows = images[at : at + len(chunk)]
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary_decode()
        if raw:
            rows[...] = _raw(chunk, at, shape, name)
        else:
            _decode_all(chunk, rows, at, resize, name)
        at += len(chunk)
    return out


def _check_arguments(shape: tuple[int, int, int], layout: str, dtype: np.dtype[Any]) -> None:
    if min(shape) < 1:
        raise SpecError(f"height, width and channels of an image are at least 1, not {shape}.")
    if layout not in ("HWC", "CHW"):
        raise SpecError(f"layout={layout!r}: an image is 'HWC' or 'CHW'.")
    if dtype.kind not in "iuf" or not np.can_cast(np.uint8, dtype):
        raise SpecError(f"dtype={dtype} does not hold 0 to 255. Take uint8 or float32.")


def _is_bytes(type_: pa.DataType) -> bool:
    kinds = (
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        pa.types.is_fixed_size_binary,
    )
    return not pa.types.is_decimal(type_) and any(kind(type_) for kind in kinds)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (
        *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
        *(pa.types.is_list_view, pa.types.is_large_list_view),
    )
    return any(kind(type_) for kind in kinds)


def _holds_raw(type_: pa.DataType, size: int) -> bool:
    fixed = pa.types.is_fixed_size_binary(type_) and not pa.types.is_decimal(type_)
    return _is_list(type_) or (fixed and type_.byte_width == size)


def _check_type(type_: pa.DataType, raw: bool, shape: tuple[int, int, int], name: str) -> None:
    held = type_.value_type if pa.types.is_dictionary(type_) else type_
    if not raw:
        if not _is_bytes(held):
            raise ColumnError(
                f"Column {name!r} is {type_}, which holds no images: encoded ones are byte strings (BLOB), raw ones "
                "byte strings or lists of uint8 (UTINYINT[])."
            )
        if shape[2] not in _MODES:
            raise SpecError(f"channels={shape[2]}: encoded images have 1 (grey), 3 (RGB) or 4 (RGBA).")
    elif not (_is_bytes(held) or (_is_list(held) and pa.types.is_uint8(_innermost(held)))):
        raise ColumnError(
            f"Column {name!r} is {type_}, and raw images are byte strings or lists of uint8. CAST({name} AS "
            "UTINYINT[]) in the query makes it one, where its values are 0 to 255."
        )


def _innermost(type_: pa.DataType) -> pa.DataType:
    """The type of the values of a list; of fixed-size lists within it, of theirs."""
    item = type_.value_type
    while pa.types.is_fixed_size_list(item):
        item = item.value_type
    return item


def _raw(chunk: pa.Array, first: int, shape: tuple[int, int, int], name: str) -> NDArray[np.uint8]:
    """The images of a chunk whose first row is row `first` of the column."""
    size = shape[0] * shape[1] * shape[2]
    type_ = chunk.type
    if _is_list(type_):
        inner = 1
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        values = chunk.flatten()
        while pa.types.is_fixed_size_list(values.type):
            inner *= values.type.list_size
            nulls, values = values.null_count, values.flatten()
            _check_inner(nulls, type_, name)
        _check_inner(values.null_count, type_, name)
        _check_sizes(lengths * inner, size, first, shape, name)
        pixels: NDArray[np.uint8] = values.to_numpy()
        return pixels.reshape(-1, *shape)
    if pa.types.is_fixed_size_binary(type_):
        _check_sizes(np.full(len(chunk), type_.byte_width), size, first, shape, name)
        data = np.frombuffer(chunk.buffers()[1] or b"", np.uint8)[chunk.offset * size :]
        return data[: len(chunk) * size].reshape(-1, *shape)
    chunk = chunk.cast(pa.large_binary())
    offsets = np.frombuffer(chunk.buffers()[1] or b"", np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    _check_sizes(np.diff(offsets), size, first, shape, name)
    data = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)
    start = int(offsets[0]) if len(chunk) else 0
    return data[start : start + len(chunk) * size].reshape(-1, *shape)


def _check_inner(nulls: int, type_: pa.DataType, name: str) -> None:
    if nulls:
        raise NullValueError(f"Column {name!r} ({type_}) holds images with nulls among their values.")


def _check_sizes(sizes: NDArray[np.int64], size: int, first: int, shape: tuple[int, int, int], name: str) -> None:
    wrong = np.flatnonzero(sizes != size)
    if len(wrong):
        raise ColumnError(
            f"Column {name!r}, row {first + int(wrong[0])}: {sizes[wrong[0]]} bytes, where a raw image of "
            f"{_size(shape)} has {size}. Name the height, width and channels that it has, or decode it with raw=False."
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _decode_all(chunk: pa.Array, rows: NDArray[Any], first: int, resize: bool, name: str) -> None:
    """Decode the images of a chunk, whose first row is row `first` of the column, into `rows`."""
    if not len(chunk):
        return
    _pillow()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(cores, _MOST_THREADS, len(chunk) // _THREAD_IMAGES)
    if threads < 2 or rows.shape[1] * rows.shape[2] < _LARGE_PIXELS:
        _decode_span(chunk, rows, first, resize, name)
        return
    with ThreadPoolExecutor(threads, "fileset-images") as pool:
        starts = range(0, len(chunk), -(-len(chunk) // threads))
        spans = [
            pool.submit(_decode_span, chunk[start : start + starts.step], rows[start:], first + start, resize, name)
            for start in starts
        ]
        for span in spans:  # in order, so that of several broken images the first is named
            span.result()


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingDependencyError(f"Encoded images need Pillow. {how_to_install('images')}") from error
    return PIL.Image


def _decode_span(chunk: pa.Array, rows: NDArray[Any], first: int, resize: bool, name: str) -> None:
    pillow = _pillow()
    height, width, channels = rows.shape[1:]
    mode = _MODES[channels]
    for row, value in enumerate(chunk):
        where = f"Column {name!r}, row {first + row}"
        try:
            with pillow.open(io.BytesIO(value.as_buffer())) as image:
                if image.size != (width, height) and not resize:
                    raise ColumnError(
                        f"{where}: an image of {_size((image.height, image.width))} pixels (height x width), where "
                        f"{_size((height, width))} are asked for. Ask for that size, or for resize=True."
                    )
                if image.mode[0] in "IF":
                    raise ColumnError(
                        f"{where}: an image of mode {image.mode!r}, more than 8 bits a channel, which do not fit 0 to "
                        "255. Write its values as a list, and take them with Stack."
                    )
                pixels = image if image.mode == mode else image.convert(mode)
                if image.size != (width, height):
                    pixels = pixels.resize((width, height), pillow.Resampling.BILINEAR)
                rows[row] = np.asarray(pixels).reshape(height, width, channels)
        except (ColumnError, MemoryError):
            raise
        except Exception as error:
            # Decoders raise errors of a dozen kinds, and some quote the file: only the kind is told, not the cause.
            raise ColumnError(
                f"{where}: no image that Pillow can decode ({type(error).__name__}). Leave the row out in the query, "
                "or pass raw=True where byte strings are raw images."
            ) from None
