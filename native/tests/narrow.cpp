// An adapter's products between wide and narrow rows, which lie apart.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

constexpr float SCALE = 0.75f;

struct Sides {
    int64_t rows, size, rank, x_row, t_row, matrix_row;
    Room<uint16_t> x, t, matrix;
    Room<float> sums;

    Sides(int64_t rows, int64_t size, int64_t rank, Fill fill, Numbers numbers = Numbers(5))
        : rows(rows),
          size(size),
          rank(rank),
          x_row(size + 3),
          t_row(rank + 2),
          matrix_row(rank + 4),
          x(numbers.bf16((rows - 1) * x_row + size, fill)),
          t(numbers.bf16((rows - 1) * t_row + rank)),
          matrix(numbers.bf16((size - 1) * matrix_row + rank)),
          sums(size * rank) {}

    double wide(int64_t row, int64_t i) const { return widened(x[row * x_row + i]); }
    double narrow(int64_t row, int64_t r) const { return widened(t[row * t_row + r]); }
    double factor(int64_t i, int64_t r) const { return widened(matrix[i * matrix_row + r]); }

    void run(const Check& check, Kind kind) {
        check.call(kind, Narrow{x.data(), t.data(), matrix.data(), sums.data(), rows, size, rank, x_row,
                                t_row, matrix_row, SCALE});
    }
};

template <typename Each>
void by_shape(const Each& each) {
    for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::WILD})
        for (const int64_t rows : {1, 2, 13, 50})
            for (const int64_t size : {1, 31, 64, 300})
                for (const int64_t rank : {2, 8, 14}) each(rows, size, rank, fill);
}

}  // namespace

CASE(NARROW, shapes) {
    by_shape([&](int64_t rows, int64_t size, int64_t rank, Fill fill) {
        Sides sides(rows, size, rank, fill);
        sides.run(check, NARROW);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t r = 0; r < rank; r++) {
                Sum sum;
                for (int64_t i = 0; i < size; i++) sum.add(sides.wide(row, i) * SCALE, sides.factor(i, r));
                sum.finite *= 2;  // before it is scaled
                check.near(sides.t[row * sides.t_row + r], sum, "%dx%dx%d at %d, %d", int(rows), int(size),
                           int(rank), int(row), int(r));
            }
    });
}

CASE(WIDEN, shapes) {
    by_shape([&](int64_t rows, int64_t size, int64_t rank, Fill fill) {
        const Sides before(rows, size, rank, fill);
        Sides sides(rows, size, rank, fill);
        sides.run(check, WIDEN);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < sides.x_row && row * sides.x_row + i < sides.x.size(); i++) {
                if (i >= size) {
                    check.equal(sides.x[row * sides.x_row + i], before.x[row * sides.x_row + i], "a gap");
                    continue;
                }
                Sum sum;
                sum.add(before.wide(row, i));
                for (int64_t r = 0; r < rank; r++)
                    sum.add(before.narrow(row, r) * SCALE, before.factor(i, r));
                check.near(sides.x[row * sides.x_row + i], sum, "%dx%dx%d at %d, %d", int(rows), int(size),
                           int(rank), int(row), int(i));
            }
    });
}

CASE(OUTER, shapes) {
    by_shape([&](int64_t rows, int64_t size, int64_t rank, Fill fill) {
        Sides sides(rows, size, rank, fill);
        sides.run(check, OUTER);
        for (int64_t i = 0; i < size; i++)
            for (int64_t r = 0; r < rank; r++) {
                Sum sum;
                for (int64_t row = 0; row < rows; row++)
                    sum.add(sides.wide(row, i) * SCALE, sides.narrow(row, r));
                sum.finite *= 2;
                check.near(sides.sums[i * rank + r], sum, "%dx%dx%d at %d, %d", int(rows), int(size),
                           int(rank), int(i), int(r));
            }
    });
}
