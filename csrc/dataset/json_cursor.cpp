// SPDX-License-Identifier: Apache-2.0
#include "dataset/json_cursor.h"

#include <charconv>
#include <limits>

namespace fastdet::dataset {
namespace {

// Python refuses integers of more than 4300 digits, which no data set has.
constexpr std::size_t kMaxNumber = 300;
constexpr char kNoText = '\xff';

bool is_plain(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3f))); };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xc0 | (code >> 6)));
    tail(0);
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | (code >> 12)));
    tail(6), tail(0);
  } else {
    out.push_back(static_cast<char>(0xf0 | (code >> 18)));
    tail(12), tail(6), tail(0);
  }
}

}  // namespace

std::string_view JsonCursor::text(std::string& buffer, bool loose) {
  if (at_ == end_ || *at_ != '"') throw Unclean{};
  const char* first = ++at_;
  while (at_ != end_ && is_plain(*at_)) ++at_;
  if (at_ != end_ && *at_ == '"') return {first, static_cast<std::size_t>(at_++ - first)};
  buffer.assign(first, at_);
  for (;;) {
    if (at_ == end_) throw Unclean{};
    if (*at_ == '"') break;
    if (*at_ == '\\') {
      escape(buffer, loose);
    } else if (is_plain(*at_)) {
      buffer.push_back(*at_++);
    } else {
      letter(buffer);
    }
  }
  ++at_;
  return buffer;
}

void JsonCursor::escape(std::string& buffer, bool loose) {
  if (end_ - at_ < 2) throw Unclean{};
  const char kind = at_[1];
  at_ += 2;
  switch (kind) {
    case '"':
    case '\\':
    case '/': buffer.push_back(kind); return;
    case 'b': buffer.push_back('\b'); return;
    case 'f': buffer.push_back('\f'); return;
    case 'n': buffer.push_back('\n'); return;
    case 'r': buffer.push_back('\r'); return;
    case 't': buffer.push_back('\t'); return;
    case 'u': break;
    default: throw Unclean{};
  }
  std::uint32_t code = four_digits();
  if (code >= 0xd800 && code < 0xdc00 && end_ - at_ >= 6 && at_[0] == '\\' && at_[1] == 'u') {
    const char* second = at_;
    at_ += 2;
    const std::uint32_t low = four_digits();
    if (low >= 0xdc00 && low < 0xe000) {
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else {
      at_ = second;  // a letter of its own
    }
  }
  if (code >= 0xd800 && code < 0xe000) {
    if (!loose) throw Unclean{};
    buffer.push_back(kNoText);
    return;
  }
  append_utf8(buffer, code);
}

std::uint32_t JsonCursor::four_digits() {
  if (end_ - at_ < 4) throw Unclean{};
  std::uint32_t code = 0;
  const auto [stop, error] = std::from_chars(at_, at_ + 4, code, 16);
  if (stop != at_ + 4 || error != std::errc{}) throw Unclean{};
  at_ += 4;
  return code;
}

// One letter beyond ASCII, by the table of the Unicode standard (3.9, well-formed UTF-8).
void JsonCursor::letter(std::string& buffer) {
  const auto lead = static_cast<unsigned char>(*at_);
  unsigned char low = 0x80, high = 0xbf;  // of the second byte
  int more = 0;
  if (lead >= 0xc2 && lead <= 0xdf) {
    more = 1;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    more = 2;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    more = 3;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    throw Unclean{};
  }
  if (end_ - at_ <= more) throw Unclean{};
  for (int i = 1; i <= more; ++i) {
    const auto byte = static_cast<unsigned char>(at_[i]);
    if (byte < low || byte > high) throw Unclean{};
    low = 0x80, high = 0xbf;
  }
  buffer.append(at_, static_cast<std::size_t>(more) + 1);
  at_ += more + 1;
}

bool JsonCursor::digits() {
  const char* first = at_;
  while (at_ != end_ && *at_ >= '0' && *at_ <= '9') ++at_;
  return at_ != first;
}

std::string_view JsonCursor::number_text(bool* is_integer) {
  space();
  const char* first = at_;
  if (at_ != end_ && *at_ == '-') ++at_;
  if (at_ != end_ && *at_ == '0') {
    ++at_;
  } else if (!digits()) {
    throw Unclean{};
  }
  *is_integer = true;
  if (at_ != end_ && *at_ == '.') {
    ++at_;
    *is_integer = false;
    if (!digits()) throw Unclean{};
  }
  if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
    ++at_;
    *is_integer = false;
    if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
    if (!digits()) throw Unclean{};
  }
  const std::string_view text(first, static_cast<std::size_t>(at_ - first));
  if (text.size() > kMaxNumber) throw Unclean{};
  return text;
}

JsonCursor::Number JsonCursor::number() {
  bool is_integer = false;
  const std::string_view text = number_text(&is_integer);
  const char *first = text.data(), *last = first + text.size();
  Number number{0, 0, is_integer};
  const auto done = is_integer ? std::from_chars(first, last, number.integer) : std::from_chars(first, last, number.value);
  if (done.ec != std::errc{} || done.ptr != last) throw Unclean{};
  if (!is_integer) return number;
  if (number.integer == std::numeric_limits<std::int64_t>::min()) throw Unclean{};
  number.value = static_cast<double>(number.integer);  // and -0 is 0, as in Python
  return number;
}

std::int64_t JsonCursor::integer(std::int64_t low, std::int64_t high) {
  const Number found = number();
  if (!found.is_integer || found.integer < low || found.integer > high) throw Unclean{};
  return found.integer;
}

void JsonCursor::word(std::string_view word) {
  if (std::string_view(at_, static_cast<std::size_t>(end_ - at_)).substr(0, word.size()) != word) throw Unclean{};
  at_ += word.size();
}

void JsonCursor::skip() {
  space();
  if (at_ == end_) throw Unclean{};
  std::string buffer;
  bool is_integer = false;
  switch (*at_) {
    case '{': object([&](std::string_view) { skip(); }); return;
    case '[': list([&] { skip(); }); return;
    case '"': text(buffer, true); return;
    case 't': word("true"); return;
    case 'f': word("false"); return;
    case 'n': word("null"); return;
    case 'N': word("NaN"); return;
    case 'I': word("Infinity"); return;
    default: break;
  }
  if (end_ - at_ >= 2 && at_[0] == '-' && at_[1] == 'I') {
    word("-Infinity");
    return;
  }
  number_text(&is_integer);
}

}  // namespace fastdet::dataset
