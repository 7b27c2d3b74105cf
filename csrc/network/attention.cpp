// SPDX-License-Identifier: Apache-2.0
// Scores of a few queries at a time: never the whole matrix. Arithmetic is float32 whatever the maps are.
#include <algorithm>
#include <vector>

#include "network/network.h"
#include "network/tiles.h"

namespace fastdet::network {
namespace {

Index padded(Index count, Index step) { return (count + step - 1) / step * step; }

float value_at(const char* pixel, bool half, Index channel) {
  if (!half) return reinterpret_cast<const float*>(pixel)[channel];
  return to_float(reinterpret_cast<const BFloat16*>(pixel)[channel]);
}

// Scratch of one head: queries [positions][key_dim], keys [blocks of 32 positions][key_dim][32], values [blocks of 32
// channels][positions padded to 32][32].
struct Parts {
  explicit Parts(Index positions, Index key_dim, Index value_dim)
      : keys(positions * key_dim),
        values(keys + padded(positions, 32) * key_dim),
        total(values + padded(positions, 32) * padded(value_dim, 32)) {}
  Index keys, values, total;
};

class Pack final : public Step {
 public:
  explicit Pack(const Attention& attention) : all_(attention) { items = attention.heads; }

  void run(Index head, const Context& context) const override {
    const Map& qkv = all_.qkv;
    const Index positions = qkv.height * qkv.width, keys_padded = padded(positions, 32);
    const Parts parts(positions, all_.key_dim, all_.value_dim);
    float* scratch = reinterpret_cast<float*>(context.at(all_.scratch)) + head * parts.total;
    const Index first = head * (2 * all_.key_dim + all_.value_dim), lanes = padded(all_.value_dim, 32);
    std::fill(scratch + parts.keys, scratch + parts.total, 0.0f);
    for (Index i = 0; i < positions; ++i) {
      const char* pixel = context.at(qkv) + (i / qkv.width * qkv.row + i % qkv.width * qkv.pixel) * (qkv.half ? 2 : 4);
      for (Index d = 0; d < all_.key_dim; ++d) {
        scratch[i * all_.key_dim + d] = value_at(pixel, qkv.half, first + d) * all_.scale;
        scratch[parts.keys + (i / 32 * all_.key_dim + d) * 32 + i % 32] = value_at(pixel, qkv.half, first + all_.key_dim + d);
      }
      for (Index d = 0; d < std::min(lanes, all_.value_dim); ++d) {
        scratch[parts.values + (d / 32 * keys_padded + i) * 32 + d % 32] =
            value_at(pixel, qkv.half, first + 2 * all_.key_dim + d);
      }
    }
  }

 private:
  Attention all_;
};

class Mix final : public Step {
 public:
  explicit Mix(const Attention& attention) : all_(attention) { items = attention.heads * attention.qkv.height; }

  void run(Index item, const Context& context) const override {
    const Index head = item / all_.qkv.height, y = item % all_.qkv.height, width = all_.qkv.width;
    const Index positions = all_.qkv.height * width, count = padded(positions, 32);
    const Parts parts(positions, all_.key_dim, all_.value_dim);
    const float* scratch = reinterpret_cast<const float*>(context.at(all_.scratch)) + head * parts.total;
    const std::unique_ptr<float[]> scores(new float[static_cast<std::size_t>(kMaxPixels * count)]);
    alignas(64) float sums[kMaxPixels * 32];
    const Index zero = 0;
    for (Index x = 0; x < width; x += kMaxPixels) {
      const Index pixels = std::min(kMaxPixels, width - x);
      const Multiply product = multiply(pixels, 2, false);
      for (Index key = 0; key < count; key += 32) {
        product(reinterpret_cast<const std::uint32_t*>(scratch + (y * width + x) * all_.key_dim), all_.key_dim, &zero, 1,
                all_.key_dim, reinterpret_cast<const std::uint32_t*>(scratch + parts.keys + key * all_.key_dim), sums);
        for (Index m = 0; m < pixels; ++m) std::copy(sums + 32 * m, sums + 32 * (m + 1), scores.get() + m * count + key);
      }
      for (Index m = 0; m < pixels; ++m) softmax(scores.get() + m * count, positions, count);
      for (Index d = 0; d < all_.value_dim; d += 32) {
        product(reinterpret_cast<const std::uint32_t*>(scores.get()), count, &zero, 1, count,
                reinterpret_cast<const std::uint32_t*>(scratch + parts.values + d * count), sums);
        const Map& out = all_.mixed;
        Finish to{};
        to.out = context.at(out) + (y * out.row + x * out.pixel + head * all_.value_dim + d) * (out.half ? 2 : 4);
        to.out_pixel = out.pixel;
        to.out_half = out.half;
        finish(to, sums, pixels, 32, std::min<Index>(32, all_.value_dim - d));
      }
    }
  }

 private:
  Attention all_;
};

}  // namespace

Index attention_scratch(Index positions, Index heads, Index key_dim, Index value_dim) {
  return heads * Parts(positions, key_dim, value_dim).total;
}

std::unique_ptr<Step> attention_pack(const Attention& attention) { return std::make_unique<Pack>(attention); }
std::unique_ptr<Step> attention_mix(const Attention& attention) { return std::make_unique<Mix>(attention); }

}  // namespace fastdet::network
