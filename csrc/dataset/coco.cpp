// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "dataset/dataset.h"
#include "dataset/json_cursor.h"
#include "dataset/mapped_file.h"

namespace fastdet::dataset {
namespace {

constexpr Index kMaxId = std::numeric_limits<Index>::max();
constexpr Index kMaxCategory = (Index{1} << 31) - 1;
constexpr Index kExact = Index{1} << 26;  // products of two integers up to here are exact in a double

// Members that were seen: a second one of the same name would replace the first in Python.
class Seen {
 public:
  void once(unsigned bit) {
    if (bits_ >> bit & 1U) throw Unclean{};
    bits_ |= 1U << bit;
  }
  bool has(unsigned bit) const { return (bits_ >> bit & 1U) != 0; }
  void require(unsigned mask) const {
    if ((bits_ & mask) != mask) throw Unclean{};
  }

 private:
  unsigned bits_ = 0;
};

// Rows by id: ids are unique and may come in any order.
class RowsById {
 public:
  explicit RowsById(const std::vector<Index>& ids) : ids_(ids) {
    if (std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>()) == ids.end()) return;
    rows_.resize(ids.size());
    std::iota(rows_.begin(), rows_.end(), Index{0});
    std::sort(rows_.begin(), rows_.end(), [&](Index a, Index b) { return ids_[to(a)] < ids_[to(b)]; });
    for (std::size_t i = 1; i < rows_.size(); ++i) {
      if (ids_[to(rows_[i - 1])] == ids_[to(rows_[i])]) throw Unclean{};
    }
  }

  Index row(Index id) const {
    if (rows_.empty()) return checked(std::lower_bound(ids_.begin(), ids_.end(), id) - ids_.begin(), id);
    const auto found =
        std::lower_bound(rows_.begin(), rows_.end(), id, [&](Index row, Index wanted) { return ids_[to(row)] < wanted; });
    if (found == rows_.end()) throw Unclean{};
    return checked(*found, id);
  }
  // The rows by rising id.
  std::vector<Index> order() const {
    std::vector<Index> rising = rows_;
    if (rising.empty()) {
      rising.resize(ids_.size());
      std::iota(rising.begin(), rising.end(), Index{0});
    }
    return rising;
  }

 private:
  static std::size_t to(Index i) { return static_cast<std::size_t>(i); }
  Index checked(Index row, Index id) const {
    if (row >= static_cast<Index>(ids_.size()) || ids_[to(row)] != id) throw Unclean{};
    return row;
  }

  const std::vector<Index>& ids_;
  std::vector<Index> rows_;  // by id; empty where the ids rise
};

class Reader {
 public:
  Reader(MappedFile& file, bool polygons) : file_(file), json_(text_of(file), file.end()), polygons_(polygons) {
    if (polygons) coco_.ring_starts = coco_.polygon_starts = {0};
  }

  Coco read() {
    Seen seen;
    json_.object([&](std::string_view key) {
      if (key == "images") {
        seen.once(0);
        json_.list([&] { picture(); });
      } else if (key == "annotations") {
        seen.once(1);
        json_.list([&] { annotation(); });
      } else if (key == "categories") {
        seen.once(2);
        json_.list([&] { category(); });
      } else {
        json_.skip();
      }
    });
    json_.finish();
    seen.require(0b111);
    link();
    if (coco_.ring_starts.size() < 2) coco_.ring_starts = coco_.polygon_starts = {};
    return std::move(coco_);
  }

 private:
  static const char* text_of(const MappedFile& file) {
    const bool marked = file.end() - file.begin() >= 3 && std::string_view(file.begin(), 3) == "\xef\xbb\xbf";
    return file.begin() + (marked ? 3 : 0);
  }

  void picture() {
    Seen seen;
    json_.object([&](std::string_view key) {
      if (key == "file_name") {
        seen.once(0);
        const std::string_view name = json_.string(buffer_);
        if (name.empty() || name.find('\0') != std::string_view::npos) throw Unclean{};
        coco_.names.add(name);
      } else if (key == "id") {
        seen.once(1);
        coco_.picture_id.push_back(json_.integer(0, kMaxId));
      } else if (key == "height") {
        seen.once(2);
        coco_.height.push_back(static_cast<std::int32_t>(json_.integer(1, kMaxSide)));
      } else if (key == "width") {
        seen.once(3);
        coco_.width.push_back(static_cast<std::int32_t>(json_.integer(1, kMaxSide)));
      } else {
        json_.skip();
      }
    });
    seen.require(0b1111);
    file_.passed(json_.position());
  }

  void category() {
    Seen seen;
    json_.object([&](std::string_view key) {
      if (key == "id") {
        seen.once(0);
        category_ids_.push_back(json_.integer(0, kMaxCategory));
      } else if (key == "name") {
        seen.once(1);
        const std::string_view name = json_.string(buffer_);
        if (name.empty()) throw Unclean{};
        category_names_.add(name);
      } else {
        json_.skip();
      }
    });
    seen.require(0b11);
  }

  void annotation() {
    Seen seen;
    std::uint8_t crowd = 0;
    double area = 0;
    json_.object([&](std::string_view key) {
      if (key == "id") {
        seen.once(0);
        coco_.annotation_id.push_back(json_.integer(0, kMaxId));
      } else if (key == "image_id") {
        seen.once(1);
        coco_.picture.push_back(json_.integer(0, kMaxId));  // its row in `link`
      } else if (key == "category_id") {
        seen.once(2);
        coco_.label.push_back(static_cast<std::int32_t>(json_.integer(0, kMaxCategory)));  // its label in `link`
      } else if (key == "bbox") {
        seen.once(3);
        box();
      } else if (key == "area") {
        seen.once(4);
        area = json_.number().value;
      } else if (key == "iscrowd") {
        seen.once(5);
        crowd = static_cast<std::uint8_t>(json_.integer(0, 1));
      } else if (polygons_ && key == "segmentation") {
        seen.once(6);
        segmentation();
      } else {
        json_.skip();
      }
    });
    seen.require(0b1111);
    if (!seen.has(4)) {
      const JsonCursor::Number &wide = sides_[2], &high = sides_[3];
      if (wide.is_integer && high.is_integer && std::max(wide.integer, high.integer) > kExact) throw Unclean{};
      area = wide.value * high.value;
    }
    if (!std::isfinite(area)) throw Unclean{};
    coco_.area.push_back(area);
    coco_.crowd.push_back(crowd);
    if (polygons_) coco_.polygon_starts.push_back(static_cast<Index>(coco_.ring_starts.size()) - 1);
    file_.passed(json_.position());
  }

  void box() {
    int count = 0;
    json_.list([&] {
      if (count == 4) throw Unclean{};
      sides_[count++] = json_.number();
    });
    if (count != 4 || sides_[2].value < 0 || sides_[3].value < 0) throw Unclean{};
    for (const JsonCursor::Number& side : sides_) coco_.box.push_back(side.value);
  }

  // A list of polygons; run lengths and null are none. Those of fewer than three points are left out.
  void segmentation() {
    const char kind = json_.peek();
    if (kind == '{' || kind == 'n') {
      json_.skip();
      return;
    }
    json_.list([&] {
      const std::size_t start = coco_.point.size();
      json_.list([&] {
        const double value = json_.number().value;
        if (!(std::abs(value) <= kMaxCoordinate)) throw Unclean{};
        coco_.point.push_back(static_cast<float>(value));
      });
      const std::size_t count = coco_.point.size() - start;
      if (count < 6 || count % 2 != 0) {
        coco_.point.resize(start);
        ++coco_.suspicious;
        return;
      }
      coco_.ring_starts.push_back(static_cast<Index>(coco_.point.size() / 2));
    });
  }

  // Puts rows in the place of ids, labels in the place of category ids.
  void link() {
    if (coco_.picture_id.empty() || category_ids_.empty()) throw Unclean{};
    const RowsById pictures(coco_.picture_id), categories(category_ids_), unique(coco_.annotation_id);
    std::vector<std::int32_t> label_of(category_ids_.size());
    const TextsView names{category_names_.letters.data(), category_names_.starts.data(), category_names_.size()};
    for (const Index row : categories.order()) {
      label_of[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(coco_.category_ids.size());
      coco_.category_ids.push_back(category_ids_[static_cast<std::size_t>(row)]);
      coco_.category_names.add(names[row]);
    }
    Index last_id = -1, row = 0;
    for (std::size_t i = 0; i < coco_.picture.size(); ++i) {
      if (coco_.picture[i] != last_id) {
        last_id = coco_.picture[i];
        row = pictures.row(last_id);
      }
      coco_.picture[i] = row;
      coco_.label[i] = label_of[static_cast<std::size_t>(categories.row(coco_.label[i]))];
      const auto picture = static_cast<std::size_t>(row);
      coco_.suspicious += is_suspicious(&coco_.box[4 * i], coco_.height[picture], coco_.width[picture]);
    }
  }

  MappedFile& file_;
  JsonCursor json_;
  const bool polygons_;
  Coco coco_;
  std::vector<Index> category_ids_;
  Texts category_names_;
  std::string buffer_;
  JsonCursor::Number sides_[4] = {};
};

}  // namespace

bool is_suspicious(const double* box, double height, double width) {
  const double x = box[0], y = box[1], wide = box[2], high = box[3];
  const double slack_x = std::max(1.0, 0.01 * width), slack_y = std::max(1.0, 0.01 * height);
  return wide <= 0 || high <= 0 || x < -slack_x || y < -slack_y || x + wide > width + slack_x || y + high > height + slack_y;
}

std::optional<Coco> read_coco(const std::string& path, bool polygons) {
  MappedFile file(path);
  if (file.begin() == nullptr) return std::nullopt;
  try {
    return Reader(file, polygons).read();
  } catch (const Unclean&) {
    return std::nullopt;
  }
}

}  // namespace fastdet::dataset
