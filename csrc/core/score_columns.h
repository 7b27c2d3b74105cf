// SPDX-License-Identifier: Apache-2.0
// First half of suppression by classes on the CPU: which candidates of an image pass the score threshold.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/tensor.h"

namespace fastdet {

// Writes the keys of all candidates of `image` that pass, in no particular order, to keys; returns how many. scores: [B, N, C].
// keys holds one more than rule.candidates(). labels[anchor] is 1 where the box may be a candidate, else 0; in the best-class
// mode it gets the column of the best score.
std::int64_t collect_candidates(const CandidateRule& rule, const TensorView& scores, std::int64_t image, double score_threshold,
                                std::uint64_t* keys, std::int32_t* labels);

}  // namespace fastdet
