// recurrent.cuh: LSTM, GRU and RNN. A block walks through all steps of one sample in one direction.
//
// In a step every thread sums up, for four neighbouring columns of the gates, its part of the products of the state
// with the recurrent weights; then each element of the state is computed by one thread of these parts. State and sums
// are in shared memory; the weights are in the threads' registers from the start, where that are few enough.
#pragma once

namespace edgec {

enum class Cell { kLstm, kGru, kGruResetFirst, kRnn };

// How a block works: so many threads, PARTS of which share the sums of a column; each keeps its weights if KEEPS.
template <int THREADS, int PARTS, bool KEEPS>
struct WalkTile {
    static constexpr int threads = THREADS, parts = PARTS;
    static constexpr bool keeps = KEEPS;
};

__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T>
struct Vector4 {
    typedef float4 Type;
};
template <>
struct Vector4<half> {
    typedef half4 Type;
};
__device__ __forceinline__ float4 floats_of(const float4 &v) { return v; }
__device__ __forceinline__ float4 floats_of(const half4 &v) {
    return make_float4(__half2float(v.x), __half2float(v.y), __half2float(v.z), __half2float(v.w));
}

// The products of a state in shared memory with columns FIRST to LAST of weights (HIDDEN, COLUMNS), part by part.
template <class T, class Tile, int HIDDEN, int COLUMNS, int FIRST, int LAST>
struct StateProduct {
    static constexpr int kGroups = (LAST - FIRST) / 4, kRows = (HIDDEN + Tile::parts - 1) / Tile::parts;
    static constexpr int kWorkers = Tile::threads / Tile::parts, kRounds = (kGroups + kWorkers - 1) / kWorkers;
    typedef typename Vector4<T>::Type Four;
    const T *weights;
    static constexpr int kHeld = Tile::keeps ? kRounds * kRows : 0;
    Four held[kHeld > 0 ? kHeld : 1];

    __device__ __forceinline__ StateProduct(const T *all) : weights(all + FIRST) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) held[i] = load(i / kRows, i % kRows);
    }
    static __device__ __forceinline__ int group(int round) { return round * kWorkers + (int)threadIdx.x % kWorkers; }
    static __device__ __forceinline__ int row(int i) { return (int)threadIdx.x / kWorkers + i * Tile::parts; }
    static __device__ __forceinline__ bool has(int round) { return kGroups % kWorkers == 0 || group(round) < kGroups; }

    static __device__ __forceinline__ bool has_row(int i) { return HIDDEN % Tile::parts == 0 || row(i) < HIDDEN; }

    __device__ __forceinline__ Four load(int round, int i) const {
        Four four = {0, 0, 0, 0};
        if (has(round) && has_row(i)) four = *(const Four *)(weights + row(i) * COLUMNS + group(round) * 4);
        return four;
    }
    // sums[part][column of all]
    __device__ __forceinline__ void operator()(float *sums, const float *state) const {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
            float4 total = {0, 0, 0, 0};
#pragma unroll(Tile::keeps ? kRows : 8)
            for (int i = 0; i < kRows; ++i) {
                float4 w = floats_of(Tile::keeps ? held[kHeld > 0 ? round * kRows + i : 0] : load(round, i));
                float h = has_row(i) ? state[row(i)] : 0.0f;
                total.x = fmaf(h, w.x, total.x), total.y = fmaf(h, w.y, total.y);
                total.z = fmaf(h, w.z, total.z), total.w = fmaf(h, w.w, total.w);
            }
            int part = threadIdx.x / kWorkers;
            if (has(round)) *(float4 *)(sums + part * COLUMNS + FIRST + group(round) * 4) = total;
        }
    }
};

// The walk of a sample in a direction. `x` (STEPS, BATCH, directions x columns) is what the gates get from the input; a
// gate has WIDTH columns, of which HIDDEN are of use. `memory` is the state c of an LSTM.
template <Cell CELL, class T, class Tile, int DIRECTIONS, int STEPS, int BATCH, int HIDDEN, int WIDTH, bool REVERSE>
struct Walk {
    static constexpr bool is_lstm = CELL == Cell::kLstm, resets_first = CELL == Cell::kGruResetFirst;
    static constexpr int kGates = is_lstm ? 4 : CELL == Cell::kRnn ? 1 : 3, kColumns = kGates * WIDTH;
    static constexpr int kElements = (HIDDEN + Tile::threads - 1) / Tile::threads;
    static constexpr int kFirstColumns = resets_first ? 2 * WIDTH : kColumns;
    StateProduct<T, Tile, HIDDEN, kColumns, 0, kFirstColumns> product;
    StateProduct<T, Tile, HIDDEN, kColumns, kFirstColumns, kColumns> product_of_reset;
    const float *bias;
    float *sums, *state, *reset_state;
    float memory[kElements], given[kElements][kGates];

    static __device__ __forceinline__ int element(int e) { return (int)threadIdx.x + e * Tile::threads; }
    static __device__ __forceinline__ bool has(int e) { return HIDDEN % Tile::threads == 0 || element(e) < HIDDEN; }

    // A gate before its activation function.
    __device__ __forceinline__ float gate(int number, int e, float start) const {
#pragma unroll
        for (int part = 0; part < Tile::parts; ++part) start += sums[part * kColumns + number * WIDTH + element(e)];
        return start;
    }
    // The next h.
    __device__ __forceinline__ float next(int e) {
        if constexpr (is_lstm) {  // gates i, o, f, c
            float in = logistic(gate(0, e, given[e][0])), forget = logistic(gate(2, e, given[e][2]));
            memory[e] = forget * memory[e] + in * tanhf(gate(3, e, given[e][3]));
            return logistic(gate(1, e, given[e][1])) * tanhf(memory[e]);
        } else if constexpr (CELL == Cell::kRnn) {
            return tanhf(gate(0, e, given[e][0]));
        } else {  // gates z, r, h
            float z = logistic(gate(0, e, given[e][0])), fresh;
            if constexpr (resets_first) {
                fresh = gate(2, e, given[e][2]);
            } else {
                float r = logistic(gate(1, e, given[e][1]));
                fresh = given[e][2] + r * gate(2, e, bias[2 * WIDTH + element(e)]);
            }
            return (1.0f - z) * tanhf(fresh) + z * state[element(e)];
        }
    }
    __device__ __forceinline__ void step(const float *x, float *y) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {  // on their way while the products are summed up
#pragma unroll
            for (int g = 0; g < kGates; ++g) given[e][g] = has(e) ? x[g * WIDTH + element(e)] : 0.0f;
        }
        product(sums, state);
        __syncthreads();
        if constexpr (resets_first) {
#pragma unroll
            for (int e = 0; e < kElements; ++e) {
                if (has(e)) reset_state[element(e)] = logistic(gate(1, e, given[e][1])) * state[element(e)];
            }
            __syncthreads();
            product_of_reset(sums, reset_state);
            __syncthreads();
        }
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
            if (has(e)) y[element(e)] = state[element(e)] = next(e);
        }
        __syncthreads();
    }
};

// The states `h` and `c` before and after; a cell that has no c gets h twice. Blocks are samples by directions.
template <Cell CELL, class T, class Tile, int DIRECTIONS, int STEPS, int BATCH, int HIDDEN, int WIDTH, bool REVERSE>
__device__ __forceinline__ void walk(const void *inputs, const void *weights, const void *bias, void *outputs,
                                     const void *h_before, void *h, const void *c_before, void *c, int block) {
    typedef Walk<CELL, T, Tile, DIRECTIONS, STEPS, BATCH, HIDDEN, WIDTH, REVERSE> W;
    __shared__ __align__(128) float shared[Tile::parts * W::kColumns + (W::resets_first ? 2 : 1) * HIDDEN];
    int direction = block % DIRECTIONS, sample = block / DIRECTIONS, at = (direction * BATCH + sample) * HIDDEN;
    const float *x = (const float *)inputs + sample * (DIRECTIONS * W::kColumns) + direction * W::kColumns;
    const T *own_weights = (const T *)weights + direction * (HIDDEN * W::kColumns);
    float *y = (float *)outputs + at, *state = shared + Tile::parts * W::kColumns;
    W own = {own_weights, own_weights, (const float *)bias + direction * W::kColumns, shared, state, state + HIDDEN};
#pragma unroll
    for (int e = 0; e < W::kElements; ++e) {
        if (!W::has(e)) continue;
        state[W::element(e)] = ((const float *)h_before)[at + W::element(e)];
        if (W::is_lstm) own.memory[e] = ((const float *)c_before)[at + W::element(e)];
    }
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        int t = REVERSE || direction == 1 ? STEPS - 1 - step : step;
        own.step(x + t * (BATCH * DIRECTIONS * W::kColumns), y + t * (BATCH * DIRECTIONS * HIDDEN));
    }
#pragma unroll
    for (int e = 0; e < W::kElements; ++e) {
        if (!W::has(e)) continue;
        ((float *)h)[at + W::element(e)] = state[W::element(e)];
        if (W::is_lstm) ((float *)c)[at + W::element(e)] = own.memory[e];
    }
}

}  // namespace edgec
