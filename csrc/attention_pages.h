// Where keys and values lie: the pages of quire.h, as a segment's groups of tokens, and what to ask memory for ahead.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention_kernels.h"
#include "attention_plan.h"

namespace quire {
namespace attention {

// Where a segment's groups of tokens lie, from the first that some row of a tile sees to the last, of a piece's first
// kv head; others follow at head_lanes.
template <typename T> struct Places {
  static constexpr int64_t kScales = kIsInteger<T> ? kGroups : 1;

  const Lane<T>* keys[kGroups];
  const Lane<T>* values[kGroups];
  const float* key_scales[kScales];  // of integers
  const float* value_scales[kScales];
  int64_t first, num;  // groups, counted from the segment's first
};

// Keys or values that will be read soon, in the order of memory: group after group with all the piece's heads.
template <typename T> class Ahead {
 public:
  Ahead(const Lane<T>* const* groups, const float* const* scales, int64_t num, int64_t heads, int64_t head_lanes,
        int64_t stride)
      : groups_(groups), scales_(scales), num_(num), heads_(heads), head_lanes_(head_lanes), stride_(stride) {}

  bool is_done() const { return group_ == num_; }

  // The last one again when all are taken. Scales, a line, are asked for at once.
  Chunk<T> take() {
    if (is_done()) return last_;
    if constexpr (kIsInteger<T>) prefetch(reinterpret_cast<const Lane<T>*>(scales_[group_]) + head_ * head_lanes_);
    last_ = {groups_[group_] + head_ * head_lanes_, stride_};
    if (++head_ == heads_) head_ = 0, ++group_;
    return last_;
  }

 private:
  const Lane<T>* const* groups_;
  const float* const* scales_;
  int64_t num_, heads_, head_lanes_, stride_;
  int64_t group_ = 0, head_ = 0;
  Chunk<T> last_{};
};

template <typename T> class Pages {
 public:
  Pages(const void* keys, const void* values, const int32_t* tables, int64_t table_stride, const Shape& shape)
      : keys_(static_cast<const Lane<T>*>(keys)), values_(static_cast<const Lane<T>*>(values)), tables_(tables),
        table_stride_(table_stride), shape_(shape), number_lanes_(shape.block * shape.size / kAdjacent),
        head_lanes_(number_lanes_ + (kIsInteger<T> ? shape.block * kScaleLanes : 0)) {}

  // From one kv head's page to the next one's.
  int64_t head_lanes() const { return head_lanes_; }
  int64_t head_floats() const { return head_lanes_ * int64_t(sizeof(Lane<T>)) / 4; }

  Places<T> find(const Tile& t, int64_t head, int64_t segment) const {
    const int64_t start = (t.first_segment + segment) * kSegment, block = shape_.block;
    const int64_t seen = std::max(start, shape_.first_seen(t.position)) / kGroup;
    const int64_t end = ceil_div(std::min(start + kSegment, t.position + t.num_tokens), kGroup);
    const int64_t page_lanes = head_lanes_ * shape_.kv_heads;
    const int32_t* page = tables_ + t.sequence * table_stride_ + seen * kGroup / block;
    int64_t offset = seen * kGroup % block;
    Places<T> places;
    places.first = seen - start / kGroup;
    places.num = end - seen;
    for (int64_t g = 0; g < places.num; ++g) {
      const int64_t at = *page * page_lanes + head * head_lanes_;
      places.keys[g] = keys_ + at + offset;
      places.values[g] = values_ + at + offset / kAdjacent * shape_.size;
      if constexpr (kIsInteger<T>) {
        places.key_scales[g] = scales_of(keys_ + at) + offset;
        places.value_scales[g] = scales_of(values_ + at) + offset;
      }
      offset += kGroup;
      if (offset == block) offset = 0, ++page;
    }
    return places;
  }

  Ahead<T> keys(const Places<T>& places, int64_t heads) const {
    return {places.keys, places.key_scales, places.num, heads, head_lanes_, shape_.block};
  }
  Ahead<T> values(const Places<T>& places, int64_t heads) const {
    return {places.values, places.value_scales, places.num, heads, head_lanes_, kGroup};
  }

  // Ask for all keys that are left.
  void ask(Ahead<T> ahead) const {
    while (!ahead.is_done()) {
      const Chunk<T> chunk = ahead.take();
      for (int64_t k = 0; k < shape_.size / kAdjacent; ++k) prefetch(chunk.at + k * chunk.stride);
    }
  }

 private:
  static constexpr int64_t kAdjacent = Element<T>::kAdjacent;
  static constexpr int64_t kScaleLanes = sizeof(float) / sizeof(Lane<T>);

  // Behind the numbers of a page.
  const float* scales_of(const Lane<T>* page) const { return reinterpret_cast<const float*>(page + number_lanes_); }

  const Lane<T>* keys_;
  const Lane<T>* values_;
  const int32_t* tables_;
  int64_t table_stride_;
  Shape shape_;
  int64_t number_lanes_, head_lanes_;
};

}  // namespace attention
}  // namespace quire
