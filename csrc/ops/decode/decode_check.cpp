// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/check.h"
#include "ops/decode/decode.h"

namespace fastdet {
namespace {

// Shape as the caller gave it: the prior's axis is theirs with anchors only, rows of queries have two axes.
std::string given(const TensorView& view, BoxCode code) {
  const std::int64_t* s = view.shape;
  if (code == BoxCode::kAnchors) return shape_text(view);
  if (code == BoxCode::kCxcywh) return concat("(", s[0], ", ", s[3], ", ", s[2], ")");
  return concat("(", s[0], ", ", s[2], ", ", s[3], ", ", s[4], ")");
}

void check_codes(const char* op, int i, BoxCode code, const TensorView& codes) {
  const std::int64_t channels = codes.shape[2];
  const std::string got = concat(", got ", given(codes, code));
  const std::string name = concat(op, ": codes[", i, "]");
  switch (code) {
    case BoxCode::kDfl:
      FD_CHECK(channels % 4 == 0 && channels >= 8, ValueError, name, " must be (B, 4 R, H, W) with R >= 2 bins", got,
               channels == 4 ? "; did you mean kind=\"distance\"?" : "");
      break;
    case BoxCode::kDistance:
      FD_CHECK(channels == 4, ValueError, name, " must be (B, 4, H, W)", got,
               channels % 4 == 0 ? "; did you mean kind=\"dfl\"?" : "");
      break;
    case BoxCode::kAnchors:
      FD_CHECK(channels == 4 || channels == 5, ValueError, name, " must be (B, P, 5, H, W), or 4 without objectness", got);
      break;
    default: FD_CHECK(channels == 4, ValueError, name, " must be (B, Q, 4)", got); break;
  }
}

}  // namespace

void add_level(const char* op, const HeadFormat& format, const TensorView& logits, const TensorView& codes, double stride,
               const double* anchors, std::int64_t count, HeadMaps* maps) {
  const int i = maps->levels;
  FD_CHECK(i < kMaxLevels, ValueError, op, ": logits must have at most ", kMaxLevels, " levels");
  FD_CHECK(std::isfinite(stride) && stride > 0.0, ValueError, op, ": strides must be positive, got ", stride);
  check_codes(op, i, format.code, codes);
  const bool cells = codes.shape[0] == logits.shape[0] && codes.shape[1] == logits.shape[1] &&
                     codes.shape[3] == logits.shape[3] && codes.shape[4] == logits.shape[4];
  FD_CHECK(cells, ValueError, op, ": codes[", i, "] must have the batch and cells of logits[", i, "] ",
           given(logits, format.code), ", got ", given(codes, format.code));
  FD_CHECK(codes.dtype == logits.dtype, TypeError, op, ": codes[", i, "] must be ", dtype_name(logits.dtype),
           " like logits, got ", dtype_name(codes.dtype));
  const bool objectness = format.code == BoxCode::kAnchors && codes.shape[2] == 5;
  if (i == 0) {
    maps->code = format.code;
    maps->dtype = logits.dtype;
    maps->objectness = objectness;
    maps->images = logits.shape[0];
    maps->classes = logits.shape[2];
    maps->bins = format.code == BoxCode::kDfl ? codes.shape[2] / 4 : 0;
    maps->offset = format.offset;
    maps->picture_height = format.picture_height;
    maps->picture_width = format.picture_width;
    FD_CHECK(std::isfinite(format.offset), ValueError, op, ": offset must be finite, got ", format.offset);
  }
  FD_CHECK(logits.dtype == maps->dtype, TypeError, op, ": logits[", i, "] must be ", dtype_name(maps->dtype),
           " like logits[0], got ", dtype_name(logits.dtype));
  FD_CHECK(logits.shape[0] == maps->images && logits.shape[2] == maps->classes, ValueError, op, ": logits[", i,
           "] must have the batch ", maps->images, " and the classes ", maps->classes, " of logits[0], got ",
           given(logits, format.code));
  FD_CHECK(codes.shape[2] == maps->codes_per_anchor(), ValueError, op, ": codes[", i, "] must have ", maps->codes_per_anchor(),
           " numbers per anchor like codes[0], got ", given(codes, format.code));
  HeadLevel& level = maps->level[i];
  level = {};
  if (format.code == BoxCode::kAnchors) {
    FD_CHECK(logits.shape[1] <= kMaxPriors, ValueError, op, ": logits[", i, "] must have at most ", kMaxPriors,
             " anchors per cell, got ", logits.shape[1]);
    FD_CHECK(count == 2 * logits.shape[1], ValueError, op, ": anchors must hold width and height of each of the ",
             logits.shape[1], " anchors of level ", i, ", got ", count, " numbers");
    for (std::int64_t k = 0; k < count; ++k) level.prior_size[k / 2][k % 2] = anchors[k];
  }
  level.logits = logits.data;
  level.codes = codes.data;
  for (int k = 0; k < 5; ++k) {
    level.logits_stride[k] = logits.stride[k];
    level.codes_stride[k] = codes.stride[k];
  }
  level.priors = logits.shape[1];
  level.height = logits.shape[3];
  level.width = logits.shape[4];
  level.first = maps->anchors;
  level.stride = stride;
  maps->anchors += level.anchors();
  ++maps->levels;
}

void detect_check(const char* op, const DetectParams& p) {
  FD_CHECK(p.iou_threshold >= 0.0 && p.iou_threshold <= 1.0, ValueError, op, ": iou_threshold must lie in [0, 1], got ",
           p.iou_threshold);
  FD_CHECK(!std::isnan(p.score_threshold), ValueError, op, ": score_threshold must be a number, got nan");
  FD_CHECK(p.max_det >= 0, ValueError, op, ": max_det must be at least 0, got ", p.max_det);
  FD_CHECK(p.max_candidates >= 0, ValueError, op, ": max_candidates must be at least 0, got ", p.max_candidates);
  FD_CHECK(p.maps.classes == 0 || p.maps.anchors <= kMaxCandidates / p.maps.classes, ValueError, op,
           ": an image may have at most ", kMaxCandidates, " candidates, got ", p.maps.anchors, " anchors x ", p.maps.classes,
           " classes");
}

std::size_t detect_cuda_workspace_bytes(const DetectParams& p) {
  return static_cast<std::size_t>(p.maps.images) * static_cast<std::size_t>(p.layout().bytes());
}

}  // namespace fastdet
