// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "network/network.h"
#include "network/tiles.h"

namespace fastdet::network {
namespace {

constexpr Index kPieces = 8;              // of a step, at least, where it has as many rows
constexpr Index kInputBytes = 256 << 10;  // that the rows of a piece read, at most

Index size_of(const Map& map) { return map.half ? 2 : 4; }
Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

char* pixel_at(char* base, const Map& map, Index y, Index x) { return base + (y * map.row + x * map.pixel) * size_of(map); }

// The channels of `count` pixels from (y, x) become zero.
void zero(char* base, const Map& map, Index y, Index x, Index count) {
  for (Index i = 0; i < count; ++i) {
    std::memset(pixel_at(base, map, y, x + i), 0, static_cast<std::size_t>(map.channels * size_of(map)));
  }
}

// The border beside row y, above the first and below the last row.
void zero_border(char* base, const Map& map, Index y) {
  const Index halo = map.halo, wide = map.width + 2 * halo;
  if (halo == 0) return;
  zero(base, map, y, -halo, halo);
  zero(base, map, y, map.width, halo);
  for (Index i = 1; i <= halo; ++i) {
    if (y == 0) zero(base, map, -i, -halo, wide);
    if (y == map.height - 1) zero(base, map, y + i, -halo, wide);
  }
}

// A step whose pieces are runs of rows of its output.
class RowStep : public Step {
 public:
  RowStep(const Map& out, Index input_row_bytes) : out_(out) {
    const Index fitting = std::max<Index>(1, kInputBytes / std::max<Index>(1, input_row_bytes));
    rows_ = std::max<Index>(1, std::min(fitting, out.height / kPieces));
    items = ceil_div(out.height, rows_);
  }
  void run(Index item, const Context& context) const final {
    const Index begin = item * rows_, end = std::min(out_.height, begin + rows_);
    run_rows(begin, end, context);
    if (out_.place >= 0) return;
    for (Index y = begin; y < end; ++y) zero_border(context.at(out_), out_, y);
  }

 protected:
  virtual void run_rows(Index begin, Index end, const Context& context) const = 0;
  Map out_;

 private:
  Index rows_;
};

// What convolutions and depthwise convolutions share.
class WindowStep : public RowStep {
 public:
  WindowStep(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights, const Shape& shape,
             Activation activation)
      : RowStep(out, in.row * size_of(in) * shape.stride),
        in_(in),
        weights_(std::move(weights)),
        shape_(shape),
        activation_(activation),
        tile_(ceil_div(out.width, ceil_div(out.width, kMaxPixels))) {
    if (residual != nullptr) residual_ = *residual, has_residual_ = true;
  }

 protected:
  const char* window_at(const Context& context, Index y, Index x) const {
    return pixel_at(context.at(in_), in_, y * shape_.stride - shape_.padding, x * shape_.stride - shape_.padding);
  }
  Finish finish_at(const Context& context, Index y, Index x, Index channel) const {
    Finish to{};
    to.bias = weights_->bias.data() + channel;
    to.activation = activation_;
    to.out = pixel_at(context.at(out_), out_, y, x) + channel * size_of(out_);
    to.out_pixel = out_.pixel;
    to.out_half = out_.half;
    if (has_residual_) {
      to.residual = pixel_at(context.at(residual_), residual_, y, x) + channel * size_of(residual_);
      to.residual_pixel = residual_.pixel;
      to.residual_half = residual_.half;
    }
    return to;
  }

  Map in_;
  std::shared_ptr<const Weights> weights_;
  Shape shape_;
  Activation activation_;
  Index tile_;  // pixels of a tile: rows are cut into nearly equal ones

 private:
  Map residual_;
  bool has_residual_ = false;
};

class Convolution final : public WindowStep {
 public:
  Convolution(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights, const Shape& shape,
              Activation activation)
      : WindowStep(in, out, residual, std::move(weights), shape, activation) {
    const Index unit = in.half ? 2 : 1;
    const bool dense = in.pixel == in.channels;
    const Index columns = dense ? 1 : shape.kernel_width;
    length_ = (dense ? shape.kernel_width * in.channels : in.channels) / unit;
    for (Index y = 0; y < shape.kernel_height; ++y)
      for (Index x = 0; x < columns; ++x) taps_.push_back((y * in.row + x * in.pixel) / unit);
    pixel_ = in.pixel * shape.stride / unit;
    FD_CHECK(length_ * static_cast<Index>(taps_.size()) * unit == weights_->depth, RuntimeError,
             "network: weights have a depth of ", weights_->depth, ", the window another");
    FD_CHECK(unit == 1 || (in.pixel % 2 == 0 && in.channels % 2 == 0 && in.row % 2 == 0), RuntimeError,
             "network: bfloat16 maps need even numbers of channels");
  }

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    alignas(64) float sums[kMaxPixels * 2 * kLanes];
    const Index depth = length_ * static_cast<Index>(taps_.size());
    const auto* weight = in_.half ? weights_->pairs.data() : reinterpret_cast<const std::uint32_t*>(weights_->single.data());
    for (Index channel = 0; channel < out_.channels; channel += 2 * kLanes) {
      const Index channels = std::min(2 * kLanes, out_.channels - channel), blocks = ceil_div(channels, kLanes);
      for (Index y = begin; y < end; ++y) {
        for (Index x = 0; x < out_.width; x += tile_) {
          const Index pixels = std::min(tile_, out_.width - x);
          const auto* in = reinterpret_cast<const std::uint32_t*>(window_at(context, y, x));
          multiply(pixels, blocks, in_.half)(in, pixel_, taps_.data(), static_cast<Index>(taps_.size()), length_, weight, sums);
          finish(finish_at(context, y, x, channel), sums, pixels, blocks * kLanes, channels);
        }
      }
      weight += depth * blocks * kLanes;
    }
  }

 private:
  std::vector<Index> taps_;  // in units of 4 bytes, as pixel_ and length_
  Index pixel_, length_;
};

// The same from planes of float32 without a border: the rows that a row of the output needs are laid out with one.
class PlaneConvolution final : public WindowStep {
 public:
  PlaneConvolution(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights, const Shape& shape,
                   Activation activation)
      : WindowStep(in, out, residual, std::move(weights), shape, activation), wide_(in.width + 2 * shape.padding) {
    for (Index i = 0; i < in.channels * shape.kernel_height; ++i) taps_.push_back(i * wide_);
    FD_CHECK(shape.kernel_width * static_cast<Index>(taps_.size()) == weights_->depth && !in.half && in.pixel == 1, RuntimeError,
             "network: weights have a depth of ", weights_->depth, ", the window another");
  }

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    alignas(64) float sums[kMaxPixels * 2 * kLanes];
    std::vector<float> rows(taps_.size() * static_cast<std::size_t>(wide_), 0.0f);
    for (Index y = begin; y < end; ++y) {
      lay_out(y, context, rows.data());
      const float* weight = weights_->single.data();
      for (Index channel = 0; channel < out_.channels; channel += 2 * kLanes) {
        const Index channels = std::min(2 * kLanes, out_.channels - channel), blocks = ceil_div(channels, kLanes);
        for (Index x = 0; x < out_.width; x += tile_) {
          const Index pixels = std::min(tile_, out_.width - x);
          const float* in = rows.data() + x * shape_.stride;
          multiply(pixels, blocks, false)(reinterpret_cast<const std::uint32_t*>(in), shape_.stride, taps_.data(),
                                          static_cast<Index>(taps_.size()), shape_.kernel_width,
                                          reinterpret_cast<const std::uint32_t*>(weight), sums);
          finish(finish_at(context, y, x, channel), sums, pixels, blocks * kLanes, channels);
        }
        weight += weights_->depth * blocks * kLanes;
      }
    }
  }

 private:
  // [channels][kernel height][width with border]; the border at the sides stays zero.
  void lay_out(Index y, const Context& context, float* rows) const {
    const auto* in = reinterpret_cast<const float*>(context.at(in_));
    for (Index c = 0; c < in_.channels; ++c) {
      for (Index k = 0; k < shape_.kernel_height; ++k, rows += wide_) {
        const Index v = y * shape_.stride - shape_.padding + k;
        if (v < 0 || v >= in_.height) {
          std::fill(rows + shape_.padding, rows + shape_.padding + in_.width, 0.0f);
        } else {
          std::copy_n(in + c * in_.plane + v * in_.row, in_.width, rows + shape_.padding);
        }
      }
    }
  }

  std::vector<Index> taps_;
  Index wide_;
};

class Depthwise final : public WindowStep {
 public:
  Depthwise(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights, const Shape& shape,
            Activation activation)
      : WindowStep(in, out, residual, std::move(weights), shape, activation) {
    for (Index y = 0; y < shape.kernel_height; ++y)
      for (Index x = 0; x < shape.kernel_width; ++x) taps_.push_back(y * in.row + x * in.pixel);
  }

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    alignas(64) float sums[kMaxPixels * kLanes];
    const Index count = static_cast<Index>(taps_.size());
    for (Index y = begin; y < end; ++y) {
      for (Index x = 0; x < out_.width; x += tile_) {
        const Index pixels = std::min(tile_, out_.width - x);
        const char* in = window_at(context, y, x);
        for (Index channel = 0; channel < out_.channels; channel += kLanes) {
          const Index channels = std::min(kLanes, out_.channels - channel);
          multiply_depthwise(in + channel * size_of(in_), in_.half, in_.pixel * shape_.stride, taps_.data(), count,
                             weights_->single.data() + channel * count, pixels, channels, sums);
          finish(finish_at(context, y, x, channel), sums, pixels, kLanes, channels);
        }
      }
    }
  }

 private:
  std::vector<Index> taps_;
};

class Pool final : public RowStep {
 public:
  Pool(const Map& in, const Map& out, const Shape& shape, bool average)
      : RowStep(out, in.row * size_of(in) * shape.stride), in_(in), shape_(shape), average_(average) {}

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    std::vector<Index> taps;
    const float factor = 1.0f / static_cast<float>(shape_.kernel_height * shape_.kernel_width);
    for (Index y = begin; y < end; ++y) {
      for (Index x = 0; x < out_.width; ++x) {
        const Index top = y * shape_.stride - shape_.padding, left = x * shape_.stride - shape_.padding;
        taps.clear();
        for (Index v = std::max<Index>(0, top); v < std::min(in_.height, top + shape_.kernel_height); ++v)
          for (Index u = std::max<Index>(0, left); u < std::min(in_.width, left + shape_.kernel_width); ++u)
            taps.push_back(v * in_.row + u * in_.pixel);
        reduce(context.at(in_), pixel_at(context.at(out_), out_, y, x), in_.half, taps.data(), static_cast<Index>(taps.size()),
               out_.channels, average_, factor);
      }
    }
  }

 private:
  Map in_;
  Shape shape_;
  bool average_;
};

class Enlarge final : public RowStep {
 public:
  Enlarge(const Map& in, const Map& out, Index scale) : RowStep(out, in.row * size_of(in)), in_(in), scale_(scale) {}

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    const auto bytes = static_cast<std::size_t>(in_.channels * size_of(in_));
    for (Index y = begin; y < end; ++y) {
      const char* in = pixel_at(context.at(in_), in_, y / scale_, 0);
      char* out = pixel_at(context.at(out_), out_, y, 0);
      for (Index x = 0; x < out_.width; ++x) {
        std::memcpy(out + x * out_.pixel * size_of(out_), in + x / scale_ * in_.pixel * size_of(in_), bytes);
      }
    }
  }

 private:
  Map in_;
  Index scale_;
};

class Add final : public RowStep {
 public:
  Add(const Map& a, const Map& b, const Map& out) : RowStep(out, a.row * size_of(a)), a_(a), b_(b) {}

 protected:
  void run_rows(Index begin, Index end, const Context& context) const override {
    for (Index y = begin; y < end; ++y) {
      for (Index x = 0; x < out_.width; ++x) {
        add_channels(pixel_at(context.at(a_), a_, y, x), pixel_at(context.at(b_), b_, y, x),
                     pixel_at(context.at(out_), out_, y, x), out_.half, out_.channels);
      }
    }
  }

 private:
  Map a_, b_;
};

}  // namespace

std::shared_ptr<const Weights> pack_weights(const float* weight, const float* bias, Index outputs, Index depth, bool half) {
  FD_CHECK(!half || depth % 2 == 0, ValueError, "network: the depth of bfloat16 weights must be even, got ", depth);
  auto packed = std::make_shared<Weights>();
  packed->outputs = outputs, packed->depth = depth;
  const Index lanes = ceil_div(outputs, kLanes) * kLanes;
  packed->bias.assign(static_cast<std::size_t>(lanes), 0.0f);
  if (bias != nullptr) std::copy(bias, bias + outputs, packed->bias.begin());
  const auto at = [&](Index o, Index k) { return o < outputs ? weight[o * depth + k] : 0.0f; };
  for (Index channel = 0; channel < lanes; channel += 2 * kLanes) {
    const Index width = std::min(2 * kLanes, lanes - channel);
    for (Index k = 0; k < depth; k += half ? 2 : 1) {
      for (Index o = channel; o < channel + width; ++o) {
        if (half) {
          packed->pairs.push_back(to_bfloat16(at(o, k)).bits | static_cast<std::uint32_t>(to_bfloat16(at(o, k + 1)).bits) << 16);
        } else {
          packed->single.push_back(at(o, k));
        }
      }
    }
  }
  return packed;
}

std::shared_ptr<const Weights> pack_depthwise(const float* weight, const float* bias, Index outputs, Index depth) {
  auto packed = std::make_shared<Weights>();
  packed->outputs = outputs, packed->depth = depth;
  const Index lanes = ceil_div(outputs, kLanes) * kLanes;
  packed->bias.assign(static_cast<std::size_t>(lanes), 0.0f);
  if (bias != nullptr) std::copy(bias, bias + outputs, packed->bias.begin());
  packed->single.assign(static_cast<std::size_t>(lanes * depth), 0.0f);
  for (Index o = 0; o < outputs; ++o)
    for (Index k = 0; k < depth; ++k) {
      packed->single[static_cast<std::size_t>((o / kLanes * depth + k) * kLanes + o % kLanes)] = weight[o * depth + k];
    }
  return packed;
}

std::unique_ptr<Step> convolution(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights,
                                  const Shape& shape, Activation activation) {
  if (in.plane != 0) return std::make_unique<PlaneConvolution>(in, out, residual, std::move(weights), shape, activation);
  return std::make_unique<Convolution>(in, out, residual, std::move(weights), shape, activation);
}

std::unique_ptr<Step> depthwise(const Map& in, const Map& out, const Map* residual, std::shared_ptr<const Weights> weights,
                                const Shape& shape, Activation activation) {
  return std::make_unique<Depthwise>(in, out, residual, std::move(weights), shape, activation);
}

std::unique_ptr<Step> pool(const Map& in, const Map& out, const Shape& shape, bool average) {
  return std::make_unique<Pool>(in, out, shape, average);
}

std::unique_ptr<Step> enlarge(const Map& in, const Map& out, Index scale) { return std::make_unique<Enlarge>(in, out, scale); }

std::unique_ptr<Step> add(const Map& a, const Map& b, const Map& out) { return std::make_unique<Add>(a, b, out); }

}  // namespace fastdet::network
