// The quantized decoder on a CPU, one call a step: embed, layers, logits of the wanted rows.
//
// Weights are packed by native.py as [rows/16][columns/4][16][4]: a 64-byte load holds four columns
// of sixteen outputs, which is what one VNNI instruction multiplies. Activations are rounded to
// 8 bits row by row; integer sums are exact, so a row's result does not depend on its batch.
// Keys lie as [page][kv head][dim][16 tokens], values as [page][kv head][16 tokens][dim]: scores of
// a page's sixteen tokens come out as one vector, without a sum across lanes. Both are floats, or
// 8-bit integers with one scale for each token and head.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

#define LANES 16
#define GROUP 32
#define MAX_QUERIES 8

typedef float vec __attribute__((vector_size(64), aligned(4)));

typedef struct {
    int32_t bits, rows, columns, padded;  // padded: columns rounded up to GROUP
    const uint8_t *packed;
    const float *scale;   // int8: [rows]; int4: [rows/16][groups][16]
    const void *offset;   // int8: int32 sums of each row; int4: float lows, as scale
    const float *bias;    // [rows] or NULL
} Linear;

typedef struct {
    const float *norm, *mlp_norm, *q_norm, *k_norm;
    Linear qkv, out, gate_up, down;
} Layer;

typedef struct {
    int32_t n_layers, hidden, intermediate, n_heads, n_kv_heads, dim, vocabulary, n_pages;
    float eps;
    int32_t n_threads;
    const int8_t *embedding;
    const float *embedding_scale, *norm, *cosines, *sines;
    const Layer *layers;
    Linear head;
    void *keys, *values;                // float, or int8_t where there are scales
    float *key_scales, *value_scales;   // [layer][page][kv head][16], or NULL
} Model;

// One layer's part of the cache.
typedef struct {
    const void *keys, *values;
    const float *key_scales, *value_scales;
} Cache;

typedef struct {
    int32_t first, n_rows, position, first_page;
} Span;

static inline float exp_of(float x) {
    // Cephes' expf: 2^n times a polynomial on [-ln2/2, ln2/2], within 2 units in the last place.
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } two = {((int32_t)n + 127) << 23};
    return p * two.f;
}

static inline float sum_of(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

static void normalise(const float *x, const float *weight, float *out, int n, float eps) {
    vec squares = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) squares += *(const vec *)(x + i) * *(const vec *)(x + i);
    float total = sum_of(squares);
    for (; i < n; i++) total += x[i] * x[i];
    float factor = 1.0f / sqrtf(total / n + eps);
    for (i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
}

static void quantize(const float *x, int n, int padded, uint8_t *out, float *scale, int32_t *sums) {
    float largest = 1e-8f;
    for (int i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        largest = size > largest ? size : largest;
    }
    float inverse = 127.0f / largest;
    for (int i = 0; i < n; i++) out[i] = (uint8_t)(int32_t)(x[i] * inverse + 128.5f);
    memset(out + n, 128, padded - n);
    *scale = largest / 127.0f;
    for (int g = 0; g < padded / GROUP; g++) {
        int32_t total = 0;
        for (int i = 0; i < GROUP; i++) total += out[g * GROUP + i];
        sums[g] = total - 128 * GROUP;
    }
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
typedef __m512i ints;
static inline ints load_ints(const void *p) { return _mm512_loadu_si512(p); }
static inline ints four_of(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}
// Sixteen sums, each of four products: unsigned bytes times signed bytes.
static inline ints dot(ints sum, ints u8, ints s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }
static inline ints signed_of(ints u8) { return _mm512_xor_si512(u8, _mm512_set1_epi8((char)0x80)); }
static inline ints low_nibbles(ints v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
static inline ints high_nibbles(ints v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
static inline vec floats_of(ints v) { return (vec)_mm512_cvtepi32_ps(v); }
static inline ints no_ints(void) { return _mm512_setzero_si512(); }
static inline vec floats_of_bytes(const int8_t *p) {
    return floats_of(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
#else
typedef int32_t ints __attribute__((vector_size(64), aligned(4)));
typedef union { ints v; uint8_t u[64]; int8_t s[64]; } bytes;
static inline ints load_ints(const void *p) { return *(const ints *)p; }
static inline ints four_of(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return (ints){0} + four;
}
static inline ints dot(ints sum, ints u8, ints s8) {
    bytes a = {u8}, b = {s8};
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) sum[i] += a.u[4 * i + j] * b.s[4 * i + j];
    return sum;
}
static inline ints signed_of(ints u8) { return u8 ^ ((ints){0} + (int32_t)0x80808080); }
static inline ints low_nibbles(ints v) { return v & 0x0f0f0f0f; }
static inline ints high_nibbles(ints v) { return (v >> 4) & 0x0f0f0f0f; }
static inline vec floats_of(ints v) { return __builtin_convertvector(v, vec); }
static inline ints no_ints(void) { return (ints){0}; }
static inline vec floats_of_bytes(const int8_t *p) {
    typedef int8_t lanes __attribute__((vector_size(LANES), aligned(1)));
    return __builtin_convertvector(*(const lanes *)p, vec);
}
#endif

// MR rows times NB blocks of sixteen outputs, held in registers.
static inline __attribute__((always_inline)) void tile8(
    const int MR, const int NB, const Linear *w, int block, const uint8_t *x, const float *scales,
    float *out, int stride) {
    ints sums[4][4];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NB; j++) sums[i][j] = no_ints();
    const uint8_t *packed = w->packed + (size_t)block * w->padded * LANES;
    const size_t step = (size_t)w->padded * LANES;
    for (int k = 0; k < w->padded; k += 4) {
        ints columns[4];
        for (int j = 0; j < NB; j++) columns[j] = load_ints(packed + j * step + (size_t)k * LANES);
        for (int i = 0; i < MR; i++) {
            ints four = four_of(x + (size_t)i * w->padded + k);
            for (int j = 0; j < NB; j++) sums[i][j] = dot(sums[i][j], four, columns[j]);
        }
    }
    for (int j = 0; j < NB; j++) {
        int at = (block + j) * LANES;
        vec centre = floats_of(load_ints((const int32_t *)w->offset + at)) * 128.0f;
        vec scale = *(const vec *)(w->scale + at);
        vec bias = w->bias ? *(const vec *)(w->bias + at) : (vec){0};
        for (int i = 0; i < MR; i++)
            *(vec *)(out + (size_t)i * stride + at) =
                (floats_of(sums[i][j]) - centre) * scale * scales[i] + bias;
    }
}

// As tile8 over 4-bit codes: code * scale + low, one pair per group of 32 columns and output.
static inline __attribute__((always_inline)) void tile4(
    const int MR, const int NB, const Linear *w, int block, const uint8_t *x, const float *scales,
    const int32_t *group_sums, float *out, int stride) {
    vec totals[4][4];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NB; j++) totals[i][j] = (vec){0};
    const int n_groups = w->padded / GROUP;
    const size_t step = (size_t)w->padded * LANES / 2;
    const uint8_t *packed = w->packed + block * step;
    for (int g = 0; g < n_groups; g++) {
        ints sums[4][4];
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NB; j++) sums[i][j] = no_ints();
        for (int k = 0; k < GROUP; k += 8) {
            ints low[4], high[4];
            for (int j = 0; j < NB; j++) {
                ints both = load_ints(packed + j * step + (size_t)(g * GROUP + k) * LANES / 2);
                low[j] = low_nibbles(both);
                high[j] = high_nibbles(both);
            }
            for (int i = 0; i < MR; i++) {
                const uint8_t *row = x + (size_t)i * w->padded + g * GROUP + k;
                ints first = signed_of(four_of(row)), second = signed_of(four_of(row + 4));
                for (int j = 0; j < NB; j++)
                    sums[i][j] = dot(dot(sums[i][j], low[j], first), high[j], second);
            }
        }
        for (int j = 0; j < NB; j++) {
            size_t at = ((size_t)(block + j) * n_groups + g) * LANES;
            vec scale = *(const vec *)(w->scale + at);
            vec low = *(const vec *)((const float *)w->offset + at);
            for (int i = 0; i < MR; i++)
                totals[i][j] += floats_of(sums[i][j]) * scale + low * (float)group_sums[i * n_groups + g];
        }
    }
    for (int j = 0; j < NB; j++) {
        int at = (block + j) * LANES;
        vec bias = w->bias ? *(const vec *)(w->bias + at) : (vec){0};
        for (int i = 0; i < MR; i++)
            *(vec *)(out + (size_t)i * stride + at) = totals[i][j] * scales[i] + bias;
    }
}

#define TILE(MR, NB)                                                                           \
    do {                                                                                       \
        if (w->bits == 8) tile8(MR, NB, w, block, x, scales + m, to, stride);                  \
        else tile4(MR, NB, w, block, x, scales + m, sums + (size_t)m * n_groups, to, stride);  \
    } while (0)

#define TILES(NB)                                     \
    do {                                              \
        if (left >= 4) TILE(4, NB);                   \
        else if (left == 3) TILE(3, NB);              \
        else if (left == 2) TILE(2, NB);              \
        else TILE(1, NB);                             \
    } while (0)

// out [n][stride] = x [n][columns] times w; `stride` is w's rows rounded up to sixteen.
static void multiply(const Linear *w, const float *in, int n, float *out, int stride,
                     uint8_t *rounded, float *scales, int32_t *sums, int n_threads) {
    const int n_groups = w->padded / GROUP, n_blocks = (w->rows + LANES - 1) / LANES;
    for (int m = 0; m < n; m++)
        quantize(in + (size_t)m * w->columns, w->columns, w->padded,
                 rounded + (size_t)m * w->padded, scales + m, sums + (size_t)m * n_groups);
#pragma omp parallel for num_threads(n_threads) if (n_threads > 1)
    for (int block = 0; block < n_blocks; block += 4) {
        int blocks_left = n_blocks - block;
        for (int m = 0; m < n; m += 4) {
            int left = n - m;
            const uint8_t *x = rounded + (size_t)m * w->padded;
            float *to = out + (size_t)m * stride;
            if (blocks_left >= 4) TILES(4);
            else if (blocks_left == 3) TILES(3);
            else if (blocks_left == 2) TILES(2);
            else TILES(1);
        }
    }
}

static inline vec sixteen_of(const int KV8, const void *cache, size_t at) {
    return KV8 ? floats_of_bytes((const int8_t *)cache + at) : *(const vec *)((const float *)cache + at);
}

// Attention of up to MAX_QUERIES queries that share one kv head; query q sees seen[q] positions.
static inline __attribute__((always_inline)) void attend_block(
    const int NQ, const int KV8, const Model *m, const Cache *cache, const int32_t *pages, int head,
    const float *const *queries, const int *seen, float *const *outs, float *scores, int longest) {
    const int dim = m->dim, n_pages = (longest + LANES - 1) / LANES, wide = n_pages * LANES;
    const float factor = 1.0f / sqrtf((float)dim);
    for (int p = 0; p < n_pages; p++) {
        const size_t at = (size_t)pages[p] * m->n_kv_heads + head;
        vec sums[MAX_QUERIES], by = (vec){0} + factor;
        if (KV8) by *= *(const vec *)(cache->key_scales + at * LANES);
        for (int q = 0; q < NQ; q++) sums[q] = (vec){0};
        for (int d = 0; d < dim; d++) {
            vec k = sixteen_of(KV8, cache->keys, (at * dim + d) * LANES);
            for (int q = 0; q < NQ; q++) sums[q] += k * queries[q][d];
        }
        for (int q = 0; q < NQ; q++) *(vec *)(scores + (size_t)q * wide + p * LANES) = sums[q] * by;
    }
    float inverse[MAX_QUERIES];
    for (int q = 0; q < NQ; q++) {
        float *score = scores + (size_t)q * wide, largest = -INFINITY;
        for (int t = 0; t < seen[q]; t++) largest = score[t] > largest ? score[t] : largest;
        for (int t = 0; t < seen[q]; t++) score[t] = exp_of(score[t] - largest);
        for (int t = seen[q]; t < wide; t++) score[t] = 0;
        vec total = {0};
        for (int t = 0; t < wide; t += LANES) total += *(const vec *)(score + t);
        inverse[q] = 1.0f / sum_of(total);
        for (int p = 0; KV8 && p < n_pages; p++)
            *(vec *)(score + p * LANES) *=
                *(const vec *)(cache->value_scales + ((size_t)pages[p] * m->n_kv_heads + head) * LANES);
    }
    for (int d = 0; d < dim; d += LANES) {
        vec sums[MAX_QUERIES];
        for (int q = 0; q < NQ; q++) sums[q] = (vec){0};
        for (int p = 0; p < n_pages; p++) {
            const size_t at = ((size_t)pages[p] * m->n_kv_heads + head) * LANES * dim + d;
            // The rest of the last page was never written: zero times garbage may be NaN.
            int n = longest - p * LANES < LANES ? longest - p * LANES : LANES;
            for (int t = 0; t < n; t++) {
                vec v = sixteen_of(KV8, cache->values, at + (size_t)t * dim);
                for (int q = 0; q < NQ; q++) sums[q] += v * scores[(size_t)q * wide + p * LANES + t];
            }
        }
        for (int q = 0; q < NQ; q++) *(vec *)(outs[q] + d) = sums[q] * inverse[q];
    }
}

#define ATTEND(NQ)                                                                                    \
    do {                                                                                              \
        if (cache.key_scales)                                                                         \
            attend_block(NQ, 1, m, &cache, own, head, queries, seen, outs, scores, furthest);         \
        else attend_block(NQ, 0, m, &cache, own, head, queries, seen, outs, scores, furthest);        \
    } while (0)

// The place of a layer's first page in the cache, in elements and in scales.
static size_t layer_at(const Model *m, int layer) { return (size_t)layer * m->n_pages * m->n_kv_heads * LANES; }

static Cache cache_of(const Model *m, int layer) {
    size_t at = layer_at(m, layer), bytes = at * m->dim * (m->key_scales ? 1 : sizeof(float));
    Cache cache = {(const char *)m->keys + bytes, (const char *)m->values + bytes, NULL, NULL};
    if (m->key_scales) cache.key_scales = m->key_scales + at, cache.value_scales = m->value_scales + at;
    return cache;
}

static void attend(const Model *m, int layer, const Span *span, const int32_t *pages,
                   const float *qkv, int stride, float *out, float *all_scores, int longest) {
    const Cache cache = cache_of(m, layer);
    const int group = m->n_heads / m->n_kv_heads, dim = m->dim;
    const int per_block = group >= MAX_QUERIES ? 1 : MAX_QUERIES / group;
    const int n_blocks = (span->n_rows + per_block - 1) / per_block;
    const size_t score_size = (size_t)MAX_QUERIES * (longest + LANES);
#pragma omp parallel for num_threads(m->n_threads) if (m->n_threads > 1 && n_blocks * m->n_kv_heads > 1)
    for (int job = 0; job < n_blocks * m->n_kv_heads; job++) {
        int head = job % m->n_kv_heads, first = job / m->n_kv_heads * per_block;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        float *scores = all_scores + score_size * omp_get_thread_num();
#else
        float *scores = all_scores;
#endif
        int n_rows = span->n_rows - first < per_block ? span->n_rows - first : per_block;
        for (int g = 0; g < group; g += MAX_QUERIES) {
            const float *queries[MAX_QUERIES];
            float *outs[MAX_QUERIES];
            int seen[MAX_QUERIES], n = 0, furthest = 0;
            for (int r = 0; r < n_rows; r++)
                for (int h = g; h < group && h < g + MAX_QUERIES; h++, n++) {
                    size_t row = span->first + first + r;
                    int at = (head * group + h) * dim;
                    queries[n] = qkv + row * stride + at;
                    outs[n] = out + row * m->n_heads * dim + at;
                    seen[n] = span->position + first + r + 1;
                    furthest = seen[n];
                }
            const int32_t *own = pages + span->first_page;
            switch (n) {
                case 1: ATTEND(1); break;
                case 2: ATTEND(2); break;
                case 4: ATTEND(4); break;
                case 8: ATTEND(8); break;
                default: ATTEND(n);
            }
        }
    }
}

static void rotate(float *x, const float *cosines, const float *sines, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] - second * sines[i];
        x[i + half] = second * cosines[i] + first * sines[i];
    }
}

// Write x as 8-bit integers, `step` apart, and return their scale.
static float round_to_bytes(const float *x, int n, int8_t *out, int step) {
    float largest = 1e-8f;
    for (int i = 0; i < n; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    for (int i = 0; i < n; i++) out[i * step] = (int8_t)((int32_t)(x[i] * (127.0f / largest) + 128.5f) - 128);
    return largest / 127.0f;
}

// Norm and rotate a row's queries and keys in place, then store its key and value.
static void place(const Model *m, int layer, const Layer *l, float *row, int position, int32_t page) {
    const int dim = m->dim, offset = position % LANES;
    const float *cosines = m->cosines + (size_t)position * (dim / 2);
    const float *sines = m->sines + (size_t)position * (dim / 2);
    for (int h = 0; h < m->n_heads + m->n_kv_heads; h++) {
        float *x = row + h * dim;
        const float *norm = h < m->n_heads ? l->q_norm : l->k_norm;
        if (norm) normalise(x, norm, x, dim, m->eps);
        rotate(x, cosines, sines, dim);
    }
    const float *k = row + m->n_heads * dim, *v = k + m->n_kv_heads * dim;
    for (int h = 0; h < m->n_kv_heads; h++) {
        const size_t at = layer_at(m, layer) + ((size_t)page * m->n_kv_heads + h) * LANES;
        const size_t key_at = at * dim + offset, value_at = at * dim + (size_t)offset * dim;
        if (m->key_scales) {
            int8_t *keys = (int8_t *)m->keys + key_at, *values = (int8_t *)m->values + value_at;
            m->key_scales[at + offset] = round_to_bytes(k + h * dim, dim, keys, LANES);
            m->value_scales[at + offset] = round_to_bytes(v + h * dim, dim, values, 1);
        } else {
            float *key = (float *)m->keys + key_at;
            for (int d = 0; d < dim; d++) key[d * LANES] = k[h * dim + d];
            memcpy((float *)m->values + value_at, v + h * dim, dim * sizeof(float));
        }
    }
}

static int up(int n, int to) { return (n + to - 1) / to * to; }
static int most(int a, int b) { return a > b ? a : b; }

// Returns 0, or 1 when there is no memory for the step's intermediate values.
int tw_forward(const Model *m, int rows, const int32_t *tokens, int n_spans, const Span *spans,
               const int32_t *pages, int n_wanted, const int32_t *wanted, float *logits) {
    const int hidden = m->hidden, inter = m->intermediate, q_size = m->n_heads * m->dim;
    const int qkv_stride = up(q_size + 2 * m->n_kv_heads * m->dim, LANES);
    const int gate_stride = up(2 * inter, LANES), hidden_stride = up(hidden, LANES);
    const int widest = up(most(most(hidden, inter), q_size), GROUP), n_threads = m->n_threads;
    int longest = 0;
    for (int s = 0; s < n_spans; s++) longest = most(longest, spans[s].position + spans[s].n_rows);
    const size_t n = most(rows, n_wanted);
    const size_t sizes[] = {
        n * hidden, n * hidden, n * qkv_stride, n * q_size, n * gate_stride, n * inter,
        n * hidden_stride, n, n * (widest / GROUP), (n * widest + 3) / 4,
        (size_t)n_threads * MAX_QUERIES * (longest + LANES)};
    float *parts[11];
    size_t total = 0;
    for (int i = 0; i < 11; i++) total += (sizes[i] + 31) / 16 * 16;
    float *memory = aligned_alloc(64, (total * sizeof(float) + 63) / 64 * 64);
    if (!memory) return 1;
    float *next = memory;
    for (int i = 0; i < 11; i++) parts[i] = next, next += (sizes[i] + 31) / 16 * 16;
    float *x = parts[0], *normed = parts[1], *qkv = parts[2], *attended = parts[3];
    float *gate = parts[4], *mixed = parts[5], *added = parts[6], *scales = parts[7];
    int32_t *sums = (int32_t *)parts[8];
    uint8_t *rounded = (uint8_t *)parts[9];
    float *scores = parts[10];

    for (int r = 0; r < rows; r++) {
        const int8_t *row = m->embedding + (size_t)tokens[r] * hidden;
        float scale = m->embedding_scale[tokens[r]];
        for (int i = 0; i < hidden; i++) x[(size_t)r * hidden + i] = row[i] * scale;
    }
    for (int at = 0; at < m->n_layers; at++) {
        const Layer *l = m->layers + at;
        for (int r = 0; r < rows; r++)
            normalise(x + (size_t)r * hidden, l->norm, normed + (size_t)r * hidden, hidden, m->eps);
        multiply(&l->qkv, normed, rows, qkv, qkv_stride, rounded, scales, sums, n_threads);
        for (int s = 0; s < n_spans; s++)
            for (int r = 0; r < spans[s].n_rows; r++) {
                int position = spans[s].position + r;
                place(m, at, l, qkv + (size_t)(spans[s].first + r) * qkv_stride, position,
                      pages[spans[s].first_page + position / LANES]);
            }
        for (int s = 0; s < n_spans; s++)
            attend(m, at, spans + s, pages, qkv, qkv_stride, attended, scores, longest);
        multiply(&l->out, attended, rows, added, hidden_stride, rounded, scales, sums, n_threads);
        for (int r = 0; r < rows; r++) {
            float *row = x + (size_t)r * hidden, *more = added + (size_t)r * hidden_stride;
            for (int i = 0; i < hidden; i++) row[i] += more[i];
            normalise(row, l->mlp_norm, normed + (size_t)r * hidden, hidden, m->eps);
        }
        multiply(&l->gate_up, normed, rows, gate, gate_stride, rounded, scales, sums, n_threads);
        for (int r = 0; r < rows; r++) {
            const float *g = gate + (size_t)r * gate_stride, *u = g + inter;
            float *to = mixed + (size_t)r * inter;
            for (int i = 0; i < inter; i++) to[i] = g[i] / (1.0f + exp_of(-g[i])) * u[i];
        }
        multiply(&l->down, mixed, rows, added, hidden_stride, rounded, scales, sums, n_threads);
        for (int r = 0; r < rows; r++) {
            float *row = x + (size_t)r * hidden, *more = added + (size_t)r * hidden_stride;
            for (int i = 0; i < hidden; i++) row[i] += more[i];
        }
    }
    for (int i = 0; i < n_wanted; i++)
        normalise(x + (size_t)wanted[i] * hidden, m->norm, normed + (size_t)i * hidden, hidden, m->eps);
    if (n_wanted)
        multiply(&m->head, normed, n_wanted, logits, up(m->vocabulary, LANES), rounded, scales, sums, n_threads);
    free(memory);
    return 0;
}
