// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <numeric>

#include "core/parallel.h"
#include "evaluation/evaluation.h"

namespace fastdet::evaluation {
namespace {

// The detections of one label by falling score, as one range of areas and one number of them see them.
struct Curve {
  std::vector<double> score, precision, recall;
  std::vector<std::uint32_t> matched, ignored;

  void clear() { score.clear(), matched.clear(), ignored.clear(); }
  void add(double s, std::uint32_t m, std::uint32_t i) { score.push_back(s), matched.push_back(m), ignored.push_back(i); }

  // Precision and recall after each detection, for threshold t; precision is then the best at this or a higher recall.
  void compute(Index t, double truths) {
    const std::size_t n = score.size();
    precision.resize(n), recall.resize(n);
    double right = 0, wrong = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint32_t match = matched[i] >> t & 1U, counts = ~(ignored[i] >> t) & 1U;
      right += match & counts;
      wrong += (match ^ 1U) & counts;
      recall[i] = right / truths;
      precision[i] = right / (wrong + right + std::numeric_limits<double>::epsilon());
    }
    for (std::size_t i = n; i-- > 1;) precision[i - 1] = std::max(precision[i - 1], precision[i]);
  }
};

class Label {
 public:
  Label(const Ranked& ranked, double* precision, double* recall, double* scores)
      : ranked_(ranked), precision_(precision), recall_(recall), scores_(scores) {}

  void run(Index label) {
    const Index* end = ranked_.label + ranked_.count;
    const Index* from = std::lower_bound(ranked_.label, end, label);
    const Index* to = std::upper_bound(from, end, label);
    order_.resize(static_cast<std::size_t>(to - from));
    std::iota(order_.begin(), order_.end(), static_cast<Index>(from - ranked_.label));
    std::stable_sort(order_.begin(), order_.end(), [&](Index a, Index b) { return ranked_.score[a] > ranked_.score[b]; });
    for (Index a = 0; a < ranked_.areas; ++a) {
      const Index truths = ranked_.truths[label * ranked_.areas + a];
      if (truths == 0) continue;
      for (std::size_t m = 0; m < ranked_.most.size(); ++m) {
        curve_.clear();
        for (const Index i : order_) {
          if (ranked_.rank[i] >= ranked_.most[m]) continue;
          curve_.add(ranked_.score[i], ranked_.matched[a * ranked_.count + i], ranked_.ignored[a * ranked_.count + i]);
        }
        for (Index t = 0; t < ranked_.thresholds; ++t) write(t, label, a, static_cast<Index>(m), truths);
      }
    }
  }

 private:
  void write(Index t, Index label, Index a, Index m, Index truths) {
    curve_.compute(t, static_cast<double>(truths));
    const auto most = static_cast<Index>(ranked_.most.size()), step = ranked_.labels * ranked_.areas * most;
    const Index cell = (label * ranked_.areas + a) * most + m, n = static_cast<Index>(curve_.score.size());
    recall_[t * step + cell] = n ? curve_.recall.back() : 0;
    Index i = 0;
    for (std::size_t r = 0; r < ranked_.recalls.size(); ++r) {
      while (i < n && curve_.recall[static_cast<std::size_t>(i)] < ranked_.recalls[r]) ++i;
      const Index place = (t * static_cast<Index>(ranked_.recalls.size()) + static_cast<Index>(r)) * step + cell;
      precision_[place] = i < n ? curve_.precision[static_cast<std::size_t>(i)] : 0;
      scores_[place] = i < n ? curve_.score[static_cast<std::size_t>(i)] : 0;
    }
  }

  const Ranked& ranked_;
  double *precision_, *recall_, *scores_;
  std::vector<Index> order_;
  Curve curve_;
};

}  // namespace

void accumulate(const Ranked& ranked, double* precision, double* recall, double* scores) {
  const Index cells = ranked.thresholds * ranked.labels * ranked.areas * static_cast<Index>(ranked.most.size());
  const Index points = cells * static_cast<Index>(ranked.recalls.size());
  std::fill(precision, precision + points, -1.0);
  std::fill(scores, scores + points, -1.0);
  std::fill(recall, recall + cells, -1.0);
  parallel_for(ranked.labels, 1, [&](Index begin, Index end) {
    Label work(ranked, precision, recall, scores);
    for (Index label = begin; label < end; ++label) work.run(label);
  });
}

}  // namespace fastdet::evaluation
