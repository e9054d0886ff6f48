// Reads a Chrome trace (what torch.profiler writes) into columns, in one pass over its bytes.
//
// Kept are complete events (X), instants (i, I) and counters (C) that have a name and a time. Flow
// events (s, t, f) repeat what correlations say, metadata (M) is for viewers; both are counted.
#include <new>
#include <vector>

#include "decimal.h"
#include "intern.h"
#include "json_cursor.h"

namespace rl {
namespace {

constexpr int64_t SCAN_VERSION = 2;
constexpr int64_t ABSENT = -1;
constexpr int64_t MAX_DURATION_NS = int64_t(1) << 53;  // 104 days: what sums of events can bear
constexpr size_t MAX_HEADER = 1024;

struct Event {
    char phase = 0;
    Span category, name, process, thread, start, duration, args;
    int64_t device = ABSENT, stream = ABSENT, correlation = ABSENT, external_id = ABSENT;
};

enum Table { NAMES, CATEGORIES, PROCESSES, THREADS, HEADER };
enum Number { STATUS, OFFSET, KEPT, RECORDED, PYTHON, FLOWS, UNTIMED, UNREAD };

struct Scan {
    std::vector<int64_t> start, duration, stream, correlation, external_id, args_start, args_nbytes;
    std::vector<int32_t> name, category, process, thread, device;
    std::vector<uint8_t> phase;
    Interned names, categories, processes, threads;
    std::vector<Span> header;  // key, value, key, value
    const char* data = nullptr;
    bool keeps_python = false;
    int64_t numbers[UNREAD + 1] = {};

    void keep(const Event& event, int64_t start_ns, int64_t duration_ns) {
        start.push_back(start_ns);
        duration.push_back(duration_ns);
        phase.push_back(static_cast<uint8_t>(event.phase));
        name.push_back(names.number(event.name));
        category.push_back(categories.number(event.category));
        process.push_back(processes.number(event.process));
        thread.push_back(threads.number(event.thread));
        device.push_back(static_cast<int32_t>(event.device));
        stream.push_back(event.stream);
        correlation.push_back(event.correlation);
        external_id.push_back(event.external_id);
        args_start.push_back(event.args.first ? event.args.first - data : ABSENT);
        args_nbytes.push_back(event.args.nbytes());
    }
};

// What a number says; ABSENT where it is none that the columns hold (a pointer "0x55..").
int64_t id_of(Span text, int64_t limit) {
    int64_t value;
    return scaled_decimal(text, 0, limit, value) && value >= 0 ? value : ABSENT;
}

Span unquoted(Span text) {
    if (text.nbytes() >= 2 && *text.first == '"') return {text.first + 1, text.last - 1};
    return text;
}

char phase_of(Span text) { return text.nbytes() == 3 && *text.first == '"' ? text.first[1] : '?'; }

// Calls take(key, cursor) at every value of an object.
template <class Take>
Found members(Cursor& cursor, Take take) {
    if (const Found found = cursor.expect('{'); found != Found::YES) return found;
    if (cursor.take('}')) return Found::YES;
    for (;;) {
        Span key;
        if (const Found found = cursor.string(key); found != Found::YES) return found;
        if (const Found found = cursor.expect(':'); found != Found::YES) return found;
        if (const Found found = take(key, cursor); found != Found::YES) return found;
        if (cursor.take(',')) continue;
        return cursor.expect('}');
    }
}

Found read_args(Cursor& cursor, Event& event) {
    if (cursor.next() != '{') return cursor.value(event.args);
    event.args.first = cursor.at();
    event.device = event.stream = event.correlation = event.external_id = ABSENT;
    int64_t lower = ABSENT;  // as it was spelled before 2023
    const Found found = members(cursor, [&](Span key, Cursor& at) {
        Span value;
        const Found step = at.value(value);
        switch (key.nbytes()) {
            case 6:
                if (key.is("device", 6)) event.device = id_of(value, INT32_MAX);
                if (key.is("stream", 6)) event.stream = id_of(value, INT64_MAX);
                break;
            case 11:
                if (key.is("correlation", 11)) event.correlation = id_of(value, INT64_MAX);
                if (key.is("External id", 11)) event.external_id = id_of(value, INT64_MAX);
                if (key.is("external id", 11)) lower = id_of(value, INT64_MAX);
        }
        return step;
    });
    event.args.last = cursor.at();
    if (event.external_id == ABSENT) event.external_id = lower;
    return found;
}

Found read_event(Cursor& cursor, Event& event) {
    return members(cursor, [&](Span key, Cursor& at) {
        if (key.is("args", 4)) return read_args(at, event);
        Span value;
        const Found found = at.value(value);
        switch (key.nbytes()) {
            case 2:
                if (key.is("ph", 2)) event.phase = phase_of(value);
                if (key.is("ts", 2)) event.start = value;
                break;
            case 3:
                if (key.is("cat", 3)) event.category = unquoted(value);
                if (key.is("pid", 3)) event.process = unquoted(value);
                if (key.is("tid", 3)) event.thread = unquoted(value);
                if (key.is("dur", 3)) event.duration = value;
                break;
            case 4:
                if (key.is("name", 4)) event.name = unquoted(value);
        }
        return found;
    });
}

Number fate(const Scan& scan, const Event& event, int64_t& start_ns, int64_t& duration_ns) {
    switch (event.phase) {
        case 's': case 't': case 'f': case 'M': return FLOWS;
        case 'X': case 'i': case 'I': case 'C': break;
        default: return UNREAD;
    }
    if (!scan.keeps_python && event.category.is("python_function", 15)) return PYTHON;
    const bool is_timed = event.name.first && nanoseconds(event.start, start_ns) &&
                          (!event.duration.first || nanoseconds(event.duration, duration_ns)) &&
                          duration_ns >= 0 && duration_ns <= MAX_DURATION_NS;
    return is_timed ? KEPT : UNTIMED;
}

Found read_events(Cursor& cursor, Scan& scan) {
    if (const Found found = cursor.expect('['); found != Found::YES) return found;
    if (cursor.take(']')) return Found::YES;
    for (;;) {
        Event event;
        const Found found = read_event(cursor, event);
        if (found != Found::YES) return found;
        int64_t start_ns = 0, duration_ns = 0;
        const Number number = fate(scan, event, start_ns, duration_ns);
        if (number == KEPT) scan.keep(event, start_ns, duration_ns);
        ++scan.numbers[number];
        ++scan.numbers[RECORDED];
        if (cursor.take(',')) continue;
        return cursor.expect(']');
    }
}

Found read_file(Cursor& cursor, Scan& scan) {
    if (cursor.next() == '[') return read_events(cursor, scan);
    return members(cursor, [&](Span key, Cursor& at) {
        if (key.is("traceEvents", 11) && at.next() == '[') return read_events(at, scan);
        Span value;
        const Found found = at.value(value);
        if (found == Found::YES && scan.header.size() < 2 * MAX_HEADER) {
            scan.header.push_back(key);
            scan.header.push_back(value);
        }
        return found;
    });
}

// A number that is the same for the same members "Input ..." and "Concrete Inputs" of an object.
uint64_t inputs_digest(const char* data, int64_t nbytes) {
    uint64_t digest = 0;
    Cursor cursor(data, nbytes);
    members(cursor, [&](Span key, Cursor& at) {
        Span value;
        const Found found = at.value(value);
        const bool is_chosen = key.nbytes() > 6 && (!std::memcmp(key.first, "Input ", 6) ||
                                                    key.is("Concrete Inputs", 15));
        // a sum, for the members come in any order
        if (is_chosen) digest += hash_of(value, hash_of(key));
        return found;
    });
    return digest;
}

const std::vector<Span>& table_of(const Scan& scan, int64_t table) {
    const std::vector<Span>* const tables[] = {&scan.names.spans, &scan.categories.spans,
                                               &scan.processes.spans, &scan.threads.spans, &scan.header};
    return *tables[table];
}

template <class T>
void move(std::vector<T>& column, void* target) {
    if (!column.empty()) std::memcpy(target, column.data(), column.size() * sizeof(T));
    std::vector<T>().swap(column);
}

}  // namespace
}  // namespace rl

using namespace rl;

extern "C" {

int64_t rl_scan_version() { return SCAN_VERSION; }

// Reads `nbytes` of JSON, which must stay where it is until rl_scan_free. Null without memory.
void* rl_scan_trace(const char* data, int64_t nbytes, int64_t keeps_python) {
    Scan* scan = nullptr;
    try {
        scan = new Scan;
        scan->data = data;
        scan->keeps_python = keeps_python != 0;
        Cursor cursor(data, nbytes);
        Found found = read_file(cursor, *scan);
        if (found == Found::YES && (cursor.next(), !cursor.is_at_end())) found = Found::BROKEN;
        scan->numbers[STATUS] = static_cast<int64_t>(found);
        scan->numbers[OFFSET] = cursor.offset();
        return scan;
    } catch (const std::bad_alloc&) {
        delete scan;
        return nullptr;
    }
}

int64_t rl_scan_number(const void* scan, int64_t number) {
    return static_cast<const Scan*>(scan)->numbers[number];
}

int64_t rl_scan_table_size(const void* scan, int64_t table) {
    return static_cast<int64_t>(table_of(*static_cast<const Scan*>(scan), table).size());
}

// Offset and length of every text of a table; offset -1 where an event had none.
void rl_scan_table(const void* scan, int64_t table, int64_t* target) {
    const Scan& found = *static_cast<const Scan*>(scan);
    for (const Span& span : table_of(found, table)) {
        *target++ = span.first ? span.first - found.data : ABSENT;
        *target++ = span.nbytes();
    }
}

// Hands a column over, once; the order is that of COLUMNS in ridgeline/native/scan.py.
void rl_scan_column(void* scan, int64_t column, void* target) {
    Scan& found = *static_cast<Scan*>(scan);
    switch (column) {
        case 0: return move(found.start, target);
        case 1: return move(found.duration, target);
        case 2: return move(found.phase, target);
        case 3: return move(found.name, target);
        case 4: return move(found.category, target);
        case 5: return move(found.process, target);
        case 6: return move(found.thread, target);
        case 7: return move(found.device, target);
        case 8: return move(found.stream, target);
        case 9: return move(found.correlation, target);
        case 10: return move(found.external_id, target);
        case 11: return move(found.args_start, target);
        case 12: return move(found.args_nbytes, target);
    }
}

// For each of `count` objects in `data`, a number that tells its inputs from others; 0 without any.
void rl_scan_inputs(const char* data, int64_t count, const int64_t* start, const int64_t* nbytes,
                    uint64_t* digest) {
    for (int64_t i = 0; i < count; ++i) digest[i] = inputs_digest(data + start[i], nbytes[i]);
}

void rl_scan_free(void* scan) { delete static_cast<Scan*>(scan); }

}  // extern "C"
