// The kernels of the instruction set that this is compiled for.
#pragma once

#include "../kernels.h"

namespace danlu::DANLU_ISA {

void pack(const void* arguments, int threads);
void linear(const void* arguments, int threads);
void quantize(const void* arguments, int threads);
void dequantize(const void* arguments, int threads);
void look_up(const void* arguments, int threads);
void append(const void* arguments, int threads);
void attend_cached(const void* arguments, int threads);
void largest(const void* arguments, int threads);
void rms_norm(const void* arguments, int threads);
void rms_norm_backward(const void* arguments, int threads);
void swiglu(const void* arguments, int threads);
void swiglu_backward(const void* arguments, int threads);
void rotate(const void* arguments, int threads);
void rotate_backward(const void* arguments, int threads);
void loss(const void* arguments, int threads);
void loss_backward(const void* arguments, int threads);
void attend(const void* arguments, int threads);
void attend_backward(const void* arguments, int threads);
void narrow_rows(const void* arguments, int threads);
void widen_rows(const void* arguments, int threads);
void outer_sums(const void* arguments, int threads);

}  // namespace danlu::DANLU_ISA
