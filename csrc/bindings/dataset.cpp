// SPDX-License-Identifier: Apache-2.0
// Readers of data sets; fastdet.data calls them first and its own where they give None.
#include "dataset/dataset.h"

#include <pybind11/stl.h>

#include "bindings/columns.h"
#include "bindings/operators.h"
#include "core/check.h"

namespace fastdet::bindings {
namespace {

namespace ds = fastdet::dataset;
namespace py = pybind11;
using ds::Index;
template <typename T>
using Column = py::array_t<T, py::array::c_style>;

py::bytes letters_of(const ds::Texts& texts, Index i) {
  const ds::TextsView view{texts.letters.data(), texts.starts.data(), texts.size()};
  return {view[i].data(), view[i].size()};
}

py::array bytes_of(std::vector<char>&& letters) { return array_of(std::move(letters)).attr("view")("uint8"); }

// The starts become addresses, so they are checked.
ds::TextsView view_of(const Column<std::uint8_t>& letters, const Column<Index>& starts, const char* name) {
  const Index count = starts.size() - 1;
  FD_CHECK(
      letters.ndim() == 1 && starts.ndim() == 1 && count >= 0 && starts.data()[0] == 0 && starts.data()[count] == letters.size(),
      ValueError, name, ": starts must rise from 0 to the number of letters");
  for (Index i = 0; i < count; ++i) {
    FD_CHECK(starts.data()[i] <= starts.data()[i + 1], ValueError, name, ": starts must rise");
  }
  return {reinterpret_cast<const char*>(letters.data()), starts.data(), count};
}

void add_columns(py::dict& out, ds::Columns&& columns) {
  const auto boxes = static_cast<py::ssize_t>(columns.area.size());
  out["height"] = array_of(std::move(columns.height));
  out["width"] = array_of(std::move(columns.width));
  out["picture"] = array_of(std::move(columns.picture));
  out["label"] = array_of(std::move(columns.label));
  out["box"] = array_of(std::move(columns.box), {boxes, 4});
  out["area"] = array_of(std::move(columns.area));
}

py::object read_coco(const std::string& path) {
  std::optional<ds::Coco> found;
  {
    const py::gil_scoped_release released;
    found = ds::read_coco(path);
  }
  if (!found) return py::none();
  py::dict out;
  py::list names;
  for (Index i = 0; i < found->category_names.size(); ++i) names.append(letters_of(found->category_names, i));
  out["names"] = names;
  out["category_ids"] = found->category_ids;
  out["suspicious"] = found->suspicious;
  out["paths"] = bytes_of(std::move(found->names.letters));
  out["path_starts"] = array_of(std::move(found->names.starts));
  out["picture_id"] = array_of(std::move(found->picture_id));
  out["annotation_id"] = array_of(std::move(found->annotation_id));
  out["crowd"] = array_of(std::move(found->crowd));
  add_columns(out, std::move(*found));
  return out;
}

py::array not_plain(const std::string& folder, const Column<std::uint8_t>& letters, const Column<Index>& starts, bool links) {
  const ds::TextsView names = view_of(letters, starts, "dataset_not_plain");
  std::vector<std::uint8_t> found;
  {
    const py::gil_scoped_release released;
    found = ds::not_plain(folder, names, links);
  }
  return array_of(std::move(found)).attr("view")("bool");
}

}  // namespace

void bind_dataset(py::module_& module) {
  module.def("dataset_read_coco", &read_coco, py::arg("path"));
  module.def("dataset_not_plain", &not_plain, py::arg("folder"), py::arg("letters"), py::arg("starts"), py::arg("links"));
}

}  // namespace fastdet::bindings
