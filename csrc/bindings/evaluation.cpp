// SPDX-License-Identifier: Apache-2.0
// fastdet.evaluation prepares the columns; sizes and ranges are checked here once more, because they become addresses.
#include "evaluation/evaluation.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/columns.h"
#include "bindings/operators.h"
#include "core/check.h"

namespace fastdet::bindings {
namespace {

namespace ev = fastdet::evaluation;
namespace py = pybind11;
using ev::Index;
template <typename T>
using Column = py::array_t<T, py::array::c_style | py::array::forcecast>;

void check_column(const Column<Index>& column, Index count, Index limit, const char* name) {
  FD_CHECK(column.ndim() == 1 && column.size() == count, ValueError, "evaluate: ", name, " must have ", count, " rows");
  const Index* data = column.data();
  for (Index i = 0; i < count; ++i) {
    FD_CHECK(data[i] >= 0 && data[i] < limit, ValueError, "evaluate: ", name, " must lie in 0..", limit - 1, ", got ", data[i]);
  }
}

template <typename T>
const T* values(const Column<T>& column, Index size, const char* name) {
  FD_CHECK(column.size() == size, ValueError, "evaluate: ", name, " must have ", size, " numbers, got ", column.size());
  return column.data();
}

struct Columns {
  Column<Index> picture, label;
  Column<double> box, number;  // number: the area of a truth, the score of a detection
};

ev::Truth truth_of(const Columns& columns, const Column<std::uint8_t>& crowd, Index pictures, Index labels) {
  const Index n = columns.picture.size();
  check_column(columns.picture, n, pictures, "pictures of the truth");
  check_column(columns.label, n, labels, "labels of the truth");
  return {n,
          columns.picture.data(),
          columns.label.data(),
          values(columns.box, 4 * n, "boxes of the truth"),
          values(columns.number, n, "areas"),
          values(crowd, n, "crowd")};
}

ev::Found found_of(const Columns& columns, Index pictures, Index labels) {
  const Index n = columns.picture.size();
  check_column(columns.picture, n, pictures, "pictures");
  check_column(columns.label, n, labels, "labels");
  return {n, columns.picture.data(), columns.label.data(), values(columns.box, 4 * n, "boxes"),
          values(columns.number, n, "scores")};
}

py::tuple match(const Columns& truth, const Column<std::uint8_t>& crowd, const Columns& found, ev::Rules rules, Index pictures,
                Index labels) {
  FD_CHECK(!rules.thresholds.empty() && rules.thresholds.size() <= 32, ValueError, "evaluate: thresholds must be 1 to 32, got ",
           rules.thresholds.size());
  const ev::Truth truths = truth_of(truth, crowd, pictures, labels);
  const ev::Found rows = found_of(found, pictures, labels);
  ev::Matches matches;
  const auto areas = static_cast<py::ssize_t>(rules.areas.size());
  {
    const py::gil_scoped_release released;
    matches = ev::match(truths, rows, rules, pictures, labels);
  }
  const auto n = static_cast<py::ssize_t>(matches.row.size());
  return py::make_tuple(array_of(std::move(matches.row), {n}), array_of(std::move(matches.partner), {n}),
                        array_of(std::move(matches.rank), {n}), array_of(std::move(matches.matched), {areas, n}),
                        array_of(std::move(matches.ignored), {areas, n}));
}

py::tuple accumulate(const Column<Index>& label, const Column<std::int32_t>& rank, const Column<double>& score,
                     const Column<std::uint32_t>& matched, const Column<std::uint32_t>& ignored, const Column<Index>& truths,
                     std::vector<double> recalls, std::vector<Index> most, Index thresholds) {
  FD_CHECK(truths.ndim() == 2 && thresholds >= 1 && thresholds <= 32, ValueError, "evaluate: truths must be (labels, areas)");
  const Index n = label.size(), labels = truths.shape(0), areas = truths.shape(1);
  check_column(label, n, labels, "labels");
  FD_CHECK(std::is_sorted(label.data(), label.data() + n), ValueError, "evaluate: labels must rise");
  const ev::Ranked ranked{n,
                          label.data(),
                          values(rank, n, "ranks"),
                          values(score, n, "scores"),
                          values(matched, areas * n, "matches"),
                          values(ignored, areas * n, "matches"),
                          truths.data(),
                          std::move(recalls),
                          std::move(most),
                          thresholds,
                          labels,
                          areas};
  const auto r = static_cast<py::ssize_t>(ranked.recalls.size()), m = static_cast<py::ssize_t>(ranked.most.size());
  py::array_t<double> precision({thresholds, r, labels, areas, m}), recall({thresholds, labels, areas, m});
  py::array_t<double> scores({thresholds, r, labels, areas, m});
  double *at_precision = precision.mutable_data(), *at_recall = recall.mutable_data(), *at_scores = scores.mutable_data();
  {
    const py::gil_scoped_release released;
    ev::accumulate(ranked, at_precision, at_recall, at_scores);
  }
  return py::make_tuple(precision, recall, scores);
}

py::tuple nearest(const Columns& truth, const Column<std::uint8_t>& crowd, const Columns& found, Index pictures, Index labels) {
  const ev::Truth truths = truth_of(truth, crowd, pictures, labels);
  const ev::Found rows = found_of(found, pictures, labels);
  ev::Nearest near;
  {
    const py::gil_scoped_release released;
    near = ev::nearest(truths, rows, pictures);
  }
  const auto n = static_cast<py::ssize_t>(rows.count);
  return py::make_tuple(array_of(std::move(near.own), {n}), array_of(std::move(near.own_iou), {n}),
                        array_of(std::move(near.other), {n}), array_of(std::move(near.other_iou), {n}));
}

}  // namespace

void bind_evaluation(py::module_& module) {
  py::class_<Columns>(module, "EvaluationColumns")
      .def(py::init([](Column<Index> picture, Column<Index> label, Column<double> box, Column<double> number) {
             return Columns{std::move(picture), std::move(label), std::move(box), std::move(number)};
           }),
           py::arg("picture"), py::arg("label"), py::arg("box"), py::arg("number"));
  module.def(
      "evaluation_match",
      [](const Columns& truth, const Column<std::uint8_t>& crowd, const Columns& found, std::vector<double> thresholds,
         std::vector<std::array<double, 2>> areas, Index most, Index pictures,
         Index labels) { return match(truth, crowd, found, {std::move(thresholds), std::move(areas), most}, pictures, labels); },
      py::arg("truth"), py::arg("crowd"), py::arg("found"), py::arg("thresholds"), py::arg("areas"), py::arg("most"),
      py::arg("pictures"), py::arg("labels"));
  module.def("evaluation_accumulate", &accumulate, py::arg("label"), py::arg("rank"), py::arg("score"), py::arg("matched"),
             py::arg("ignored"), py::arg("truths"), py::arg("recalls"), py::arg("most"), py::arg("thresholds"));
  module.def("evaluation_nearest", &nearest, py::arg("truth"), py::arg("crowd"), py::arg("found"), py::arg("pictures"),
             py::arg("labels"));
}

}  // namespace fastdet::bindings
