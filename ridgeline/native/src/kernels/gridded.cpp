// conv_grid: a convolution whose input lies in a grid, in tiles: every tap is a product of rows that
// lie at one distance, and a position is the sum of its taps.
#include "areas.h"
#include "grid.h"
#include "kernels.h"
#include "rounded.h"

namespace rl::RL_ISA {
namespace {

enum Word { X_REF, W_REF, ROW_SCALE_REF, ROW_LOW_REF, COLUMN_SCALE_REF, COLUMN_LOW_REF, BIAS_REF, Y_REF, X_TYPE, Y_TYPE,
            BATCH, FILTERS = 15, GROUPS, KIND, OUT_DEPTH, LDX = 33, EXPRESSION = 35 };

// From positions of the output, counted over the columns of the grid, to those that y has.
class Positions {
  public:
    explicit Positions(const Grid& grid) : columns_(grid.columns), width_(grid.window.width.out) {}

    // f(first of them, first row of y, how many) for the runs of `rows` positions that y has. Those
    // that follow on the last ones are found without a division.
    template <class F>
    RL_INLINE void each_run(int64_t row, int64_t rows, F f) {
        if (columns_ == width_) return f(0, row, rows);
        if (row != next_) line_ = row / columns_, column_ = row - line_ * columns_;
        next_ = row + rows;
        for (int64_t done = 0, count; done < rows; done += count) {
            count = std::min(rows - done, columns_ - column_);
            const int64_t there = std::min(count, width_ - column_);
            if (there > 0) f(done, line_ * width_ + column_, there);
            column_ += count;
            if (column_ == columns_) ++line_, column_ = 0;
        }
    }
    // About where a position is in y.
    int64_t near(int64_t row) const {
        if (columns_ == width_) return row;
        const int64_t line = row / columns_;
        return line * width_ + std::min(row - line * columns_, width_ - 1);
    }

  private:
    int64_t columns_, width_;  // of the grid, of the output
    int64_t next_ = -1, line_ = 0, column_ = 0;
};

// One group of a convolution: x, w and all that follows at its beginning.
template <class T>
struct Group {
    const Grid& grid;
    const T* x;
    const T* w;
    const Output output;
    const Range* ranges;  // of images; nullptr for bf16
    const Columns columns;

    int64_t k() const { return grid.taps() * grid.room(); }
    // Positions of the output in a plane, counted over the columns of the grid, and those up to its last.
    int64_t positions() const { return grid.window.height.out * grid.columns; }
    int64_t used() const { return positions() - grid.columns + grid.window.width.out; }
    // Where the window of position 0 of a plane of the output starts.
    const T* plane(int64_t number) const {
        const Axis& depth = grid.window.depth;
        const int64_t at = number / depth.out * grid.planes + number % depth.out * depth.stride;
        return x + at * grid.plane * grid.pitch;
    }
};

// Takes sums of a block, `step` apart, to y.
template <class T>
class ToRows {
  public:
    ToRows(const Group<T>& group, Register* registers) : group_(group), registers_(registers), positions_(group.grid) {}

    void operator()(const void* sums, int64_t step, int64_t row, int64_t column, int64_t rows, int64_t cols) {
        positions_.each_run(row, rows, [&](int64_t done, int64_t to, int64_t count) RL_INLINE {
            put(sums, done * step, step, to, column, count, cols);
        });
    }

  private:
    const Group<T>& group_;
    Register* registers_;
    Positions positions_;
    int64_t image_end_ = 0;  // row of y where the last image that was seen ends
    Range range_{};          // of that

    // What is known of the image that a row of y belongs to.
    RL_INLINE Range range_of(int64_t row) {
        const Window& window = group_.grid.window;
        const int64_t rows = window.depth.out * window.height.out * window.width.out;
        if (row >= image_end_ || row < image_end_ - rows) {
            const int64_t image = row / rows;
            range_ = group_.ranges[image], image_end_ = (image + 1) * rows;
        }
        return range_;
    }

    // Rows of one image.
    RL_INLINE void put(const void* sums, int64_t first, int64_t step, int64_t row, int64_t column, int64_t rows, int64_t cols) {
        if constexpr (sizeof(T) == 1) {
            const Range range = range_of(row);
            finish_sums(group_.output, group_.columns, [=](int64_t) RL_INLINE { return range; },
                        static_cast<const int32_t*>(sums) + first, step, registers_, row, column, rows, cols);
        } else {
            put_sums(group_.output, registers_, static_cast<const float*>(sums) + first, step, row, column, rows, cols);
        }
    }
};

#if defined(__AMX_INT8__)
// This thread's part of a group, plane by plane. pieces: room for one per tap, and where that is.
template <class T>
void convolve(const Context& context, const Group<T>& group, Tiles& tiles, RowsOf<T>* pieces) {
    const Grid& grid = group.grid;
    const Positions positions(grid);
    const int64_t pitch = grid.pitch, depth = grid.room() / DEPTH_OF<T>, taps = grid.taps();
    const int64_t planes = grid.window.batch * grid.window.depth.out;
    const Product whole = {reinterpret_cast<const char*>(group.x), planes * group.positions(), group.output.n, group.k(), pitch};
    const Area own = own_area(context, whole);
    if (own.is_empty()) return;
    int64_t *offsets = reinterpret_cast<int64_t*>(pieces + taps), *offset = offsets;
    for (int64_t kd = 0; kd < grid.window.depth.kernel; ++kd)
        for (int64_t kh = 0; kh < grid.window.height.kernel; ++kh)
            for (int64_t kw = 0; kw < grid.columns_of_taps(); ++kw) *offset++ = grid.offset(kd, kh, kw) * pitch;
    alignas(64) Register registers[REGISTERS];
    Endings endings(group.output, ToRows<T>(group, registers));
    // taps beside each other share what they read: a position brings one column of each row
    const int64_t column = std::min(pitch, grid.room());
    const int64_t row_nbytes = column * grid.window.height.kernel * grid.window.depth.kernel * int64_t(sizeof(T));
    const auto put = [&](const BlockOf<T>& block, const Place& at) {
        const int64_t cols = std::min(at.across * SIDE, group.output.n - at.column);
        if constexpr (sizeof(T) == 1)
            zero_tiles();
        else
            start_tiles(group.output, at.column, at.down, at.across);
        const int64_t first = positions.near(at.row + at.skip), rows = at.rows[0] + (at.down == 2 ? at.rows[1] : 0) - at.skip;
        prefetch_end(group.output, first, at.column, std::min(rows, positions.near(whole.m - 1) + 1 - first), cols);
        endings.spread(steps_of(block));
        multiply_tiles(block, at.down, at.across, endings);
        endings.take(at, cols);
    };
    for (int64_t plane = own.first / group.positions(); plane * group.positions() < own.last; ++plane) {
        const int64_t start = plane * group.positions();
        const Area area = {std::max(own.first, start), std::min(own.last, start + group.used()), own.from, own.to};
        const T* x = group.plane(plane) - start * pitch;
        Product product = whole;
        product.x = reinterpret_cast<const char*>(x);
        const auto pieces_at = [&](int64_t row, int64_t upper) {
            for (int64_t t = 0; t < taps; ++t) {
                const T* from = x + row * pitch + offsets[t];
                pieces[t] = {{from, from + upper * pitch}, pitch, depth};
            }
            return std::pair<const RowsOf<T>*, int64_t>(pieces, taps);
        };
        in_chunks_of_rows<T>(product, area, row_nbytes, [&](const Area& chunk, bool is_w_near) {
            multiply_area_in_tiles(product, group.w, tiles, chunk, is_w_near, pieces_at, put);
        });
    }
}
#else
// Value w of column `column` and number i of k, as it is packed without tiles.
inline float weight_at(const Panels& panels, const uint16_t* w, int64_t column, int64_t i) {
    const int64_t panel = panels.panel_of(column / LANES);
    return reinterpret_cast<const float*>(w)[panels.offset(panel) + i * panels.width(panel) + column - panels.column(panel)];
}
inline int32_t weight_at(const Panels& panels, const uint8_t* w, int64_t column, int64_t i) {
    return reinterpret_cast<const int8_t*>(w)[column * panels.k + i];
}

// Position by position: right, not fast. Backends ask has_bf16 and has_int8 first.
template <class T>
void convolve(const Context& context, const Group<T>& group) {
    constexpr int64_t WIDTH = 16 * LANES;
    using Sum = std::conditional_t<sizeof(T) == 1, int32_t, float>;
    alignas(64) Sum sums[WIDTH];
    const Grid& grid = group.grid;
    const Output& output = group.output;
    const Panels panels(output.n, group.k());
    const int64_t room = grid.room(), positions = group.positions();
    alignas(64) Register registers[REGISTERS];
    ToRows<T> ending(group, registers);
    int64_t first, last;
    context.share(grid.window.batch * grid.window.depth.out * positions, first, last);
    for (int64_t row = first; row < last; ++row) {
        if (row % grid.columns >= grid.window.width.out) continue;
        const T* x = group.plane(row / positions) + row % positions * grid.pitch;
        for (int64_t column = 0; column < output.n; column += WIDTH) {
            const int64_t cols = std::min(WIDTH, output.n - column);
            for (int64_t c = 0; c < cols; ++c) {
                Sum sum = sizeof(T) == 2 && output.bias ? Sum(output.bias[column + c]) : Sum(0);
                int64_t number = 0;
                for (int64_t kd = 0; kd < grid.window.depth.kernel; ++kd)
                    for (int64_t kh = 0; kh < grid.window.height.kernel; ++kh)
                        for (int64_t kw = 0; kw < grid.columns_of_taps(); ++kw) {
                            const T* from = x + grid.offset(kd, kh, kw) * grid.pitch;
                            for (int64_t i = 0; i < room; ++i, ++number)
                                sum += (sizeof(T) == 1 ? Sum(from[i]) : Sum(widen(uint16_t(from[i])))) *
                                       weight_at(panels, group.w, column + c, number);
                        }
                sums[c] = sum;
            }
            for (int64_t c = cols; c % LANES; ++c) sums[c] = 0;
            ending(sums, WIDTH, row, column, 1, cols);
        }
    }
}
#endif

// The ranges of all images, in the scratch memory.
const Range* ranges_of(const Context& context, const int64_t* words, Range* room) {
    const float *scales = context.at<float>(words[ROW_SCALE_REF]), *lows = context.at<float>(words[ROW_LOW_REF]);
    for (int64_t i = 0; i < words[BATCH]; ++i) room[i] = {scales[i], lows[i]};
    return room;
}

template <class T>
void convolve_groups(const Context& context, const int64_t* words) {
    const Grid grid(words + BATCH, words + OUT_DEPTH, words[GROUPS], words[KIND], words[LDX]);
    const Expression e(words + EXPRESSION);
    const int64_t n = words[FILTERS] / grid.groups;
    const int64_t packed = packed_nbytes(sizeof(T) == 1 ? I8 : BF16, n, grid.taps() * grid.room());
    const auto column = [&](Word word, int64_t g) {
        return words[word] == ABSENT ? nullptr : context.at<float>(words[word]) + g * n;
    };
    Range* ranges = reinterpret_cast<Range*>(context.scratch + SCRATCH_NBYTES / 2);
    if (sizeof(T) == 1) ranges_of(context, words, ranges);
#if defined(__AMX_INT8__)
    Tiles tiles;
#endif
    int64_t origins[64];
    for (int64_t g = 0; g < grid.groups; ++g) {
        for (int64_t i = 0; i < e.num_operands; ++i) origins[i] = g * n * e.operand(i).strides[1];
        char* y = context.at(words[Y_REF]) + g * n * nbytes_of(words[Y_TYPE]);
        const float* bias = column(BIAS_REF, g);
        const Group<T> group{grid,
                             context.at<T>(words[X_REF]) + g * grid.room(),
                             reinterpret_cast<const T*>(context.at(words[W_REF]) + g * packed),
                             {context, e, sizeof(T) == 1 ? nullptr : bias, y, words[Y_TYPE], grid.window.ldy, n, origins},
                             ranges,
                             {column(COLUMN_SCALE_REF, g), column(COLUMN_LOW_REF, g), bias}};
#if defined(__AMX_INT8__)
        convolve(context, group, tiles, reinterpret_cast<RowsOf<T>*>(context.scratch));
#else
        convolve(context, group);
#endif
    }
}

}  // namespace

void conv_grid(const Context& context, const int64_t* words) {
    words[X_TYPE] == BF16 ? convolve_groups<uint16_t>(context, words) : convolve_groups<uint8_t>(context, words);
}

}  // namespace rl::RL_ISA
