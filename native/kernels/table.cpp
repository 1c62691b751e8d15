#include "table.h"

#define TEXT_OF(name) #name
#define NAME(name) TEXT_OF(name)

namespace danlu::DANLU_ISA {

extern const Kernels KERNELS;
const Kernels KERNELS = {NAME(DANLU_ISA), {pack, linear, look_up, append, attend, largest}};

}  // namespace danlu::DANLU_ISA
