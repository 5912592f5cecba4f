"""Images, encoded or raw, as tensors of one size: `Image`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import (
    Binding,
    BoundColumn,
    Spec,
    check_choice,
    check_column,
    check_dtype,
    check_whole,
    spec,
)
from fileset_integrations.decoder import Bound, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.images import decode
from fileset_integrations.tensors import list_levels


@spec("image")
@dataclass(frozen=True, slots=True)
class Image(Spec):
    """A column of images, encoded (PNG, JPEG and all that Pillow reads) or raw, as one tensor; 0 to 255 in every dtype.

    Raw images are height x width x channels values in that order, in lists of uint8 or in byte strings. Encoded ones
    need Pillow. A null can be filled with a value for all pixels; "mask" is of shape (batch,) here.

    Attributes:
        column: Name of the column; of images in structs the field with the bytes, such as "image.bytes".
        height: Pixels.
        width: Pixels.
        channels: 1 for grey, 3 for RGB, 4 for RGBA; encoded images are converted to them. Raw ones may have any number.
        layout: "CHW": shape (batch, channels, height, width), as torch takes it; "HWC": (batch, height, width,
            channels), as Keras and TensorFlow do.
        dtype: "uint8", or another that holds 0 to 255: nothing is scaled.
        resize: Whether encoded images of another size are resized (bilinear with antialiasing); they are an error else.
        raw: Whether byte strings are raw images. None: where they are of the size of one by their type.
    """

    column: str
    height: int
    width: int
    channels: int = 3
    layout: Literal["CHW", "HWC"] = "CHW"
    dtype: str = "uint8"
    resize: bool = False
    raw: bool | None = None

    def __post_init__(self) -> None:
        check_column(self, self.column)
        for argument in ("height", "width", "channels"):
            check_whole(self, argument, getattr(self, argument), 1)
        check_choice(self, "layout", self.layout, ("CHW", "HWC"))
        check_choice(self, "resize", self.resize, (True, False))
        check_choice(self, "raw", self.raw, (True, False, None))
        object.__setattr__(self, "dtype", check_dtype(self, self.dtype))
        if not np.can_cast(np.uint8, self.dtype, "safe"):
            raise ColumnError(
                f"Image({self.column!r}, dtype={self.dtype!r}): it does not hold 0 to 255. Pass 'uint8' or 'float32'."
            )

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def bind(self, binding: Binding) -> Bound:
        size = (self.height, self.width)
        shape = (self.channels, *size) if self.layout == "CHW" else (*size, self.channels)
        fill = binding.rules[self.column].fill
        if fill is not None and (isinstance(fill, str) or not 0 <= fill <= 255 or int(fill) != fill):
            raise ColumnError(
                f"nulls={fill!r} cannot stand in for nulls of column {self.column!r} "
                f"({binding.types[self.column]}), which becomes images. Pass a value for all pixels, 0 to 255."
            )
        type_ = binding.type(self.column)
        lengths, _ = list_levels(type_)
        if pa.types.is_fixed_size_binary(type_):  # raw: encoded images are not all of one size
            lengths = (type_.byte_width,)
        if lengths and min(lengths) >= 0 and math.prod(lengths) != math.prod(shape):
            raise ColumnError(
                f"Image({self.column!r}): the column is {binding.types[self.column]}, of {math.prod(lengths)} values "
                f"each; {self.height} x {self.width} x {self.channels} are {math.prod(shape)}. Pass the images' size."
            )
        self._decode(pa.chunked_array([], type_))  # refuses types that hold no such images
        tensor = TensorSpec(binding.name, shape, np.dtype(self.dtype))
        return BoundColumn(binding, self.column, tensor, self._decode, fill=fill, mask_shape=())

    def _decode(self, column: pa.ChunkedArray) -> NDArray[np.generic]:
        return decode(
            column,
            self.height,
            self.width,
            self.channels,
            self.layout,
            np.dtype(self.dtype),
            self.column,
            resize=self.resize,
            raw=self.raw,
        )
