// SPDX-License-Identifier: Apache-2.0
// One pixel of a composition: where it comes from, what lies there, its colour. OpenCV 5's arithmetic, see docs/ops/compose.md.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"

namespace fastdet {

// A picture on a canvas. It shows in [x1, x2) x [y1, y2), a rectangle inside the canvas and the picture, where the mask is not 0.
struct ComposeTile {
  const std::uint8_t* image;  // pixel (0, 0), channel 0
  const std::uint8_t* mask;   // pixel (0, 0); null shows everything
  std::int64_t row_stride, mask_row_stride;
  std::int32_t pixel_stride, channel_stride, mask_pixel_stride;  // bytes, like the others; any sign
  std::int32_t left, top;                                        // canvas position of pixel (0, 0)
  std::int32_t x1, y1, x2, y2;
  std::int32_t right;  // left + width of the picture
};

// A canvas with its tiles, later ones over earlier ones, and the way from an output pixel to the canvas.
struct ComposeLayer {
  std::int32_t tile_begin, tile_end;
  std::int32_t height, width;  // of the canvas
  float map[9];                // row by row
  std::int32_t projective;     // 0: the last row of the map is 0, 0, 1
};

// ---- positions ----

struct ComposeRow {
  float x, y, w;
};
struct ComposePosition {
  std::int32_t x, y;  // canvas pixel to the upper left; (-2, -2) where everything around is outside
  float along, down;  // share of its right and lower neighbours
};

constexpr std::int32_t kComposeOutside = -2;
constexpr std::int32_t kComposeMaxSide = 1 << 20;  // of a canvas: its positions are exact in float

FD_HD ComposeRow compose_row(const ComposeLayer& layer, std::int32_t y) {
  const float* const m = layer.map;
  const auto at = static_cast<float>(y);
  return {at * m[1] + m[2], at * m[4] + m[5], at * m[7] + m[8]};
}

// NaN is outside.
template <bool kProjective>
FD_HD ComposePosition compose_position(const ComposeLayer& layer, const ComposeRow& row, std::int32_t x) {
  const auto at = static_cast<float>(x);
  float sx = fmaf(at, layer.map[0], row.x), sy = fmaf(at, layer.map[3], row.y);
  if (kProjective) {
    const float w = fmaf(at, layer.map[6], row.w);
    sx = sx / w;
    sy = sy / w;
  }
  const bool inside =
      (sx >= -1.0f) & (sx < static_cast<float>(layer.width)) & (sy >= -1.0f) & (sy < static_cast<float>(layer.height));
  sx = inside ? sx : static_cast<float>(kComposeOutside);
  sy = inside ? sy : static_cast<float>(kComposeOutside);
  const float whole_x = floorf(sx), whole_y = floorf(sy);
  return {static_cast<std::int32_t>(whole_x), static_cast<std::int32_t>(whole_y), sx - whole_x, sy - whole_y};
}

// ---- pixels around a position ----

FD_HD const std::uint8_t* compose_pixel(const ComposeTile& tile, std::int32_t x, std::int32_t y) {
  return tile.image + (y - tile.top) * tile.row_stride + std::int64_t{x - tile.left} * tile.pixel_stride;
}

FD_HD bool compose_shows(const ComposeTile& tile, std::int32_t x, std::int32_t y) {
  if (x < tile.x1 || x >= tile.x2 || y < tile.y1 || y >= tile.y2) return false;
  if (tile.mask == nullptr) return true;
  return tile.mask[(y - tile.top) * tile.mask_row_stride + std::int64_t{x - tile.left} * tile.mask_pixel_stride] != 0;
}

// The uppermost tile that shows at a canvas pixel, or null.
FD_HD const ComposeTile* compose_tile_at(const ComposeTile* tiles, const ComposeLayer& layer, std::int32_t x, std::int32_t y) {
  for (std::int32_t i = layer.tile_end - 1; i >= layer.tile_begin; --i) {
    if (compose_shows(tiles[i], x, y)) return &tiles[i];
  }
  return nullptr;
}

// From p to q; t in [0, 1].
FD_HD float compose_between(float p, float q, float t) { return fmaf(t, q - p, p); }
FD_HD std::uint8_t compose_round(float value) { return static_cast<std::uint8_t>(static_cast<std::int32_t>(rintf(value))); }

// Colour at a position, whatever lies around it.
FD_HD void compose_sample(const ComposeTile* tiles, const ComposeLayer& layer, const std::uint8_t (&fill)[3],
                          const ComposePosition& at, std::uint8_t (&colour)[3]) {
  const std::uint8_t* pixel[4];
  std::int32_t stride[4];
  for (std::int32_t k = 0; k < 4; ++k) {
    const std::int32_t x = at.x + (k & 1), y = at.y + (k >> 1);
    const ComposeTile* const tile = compose_tile_at(tiles, layer, x, y);
    pixel[k] = tile == nullptr ? fill : compose_pixel(*tile, x, y);
    stride[k] = tile == nullptr ? 1 : tile->channel_stride;
  }
  for (std::int32_t c = 0; c < 3; ++c) {
    float corner[4];
    for (std::int32_t k = 0; k < 4; ++k) corner[k] = static_cast<float>(pixel[k][std::int64_t{c} * stride[k]]);
    const float upper = compose_between(corner[0], corner[1], at.along), lower = compose_between(corner[2], corner[3], at.along);
    colour[c] = compose_round(compose_between(upper, lower, at.down));
  }
}

// Mixup: share of a and of b, which are the caller's blend and 1 - blend.
FD_HD std::uint8_t compose_blend(std::uint8_t a, std::uint8_t b, double share_a, double share_b) {
  return static_cast<std::uint8_t>(
      static_cast<std::int32_t>(static_cast<double>(a) * share_a + static_cast<double>(b) * share_b));
}

// ---- 8-bit HSV ----

struct ComposeHsv {
  std::int32_t hue, saturation, value;  // hue in [0, 180)
};
struct ComposeRgb {
  std::int32_t red, green, blue;
};

// round(numerator / denominator) in 2^-12, halves to even: the float quotient rounds to the same integer for all that occur.
FD_HD std::int32_t compose_quotient(float numerator, std::int32_t denominator) {
  return static_cast<std::int32_t>(rintf(numerator / static_cast<float>(denominator)));
}

FD_HD ComposeHsv compose_to_hsv(std::int32_t r, std::int32_t g, std::int32_t b) {
  const std::int32_t high = g > b ? g : b, low = g < b ? g : b;
  const std::int32_t value = r > high ? r : high, span = value - (r < low ? r : low);
  // Where a divisor is 0, what it divides is 0 too.
  const std::int32_t per_value = compose_quotient(255.0f * 4096.0f, value > 1 ? value : 1);
  const std::int32_t per_span = compose_quotient(30.0f * 4096.0f, span > 1 ? span : 1);
  const std::int32_t from_green = b - r + 2 * span, from_blue = r - g + 4 * span;
  const std::int32_t angle = value == r ? g - b : value == g ? from_green : from_blue;
  const std::int32_t hue = (angle * per_span + 2048) >> 12;
  return {hue < 0 ? hue + 180 : hue, (span * per_value + 2048) >> 12, value};
}

// Hues up to 255 go on around the circle. Results are cut off.
FD_HD ComposeRgb compose_to_rgb(std::int32_t hue, std::int32_t saturation, std::int32_t value) {
  const float s = static_cast<float>(saturation) * (1.0f / 255.0f), v = static_cast<float>(value) * (1.0f / 255.0f);
  const float sixths = static_cast<float>(hue) * (6.0f / 180.0f);
  const auto whole = static_cast<std::int32_t>(sixths);
  const float part = sixths - static_cast<float>(whole);
  const std::int32_t sector = whole >= 6 ? whole - 6 : whole;
  const float low = v * (1.0f - s), falling = v * fmaf(-s, part, 1.0f), rising = v * fmaf(-s, 1.0f - part, 1.0f);
  const auto shade = [](float x) { return static_cast<std::int32_t>(x * 255.0f); };
  const std::int32_t v8 = shade(v), low8 = shade(low), falling8 = shade(falling), rising8 = shade(rising);
  // Differences where a sector has another shade than the lowest: no branches, so that loops over this become vectors.
  const std::int32_t to_v = v8 - low8, to_falling = falling8 - low8, to_rising = rising8 - low8;
  const auto in = [sector](std::int32_t a) { return -static_cast<std::int32_t>(sector == a); };
  return {low8 + ((in(0) | in(5)) & to_v) + (in(1) & to_falling) + (in(4) & to_rising),
          low8 + ((in(1) | in(2)) & to_v) + (in(3) & to_falling) + (in(0) & to_rising),
          low8 + ((in(3) | in(4)) & to_v) + (in(5) & to_falling) + (in(2) & to_rising)};
}

}  // namespace fastdet
