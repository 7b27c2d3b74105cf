// SPDX-License-Identifier: Apache-2.0
// Walks over JSON (RFC 8259) in memory, once, from left to right, and keeps nothing of what it passed. It takes a part of what
// Python's json takes, and reads that part as Python does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fastdet::dataset {

// Thrown where the text is not what the fast readers take.
struct Unclean {};

class JsonCursor {
 public:
  static constexpr int kMaxDepth = 64;  // lists and objects in each other

  JsonCursor(const char* begin, const char* end) : at_(begin), end_(end) {}

  const char* position() const { return at_; }

  // The first letter of the value that follows; 0 at the end.
  char peek() {
    space();
    return at_ == end_ ? '\0' : *at_;
  }

  // An object: calls member(key), which must pass the value, for each of its members. The key is valid until then.
  template <typename Member>
  void object(Member&& member) {
    enter('{');
    if (!take('}')) {
      std::string buffer;
      do {
        space();
        const std::string_view key = text(buffer, true);
        expect(':');
        member(key);
      } while (take(','));
      expect('}');
    }
    --depth_;
  }

  // A list: calls element(), which must pass one value, for each of its elements.
  template <typename Element>
  void list(Element&& element) {
    enter('[');
    if (!take(']')) {
      do {
        element();
      } while (take(','));
      expect(']');
    }
    --depth_;
  }

  // A string: a view of the text itself, or of `buffer` where it had to be decoded. Halves of surrogate pairs are no text; with
  // `loose` they become a byte that no UTF-8 text has.
  std::string_view string(std::string& buffer) {
    space();
    return text(buffer, false);
  }

  struct Number {
    double value;
    std::int64_t integer;  // where is_integer: the text has neither fraction nor exponent
    bool is_integer;
  };
  // A finite number; an integer must be smaller than 2^63 in size.
  Number number();
  // An integer in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high);

  // Passes a value of any kind, NaN and infinities among them.
  void skip();

  // Only white space may follow.
  void finish() {
    space();
    if (at_ != end_) throw Unclean{};
  }

 private:
  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }
  bool take(char c) {
    space();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) throw Unclean{};
  }
  void enter(char c) {
    expect(c);
    if (++depth_ > kMaxDepth) throw Unclean{};
  }
  std::string_view text(std::string& buffer, bool loose);
  void escape(std::string& buffer, bool loose);
  std::uint32_t four_digits();
  void letter(std::string& buffer);
  std::string_view number_text(bool* is_integer);
  bool digits();
  void word(std::string_view word);

  const char* at_;
  const char* end_;
  int depth_ = 0;
};

}  // namespace fastdet::dataset
