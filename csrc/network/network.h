// SPDX-License-Identifier: Apache-2.0
// A deployed network on the CPU: steps over maps that lie pixel by pixel, all channels of a pixel side by side, in one arena.
// Maps have a border of zeros as wide as a convolution that reads them pads; the picture, in planes, has none and is read by
// convolutions only. Needs AVX-512; see unsupported().
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/numeric.h"

namespace fastdet::network {

using Index = std::int64_t;

enum class Activation { kNone, kRelu, kSilu, kLeakyRelu };

// Channels [first, first + channels) of all pixels of a buffer. Offsets and strides are in elements.
struct Map {
  Index place = -1;  // -1: the arena, else the number of the caller's array
  Index offset = 0;  // bytes from there to the first channel of pixel (0, 0)
  Index height = 0, width = 0, channels = 0;
  Index row = 0, pixel = 0;  // strides
  Index plane = 0;           // 0, or the stride between channels where these lie one behind the other and `pixel` is 1
  Index halo = 0;            // pixels of border on each side, at least
  bool half = false;         // bfloat16, else float32
};

// Weights of one convolution, in blocks of 32 (the last perhaps 16) output channels, the depth running inside a block.
struct Weights {
  std::vector<float, std::allocator<float>> single;  // float32: [block][depth][lanes]
  std::vector<std::uint32_t> pairs;                  // bfloat16: [block][depth / 2][lanes], two neighbours in each
  std::vector<float> bias;                           // padded with zeros to whole blocks of 16
  Index outputs = 0, depth = 0;
};

struct Shape {
  Index kernel_height = 1, kernel_width = 1, stride = 1, padding = 0;
};

struct Context {
  char* arena;
  const std::vector<char*>* arrays;
  char* at(const Map& map) const { return (map.place < 0 ? arena : (*arrays)[static_cast<std::size_t>(map.place)]) + map.offset; }
};

// Work of `items` independent pieces; a step begins when the one before has ended.
class Step {
 public:
  virtual ~Step() = default;
  virtual void run(Index item, const Context& context) const = 0;
  Index items = 1;
};

// Why this processor cannot run programs (with bfloat16 maps); empty if it can.
std::string unsupported(bool half);

// weight: [outputs][depth] float32, rows in the order in which the depth runs.
std::shared_ptr<const Weights> pack_weights(const float* weight, const float* bias, Index outputs, Index depth, bool half);

// Depthwise: weight is [outputs][kernel_height * kernel_width].
std::shared_ptr<const Weights> pack_depthwise(const float* weight, const float* bias, Index outputs, Index depth);

std::unique_ptr<Step> convolution(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights,
                                  const Shape& shape, Activation activation);
std::unique_ptr<Step> depthwise(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights,
                                const Shape& shape, Activation activation);
std::unique_ptr<Step> pool(const Map& in, const Map& out, const Shape& shape, bool average);
// Every pixel `scale` times in both directions; 1 copies.
std::unique_ptr<Step> enlarge(const Map& in, const Map& out, Index scale);
std::unique_ptr<Step> add(const Map& a, const Map& b, const Map& out);

// Self-attention of blocks.Attention: `mixed` = values weighted by softmax(scale * query . key), head by head. `scratch` holds
// attention_scratch() floats. Two steps.
struct Attention {
  Map qkv, mixed, scratch;
  Index heads, key_dim, value_dim;
  float scale;
};
Index attention_scratch(Index positions, Index heads, Index key_dim, Index value_dim);
std::unique_ptr<Step> attention_pack(const Attention& attention);
std::unique_ptr<Step> attention_mix(const Attention& attention);

// Steps for pictures of one size. run() may be called by several threads at once; each call has an arena of its own.
class Program {
 public:
  explicit Program(Index arena_bytes) : arena_bytes_(arena_bytes) {}
  void append(std::unique_ptr<Step> step) { steps_.push_back(std::move(step)); }
  void run(const std::vector<char*>& arrays) const;
  std::vector<double> profile(const std::vector<char*>& arrays) const;  // processor seconds of each step, on the calling thread

 private:
  struct Free {
    void operator()(char* pointer) const;
  };
  using Arena = std::unique_ptr<char, Free>;
  Arena take() const;
  void give_back(Arena arena) const;

  Index arena_bytes_;
  std::vector<std::unique_ptr<Step>> steps_;
  mutable std::mutex mutex_;
  mutable std::vector<Arena> idle_;
};

}  // namespace fastdet::network
