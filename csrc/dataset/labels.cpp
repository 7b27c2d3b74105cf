// SPDX-License-Identifier: Apache-2.0
// Label files of the YOLO ecosystem, and the sizes of the pictures beside them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <string>

#include "core/parallel.h"
#include "dataset/dataset.h"
#include "dataset/folder_handle.h"
#include "dataset/picture_size.h"

namespace fastdet::dataset {
namespace {

constexpr Index kBlock = 256;                 // pictures that one thread reads in a row
constexpr std::int64_t kMaxLabels = 1 << 20;  // bytes of a label file
constexpr double kSlack = 0.01;               // how far a coordinate may lie outside [0, 1]

class Handle {
 public:
  Handle(FolderHandle::Place place, int flags)
      : number_(openat(place.folder, place.name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | flags)) {
    if (number_ < 0) {
      error_ = errno;
    } else if (fstat(number_, &status_) != 0) {
      status_.st_mode = 0;
    }
  }
  ~Handle() {
    if (number_ >= 0) close(number_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  int number() const { return number_; }
  bool is_missing() const { return number_ < 0 && (error_ == ENOENT || error_ == ENOTDIR); }
  bool is_regular() const { return number_ >= 0 && S_ISREG(status_.st_mode); }
  std::int64_t size() const { return status_.st_size; }

 private:
  int number_, error_ = 0;
  struct stat status_{};
};

struct Box {
  std::int32_t label;
  double side[4];

  bool operator==(const Box& other) const { return label == other.label && std::equal(side, side + 4, other.side); }
  bool operator<(const Box& other) const {
    if (label != other.label) return label < other.label;
    return std::lexicographical_compare(side, side + 4, other.side, other.side + 4);
  }
};

// The numbers of a line; false where one of its words is no plain decimal number.
bool split(std::string_view line, std::vector<double>& numbers) {
  numbers.clear();
  const char *at = line.data(), *end = at + line.size();
  while (at != end) {
    if (*at == ' ' || *at == '\t' || *at == '\r') {
      ++at;
      continue;
    }
    const char* first = at;
    while (at != end && ((*at >= '0' && *at <= '9') || *at == '.' || *at == '-' || *at == '+' || *at == 'e' || *at == 'E')) ++at;
    double number = 0;
    const auto done = std::from_chars(first, at, number);
    if (first == at || done.ec != std::errc{} || done.ptr != at) return false;
    numbers.push_back(number);
  }
  return true;
}

// Objects, and what points the polygons of them have.
struct Rows {
  std::vector<Box> boxes;
  std::vector<Index> corners;
  std::vector<float> points;

  void clear() { boxes.clear(), corners.clear(), points.clear(); }
  void append(const Rows& more) {
    boxes.insert(boxes.end(), more.boxes.begin(), more.boxes.end());
    corners.insert(corners.end(), more.corners.begin(), more.corners.end());
    points.insert(points.end(), more.points.begin(), more.points.end());
  }
};

// The objects of one label file, or nothing; rules as in `read_labels` of fastdet.data.yolo.
class LabelFile {
 public:
  explicit LabelFile(const LabelRules& rules) : rules_(rules) {}

  bool parse(std::string_view text, PictureSize size, Rows& rows) {
    rows.clear();
    height_ = size.height, width_ = size.width, kind_ = 0;
    if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
    while (!text.empty()) {
      const std::size_t length = std::min(text.find('\n'), text.size());
      if (!split(text.substr(0, length), numbers_)) return false;
      text.remove_prefix(std::min(length + 1, text.size()));
      if (numbers_.empty()) continue;
      rows.boxes.push_back({});
      if (!take(rows.boxes.back())) return false;
      if (rules_.polygons) keep_polygon(rows);
    }
    sorted_ = rows.boxes;
    std::sort(sorted_.begin(), sorted_.end());
    return std::adjacent_find(sorted_.begin(), sorted_.end()) == sorted_.end();
  }

 private:
  bool take(Box& box) {
    const auto count = static_cast<Index>(numbers_.size());
    const bool polygon = count != 5 + rules_.keypoint_values;
    if (polygon && (rules_.keypoint_values != 0 || count < 7 || count % 2 == 0)) return false;
    if (kind_ != 0 && kind_ != 1 + static_cast<int>(polygon)) return false;
    kind_ = 1 + static_cast<int>(polygon);
    const double label = numbers_[0];
    if (std::floor(label) != label || !(label >= 0 && label < static_cast<double>(rules_.classes))) return false;
    box.label = static_cast<std::int32_t>(label);
    const double* shape = numbers_.data() + 1;
    const Index length = polygon ? count - 1 : 4;
    for (Index i = 0; i < length; ++i) {
      if (!(-kSlack <= shape[i] && shape[i] <= 1 + kSlack)) return false;
    }
    double cx = shape[0], cy = shape[1], w = shape[2], h = shape[3];
    if (polygon) {
      double low[2] = {shape[0], shape[1]}, high[2] = {shape[0], shape[1]};
      for (Index i = 2; i < length; ++i) {
        if (shape[i] < low[i % 2]) low[i % 2] = shape[i];
        if (shape[i] > high[i % 2]) high[i % 2] = shape[i];
      }
      cx = (low[0] + high[0]) / 2, cy = (low[1] + high[1]) / 2, w = high[0] - low[0], h = high[1] - low[1];
    }
    if (w < 0 || h < 0) return false;
    cx *= width_, cy *= height_, w *= width_, h *= height_;
    const double sides[4] = {cx - w / 2, cy - h / 2, w, h};
    std::copy(sides, sides + 4, box.side);
    return !is_suspicious(box.side, height_, width_);
  }

  // That of the line which was taken last.
  void keep_polygon(Rows& rows) const {
    rows.corners.push_back(kind_ == 2 ? static_cast<Index>(numbers_.size() - 1) / 2 : 0);
    for (Index i = 1; i <= 2 * rows.corners.back(); ++i) {
      rows.points.push_back(static_cast<float>(numbers_[static_cast<std::size_t>(i)] * (i % 2 == 1 ? width_ : height_)));
    }
  }

  const LabelRules& rules_;
  double height_ = 0, width_ = 0;
  int kind_ = 0;  // of the lines so far: 1 boxes, 2 polygons
  std::vector<double> numbers_;
  std::vector<Box> sorted_;
};

bool read_all(const Handle& file, std::string& text) {
  if (!file.is_regular() || file.size() > kMaxLabels) return false;
  text.resize(static_cast<std::size_t>(file.size()));
  std::size_t at = 0;
  while (at < text.size()) {
    const ssize_t got = read(file.number(), text.data() + at, text.size() - at);
    if (got <= 0) return false;
    at += static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace

Yolo read_yolo(const Files& pictures, const Files& labels, const std::uint8_t* left, const LabelRules& rules) {
  Yolo found;
  const Index count = pictures.names.count;
  const auto total = static_cast<std::size_t>(count);
  found.height.resize(total);
  found.width.resize(total);
  found.counts.resize(total);
  found.unclean.assign(left, left + total);
  const Index blocks = (count + kBlock - 1) / kBlock;
  std::vector<Rows> parts(static_cast<std::size_t>(blocks));
  parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    FolderHandle picture_folder(pictures.folder), label_folder(labels.folder);
    LabelFile labels_of(rules);
    std::string text;
    Rows rows;
    for (Index i = begin * kBlock; i < std::min(end * kBlock, count); ++i) {
      const auto row = static_cast<std::size_t>(i);
      if (found.unclean[row] != 0) continue;
      found.unclean[row] = 1;
      PictureSize size;
      {
        const Handle picture(picture_folder.find(pictures.names[i]), 0);
        if (picture.is_regular()) size = picture_size(picture.number(), picture.size());
      }
      if (size.height == 0) continue;
      if (rules.classes > 0) {
        const Handle file(label_folder.find(labels.names[i]), O_NOFOLLOW);
        if (!file.is_missing()) {
          if (!read_all(file, text) || !labels_of.parse(text, size, rows)) continue;
          parts[static_cast<std::size_t>(i / kBlock)].append(rows);
          found.counts[row] = static_cast<Index>(rows.boxes.size());
        }
      }
      found.unclean[row] = 0;
      found.height[row] = size.height;
      found.width[row] = size.width;
    }
  });
  std::size_t boxes = 0, points = 0;
  for (const Rows& part : parts) {
    boxes += part.boxes.size();
    points += part.points.size();
  }
  found.label.reserve(boxes);
  found.box.reserve(4 * boxes);
  found.corners.reserve(rules.polygons ? boxes : 0);
  found.point.reserve(points);
  for (Rows& part : parts) {
    for (const Box& box : part.boxes) {
      found.label.push_back(box.label);
      found.box.insert(found.box.end(), box.side, box.side + 4);
    }
    found.corners.insert(found.corners.end(), part.corners.begin(), part.corners.end());
    found.point.insert(found.point.end(), part.points.begin(), part.points.end());
    part = {};
  }
  return found;
}

}  // namespace fastdet::dataset
