// Decimal numbers as integers, exactly: microseconds with a fraction become nanoseconds.
#pragma once
#include <cstdint>

#include "json_cursor.h"

namespace rl {

constexpr int64_t MAX_TIME_NS = int64_t(1) << 61;  // that a start and a duration add up

// A decimal number times 10^shift, rounded half away from zero. False where the text is no number
// or the result is above `limit`. Digits beyond the 38th are taken for zeros.
inline bool scaled_decimal(Span text, int shift, int64_t limit, int64_t& result) {
    const char* at = text.first;
    const char* last = text.last;
    const bool is_negative = at != last && *at == '-';
    at += is_negative;
    unsigned __int128 mantissa = 0;
    int digits = 0, significant = 0, exponent = shift;
    bool is_fraction = false;
    for (; at != last; ++at) {
        if (*at == '.' && !is_fraction && digits) {
            is_fraction = true;
            continue;
        }
        if (*at < '0' || *at > '9') break;
        ++digits;
        if (significant < 38) {
            mantissa = mantissa * 10 + (*at - '0');
            significant += mantissa != 0;
            exponent -= is_fraction;
        } else {
            exponent += !is_fraction;
        }
    }
    if (!digits) return false;
    if (at != last) {
        if (*at != 'e' && *at != 'E') return false;
        if (++at == last) return false;
        const bool is_small = *at == '-';
        at += is_small || *at == '+';
        if (at == last) return false;
        int64_t power = 0;
        for (; at != last; ++at) {
            if (*at < '0' || *at > '9') return false;
            if (power < 100000) power = power * 10 + (*at - '0');
        }
        const int64_t sum = exponent + (is_small ? -power : power);
        exponent = sum > 100000 ? 100000 : sum < -100000 ? -100000 : static_cast<int>(sum);
    }
    for (; exponent > 0 && mantissa; --exponent) {
        if (mantissa > static_cast<unsigned __int128>(limit)) return false;
        mantissa *= 10;
    }
    int dropped = 0;  // the last digit taken off decides how to round
    for (; exponent < 0 && (mantissa || dropped); ++exponent) {
        dropped = static_cast<int>(mantissa % 10);
        mantissa /= 10;
    }
    mantissa += dropped >= 5;
    if (mantissa > static_cast<unsigned __int128>(limit)) return false;
    result = is_negative ? -static_cast<int64_t>(mantissa) : static_cast<int64_t>(mantissa);
    return true;
}

// Microseconds as nanoseconds. The usual spelling, digits with at most three after the point, is
// read in one pass.
inline bool nanoseconds(Span text, int64_t& result) {
    int64_t value = 0;
    const char* at = text.first;
    const char* stop = text.nbytes() < 17 ? text.last : at;
    for (; at != stop && *at >= '0' && *at <= '9'; ++at) value = value * 10 + (*at - '0');
    if (at != text.first && at == stop) {
        result = value > MAX_TIME_NS / 1000 ? 0 : value * 1000;
        return value <= MAX_TIME_NS / 1000;
    }
    if (at != text.first && *at == '.' && stop - at <= 4 && stop - at > 1) {
        int places = 0;
        for (++at; at != stop && *at >= '0' && *at <= '9'; ++at, ++places) value = value * 10 + (*at - '0');
        if (at == stop) {
            for (; places < 3; ++places) value *= 10;
            result = value;
            return true;
        }
    }
    return scaled_decimal(text, 3, MAX_TIME_NS, result);
}

}  // namespace rl
