// Softmax along rows: a warp takes a row.

extern "C" __global__ void forward(u64 rows, u32 cols, const T *x, T *y) {
    EACH_ROW(row, rows) {
        const T *of = x + row * cols;
        T largest = -INFINITY, total = 0;
        EACH_IN_ROW(i, cols) largest = of[i] > largest || of[i] != of[i] ? of[i] : largest;
        largest = warp_max(largest);
        EACH_IN_ROW(i, cols) total += exp(of[i] - largest);
        total = warp_sum(total);
        EACH_IN_ROW(i, cols) y[row * cols + i] = exp(of[i] - largest) / total;
    }
}

extern "C" __global__ void backward(u64 rows, u32 cols, const T *y, const T *dy, T *dx) {
    EACH_ROW(row, rows) {
        const u64 start = row * cols;
        T inner = 0;
        EACH_IN_ROW(i, cols) inner += y[start + i] * dy[start + i];
        inner = warp_sum(inner);
        EACH_IN_ROW(i, cols) dx[start + i] = y[start + i] * (dy[start + i] - inner);
    }
}
