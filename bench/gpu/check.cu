// Holds every kernel of runtime/device/cuda to a float64 reference on the host, at awkward shapes, with fresh random inputs and poisoned
// outputs. usage: check [filter]; SEED and VERBOSE in the environment. Exits with 1 where anything is off.
#include "checks/attention.cuh"
#include "checks/experts.cuh"
#include "checks/products.cuh"
#include "checks/router.cuh"
#include "checks/rows.cuh"
#include "checks/wide.cuh"

namespace {

constexpr Norm norm{true, eps};
constexpr Rows tokens = Rows::tokens;
CASE(Linear1Case, Linear{300, 96, true, false, {}, tokens, {16, 2, 0, 1, 1}});
CASE(Linear2Case, Linear{300, 96, true, true, {}, tokens, {8, 1, 64, 2, 2}});
CASE(Linear3Case, Linear{128, 320, false, true, norm, tokens, {8, 3, 128, 2, 1}});
CASE(Linear4Case, Linear{2560, 1024, false, false, norm, tokens, {16, 8, 0, 2, 1}});
CASE(Linear5Case, Linear{1024, 2048, false, true, {}, tokens, {8, 8, 1024, 3, 1}});
CASE(Linear6Case, Linear{1024, 3072, false, true, {}, tokens, {8, 12, 0, 2, 1}});
CASE(LinearSwiglu7Case, LinearSwiglu{320, 128, 32, false, {}, tokens, {16, 2, 0, 1, 1}});
CASE(LinearSwiglu8Case, LinearSwiglu{256, 96, 8, true, {}, tokens, {16, 3, 64, 2, 2}});
CASE(LinearSwiglu9Case, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {16, 8, 0, 2, 1}});
CASE(HeadArgmax10Case, HeadArgmax{300, 96, true, {}, tokens, {16, 2, 0, 3, 1}});
CASE(HeadArgmax11Case, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1}});
CASE(RmsNorm12Case, RmsNorm{96, eps});
CASE(RmsNorm13Case, RmsNorm{1024, eps});
CASE(RmsNorm14Case, RmsNorm{2560, eps});
CASE(Linear15Case, Linear{2560, 1024, false, false, {}, tokens, {16, 8, 0, 1, 8, true}});
CASE(Linear16Case, Linear{1024, 3072, false, true, {}, tokens, {16, 8, 1024, 2, 4}});
CASE(MoeRouter17Case, MoeRouter{64, 2560, 6, true, tokens, norm, 1e-12f, 8, 8});
CASE(MoeRouter18Case, MoeRouter{64, 2560, 6, true, tokens, {}, 1e-12f, 8, 8});
CASE(MoeRouter19Case, MoeRouter{16, 128, 4, false, tokens, {}, 1e-12f, 1, 4});
CASE(MoeFfn20Case, MoeFfn{128, 64, 8, 3, 32, true, tokens, {16, 2, 0, 1, 1}});
CASE(MoeFfn21Case, MoeFfn{128, 64, 8, 3, 32, true, tokens, {8, 2, 0, 3, 1}});
CASE(MoeFfn22Case, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 4, 0, 2, 2}});
CASE(MoeFfn23Case, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 2, 0, 3, 1}});
CASE(MoeFfn24Case, MoeFfn{2560, 1536, 8, 6, 32, true, tokens, {16, 10, 0, 2, 1, false, 1}});
CASE(MoeFfn25Case, MoeFfn{2560, 1536, 8, 6, 32, true, tokens, {8, 6, 0, 3, 1, false, 2}});
CASE(WholeTiles, Linear{300, 192, true, false, {}, tokens, {16, 3, 0, 2, 1, false, 2, 8, false}});
CASE(WholeParts, Linear{300, 160, true, true, {}, tokens, {8, 2, 64, 2, 2, false, 2, 8, false}});
CASE(WholeOnce, Linear{2560, 1024, false, false, norm, tokens, {16, 16, 0, 1, 1, true, 2, 1, false}});
CASE(WholeUp, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 1, 8, false}});
CASE(WholeHead, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1, false, 2, 8, false}});
CASE(WholeExpertUp, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 4, 0, 2, 2, false, 2, 8, false}});
CASE(WholeExpertDown, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 2, 0, 3, 1, false, 2, 8, false}});
CASE(PartsExpertUp, MoeFfn{256, 128, 16, 4, 32, true, tokens, {16, 4, 128, 3, 2, false, 1, 8, false}});
CASE(PartsExpertDown, MoeFfn{256, 128, 16, 4, 32, true, tokens, {8, 2, 0, 2, 2, false, 3, 8, false}});
CASE(NormRouter1, NormRouter{16, 128, 4, true, norm, 1e-12f, 3, 4, 2});
CASE(NormRouter2, NormRouter{64, 2560, 6, true, norm, 1e-12f, 16, 8, 10});
CASE(NormRouter5, NormRouter{64, 2560, 6, true, norm, 1e-12f, 32, 8, 10});
CASE(NormRouter6, NormRouter{41, 648, 5, false, norm, 1e-12f, 2, 8, 3});
CASE(NormRouter3, NormRouter{41, 648, 5, false, norm, 1e-12f, 5, 4, 3});
CASE(NormRouter4, NormRouter{160, 1024, 8, true, norm, 1e-12f, 16, 8, 4});
CASE(RouterSwiglu1, RouterSwiglu{{16, 128, 4, false, norm, 1e-12f, 2, 8, 2}, 192, 32, {16, 2, 0, 2, 1, false, 1}});
CASE(RouterSwiglu2, RouterSwiglu{{64, 2560, 6, true, norm, 1e-12f, 4, 1, 10}, 3072, 32, {16, 10, 0, 2, 1, false, 1, 1, false}});
CASE(Wide1, WideLinear{300, 96, true, true, false, 32, tokens, {2, 1, 2}});
CASE(Wide2, WideLinear{2560, 1024, false, false, false, 32, tokens, {3, 4, 2}});
CASE(Wide3, WideLinear{1024, 3072, false, true, false, 32, tokens, {2, 8, 2}});
CASE(Wide4, WideLinear{320, 1000, true, false, true, 32, tokens, {3, 2, 2}});
CASE(Wide5, WideLinear{192, 2560, false, false, true, 8, tokens, {4, 4, 1}});
CASE(Wide6, WideLinear{300, 104, true, true, false, 32, tokens, {2, 1, 2, 16}});
CASE(Wide7, WideLinear{302, 1000, true, true, false, 32, tokens, {5, 2, 2, 16}});
CASE(Wide8, WideLinear{2560, 2560, false, true, false, 32, tokens, {5, 4, 2, 32}});
CASE(Wide9, WideLinear{320, 1000, true, false, true, 16, tokens, {3, 8, 2, 16}});
CASE(Wide10, WideLinear{192, 2560, false, false, true, 8, tokens, {4, 1, 1, 32}});
CASE(WideHead3, WideHead{300, 96, true, tokens, {3, 1, 1, 16}});
CASE(WideHead4, WideHead{8192, 2560, false, tokens, {10, 1, 1, 16}});
CASE(WideHead5, WideHead{1000, 1000, true, tokens, {6, 1, 1, 32}});
CASE(Wide11, WideLinear{2560, 2560, false, true, false, 32, tokens, {6, 3, 1, 64}});
CASE(Wide12, WideLinear{384, 1000, true, false, true, 32, tokens, {3, 3, 1, 16}});
CASE(WideHead1, WideHead{300, 96, true, tokens, {3, 1, 1}});
CASE(WideHead2, WideHead{8192, 2560, false, tokens, {4, 1, 1}});
CASE(QkvOnce, Linear{2560, 1024, false, false, norm, tokens, {16, 8, 0, 1, 1, true}});
CASE(OOnce, Linear{1024, 2048, false, true, {}, tokens, {8, 8, 0, 1, 1, true}});
CASE(DownOnce, Linear{1024, 3072, false, true, {}, tokens, {8, 12, 1536, 2, 1, true}});
CASE(DownShort, Linear{1024, 3072, false, true, {}, tokens, {8, 8, 1000, 2, 1, true}});
CASE(Qkv48, Linear{1000, 1024, false, false, norm, tokens, {48, 8, 0, 1, 1, true}});
CASE(Up48, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 1}});
CASE(Up32, LinearSwiglu{328, 512, 8, true, {}, tokens, {32, 4, 256, 3, 1}});
CASE(QkvColumn, Linear{2560, 1024, false, false, norm, tokens, {16, 16, 0, 1, 1, true, 2, 1}});
CASE(OColumns, Linear{1024, 2048, true, true, {}, tokens, {8, 16, 0, 1, 1, false, 2, 2}});
CASE(UpColumn, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {48, 8, 0, 1, 1, true, 2, 1}});
CASE(HeadColumn, HeadArgmax{8192, 256, false, norm, tokens, {16, 4, 0, 3, 1, false, 1, 1}});
CASE(UpOnce, LinearSwiglu{3072, 1024, 32, false, norm, tokens, {16, 8, 0, 1, 1, true}});

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) filter = argv[1];
  check_linear<QkvColumn, float, float>(1);
  check_linear<WholeOnce, float, float>(1);
  check_swiglu_product<UpColumn, float, Bf16>(1);
  for (int rows : {1, 2, 7, 8, 9, 17}) {
    check_linear<OColumns, Bf16, float>(rows, 33);
    check_head<HeadColumn, float>(rows, 57);
    check_linear<Linear1Case, Bf16, float>(rows);
    check_linear<Linear2Case, Bf16, Bf16>(rows, 5);
    check_linear<Linear3Case, float, float>(rows);
    check_linear<Linear4Case, float, float>(rows);
    check_linear<Linear5Case, Bf16, float>(rows);
    check_linear<Linear6Case, Bf16, float>(rows, 60);
    check_swiglu_product<LinearSwiglu7Case, Bf16, Bf16>(rows);
    check_swiglu_product<LinearSwiglu8Case, Bf16, float>(rows, 7);
    check_swiglu_product<LinearSwiglu9Case, float, Bf16>(rows);
    check_head<HeadArgmax10Case, Bf16>(rows, 7);
    check_head<HeadArgmax11Case, float>(rows, 130);
    check_linear<WholeTiles, Bf16, float>(rows, 11);
    check_linear<WholeParts, Bf16, float>(rows, 6);
    check_head<WholeHead, float>(rows, 130);
    if (rows <= 8) check_swiglu_product<WholeUp, float, Bf16>(rows);
    if (rows <= 8) {
      check_linear<QkvOnce, float, float>(rows);
      check_linear<OOnce, Bf16, float>(rows);
      check_linear<DownOnce, Bf16, float>(rows);
      check_linear<DownShort, Bf16, float>(rows);
      check_swiglu_product<UpOnce, float, Bf16>(rows);
      check_swiglu_product<Up48, float, Bf16>(rows);
      check_linear<Qkv48, float, float>(rows);
    }
    check_swiglu_product<Up32, Bf16, float>(rows, 13);
    check_elementwise(rows);
    check_norm<RmsNorm12Case, false, Bf16>(rows);
    check_norm<RmsNorm13Case, true, Bf16>(rows);
    check_norm<RmsNorm14Case, true, float>(rows);
  }
  check_linear<Linear15Case, Bf16, float>(64);
  check_linear<Linear16Case, Bf16, float>(131);

  check_attention<16, 2, 128, 64, 8, 8>({1}, {1});
  check_attention<16, 2, 128, 64, 8, 8>({129}, {1});
  check_attention<16, 2, 128, 64, 8, 4>({1500, 64, 65, 1, 17}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 4, 8>({1027, 16, 33}, {1, 1, 1});
  check_attention<8, 2, 16, 16, 1, 4>({1, 37, 300}, {1, 1, 1});
  check_attention<3, 3, 32, 32, 2, 4>({100, 5}, {1, 1});
  check_attention<4, 2, 64, 64, 1, 8>({67, 64}, {1, 1});
  check_attention<16, 2, 128, 64, 8, 8, 8>({8001, 2100, 2048, 2049, 1}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 8, 8, 4>({5000, 100, 3000}, {1, 1, 1});
  check_attention<8, 2, 16, 16, 1, 4, 4>({1, 37, 300, 130}, {1, 1, 1, 1});
  check_attention<3, 3, 32, 32, 2, 4, 4>({700, 5}, {1, 1});
  check_attention<16, 2, 128, 64, 4, 8, 1, 3>({385, 384, 300, 1600, 10}, {1, 1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 1, 4, 1, 1>({1000, 7}, {1, 1});
  check_attention<16, 2, 128, 64, 8, 8, 8, 3>({8001, 400, 1000}, {1, 1, 1});
  check_attention<16, 2, 128, 64, 1, 8, 32, 1>({8001, 400, 1000, 127}, {1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 2, 8, 8, 2>({3001, 500, 1000, 127}, {1, 1, 1, 1});
  check_attention<20, 4, 128, 64, 1, 8, 8, 1>({3001, 127}, {1, 1});
  check_attention<16, 2, 128, 64, 8, 8>({67}, {67});
  check_attention<20, 4, 128, 64, 8, 8>({300, 1, 129, 70}, {131, 1, 129, 1});
  check_attention<16, 2, 128, 64, 8, 8>({700}, {513});
  check_attention<20, 4, 128, 32, 8, 8>({129, 128, 500, 3}, {129, 128, 2, 3});
  check_attention<20, 4, 128, 64, 8, 8>({197, 500, 1, 260, 33, 700, 2, 131}, {5, 129, 1, 2, 33, 300, 1, 1});
  check_attention<16, 2, 128, 16, 8, 8>({1000, 1, 77, 300, 12}, {130, 1, 77, 1, 12});
  check_attention<8, 2, 16, 16, 1, 4>({100, 31}, {90, 31});
  check_attention<3, 3, 32, 32, 1, 4>({100, 31}, {13, 31});
  check_attention<4, 2, 64, 64, 1, 4>({256, 2}, {256, 2});

  for (int count : {1, 3, 67}) {
    check_router<MoeRouter17Case, float>(count, 2);
    check_router<MoeRouter18Case, Bf16>(count, 1);
    check_router<MoeRouter19Case, float>(count, 3);
    for (int pattern = 0; pattern < 3; ++pattern) {
      check_experts<MoeFfn20Case, MoeFfn21Case>(count, pattern);
      check_experts<MoeFfn22Case, MoeFfn23Case>(count, pattern);
    }
  }
  check_experts<MoeFfn24Case, MoeFfn25Case>(1, 0);
  for (int count : {1, 7, 8, 16, 64, 130}) check_experts<WholeExpertUp, WholeExpertDown>(count, count % 3);
  for (int count : {9, 33, 64}) check_experts<PartsExpertUp, PartsExpertDown>(count, count % 3);
  for (int count : {1, 3, 7, 17}) {
    check_norm_router<NormRouter1, false, float>(count, 0);
    check_norm_router<NormRouter2, false, Bf16>(4 * count - 1, 0);
    check_norm_router<NormRouter3, false, float>(count + 4, 0);
    check_norm_router<NormRouter4, false, float>(count, 0);
    check_norm_router<NormRouter5, false, float>(4 * count - 1, 0);
    check_norm_router<NormRouter6, false, Bf16>(count + 4, 0);
    if (count <= 8) check_norm_router<RouterSwiglu1, true, Bf16>(count, 7);
  }
  check_norm_router<RouterSwiglu2, true, float>(1, 132);
  for (int rows : {1, 17, 33, 64}) {
    check_wide<Wide1, float>(rows);
    check_wide<Wide2, float>(rows);
    check_wide<Wide3, float>(rows);
    check_wide<Wide4, Bf16>(rows);
    check_wide<Wide5, Bf16>(rows);
    check_wide<Wide11, float>(rows);
    check_wide_head<WideHead1>(rows, 4);
    check_wide_head<WideHead2>(rows, 100);
  }
  for (int rows : {1, 9, 13, 16}) {
    check_wide<Wide6, float>(rows);
    check_wide<Wide7, float>(rows);
    check_wide<Wide9, Bf16>(rows);
    check_wide<Wide12, Bf16>(rows);
    check_wide_head<WideHead3>(rows, 4);
    check_wide_head<WideHead4>(rows, 100);
    check_wide<Wide8, float>(2 * rows);
    check_wide<Wide10, Bf16>(2 * rows - 1);
    check_wide_head<WideHead5>(2 * rows, 3);
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
