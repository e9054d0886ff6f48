// A grid: a tensor laid out so that every tap of a convolution reads rows that lie at one distance.
//
// Of each plane that a window reaches (planes of the padding too), rows are dealt into as many phases
// as the stride has steps, [plane][phase][row][column]: output row h reads tap kh at row h + kh *
// dilation / stride of the phase kh * dilation % stride. What stands at a column is one of three:
//
//   TAPS  one position of x. Columns are dealt into phases as rows are.
//   ROWS  for one column of the output, a row of the kernel: all its taps side by side.
//   RUNS  as many positions of x as the stride has steps, so that a row of the kernel is a run of
//         values from there on, beyond which it reads what follows, in vain. One group, no dilation.
//
// Positions of the output, counted over the columns of the grid, so lie one column apart; columns
// beyond the width of the output are computed in vain. A column has `pitch` values: but for RUNS, for
// every group its channels, or taps and channels, and zeros up to a multiple of what a row of a tile
// holds.
#pragma once
#include "window.h"

namespace rl::RL_ISA {

enum GridKind : int64_t { TAPS, ROWS, RUNS };

struct Grid {
    const Window window;
    const int64_t groups;
    const GridKind kind;
    const int64_t pitch;
    const int64_t row_phases, column_phases, rows, columns;
    const int64_t planes;  // of an image
    const int64_t plane;   // columns from one to the next

    // `sizes` starts at the field batch, `rest` at out_depth; pitch: of a column.
    Grid(const int64_t* sizes, const int64_t* rest, int64_t groups, int64_t kind, int64_t pitch)
        : window(sizes, rest), groups(groups), kind(GridKind(kind)), pitch(pitch), row_phases(phases(window.height)),
          column_phases(kind == TAPS ? phases(window.width) : 1),
          rows(window.height.out + reach(window.height) / window.height.stride),
          columns(window.width.out + (kind == ROWS ? 0 : reach(window.width) / window.width.stride)),
          planes((window.depth.out - 1) * window.depth.stride + reach(window.depth) + 1),
          plane(row_phases * column_phases * rows * columns) {}

    int64_t channels() const { return window.channels / groups; }
    // Values that a tap of a group reads.
    int64_t room() const { return kind == RUNS ? round_up(window.width.kernel * window.channels) : pitch / groups; }
    int64_t taps() const { return window.depth.kernel * window.height.kernel * columns_of_taps(); }
    // Taps beside each other that are read apart.
    int64_t columns_of_taps() const { return kind == TAPS ? window.width.kernel : 1; }
    // Columns from where a window starts to what one of its taps reads.
    int64_t offset(int64_t kd, int64_t kh, int64_t kw) const {
        const int64_t h = kh * window.height.dilation, w = kw * window.width.dilation;
        const int64_t phase = h % window.height.stride * column_phases + w % window.width.stride;
        const int64_t row = phase * rows + h / window.height.stride;
        return kd * window.depth.dilation * plane + row * columns + w / window.width.stride;
    }

  private:
    static int64_t round_up(int64_t nbytes) { return (nbytes + 63) / 64 * 64; }  // of eight bits
    static int64_t reach(const Axis& axis) { return (axis.kernel - 1) * axis.dilation; }
    static int64_t phases(const Axis& axis) { return std::min(axis.stride, reach(axis) + 1); }
};

}  // namespace rl::RL_ISA
