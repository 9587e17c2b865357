/* The multiresolution hash encoding (Instant-NGP, Mueller 2022, Sec. 3) of points, and the gradient of its table.

   points (count, 3); scalings (levels); table (levels * size, features), a level's part after the other's;
   codes (count, levels * features). Each call does the levels first ... last - 1, so that threads can share them.
   Sums are in the order of nerfstudio's torch code, so that the codes are equal to the last bit. */

#include <stdint.h>

typedef struct {
    uint32_t index[8]; /* rows in a level's part; bits 0, 1, 2: the upper neighbour along x, y, z */
    float upper[3], lower[3]; /* weights along the axes */
} Cell;

static inline Cell cell_of(const float *point, float scaling, uint32_t mask) {
    static const uint32_t primes[3] = {1u, 2654435761u, 805459861u};
    uint32_t hash[3][2];
    Cell cell;
    for (int axis = 0; axis < 3; axis++) {
        float x = point[axis] * scaling;
        int32_t floor = (int32_t)x;
        floor -= x < (float)floor;
        hash[axis][0] = (uint32_t)floor * primes[axis];
        hash[axis][1] = (uint32_t)(floor + (x > (float)floor)) * primes[axis];
        cell.upper[axis] = x - (float)floor;
        cell.lower[axis] = 1 - cell.upper[axis];
    }
    for (int i = 0; i < 8; i++)
        cell.index[i] = (hash[0][i & 1] ^ hash[1][i >> 1 & 1] ^ hash[2][i >> 2]) & mask;
    return cell;
}

static inline void encode_level(
    const float *points, int64_t count, float scaling, const float *table, uint32_t mask, int features, int stride,
    float *codes) {
    for (int64_t n = 0; n < count; n++) {
        Cell c = cell_of(points + 3 * n, scaling, mask);
        for (int f = 0; f < features; f++) {
            float x[4], y[2];
            for (int i = 0; i < 4; i++)
                x[i] = table[(int64_t)c.index[2 * i + 1] * features + f] * c.upper[0] +
                       table[(int64_t)c.index[2 * i] * features + f] * c.lower[0];
            for (int i = 0; i < 2; i++)
                y[i] = x[2 * i + 1] * c.upper[1] + x[2 * i] * c.lower[1];
            codes[n * stride + f] = y[1] * c.upper[2] + y[0] * c.lower[2];
        }
    }
}

static inline void gradient_level(
    const float *points, int64_t count, float scaling, float *table, uint32_t mask, int features, int stride,
    const float *codes) {
    for (int64_t n = 0; n < count; n++) {
        Cell c = cell_of(points + 3 * n, scaling, mask);
        for (int i = 0; i < 8; i++) {
            float weight = (i >> 2 ? c.upper[2] : c.lower[2]) * (i >> 1 & 1 ? c.upper[1] : c.lower[1]) *
                           (i & 1 ? c.upper[0] : c.lower[0]);
            for (int f = 0; f < features; f++)
                table[(int64_t)c.index[i] * features + f] += weight * codes[n * stride + f];
        }
    }
}

/* A constant number of features, which is 2 nearly always, lets the compiler unroll. */
#define LEVELS(function) \
    for (int level = first; level < last; level++) { \
        int64_t row = (int64_t)level * size * features; \
        if (features == 2) \
            function(points, count, scalings[level], table + row, size - 1, 2, 2 * levels, codes + 2 * level); \
        else \
            function(points, count, scalings[level], table + row, size - 1, features, features * levels, \
                     codes + features * level); \
    }

void encode(
    const float *points, int64_t count, const float *scalings, const float *table, float *codes, uint32_t size,
    int features, int levels, int first, int last) {
    LEVELS(encode_level)
}

/* Adds to the gradient of `table` what that of `codes` makes of it. */
void add_gradient(
    const float *points, int64_t count, const float *scalings, float *table, const float *codes, uint32_t size,
    int features, int levels, int first, int last) {
    LEVELS(gradient_level)
}
