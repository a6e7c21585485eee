// The coordinate-wise two-layer LSTM of learned optimizers, fused: one forward step, and the gradient of a window.
//
// A learned optimizer runs the same small network on every coordinate of an optimizee. PyTorch runs it as some thirty
// operations on large matrices, whose operands stream through memory, and autograd keeps 1.3 kB a coordinate-step.
// Here a TILE of coordinates goes through the whole network, and through a whole window of steps, inside the cache:
//
//     V                  one vector register: the same number of LANES neighbouring coordinates, one per lane
//     V rows[R]          a matrix [R, LANES]: feature r of all coordinates of the tile
//
// A tile's tape of a window of T steps (H hidden units, IN inputs of the first cell, FE features):
//
//     features [T][FE]          what the gradients are turned into
//     x1       [T+1][IN + H]    input of cell 1 beside its previous output:  (x_t ; h1_{t-1})
//     x2       [T+1][H + H]     the same of cell 2:                         (h1_t ; h2_{t-1})
//     c1, c2   [T+1][H]         cell states before each step
//     z1, z2   [T][4H]          gates after their activations, order i, j, f, o; backward turns them into d loss/d gate
//     r1, r2   [T][H]           tanh(c_t)
//
// It takes 302 rows a step with H = 20 and IN = 2: 387 kB for 20 steps of 16 coordinates, which a core's own cache
// holds. Backward replays the tile's steps from the recorded gradients (storing them instead would cost as much time in
// memory traffic), goes back through the steps, and then forms each cell's weight gradient as one product over all
// steps, [4H, T * LANES] x [T * LANES, K], in blocks that stay in registers.
//
// Nothing here assumes finite numbers: every comparison lets NaN through, and no flag of the processor is changed.
//
// Weights come and gradients go in the layout of the Python modules: W [K, 4H] with rows (input ; hidden) and columns
// gate * H + unit. Internally the forward weights are blocked so that each step of the inner loop reads one line.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, UNITS = 4, ROWS = 20, BLOCK = 4;  // sized for 32 registers
#else
constexpr int LANES = 8, UNITS = 2, ROWS = 10, BLOCK = 2;  // for 16
#endif
typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t VI __attribute__((vector_size(LANES * 4)));
#define INLINE inline __attribute__((always_inline))

enum Features : int32_t { IDENTITY = 0, LOG_AND_SIGN = 1, MOMENTS = 2 };

extern "C" {
// What Python passes; `native.py` mirrors it field by field.
struct Job {
  int64_t coordinates, coordinates_per_task, steps;
  int32_t threads, features, bounded, squared;
  float scale;                       // of the output
  float k, sign_factor;              // log-and-sign: k and e^k
  float beta1, beta2, keep1, keep2;  // moments: the decays, and one minus each
  float epsilon;
  const float* weights[8];  // input layer's weight and bias (or null), cell 1's, cell 2's, output's
  const float* gradients;   // [steps, coordinates]
  const float* corrections;  // moments: [steps, tasks, 2], the bias corrections of m and v
  const float* state[6];     // h1, c1, h2, c2 [H, coordinates], m, v [coordinates]
  int64_t state_stride[6];   // from one row to the next
  float* next[6];            // the same after a step; may be `state` itself
  int64_t next_stride[6];
  float* update;             // a step: [coordinates]
  const float* slopes;       // a window: [steps, coordinates], or the targets if `squared`
  const float* importance;   // `squared`: weights [steps, coordinates]
  double* weight_gradient;   // a window: all weight gradients one after the other, in the order of `weights`
};
}

INLINE V all(float x) { return x - V{}; }
INLINE VI bits(V x) { return (VI)x; }
INLINE V select(VI mask, V yes, V no) { return mask ? yes : no; }
#if defined(__AVX512F__)
INLINE V shuffle(V x, V y, VI lanes) { return _mm512_permutex2var_ps(x, (__m512i)lanes, y); }
INLINE V at_least(V x, float low) { return _mm512_max_ps(all(low), x); }  // of a NaN and a number, the instruction
INLINE V at_most(V x, float high) { return _mm512_min_ps(all(high), x); }  // gives its second operand: NaN stays
// Splits y <= 126 into an integer n and a rest of at most a half, which it returns beside 2^n.
INLINE V split(V y, V& power) {
  power = _mm512_scalef_ps(all(1.f), _mm512_roundscale_ps(y, 0));
  return _mm512_reduce_ps(y, 0);
}
#else
INLINE V shuffle(V x, V y, VI lanes) {  // AVX2 picks from one vector at a time
  const V from_x = _mm256_permutevar8x32_ps(x, (__m256i)lanes), from_y = _mm256_permutevar8x32_ps(y, (__m256i)lanes);
  return lanes < LANES ? from_x : from_y;
}
INLINE V at_least(V x, float low) { return _mm256_max_ps(all(low), x); }
INLINE V at_most(V x, float high) { return _mm256_min_ps(all(high), x); }
INLINE V split(V y, V& power) {
  y = at_least(y, -126.f);
  const V shifted = y + 12582912.f;  // 1.5 * 2^23: the sum's last bits are y rounded to an integer
  power = (V)((bits(shifted) << 23) + 0x3f800000);
  return y - (shifted - 12582912.f);
}
#endif
INLINE V load(const float* from) { V x; std::memcpy(&x, from, sizeof x); return x; }
INLINE V load(const float* from, int lanes) {
  if (lanes == LANES) return load(from);
  V x{};
  std::memcpy(&x, from, lanes * sizeof(float));
  return x;
}
INLINE void store(float* to, V x, int lanes) { std::memcpy(to, &x, lanes == LANES ? sizeof x : lanes * sizeof(float)); }

INLINE float sum(V x) {
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; lane++) x[lane] += x[lane + width];
  return x[0];
}

// Sums over the lanes of LANES vectors at once, three instructions a sum: lane l of the result is the sum of x[l].
// A vector holds the partial sums of several x in segments of WIDTH lanes; two vectors fold into one of half the width.
template <int WIDTH>
INLINE V fold(V x, V y) {
  VI low;
  for (int lane = 0; lane < LANES; lane++) {
    const int segment = lane / (WIDTH / 2), place = lane % (WIDTH / 2);
    low[lane] = segment / 2 * WIDTH + place + (segment % 2 ? LANES : 0);
  }
  return shuffle(x, y, low) + shuffle(x, y, low + WIDTH / 2);
}
template <int WIDTH = LANES>
INLINE V sums(V* x) {
  for (int i = 0; i < WIDTH / 2; i++) x[i] = fold<WIDTH>(x[i], x[i + WIDTH / 2]);
  if constexpr (WIDTH > 2) return sums<WIDTH / 2>(x);
  return x[0];
}

// ---- elementary functions, each within about two units in the last place ------------------------------------------

struct Power {  // 2^y = power * (1 + rest)
  V power, rest;
};
INLINE Power exp2(V y) {
  V power;
  const V r = split(at_most(y, 126.f), power);
  V p = r * 1.540351113e-04f + 1.339073547e-03f;  // (2^r - 1) / r on [-1/2, 1/2], relative error 1.1e-8
  p = p * r + 9.618237499e-03f;
  p = p * r + 5.550357434e-02f;
  p = p * r + 2.402264979e-01f;
  p = p * r + 6.931471879e-01f;
  return {power, p * r};
}
constexpr float LOG2E = 1.44269504f;
INLINE V sigmoid_of_scaled(V y) {  // sigmoid(x) for y = -log2(e) x
  const Power e = exp2(y);
  return 1.f / ((e.power * e.rest + e.power) + 1.f);
}
INLINE V tanh_of_scaled(V y) {  // tanh(x) for y = 2 log2(e) x
  const Power e = exp2(y);
  const V m = e.power * e.rest + (e.power - 1.f);  // e^{2x} - 1
  return m / (m + 2.f);
}
INLINE V expm1(V x) {
  const Power e = exp2(x * LOG2E);
  return e.power * e.rest + (e.power - 1.f);
}
INLINE V log(V x) {  // x normal and positive, infinite, or NaN
  const VI exponent = (bits(x) - 0x3f3504f3) >> 23;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  const V t = (V)(bits(x) - (exponent << 23)) - 1.f;
  V q = t * -7.974177437e-02f + 1.265568049e-01f;  // (log(1 + t) - t + t^2 / 2) / t^3
  q = q * t - 1.298928180e-01f;
  q = q * t + 1.420994805e-01f;
  q = q * t - 1.664158138e-01f;
  q = q * t + 2.000120089e-01f;
  q = q * t - 2.500030392e-01f;
  q = q * t + 3.333332994e-01f;
  const V e = __builtin_convertvector(exponent, V);
  const V low = t * t * (q * t - 0.5f) + e * -2.12194440e-4f;  // ln 2 = 0.693359375 - 2.1219444e-4
  return select(x <= 3.402823466e38f, (low + t) + e * 0.693359375f, x);
}
INLINE V square_root(V x) {
  V y;
  for (int lane = 0; lane < LANES; lane++) y[lane] = __builtin_sqrtf(x[lane]);
  return y;
}

// ---- one cell ------------------------------------------------------------------------------------------------------

// The weights of a cell with K = inputs + H rows, in the two orders in which the inner loops read them.
template <int H, int K>
struct Cell {
  alignas(64) float forward[H / UNITS][K][4][UNITS];  // scaled for the activations' base-2 exponentials
  alignas(64) float bias[H / UNITS][4][UNITS];
  alignas(64) float backward[K][4 * H];  // of ROWS rows after the other: see `pack`

  void pack(const float* weight, const float* offset) {
    for (int gate = 0; gate < 4; gate++) {
      const float factor = gate == 1 ? 2 * LOG2E : -LOG2E;
      for (int u = 0; u < H; u++) {
        const float forget = gate == 2 ? 1.f : 0.f;
        bias[u / UNITS][gate][u % UNITS] = factor * (offset[gate * H + u] + forget);
        for (int k = 0; k < K; k++) forward[u / UNITS][k][gate][u % UNITS] = factor * weight[k * 4 * H + gate * H + u];
      }
    }
    // Rows of the hidden state come last; they and then the inputs are worked off in blocks of ROWS from the end.
    float* to = &backward[0][0];
    for (int end = K; end > 0; end -= ROWS) {
      const int first = std::max(0, end - ROWS);
      for (int j = 0; j < 4 * H; j++)
        for (int k = first; k < end; k++) *to++ = weight[k * 4 * H + j];
    }
  }

  // One step: x [K], c [H] to the next c and h, and for the TAPE also the gates z [4H], tanh of c, and h once more.
  template <bool TAPE>
  INLINE void step(const V* x, const V* c, V* z, V* c_next, V* r, V* h, V* h_again) const {
    for (int block = 0; block < H / UNITS; block++) {
      V a[4][UNITS];
#pragma GCC unroll 8
      for (int gate = 0; gate < 4; gate++)
#pragma GCC unroll 8
        for (int unit = 0; unit < UNITS; unit++) a[gate][unit] = all(bias[block][gate][unit]);
      for (int k = 0; k < K; k++) {
        const V row = x[k];
#pragma GCC unroll 8
        for (int gate = 0; gate < 4; gate++)
#pragma GCC unroll 8
          for (int unit = 0; unit < UNITS; unit++) a[gate][unit] += row * all(forward[block][k][gate][unit]);
      }
#pragma GCC unroll 8
      for (int unit = 0; unit < UNITS; unit++) {
        const int u = block * UNITS + unit;
        const V i = sigmoid_of_scaled(a[0][unit]), j = tanh_of_scaled(a[1][unit]);
        const V f = sigmoid_of_scaled(a[2][unit]), o = sigmoid_of_scaled(a[3][unit]);
        const V next = f * c[u] + i * j, squashed = tanh_of_scaled(next * (2 * LOG2E));
        c_next[u] = next, h[u] = squashed * o;
        if constexpr (TAPE) {
          z[u] = i, z[H + u] = j, z[2 * H + u] = f, z[3 * H + u] = o;
          r[u] = squashed, h_again[u] = h[u];
        }
      }
    }
  }

  // Backward through the activations: z becomes d loss/d gate; dc comes in as from the next step, goes to the last one.
  static INLINE void through_gates(V* z, const V* r, const V* c, const V* dh, V* dc) {
    for (int u = 0; u < H; u++) {
      const V i = z[u], j = z[H + u], f = z[2 * H + u], o = z[3 * H + u];
      const V d = dc[u] + dh[u] * o * (1.f - r[u] * r[u]);
      z[u] = d * j * (i * (1.f - i));
      z[H + u] = d * i * (1.f - j * j);
      z[2 * H + u] = d * c[u] * (f * (1.f - f));
      z[3 * H + u] = dh[u] * r[u] * (o * (1.f - o));
      dc[u] = d * f;
    }
  }

  // dx = W dz for the last `WANTED` of the K rows; dx is [K].
  template <int WANTED>
  INLINE void through_weights(const V* z, V* dx) const {
    static_assert(WANTED % ROWS == 0, "rows come in whole blocks");
    const float* w = &backward[0][0];
    for (int end = K; end > K - WANTED; end -= ROWS) {
      V a[ROWS] = {};
      for (int j = 0; j < 4 * H; j++, w += ROWS)
#pragma GCC unroll 32
        for (int row = 0; row < ROWS; row++) a[row] += z[j] * all(w[row]);
#pragma GCC unroll 32
      for (int row = 0; row < ROWS; row++) dx[end - ROWS + row] = a[row];
    }
  }
};

// weight_gradient [K, J] += sum over steps and lanes of x[k] z[j]: for K rows of x and as many rows of z as fill LANES sums.
template <int K>
INLINE void add_product(const V* z, int z_stride, const V* x, int x_stride, int64_t steps, float* to) {
  constexpr int J = LANES / K;
  V a[K * J] = {};
  for (int64_t t = 0; t < steps; t++, z += z_stride, x += x_stride) {
#pragma GCC unroll 4
    for (int k = 0; k < K; k++)
#pragma GCC unroll 16
      for (int j = 0; j < J; j++) a[k * J + j] += x[k] * z[j];
  }
  float total[LANES];
  const V summed = sums(a);
  std::memcpy(total, &summed, sizeof total);
#pragma GCC unroll 4
  for (int k = 0; k < K; k++)
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) to[k * z_stride + j] += total[k * J + j];
}
template <int J, int K>  // J rows of z, K rows of x
INLINE void add_products(const V* z, const V* x, int64_t steps, float* weight, float* bias) {
  constexpr int WHOLE = K / BLOCK * BLOCK, REST = K - WHOLE;
  static_assert(REST <= 2 && J % LANES == 0, "what is left over is one or two features");
  for (int k = 0; k < WHOLE; k += BLOCK)
    for (int j = 0; j < J; j += LANES / BLOCK) add_product<BLOCK>(z + j, J, x + k, K, steps, weight + k * J + j);
  if constexpr (REST > 0)
    for (int j = 0; j < J; j += LANES / REST) add_product<REST>(z + j, J, x + WHOLE, K, steps, weight + WHOLE * J + j);
  for (int j = 0; j < J; j += LANES) {
    V a[LANES] = {};
    for (int64_t t = 0; t < steps; t++)
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) a[i] += z[t * J + j + i];
    const V summed = load(bias + j) + sums(a);
    store(bias + j, summed, LANES);
  }
}

// ---- the network over a tile -----------------------------------------------------------------------------------------

template <int H, int FE, bool LAYER>  // hidden units, features, and whether a layer lies between features and cell 1
struct Network {
  static constexpr int IN = LAYER ? H : FE, K1 = IN + H, K2 = H + H;
  static constexpr int WEIGHTS = (LAYER ? FE * H + H : 0) + (K1 + K2 + 2) * 4 * H + H + 1;
  static constexpr int64_t TAPE_ROWS = 2 * 4 * H + 2 * H + FE + K1 + K2 + 2 * H;  // a step, and one more for the ends

  alignas(64) Cell<H, K1> cell1;
  alignas(64) Cell<H, K2> cell2;
  float input_weight[FE][H], input_bias[H], output_weight[H], output_bias;

  explicit Network(const Job& job) {
    if constexpr (LAYER) {
      std::memcpy(input_weight, job.weights[0], sizeof input_weight);
      std::memcpy(input_bias, job.weights[1], sizeof input_bias);
    }
    cell1.pack(job.weights[2], job.weights[3]);
    cell2.pack(job.weights[4], job.weights[5]);
    std::memcpy(output_weight, job.weights[6], sizeof output_weight);
    output_bias = *job.weights[7];
  }

  struct Tape {
    V *z1, *z2, *r1, *r2, *features, *x1, *x2, *c1, *c2, *u;
    Tape(V* at, int64_t steps) {
      auto take = [&](int64_t rows) { V* here = at; at += rows; return here; };
      z1 = take(steps * 4 * H), z2 = take(steps * 4 * H), r1 = take(steps * H), r2 = take(steps * H);
      features = take(steps * FE), x1 = take((steps + 1) * K1), x2 = take((steps + 1) * K2);
      c1 = take((steps + 1) * H), c2 = take((steps + 1) * H), u = take(steps);
    }
    static int64_t rows(int64_t steps) { return (steps + 1) * (TAPE_ROWS + 1); }
  };

  struct Moments {
    V m{}, v{};
  };

  INLINE void make_features(const Job& job, int64_t step, int64_t first, int lanes, Moments& moments, V* to) const {
    const V g = load(job.gradients + step * job.coordinates + first, lanes);
    if constexpr (LAYER) {
      V correction1 = all(1.f), correction2 = all(1.f);
      const int64_t tasks = job.coordinates / job.coordinates_per_task;
      const float* table = job.corrections + step * tasks * 2;
      int64_t task = first / job.coordinates_per_task, left = (task + 1) * job.coordinates_per_task - first;
      for (int lane = 0; lane < lanes; lane++, left--) {
        if (left == 0) task++, left = job.coordinates_per_task;
        correction1[lane] = table[2 * task], correction2[lane] = table[2 * task + 1];
      }
      moments.m = job.beta1 * moments.m + job.keep1 * g;
      moments.v = job.beta2 * moments.v + job.keep2 * (g * g);
      const V root = square_root(moments.v / correction2) + job.epsilon;
      to[0] = moments.m / correction1 / root;
      to[1] = g / root;
    } else if constexpr (FE == 2) {
      const V magnitude = (V)(bits(g) & 0x7fffffff);
      to[0] = at_least(log(magnitude + 1.1920929e-07f) / job.k, -1.f);
      to[1] = at_most(at_least(g * job.sign_factor, -1.f), 1.f);
    } else {
      to[0] = g;
    }
  }

  // Runs the tile that begins at coordinate `first` for `steps` steps; its updates, before the scale, go to tape.u.
  template <bool TAPE>
  INLINE void forward(const Job& job, const Tape& tape, int64_t first, int lanes, int64_t steps, Moments& moments) const {
    for (int u = 0; u < H; u++) {
      tape.x1[IN + u] = load(job.state[0] + u * job.state_stride[0] + first, lanes);
      tape.c1[u] = load(job.state[1] + u * job.state_stride[1] + first, lanes);
      tape.x2[H + u] = load(job.state[2] + u * job.state_stride[2] + first, lanes);
      tape.c2[u] = load(job.state[3] + u * job.state_stride[3] + first, lanes);
    }
    if constexpr (LAYER) moments = {load(job.state[4] + first, lanes), load(job.state[5] + first, lanes)};
    for (int64_t t = 0; t < steps; t++) {
      V *x1 = tape.x1 + t * K1, *x2 = tape.x2 + t * K2, *features = tape.features + t * FE;
      make_features(job, t, first, lanes, moments, features);
      for (int u = 0; u < IN; u++) {
        if constexpr (LAYER) {
          V pre = all(input_bias[u]);
#pragma GCC unroll 2
          for (int f = 0; f < FE; f++) pre += features[f] * input_weight[f][u];
          x1[u] = select(pre > 0.f, pre, expm1(pre));  // ELU
        } else {
          x1[u] = features[u];
        }
      }
      cell1.template step<TAPE>(x1, tape.c1 + t * H, tape.z1 + t * 4 * H, tape.c1 + (t + 1) * H, tape.r1 + t * H, x2, x1 + K1 + IN);
      V* h2 = x2 + K2 + H;
      cell2.template step<TAPE>(x2, tape.c2 + t * H, tape.z2 + t * 4 * H, tape.c2 + (t + 1) * H, tape.r2 + t * H, h2, h2);
      V out = all(output_bias);
      for (int u = 0; u < H; u++) out += h2[u] * output_weight[u];
      tape.u[t] = job.bounded ? tanh_of_scaled(out * (2 * LOG2E)) : out;
    }
  }

  void step(const Job& job, V* scratch, int64_t first, int lanes) const {
    const Tape tape(scratch, 1);
    Moments moments;
    for (int leaf = 0; leaf < 4; leaf++)
      for (int u = 0; u < H; u++) {
        __builtin_prefetch(job.state[leaf] + u * job.state_stride[leaf] + first + LANES);
        __builtin_prefetch(job.next[leaf] + u * job.next_stride[leaf] + first + LANES, 1);
      }
    forward<false>(job, tape, first, lanes, 1, moments);
    for (int u = 0; u < H; u++) {
      store(job.next[0] + u * job.next_stride[0] + first, tape.x2[u], lanes);
      store(job.next[1] + u * job.next_stride[1] + first, tape.c1[H + u], lanes);
      store(job.next[2] + u * job.next_stride[2] + first, tape.x2[K2 + H + u], lanes);
      store(job.next[3] + u * job.next_stride[3] + first, tape.c2[H + u], lanes);
    }
    if constexpr (LAYER) store(job.next[4] + first, moments.m, lanes), store(job.next[5] + first, moments.v, lanes);
    store(job.update + first, tape.u[0] * job.scale, lanes);
  }

  // The tile's share of the weight gradients, added to `to` [WEIGHTS].
  void window(const Job& job, V* scratch, int64_t first, int lanes, float* to) const {
    const int64_t steps = job.steps;
    const Tape tape(scratch, steps);
    Moments moments;
    forward<true>(job, tape, first, lanes, steps, moments);
    float *d_input = to, *d1 = to + (LAYER ? FE * H + H : 0), *d2 = d1 + (K1 + 1) * 4 * H, *d_output = d2 + (K2 + 1) * 4 * H;
    V dh1[H] = {}, dc1[H] = {}, dh2[H] = {}, dc2[H] = {}, dx1[K1], dx2[K2];
    V to_output[H] = {}, to_output_bias{}, to_input[LAYER ? FE : 1][H] = {}, to_input_bias[H] = {};
    for (int64_t t = steps; t-- > 0;) {
      const int64_t at = t * job.coordinates + first;
      const V slope = load(job.slopes + at, lanes), u = tape.u[t];
      V d = job.squared ? 2.f * load(job.importance + at, lanes) * (u * job.scale - slope) * job.scale : slope * job.scale;
      if (job.bounded) d *= 1.f - u * u;
      to_output_bias += d;
      const V* h2 = tape.x2 + (t + 1) * K2 + H;
      for (int k = 0; k < H; k++) to_output[k] += d * h2[k], dh2[k] += d * output_weight[k];
      V *z1 = tape.z1 + t * 4 * H, *z2 = tape.z2 + t * 4 * H;
      cell2.through_gates(z2, tape.r2 + t * H, tape.c2 + t * H, dh2, dc2);
      cell2.template through_weights<K2>(z2, dx2);
      for (int k = 0; k < H; k++) dh2[k] = dx2[H + k], dh1[k] += dx2[k];
      cell1.through_gates(z1, tape.r1 + t * H, tape.c1 + t * H, dh1, dc1);
      cell1.template through_weights<LAYER ? K1 : H>(z1, dx1);
      for (int k = 0; k < H; k++) dh1[k] = dx1[IN + k];
      if constexpr (LAYER)
        for (int k = 0; k < H; k++) {
          const V x = tape.x1[t * K1 + k], dx = select(x > 0.f, dx1[k], dx1[k] * (x + 1.f));
          for (int f = 0; f < FE; f++) to_input[f][k] += dx * tape.features[t * FE + f];
          to_input_bias[k] += dx;
        }
    }
    if constexpr (LAYER)
      for (int k = 0; k < H; k++) {
        for (int f = 0; f < FE; f++) d_input[f * H + k] += sum(to_input[f][k]);
        d_input[FE * H + k] += sum(to_input_bias[k]);
      }
    add_products<4 * H, K1>(tape.z1, tape.x1, steps, d1, d1 + K1 * 4 * H);
    add_products<4 * H, K2>(tape.z2, tape.x2, steps, d2, d2 + K2 * 4 * H);
    for (int k = 0; k < H; k++) d_output[k] += sum(to_output[k]);
    d_output[H] += sum(to_output_bias);
  }
};

// ---- all tiles -------------------------------------------------------------------------------------------------------

constexpr int TILES_BETWEEN_FLUSHES = 64;  // float sums stay short: more go on in double

template <class Net>
int run(const Job& job, bool window) {
  const int64_t tiles = (job.coordinates + LANES - 1) / LANES;
  const int threads = (int)std::max<int64_t>(1, std::min<int64_t>(job.threads, tiles / 4));
  const int64_t rows = Net::Tape::rows(window ? job.steps : 1);
  const size_t tape_bytes = ((rows * sizeof(V)) + 4095) / 4096 * 4096;
  const size_t own = tape_bytes + (window ? Net::WEIGHTS * (sizeof(float) + sizeof(double)) / 64 * 64 + 128 : 0);
  const size_t net_bytes = (sizeof(Net) + 4095) / 4096 * 4096;
  char* memory = (char*)std::aligned_alloc(4096, (net_bytes + threads * own + 4095) / 4096 * 4096);
  if (!memory) return 1;
  const Net& net = *new ((void*)memory) Net(job);
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int part = 0; part < threads; part++) {
    char* mine = memory + net_bytes + part * own;
    V* scratch = (V*)mine;
    double* total = (double*)(mine + tape_bytes);
    float* sums = (float*)(total + Net::WEIGHTS);
    if (window) std::memset(total, 0, Net::WEIGHTS * (sizeof(float) + sizeof(double)));
    const int64_t begin = tiles * part / threads, end = tiles * (part + 1) / threads;
    for (int64_t tile = begin; tile < end; tile++) {
      const int64_t first = tile * LANES;
      const int lanes = (int)std::min<int64_t>(LANES, job.coordinates - first);
      if (!window) {
        net.step(job, scratch, first, lanes);
        continue;
      }
      net.window(job, scratch, first, lanes, sums);
      if ((tile - begin + 1) % TILES_BETWEEN_FLUSHES == 0 || tile + 1 == end)
        for (int w = 0; w < Net::WEIGHTS; w++) total[w] += sums[w], sums[w] = 0;
    }
  }
  if (window)
    for (int w = 0; w < Net::WEIGHTS; w++) {
      double all_threads = 0;
      for (int part = 0; part < threads; part++) all_threads += ((double*)(memory + net_bytes + part * own + tape_bytes))[w];
      job.weight_gradient[w] = all_threads;
    }
  std::free(memory);
  return 0;
}

int dispatch(const Job& job, bool window) {
  switch (job.features) {
    case IDENTITY: return run<Network<20, 1, false>>(job, window);
    case LOG_AND_SIGN: return run<Network<20, 2, false>>(job, window);
    case MOMENTS: return run<Network<20, 2, true>>(job, window);
  }
  return 2;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int l2o_job_bytes() { return sizeof(Job); }
EXPORT int l2o_step(const Job* job) { return dispatch(*job, false); }
EXPORT int l2o_window(const Job* job) { return dispatch(*job, true); }
