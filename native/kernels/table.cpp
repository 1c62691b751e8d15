#include "table.h"

#define TEXT_OF(name) #name
#define NAME(name) TEXT_OF(name)

namespace danlu::DANLU_ISA {

extern const Kernels KERNELS;
const Kernels KERNELS = {
    NAME(DANLU_ISA),
    {
        pack,
        linear,
        quantize,
        look_up,
        append,
        attend_cached,
        largest,
        rms_norm,
        rms_norm_backward,
        swiglu,
        swiglu_backward,
        rotate,
        rotate_backward,
        loss,
        loss_backward,
        attend,
        attend_backward,
        narrow_rows,
        widen_rows,
        outer_sums,
        dequantize,
    },
};

}  // namespace danlu::DANLU_ISA
