/* What instructions that the testing machine lacks compute, lane by lane. */
#include <stdint.h>
#include <string.h>

typedef int8_t bytes16 __attribute__((vector_size(16)));
typedef int8_t bytes8 __attribute__((vector_size(8)));
typedef int16_t halves8 __attribute__((vector_size(16)));
typedef int32_t words4 __attribute__((vector_size(16)));
typedef float floats4 __attribute__((vector_size(16)));

words4 emulated_sdot(words4 sum, bytes16 a, bytes16 b) {
  for (int i = 0; i < 16; i++) sum[i / 4] += a[i] * b[i];
  return sum;
}

words4 emulated_usdot(words4 sum, bytes16 a, bytes16 b) {
  for (int i = 0; i < 16; i++) sum[i / 4] += (uint8_t)a[i] * b[i];
  return sum;
}

words4 emulated_usmmla(words4 sum, bytes16 a, bytes16 b) {
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++)
      for (int k = 0; k < 8; k++) sum[2 * i + j] += (uint8_t)a[8 * i + k] * b[8 * j + k];
  return sum;
}

halves8 emulated_smull(bytes8 a, bytes8 b) {
  halves8 product;
  for (int i = 0; i < 8; i++) product[i] = a[i] * b[i];
  return product;
}

halves8 emulated_addp(halves8 a, halves8 b) {
  halves8 sum;
  for (int i = 0; i < 4; i++) sum[i] = a[2 * i] + a[2 * i + 1], sum[4 + i] = b[2 * i] + b[2 * i + 1];
  return sum;
}

words4 emulated_saddlp(halves8 a) {
  words4 sum;
  for (int i = 0; i < 4; i++) sum[i] = a[2 * i] + a[2 * i + 1];
  return sum;
}

static float widened(uint16_t bits) {
  uint32_t word = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

floats4 emulated_bfdot(floats4 sum, halves8 a, halves8 b) {
  for (int i = 0; i < 8; i++) sum[i / 2] += widened(a[i]) * widened(b[i]);
  return sum;
}

/* Tiles of AMX. A product of tiles whose shapes do not fit leaves a sum that no test expects. */
enum { TILES = 8, ROWS = 16, LINE = 64, WRONG = 0x7f };
static _Thread_local struct { uint8_t palette, rest[15]; uint16_t widths[16]; uint8_t heights[16]; } shapes;
static _Thread_local uint8_t tiles[TILES][ROWS][LINE];

void emulated_ldtilecfg(const void *from) { memcpy(&shapes, from, sizeof shapes), memset(tiles, 0, sizeof tiles); }
void emulated_tilerelease(void) { memset(&shapes, 0, sizeof shapes); }
void emulated_tilezero(int8_t tile) { memset(tiles[tile], 0, sizeof tiles[tile]); }

void emulated_tileloadd64(int8_t tile, const char *from, int64_t stride) {
  memset(tiles[tile], 0, sizeof tiles[tile]);
  for (int row = 0; row < shapes.heights[tile]; row++)
    memcpy(tiles[tile][row], from + row * stride, shapes.widths[tile]);
}

void emulated_tilestored64(int8_t tile, char *to, int64_t stride) {
  for (int row = 0; row < shapes.heights[tile]; row++)
    memcpy(to + row * stride, tiles[tile][row], shapes.widths[tile]);
}

static int fit(int sum, int left, int right) {
  const uint16_t *widths = shapes.widths;
  const uint8_t *heights = shapes.heights;
  int legal = shapes.palette == 1;
  for (int tile = 0; tile < TILES; tile++) legal &= widths[tile] <= LINE && heights[tile] <= ROWS;
  return legal && heights[sum] == heights[left] && widths[sum] == widths[right] && widths[left] == 4 * heights[right];
}

void emulated_tdpbsud(int8_t sum, int8_t left, int8_t right) {
  if (!fit(sum, left, right)) { memset(tiles[sum], WRONG, sizeof tiles[sum]); return; }
  for (int m = 0; m < shapes.heights[sum]; m++)
    for (int n = 0; n < shapes.widths[sum] / 4; n++) {
      int32_t value;
      memcpy(&value, &tiles[sum][m][4 * n], 4);
      for (int k = 0; k < shapes.widths[left]; k++)
        value += (int8_t)tiles[left][m][k] * tiles[right][k / 4][4 * n + k % 4];
      memcpy(&tiles[sum][m][4 * n], &value, 4);
    }
}

void emulated_tdpbf16ps(int8_t sum, int8_t left, int8_t right) {
  if (!fit(sum, left, right)) { memset(tiles[sum], WRONG, sizeof tiles[sum]); return; }
  for (int m = 0; m < shapes.heights[sum]; m++)
    for (int n = 0; n < shapes.widths[sum] / 4; n++) {
      float value;
      memcpy(&value, &tiles[sum][m][4 * n], 4);
      for (int k = 0; k < shapes.widths[left] / 2; k++) {
        uint16_t a, b;
        memcpy(&a, &tiles[left][m][2 * k], 2);
        memcpy(&b, &tiles[right][k / 2][4 * n + 2 * (k % 2)], 2);
        value += widened(a) * widened(b);
      }
      memcpy(&tiles[sum][m][4 * n], &value, 4);
    }
}
