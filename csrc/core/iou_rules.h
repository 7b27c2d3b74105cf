// SPDX-License-Identifier: Apache-2.0
// Which member of the IoU family, in which box format, and where eps stands: what operators are told in words.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/check.h"

namespace fastdet {

enum class IouKind : std::uint8_t { kIou, kGiou, kDiou, kCiou, kProb };
enum class BoxFormat : std::uint8_t { kXyxy, kXywh, kCxcywh, kRotated };
enum class EpsUse : std::uint8_t { kNone, kAdd, kClamp };
enum class EpsSides : std::uint8_t { kNone, kHeight, kBoth };

struct IouRules {
  IouKind kind = IouKind::kIou;
  BoxFormat format = BoxFormat::kXyxy;
  EpsUse eps_union = EpsUse::kNone, eps_enclosing = EpsUse::kNone;
  EpsSides eps_sides = EpsSides::kNone;
  bool detach_alpha = true;
  double eps = 0.0, variance_eps = 0.0;

  int coordinates() const { return format == BoxFormat::kRotated ? 5 : 4; }
};

template <typename Value, std::size_t N>
Value value_of_word(const char* op, const char* name, std::string_view word, const std::pair<const char*, Value> (&known)[N]) {
  std::string list;
  for (const auto& [text, value] : known) {
    if (word == text) return value;
    list += list.empty() ? text : std::string(", ") + text;
  }
  throw ValueError(concat(op, ": ", name, " must be one of ", list, ", got ", word));
}

// From words and numbers as they come from Python; throws on what has no meaning.
inline IouRules iou_rules(const char* op, std::string_view kind, std::string_view fmt, double eps, std::string_view eps_union,
                          std::string_view eps_enclosing, std::string_view eps_sides, double variance_eps, bool detach_alpha) {
  constexpr std::pair<const char*, IouKind> kinds[] = {{"iou", IouKind::kIou},
                                                       {"giou", IouKind::kGiou},
                                                       {"diou", IouKind::kDiou},
                                                       {"ciou", IouKind::kCiou},
                                                       {"probiou", IouKind::kProb}};
  constexpr std::pair<const char*, BoxFormat> formats[] = {
      {"xyxy", BoxFormat::kXyxy}, {"xywh", BoxFormat::kXywh}, {"cxcywh", BoxFormat::kCxcywh}, {"cxcywha", BoxFormat::kRotated}};
  constexpr std::pair<const char*, EpsUse> uses[] = {{"none", EpsUse::kNone}, {"add", EpsUse::kAdd}, {"clamp", EpsUse::kClamp}};
  constexpr std::pair<const char*, EpsSides> sides[] = {
      {"none", EpsSides::kNone}, {"height", EpsSides::kHeight}, {"both", EpsSides::kBoth}};
  IouRules rules;
  rules.kind = value_of_word(op, "kind", kind, kinds);
  rules.format = value_of_word(op, "fmt", fmt, formats);
  rules.eps_union = value_of_word(op, "eps_union", eps_union, uses);
  rules.eps_enclosing = value_of_word(op, "eps_enclosing", eps_enclosing, uses);
  rules.eps_sides = value_of_word(op, "eps_sides", eps_sides, sides);
  rules.detach_alpha = detach_alpha;
  rules.eps = eps;
  rules.variance_eps = variance_eps;
  FD_CHECK((rules.kind == IouKind::kProb) == (rules.format == BoxFormat::kRotated), ValueError, op,
           ": fmt must be cxcywha for probiou and for nothing else, got ", fmt, " for ", kind);
  FD_CHECK(std::isfinite(eps) && eps >= 0.0, ValueError, op, ": eps must be finite and not negative, got ", eps);
  FD_CHECK(std::isfinite(variance_eps) && variance_eps >= 0.0, ValueError, op,
           ": variance_eps must be finite and not negative, got ", variance_eps);
  return rules;
}

}  // namespace fastdet
