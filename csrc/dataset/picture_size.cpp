// SPDX-License-Identifier: Apache-2.0
#include "dataset/picture_size.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace fastdet::dataset {
namespace {

using Bytes = std::vector<unsigned char>;

// The limits of fastdet.image_files; pictures near one are left to it.
constexpr std::int64_t kMaxSide = 65'500, kMaxPixels = 89'478'485, kMaxRatio = 20'000;
constexpr std::int64_t kRatioBytes = 1 << 20, kMaxBytes = 1 << 30;
constexpr std::size_t kMaxChunk = 4096;  // of a chunk of a PNG before its pixels

// An open file. Reading on where the last reading ended reads ahead.
class File {
 public:
  File(int handle, std::int64_t size) : handle_(handle), size_(size) {}

  // Fills `out` from `offset` on; false where the file is shorter.
  bool read(std::int64_t offset, unsigned char* out, std::size_t count) {
    if (offset < 0 || offset > size_ || static_cast<std::int64_t>(count) > size_ - offset) return false;
    if (offset == last_ && !holds(offset, count) && count <= kAhead) {
      held_ = pread(handle_, ahead_, kAhead, offset);
      start_ = offset;
    }
    last_ = offset + static_cast<std::int64_t>(count);
    if (holds(offset, count)) {
      std::copy_n(ahead_ + (offset - start_), count, out);
      return true;
    }
    while (count > 0) {
      const ssize_t got = pread(handle_, out, count, offset);
      if (got <= 0) return false;
      out += got, offset += got, count -= static_cast<std::size_t>(got);
    }
    return true;
  }
  bool read(std::int64_t offset, Bytes& out, std::size_t count) {
    out.resize(count);
    return read(offset, out.data(), count);
  }

 private:
  static constexpr std::size_t kAhead = 4096;  // most headers are shorter

  bool holds(std::int64_t offset, std::size_t count) const {
    return offset >= start_ && offset + static_cast<std::int64_t>(count) <= start_ + held_;
  }

  int handle_;
  std::int64_t size_;
  std::int64_t last_ = 0;              // end of what was asked for
  std::int64_t start_ = 0, held_ = 0;  // of what `ahead_` holds
  unsigned char ahead_[kAhead];
};

std::uint32_t big(const unsigned char* bytes, int count) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

bool begins(const Bytes& bytes, std::string_view with) {
  return bytes.size() >= with.size() && std::equal(with.begin(), with.end(), bytes.begin(),
                                                   [](char a, unsigned char b) { return static_cast<unsigned char>(a) == b; });
}

// Numbers of a TIFF file in its byte order.
struct Tiff {
  const unsigned char* data;
  std::size_t size;
  bool little;

  std::uint32_t number(std::size_t at, int count) const {
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i)
      value |= static_cast<std::uint32_t>(data[at + static_cast<std::size_t>(i)]) << 8 * (little ? i : count - 1 - i);
    return value;
  }
};

// The orientation that an Exif segment tells, 1 where it tells none, 0 where it is not as the standard has it.
int orientation(const Bytes& segment) {
  constexpr std::array<std::uint64_t, 13> kBytes{0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8};
  if (segment.size() < 6 + 8) return 0;
  Tiff tiff{segment.data() + 6, segment.size() - 6, segment[6] == 'I'};
  const std::string_view head(reinterpret_cast<const char*>(tiff.data), 4);
  if (head != std::string_view("II*\0", 4) && head != std::string_view("MM\0*", 4)) return 0;
  const std::size_t first = tiff.number(4, 4);
  if (first < 8 || first > tiff.size - 2) return 0;
  const std::size_t entries = tiff.number(first, 2);
  if (entries > 256 || first + 2 + 12 * entries > tiff.size) return 0;
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = first + 2 + 12 * i;
    const std::uint32_t tag = tiff.number(at, 2), kind = tiff.number(at + 2, 2), count = tiff.number(at + 4, 4);
    if (kind == 0 || kind >= kBytes.size() || count == 0) return 0;
    if (tag == 0x0112) {
      const std::uint32_t value = tiff.number(at + 8, 2);
      return kind == 3 && count == 1 && value >= 1 && value <= 8 ? static_cast<int>(value) : 0;
    }
    const std::uint64_t bytes = kBytes[kind] * count;
    if (bytes > 4 && tiff.number(at + 8, 4) + bytes > tiff.size) return 0;
  }
  return 1;
}

bool quantisation_is_whole(const Bytes& segment) {
  for (std::size_t at = 0; at < segment.size();) {
    const unsigned precision = segment[at] >> 4;
    const std::size_t length = precision == 0 ? 65 : 129;
    if (precision > 1 || (segment[at] & 15) > 3 || segment.size() - at < length) return false;
    at += length;
  }
  return true;
}

struct Jpeg {
  PictureSize size;
  int turned = 0;  // orientation of the Exif segment, once there is one
};

// One segment before the pixels; false where it is left to Pillow.
bool take_segment(unsigned marker, const Bytes& segment, Jpeg& jpeg) {
  switch (marker) {
    case 0xe0: return begins(segment, std::string_view("JFIF\0", 5)) && segment.size() >= 14;
    case 0xe1:
      if (jpeg.turned != 0 || !begins(segment, std::string_view("Exif\0\0", 6))) return false;
      jpeg.turned = orientation(segment);
      return jpeg.turned != 0;
    case 0xe2: return begins(segment, std::string_view("ICC_PROFILE\0", 12)) && segment.size() >= 14;
    case 0xee: return begins(segment, "Adobe") && segment.size() >= 12;
    case 0xdb: return quantisation_is_whole(segment);
    case 0xc4:
    case 0xdd:
    case 0xfe: return true;
    case 0xc0:
    case 0xc1:
    case 0xc2: {
      if (jpeg.size.height != 0 || segment.size() < 6 || segment[0] != 8) return false;
      const unsigned layers = segment[5];
      if ((layers != 1 && layers != 3 && layers != 4) || segment.size() != 6 + 3 * layers) return false;
      jpeg.size = {static_cast<std::int32_t>(big(&segment[1], 2)), static_cast<std::int32_t>(big(&segment[3], 2))};
      return jpeg.size.height != 0;
    }
    default: return false;
  }
}

PictureSize jpeg_size(File& file) {
  Jpeg jpeg;
  Bytes segment;
  for (std::int64_t at = 2;;) {
    unsigned char head[4];
    if (!file.read(at, head, 4) || head[0] != 0xff) return {};
    const std::uint32_t length = big(head + 2, 2);
    if (length < 2 || !file.read(at + 4, segment, length - 2)) return {};
    if (head[1] == 0xda) break;
    if (!take_segment(head[1], segment, jpeg)) return {};
    at += 2 + static_cast<std::int64_t>(length);
  }
  if (jpeg.turned >= 5) std::swap(jpeg.size.height, jpeg.size.width);
  return jpeg.size;
}

// CRC-32 of ISO 3309, as PNG has it.
std::uint32_t crc(const unsigned char* data, std::size_t count) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320U : 0U);
      made[i] = value;
    }
    return made;
  }();
  std::uint32_t value = ~0U;
  for (std::size_t i = 0; i < count; ++i) value = value >> 8 ^ table[(value ^ data[i]) & 0xff];
  return ~value;
}

bool is_text(std::string_view kind) { return kind == "tEXt" || kind == "zTXt" || kind == "iTXt" || kind == "iCCP"; }

// Whether Pillow takes a chunk of this kind and length before the pixels without a word.
bool is_usual(std::string_view kind, std::uint32_t length, unsigned colour) {
  if (kind == "PLTE") return length % 3 == 0 && length > 0 && length <= 768;
  if (kind == "tRNS") return colour == 3 && length > 0 && length <= 256;
  return (kind == "gAMA" && length == 4) || (kind == "cHRM" && length == 32) || (kind == "sRGB" && length == 1) ||
         (kind == "pHYs" && length == 9) || (kind == "tIME" && length == 7) || kind == "bKGD" || kind == "sBIT";
}

bool is_depth(unsigned depth, unsigned colour) {
  if (colour == 0) return depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
  if (colour == 3) return depth == 1 || depth == 2 || depth == 4 || depth == 8;
  return (colour == 2 || colour == 4 || colour == 6) && (depth == 8 || depth == 16);
}

PictureSize png_size(File& file) {
  Bytes chunk;
  PictureSize size;
  bool pixels = false;
  unsigned colour = 0;
  for (std::int64_t at = 8;;) {
    unsigned char head[8];
    if (!file.read(at, head, 8)) return pixels ? size : PictureSize{};  // damage behind the first pixels is not looked for
    const std::uint32_t length = big(head, 4);
    const std::string_view kind(reinterpret_cast<const char*>(head) + 4, 4);
    if (at == 8 && (kind != "IHDR" || length != 13)) return {};
    if (kind == "eXIf") return {};
    if (kind == "IEND") return pixels ? size : PictureSize{};
    if (kind == "IDAT") {
      pixels = true;
    } else if (!pixels && !is_text(kind)) {
      if (length > kMaxChunk || !file.read(at + 4, chunk, length + 8)) return {};
      if (crc(chunk.data(), length + 4) != big(&chunk[length + 4], 4)) return {};
      const unsigned char* data = chunk.data() + 4;
      if (at == 8) {
        colour = data[9];
        if (!is_depth(data[8], colour) || data[10] != 0 || data[11] != 0 || data[12] > 1) return {};
        if (big(data, 4) > kMaxSide || big(data + 4, 4) > kMaxSide) return {};
        size = {static_cast<std::int32_t>(big(data + 4, 4)), static_cast<std::int32_t>(big(data, 4))};
      } else if (!is_usual(kind, length, colour)) {
        return {};
      }
    }
    at += 12 + static_cast<std::int64_t>(length);
  }
}

}  // namespace

PictureSize picture_size(int handle, std::int64_t file_bytes) {
  File file(handle, file_bytes);
  unsigned char head[8];
  if (file_bytes > kMaxBytes || !file.read(0, head, 8)) return {};
  const std::string_view first(reinterpret_cast<const char*>(head), 8);
  PictureSize size;
  if (first.substr(0, 2) == "\xff\xd8") {
    size = jpeg_size(file);
  } else if (first == "\x89PNG\r\n\x1a\n") {
    size = png_size(file);
  }
  const std::int64_t pixels = static_cast<std::int64_t>(size.height) * size.width;
  if (pixels <= 0 || pixels > kMaxPixels || std::max(size.height, size.width) > kMaxSide) return {};
  if (file_bytes < kRatioBytes && pixels > kMaxRatio * file_bytes) return {};
  return size;
}

}  // namespace fastdet::dataset
