"""What a user gives as input, sorted and checked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.bundle import Bundle, TensorInfo
from edgec.devices.samples import ordered_inputs, split_samples
from edgec.errors import EdgecError

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from(["float32", "int64", "uint8", "bool"])


def taking(*inputs: TensorInfo) -> Bundle:
    """What these functions need to know of a bundle."""
    return cast("Bundle", SimpleNamespace(inputs=inputs))


NET = taking(TensorInfo("image", (1, 3, 2), "float32"), TensorInfo("mode", (), "int32"))
IMAGE, MODE = np.zeros((1, 3, 2), np.float32), np.int32(1)


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True))
    return taking(*(TensorInfo(name, draw(SHAPES), draw(DTYPES)) for name in names))


@given(bundle=bundles(), samples=st.integers(1, 4), data=st.data())
def test_stacked_samples_come_apart_in_order(bundle: Bundle, samples: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    stacked = {
        info.name: (rng.random((samples, *info.shape)) * 100).astype(info.dtype)
        for info in data.draw(st.permutations(bundle.inputs))
    }
    split = split_samples(bundle, stacked)
    assert len(split) == samples
    for i, sample in enumerate(split):
        assert len(sample) == len(bundle.inputs)
        for info, array in zip(bundle.inputs, sample, strict=True):
            np.testing.assert_array_equal(array.reshape(info.shape), stacked[info.name][i])
            assert array.flags.c_contiguous
            assert array.dtype == info.dtype


@given(bundle=bundles(), data=st.data())
def test_inputs_come_in_the_bundles_order(bundle: Bundle, data: st.DataObject) -> None:
    arrays = {info.name: np.full(info.shape, i).astype(info.dtype) for i, info in enumerate(bundle.inputs)}
    shuffled = {name: arrays[name] for name in data.draw(st.permutations(list(arrays)))}
    by_name, by_position = ordered_inputs(bundle, shuffled), ordered_inputs(bundle, list(arrays.values()))
    for array, first, second in zip(arrays.values(), by_name, by_position, strict=True):
        np.testing.assert_array_equal(first.reshape(array.shape), array)
        np.testing.assert_array_equal(second.reshape(array.shape), array)


def test_views_become_contiguous() -> None:
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3).transpose(0, 2, 1)
    (given_image, _) = ordered_inputs(NET, {"image": image, "mode": MODE})
    assert given_image.flags.c_contiguous
    np.testing.assert_array_equal(given_image, image)


def test_scalars_stay_scalars() -> None:
    """A sample of them is taken out of an array, and NumPy would make it one of one element."""
    samples = {"image": np.stack([IMAGE, IMAGE]), "mode": np.stack([MODE, MODE])}
    assert [mode.shape for _, mode in split_samples(NET, samples)] == [(), ()]


def test_a_single_sample_and_a_plain_batch_are_understood() -> None:
    net = taking(TensorInfo("image", (1, 3, 2), "float32"))
    assert len(split_samples(net, {"image": IMAGE})) == 1
    batch = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    split = split_samples(net, {"image": batch})
    assert len(split) == 5
    np.testing.assert_array_equal(split[3][0], batch[3:4])


@pytest.mark.parametrize(
    ("inputs", "what", "hint"),
    [
        ({"imag": IMAGE, "mode": MODE}, "the model has no input 'imag'; did you mean 'image'?", "model takes image: "),
        ({"image": IMAGE, "mode": MODE, "zzz": MODE}, "the model has no input 'zzz'", "mode: int32 scalar"),
        ({"image": IMAGE}, "input 'mode' is missing", "the model takes image: float32 1x3x2, mode: int32 scalar"),
        ({"image": IMAGE[0], "mode": MODE}, "input 'image' has the wrong shape", "fixed when it was compiled"),
        ({"image": IMAGE.astype("f8"), "mode": MODE}, "input 'image' has the wrong dtype", "array.astype('float32')"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray], what: str, hint: str) -> None:
    with pytest.raises(EdgecError) as error:
        ordered_inputs(NET, inputs)
    assert error.value.what == what
    assert hint in str(error.value.fix)
    assert error.value.exit_code == 1


def test_too_few_in_a_list() -> None:
    with pytest.raises(EdgecError, match="1 inputs given, the model takes 2"):
        ordered_inputs(NET, [IMAGE])


def test_the_message_shows_the_shape_that_was_given() -> None:
    """Not that of a slice of it: rows of an image without batch axis are no samples."""
    net = taking(TensorInfo("image", (1, 3, 2), "float32"))
    with pytest.raises(EdgecError, match="input 'image' has the wrong shape") as error:
        split_samples(net, {"image": np.zeros((3, 3), np.float32)})
    assert error.value.where == "given float32 (3, 3), expected float32 (1, 3, 2), or samples of it stacked"


def test_samples_must_be_equally_many() -> None:
    with pytest.raises(EdgecError, match="no or different numbers of samples") as error:
        split_samples(NET, {"image": np.stack([IMAGE] * 2), "mode": np.zeros(3, np.int32)})
    assert error.value.where == "{'image': 2, 'mode': 3}"
    with pytest.raises(EdgecError, match="no or different"):
        split_samples(NET, {"image": np.zeros((0, 1, 3, 2), np.float32), "mode": np.zeros(0, np.int32)})


def test_a_name_too_many_is_not_overlooked() -> None:
    with pytest.raises(EdgecError, match="the model has no input 'extra'"):
        split_samples(NET, {"image": IMAGE[None], "mode": np.zeros(1, np.int32), "extra": IMAGE})
