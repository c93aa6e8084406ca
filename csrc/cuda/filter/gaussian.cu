// A separable filter. W and H are filtered at once (filter/planes.h) where a tile holds their halo, else one after the other, and D slides
// down what they left. What lies between two kernels stays in L2: the host walks chunks of images, or slabs of rows of one.
#include "columns.h"
#include "planes.h"
#include "rows.h"

namespace fastseg::cuda {
namespace {

constexpr int64_t kMostSamples = 1 << 30;  // of a plane: offsets in it are int

using namespace filter;

constexpr int64_t kSlab = 32;  // rows of a slab come in so many

struct Walk {
  bool along[3];         // axes of more than one sample, or D where there are none
  int unit_axes = 0;     // a bit for every other
  bool fused, separate;  // which kernels filter H and W; both where images differ and the host knows the widest alone
  int64_t images, rows;  // of a chunk
  int64_t buffers;       // between kernels, images·D·rows·W floats each

  explicit Walk(const GaussianParams& p) : along{p.d > 1, p.h > 1, p.w > 1}, images(p.images), rows(p.h) {
    if (!along[1] && !along[2]) along[0] = true;
    for (int axis = 0; axis < 3; ++axis) unit_axes |= int(!along[axis]) << axis;
    const bool plane = along[1] && along[2];
    fused = plane && (p.radius <= kWidest || p.tap_images > 1);
    separate = !fused || p.radius > kWidest;
    buffers = (separate && plane) + (along[0] && (along[1] || along[2]));
    if (buffers == 0) return;
    const int64_t room = int64_t(device().l2_bytes / 2 / sizeof(float)), image = buffers * p.d * p.h * p.w, most = room / image;
    if (most > 0)
      images = ceil_div(p.images, ceil_div(p.images, most));
    else if (images = 1; !separate)
      rows = room / (p.d * p.w) < kSlab ? kSlab : room / (p.d * p.w) / kSlab * kSlab;
    if (rows > p.h) rows = p.h;
  }
  int64_t buffer(const GaussianParams& p) const { return images * p.d * rows * p.w; }
};

// Images `first` and further, and of these the rows from `row` on.
template <class S>
struct Chunk {
  const GaussianParams& p;
  const Walk& walk;
  int64_t first, images, row, rows;

  int64_t volume() const { return p.d * p.h * p.w; }
  const S* x() const { return static_cast<const S*>(p.x) + first * volume(); }
  float* buffer(int64_t index) const { return static_cast<float*>(p.scratch) + index * walk.buffer(p); }

  Taps taps() const {
    const int64_t shift = p.tap_images > 1 ? first * 3 : 0;
    return {static_cast<const float*>(p.taps) + shift * (2 * p.radius + 1),
            p.radii + shift,
            p.tap_images > 1,
            int(p.radius),
            p.padding,
            p.adjoint};
  }
  Result<S> result() const {
    const int64_t at = first * volume() + row * p.w;
    auto moved = [&](void* out) { return out ? static_cast<S*>(out) + at : nullptr; };
    return {static_cast<const S*>(p.x) + at, moved(p.low), moved(p.high), walk.unit_axes};
  }
  // Whether packs may start at every multiple of `numbers` from what is read and written.
  bool packs(int64_t numbers) const {
    auto align = [&](const void* pointer) { return packs_align<kPack>(static_cast<const S*>(pointer), numbers); };
    return align(p.x) && align(p.low) && align(p.high);
  }

  template <class In, class Out>
  void down(int axis, const Columns& of, const In* in, const Result<Out>& to, bool wide, int narrow) const {
    launch_columns(ColumnsPass<In, Out>{taps(), axis, of, in, to, wide, narrow}, images, p.lane.stream);
  }
  template <class In, class Out>
  void along_h(const In* in, const Result<Out>& to, int narrow) const {
    const int64_t plane = p.h * p.w;
    const Columns of{p.d, int(p.w), int(p.h), volume(), plane, p.w, volume(), plane, p.w};
    down(1, of, in, to, packs(p.w), narrow);
  }
  template <class In>
  void along_d(const In* in, int64_t pitch) const {
    const int64_t columns = rows * p.w, plane = p.h * p.w;
    const Columns of{1, int(columns), int(p.d), p.d * pitch, 0, pitch, volume(), 0, plane};
    down(0, of, in, result(), packs(columns) && packs(plane) && row * p.w % kPack == 0, -1);
  }
  template <class Out>
  void along_w(const Result<Out>& to, int narrow) const {
    launch_rows(RowsPass<S, Out>{taps(), int(p.d * p.h), int(p.w), x(), to, packs(p.w), narrow}, images, p.lane.stream);
  }
  template <class Out>
  void along_planes(const Result<Out>& to) const {
    if (walk.fused)
      launch_planes(PlanesPass<S, Out>{taps(), p.d, int(p.h), int(p.w), int(row), int(rows), 0, x(), to, rows * p.w, packs(p.w)}, images,
                    p.lane.stream);
    if (!walk.separate) return;
    const int narrow = walk.fused ? kWidest : -1;
    float* between = buffer(walk.buffers - 1);
    if (!walk.along[1]) return along_w(to, narrow);
    if (!walk.along[2]) return along_h(x(), to, narrow);
    along_w(Result<float>{nullptr, between, nullptr, 0}, narrow);
    along_h(between, to, narrow);
  }
  void run() const {
    if (!walk.along[1] && !walk.along[2]) return along_d(x(), p.h * p.w);
    if (!walk.along[0]) return along_planes(result());
    along_planes(Result<float>{nullptr, buffer(0), nullptr, 0});
    along_d(buffer(0), rows * p.w);
  }
};

template <class S>
void filter_volumes(const GaussianParams& p) {
  const Walk walk(p);
  for (int64_t first = 0; first < p.images; first += walk.images)
    for (int64_t row = 0; row < p.h; row += walk.rows) {
      const int64_t images = p.images - first < walk.images ? p.images - first : walk.images;
      Chunk<S>{p, walk, first, images, row, p.h - row < walk.rows ? p.h - row : walk.rows}.run();
    }
}

}  // namespace

void gaussian(const GaussianParams& p) {
  if (p.images * p.d * p.h * p.w == 0 || (!p.low && !p.high)) return;
  if (p.h * p.w > kMostSamples || p.d * p.h > kMostSamples) throw Error("gaussian: a plane of more than 2^30 samples");
  if (p.dtype == DType::kFloat32) return filter_volumes<float>(p);
  if (p.dtype == DType::kFloat16) return filter_volumes<Half>(p);
  if (p.dtype == DType::kBFloat16) return filter_volumes<BFloat16>(p);
  throw Error("gaussian: no CUDA kernel for float64");
}

}  // namespace fastseg::cuda

int64_t fastseg::cuda_gaussian_scratch(const GaussianParams& p) {
  if (p.images * p.d * p.h * p.w == 0) return 0;
  const cuda::Walk walk(p);
  return walk.buffers * walk.buffer(p);
}
