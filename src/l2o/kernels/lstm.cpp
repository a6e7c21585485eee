// Placeholder until the kernel is there: says how many float lanes a register has in this build.

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

extern "C" __attribute__((visibility("default"))) int l2o_lanes() {
    int lanes = 0;
#pragma omp parallel for reduction(max : lanes)
    for (int i = 0; i < 64; ++i) lanes = kLanes;
    return lanes;
}
