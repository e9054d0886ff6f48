// A place in JSON text: steps over strings, numbers and whole values without building any of them.
#pragma once
#include <cstdint>
#include <cstring>

namespace rl {

struct Span {
    const char* first = nullptr;
    const char* last = nullptr;

    int64_t nbytes() const { return last - first; }
    bool is(const char* text, int64_t length) const {
        return nbytes() == length && (!length || !std::memcmp(first, text, length));
    }
};

// What a step found: what was asked for, the end of the text (a file cut off), or another byte.
enum class Found { YES, CUT, BROKEN };

constexpr int MAX_DEPTH = 256;  // of brackets; what people write has fewer than ten

class Cursor {
public:
    Cursor(const char* data, int64_t nbytes) : begin_(data), at_(data), end_(data + nbytes) {}

    int64_t offset() const { return at_ - begin_; }
    const char* at() const { return at_; }
    bool is_at_end() const { return at_ == end_; }
    char peek() const { return at_ == end_ ? '\0' : *at_; }

    // To the next byte that is not white.
    char next() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
        return peek();
    }

    Found expect(char c) {
        if (next() != c || is_at_end()) return is_at_end() ? Found::CUT : Found::BROKEN;
        ++at_;
        return Found::YES;
    }

    bool take(char c) {
        if (next() != c || is_at_end()) return false;
        ++at_;
        return true;
    }

    // The inside of a string, its escapes as they are written.
    Found string(Span& span) {
        if (const Found found = expect('"'); found != Found::YES) return found;
        span.first = at_;
        for (;; ++at_) {
            // short ones, keys above all, end sooner than memchr starts
            for (int i = 0; i < 16; ++i, ++at_) {
                if (at_ == end_) return Found::CUT;
                if (*at_ == '"') return finish(span);
                if (*at_ == '\\') break;
            }
            if (at_ == end_) return Found::CUT;
            if (*at_ != '\\') {
                const char* quote = static_cast<const char*>(std::memchr(at_, '"', end_ - at_));
                const char* stop = quote ? quote : end_;
                const char* escape = static_cast<const char*>(std::memchr(at_, '\\', stop - at_));
                at_ = escape ? escape : stop;
                if (at_ == end_) return Found::CUT;
                if (!escape) return finish(span);
            }
            if (++at_ == end_) return Found::CUT;  // what is escaped follows, and is stepped over
        }
    }

    // A value of any type; of a string the span has the quotes.
    Found value(Span& span) {
        const char c = next();
        if (is_at_end()) return Found::CUT;
        span.first = at_;
        Span inside;
        const Found found = c == '"' ? string(inside) : c == '{' || c == '[' ? nested() : word();
        span.last = at_;
        return found;
    }

private:
    const char *begin_, *at_, *end_;

    Found finish(Span& span) {
        span.last = at_++;
        return Found::YES;
    }

    // Brackets must match; what stands between them is not looked at.
    Found nested() {
        char closers[MAX_DEPTH];
        int depth = 0;
        for (;; ++at_) {
            if (at_ == end_) return Found::CUT;
            const char c = *at_;
            if (c == '"') {
                Span inside;
                if (const Found found = string(inside); found != Found::YES) return found;
                --at_;
            } else if (c == '{' || c == '[') {
                if (depth == MAX_DEPTH) return Found::BROKEN;
                closers[depth++] = c == '{' ? '}' : ']';
            } else if (c == '}' || c == ']') {
                if (closers[--depth] != c) return Found::BROKEN;
                if (!depth) return ++at_, Found::YES;
            }
        }
    }

    // A number, true, false, null; and inf and nan, which some recorders write.
    Found word() {
        const char* first = at_;
        while (at_ != end_ && ((*at_ >= '0' && *at_ <= '9') || *at_ == '.' || *at_ == '-' || *at_ == '+' ||
                               ((*at_ | 32) >= 'a' && (*at_ | 32) <= 'z')))
            ++at_;
        if (at_ == end_) return Found::CUT;
        return at_ == first ? Found::BROKEN : Found::YES;
    }
};

}  // namespace rl
