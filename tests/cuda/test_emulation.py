"""The SIMT emulation itself, on kernels written by hand: right ones are computed, wrong ones are noticed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.emulate import EmulatedKernels, emulate

SOURCE = r"""
#include <cuda_fp16.h>
#include "tensor_core.h"
extern "C" __global__ void __launch_bounds__(256) transposed(float *to, const float *from) {
    __shared__ float tile[16][17];
    int row = blockIdx.y * 16, column = blockIdx.x * 16;
    tile[threadIdx.y][threadIdx.x] = from[(row + threadIdx.y) * gridDim.x * 16 + column + threadIdx.x];
    __syncthreads();
    to[(column + threadIdx.y) * gridDim.y * 16 + row + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}
extern "C" __global__ void summed(float *to, const half *from) {
    float total = __half2float(from[blockIdx.x * blockDim.x + threadIdx.x]);
    for (int lanes = 16; lanes; lanes /= 2) total += __shfl_down_sync(~0u, total, lanes);
    __shared__ float parts[8];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x == 0) for (int i = 1; i < blockDim.x / 32; ++i) total += parts[i];
    if (threadIdx.x == 0) to[blockIdx.x] = total;
}
extern "C" __global__ void parted(float *to) {
    if (threadIdx.x < 7) __syncthreads();
    to[threadIdx.x] = 0;
}
extern "C" __global__ void early(float *to) {
    if (threadIdx.x == 40) return;
    to[threadIdx.x] = __shfl_xor_sync(~0u, to[threadIdx.x], 1);
}
extern "C" __global__ void two_places(float *to) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
extern "C" __global__ void unwritten(float *to) {
    __shared__ float value[1];
    to[threadIdx.x] = value[0];
}
extern "C" __global__ void outside(float *to) { to[threadIdx.x + 1] = 1; }
extern "C" __global__ void beyond(float *to) { to[threadIdx.x] = to[64 - threadIdx.x]; }
extern "C" __global__ void skewed(float *to) { *(float2 *)(to + 3 * threadIdx.x % 32) = make_float2(1, 2); }
extern "C" __global__ void early_read(float *to) {
    __shared__ float values[64];
    values[threadIdx.x] = to[threadIdx.x];
    to[threadIdx.x] = values[threadIdx.x ^ 32];
}
extern "C" __global__ void early_write(float *to) {
    __shared__ float values[64];
    values[threadIdx.x] = to[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = values[63];
    if (threadIdx.x == 63) values[63] = 0;
}
extern "C" __global__ void written_twice(float *to) { to[threadIdx.x / 2] = threadIdx.x; }
extern "C" __global__ void doubled_in_place(float *to) { to[blockIdx.x * 64 + threadIdx.x] = 2 * to[64 + threadIdx.x]; }
extern "C" __global__ void not_waited_for(float *to) {
    __shared__ __align__(16) float values[256];
    edgec::copy_async(values + threadIdx.x * 4, to, 16);
    edgec::copy_commit();
    edgec::copy_wait<1>();
    to[threadIdx.x] = values[threadIdx.x * 4];
}
template <bool IS_FENCED>
__device__ void add_up(float *to, const float *from) {
    __device__ static float parts[2 * 64];
    __device__ static unsigned finished;
    __shared__ bool is_last;
    parts[blockIdx.x * 64 + threadIdx.x] = from[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        if (IS_FENCED) __threadfence();
        is_last = atomicAdd(&finished, 1u) == 1;
        __threadfence();
    }
    __syncthreads();
    if (is_last) to[threadIdx.x] = parts[threadIdx.x] + parts[64 + threadIdx.x];
}
extern "C" __global__ void published(float *to, const float *from) { add_up<true>(to, from); }
extern "C" __global__ void unpublished(float *to) { add_up<false>(to, to); }
extern "C" __global__ void warped(float *to) {
    __shared__ float values[64];
    for (int i = 1; i < 4; ++i) {
        values[threadIdx.x] = to[threadIdx.x];
        __syncwarp();
        to[threadIdx.x] = values[threadIdx.x ^ i];
        __syncwarp();
    }
}
extern "C" __global__ void between_warps(float *to) {
    __shared__ float values[64];
    values[threadIdx.x] = to[threadIdx.x];
    __syncwarp();
    to[threadIdx.x] = values[threadIdx.x ^ 32];
}
template <bool BY_STORE>
__device__ void multiply(int *to, const int *from) {
    __shared__ __align__(32) int operands[2 * 64], sums[256];
    for (int i = threadIdx.x; i < 128; i += 32) operands[i] = from[i];
    __syncthreads();
    unsigned a[2], b[2];
    int d[8] = {};
    edgec::wmma_load_rows(a, operands, 16);
    edgec::wmma_load_columns(b, operands + 64, 16);
    edgec::wmma_m16n16k16(d, a, b);
    if (BY_STORE) edgec::wmma_store(sums, d, 16);
    for (int i = 0; i < 8 && !BY_STORE; ++i) {  // as mma.m16n8k16 has them
        sums[(threadIdx.x / 4 + i / 2 % 2 * 8) * 16 + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = d[i];
    }
    __syncwarp();
    for (int i = threadIdx.x; i < 256; i += 32) to[i] = sums[i];
}
extern "C" __global__ void multiplied(int *to, const int *from) { multiply<true>(to, from); }
extern "C" __global__ void taken_for_granted(int *to, const int *from) { multiply<false>(to, from); }
extern "C" __global__ void off_by_four(int *) {
    __shared__ __align__(32) int rows[65];
    unsigned a[2];
    edgec::wmma_load_rows(a, rows + 1, 16);
}
extern "C" __global__ void rounded(half *to, const float *from) {
    to[threadIdx.x] = (half)from[threadIdx.x] * (half)1.001f + __float2half(0.1f);
}
extern "C" __global__ void dotted(int *to, const int *a, const int *b) {
    to[threadIdx.x] = __dp4a(a[threadIdx.x], b[threadIdx.x], 3);
}
"""
NAMES = re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)", SOURCE)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    folder: Path = tmp_path_factory.mktemp("emulation")
    return emulate(SOURCE, NAMES, folder)


def test_barrier_orders_a_shared_tile(kernels: EmulatedKernels) -> None:
    source = np.arange(32 * 48, dtype=np.float32).reshape(32, 48)
    result = np.zeros((48, 32), np.float32)
    kernels.launch("transposed", (3, 2), (16, 16), [result, source])
    np.testing.assert_array_equal(result, source.T)


def test_shuffles_sum_up(kernels: EmulatedKernels) -> None:
    source = np.arange(5 * 128).reshape(5, 128).astype(np.float16)
    result = np.zeros(5, np.float32)
    kernels.launch("summed", (5,), (128,), [result, source])
    np.testing.assert_array_equal(result, source.astype(np.float32).sum(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parted", "not every thread of the block comes to the barrier in line 21, thread 0"),
        ("two_places", "not every thread of the block comes to the barrier in line 30, thread 0"),
        ("early", "not every lane of the warp takes part"),
        ("outside", "writes outside of every array: byte 256 of argument 0 of 256 bytes, thread 63 of block 0"),
        ("beyond", "reads outside of every array: byte 256 of argument 0 of 256 bytes, thread 0 of block 0"),
        ("skewed", "a misaligned address: byte 12 of argument 0 of 256 bytes, thread 1 of block 0"),
        ("unwritten", "reads what nothing wrote: shared memory, thread 0 of block 0"),
        ("early_read", "reads what nothing wrote: shared memory, thread 0 of block 0"),
        ("early_write", "writes what another thread read, with no barrier in between: shared memory, thread 63"),
        ("written_twice", "writes what another thread wrote, with no barrier in between: byte 0 of argument 0"),
        ("doubled_in_place", "writes what another thread read, with no barrier in between: byte 256 of argument 0"),
        ("not_waited_for", "comes to what an asynchronous copy is about to write: shared memory, thread 0"),
        ("unpublished", "reads what another thread wrote, with no barrier in between: memory of the module"),
        ("between_warps", "reads what another thread wrote, with no barrier in between: shared memory, thread 0"),
        ("off_by_four", "wmma: bad address"),
    ],
)
def test_wrong_kernels_are_noticed(kernels: EmulatedKernels, name: str, message: str) -> None:
    blocks = 2 if name in ("doubled_in_place", "unpublished") else 1
    with pytest.raises(RuntimeError, match=message):
        kernels.launch(name, (blocks,), (64,), [np.zeros(64 * blocks, np.float32)])


def test_blocks_see_what_is_published(kernels: EmulatedKernels) -> None:
    result, source = np.zeros(64, np.float32), np.arange(128, dtype=np.float32)
    kernels.launch("published", (2,), (64,), [result, source])
    np.testing.assert_array_equal(result, source[:64] + source[64:])


def test_barrier_orders_a_warp(kernels: EmulatedKernels) -> None:
    values = np.arange(64, dtype=np.float32)
    kernels.launch("warped", (1,), (64,), [values])
    np.testing.assert_array_equal(values, np.arange(64))


def test_fragments_without_a_documented_layout(kernels: EmulatedKernels) -> None:
    """What is stored is the product; a layout that is taken for granted is not there."""
    operands = np.random.default_rng(2).integers(-128, 128, (2, 16, 16), np.int8)
    expected = operands[0].astype(np.int32) @ operands[1].astype(np.int32).T
    for name, is_right in (("multiplied", True), ("taken_for_granted", False)):
        result = np.zeros((16, 16), np.int32)
        kernels.launch(name, (1,), (32,), [result, operands])
        assert np.array_equal(result, expected) == is_right


def test_halves_round_as_in_numpy(kernels: EmulatedKernels) -> None:
    source = np.random.default_rng(0).normal(size=256).astype(np.float32) * 100
    result = np.zeros(256, np.float16)
    kernels.launch("rounded", (1,), (256,), [result, source])
    expected = source.astype(np.float16) * np.float16(1.001) + np.float16(0.1)
    np.testing.assert_array_equal(result, expected)


def test_dot_product_of_bytes(kernels: EmulatedKernels) -> None:
    generator = np.random.default_rng(1)
    a, b = (generator.integers(-128, 128, (64, 4), np.int8) for _ in range(2))
    result = np.zeros(64, np.int32)
    kernels.launch("dotted", (1,), (64,), [result, a.view(np.int32), b.view(np.int32)])
    np.testing.assert_array_equal(result, (a.astype(np.int32) * b).sum(1) + 3)
