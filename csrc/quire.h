/* The native half of Quire's CPU kernels, as plain C: all that Python sees.
 *
 * A *program* is a flat list of operators over fixed buffers. Operators are appended once, with the addresses of what
 * they read and write, and replayed by one call. Only row counts change from replay to replay: an operator names the
 * count it follows (quire_rows), a replay brings the counts.
 *
 * Memory belongs to the caller: a program keeps addresses, never the memory. Buffers, strides and sizes are the caller's
 * promise; what can be checked is checked where an operator is appended, and refused with a negative code.
 *
 * Laws:
 *   - A row's result is the same bits whatever rows stand beside it, whatever the number of threads.
 *   - Nothing here allocates while a program runs, but for scratch that grows to its largest size once.
 *   - A pool's threads spin for a bounded time and then sleep; an idle pool uses no processor time.
 *
 * Strides are in elements, between rows; the elements of a row are adjacent. Types are quire_dtype.
 */
#ifndef QUIRE_H
#define QUIRE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUIRE_API __attribute__((visibility("default")))

typedef enum { QUIRE_F32 = 0, QUIRE_BF16 = 1, QUIRE_I8 = 2 /* of KV pages alone */ } quire_dtype;

/* The counts of a replay. */
typedef enum {
  QUIRE_TOKENS = 0, QUIRE_SEQUENCES = 1, QUIRE_ASKED = 2, QUIRE_SAMPLED = 3, QUIRE_NUM_COUNTS = 4
} quire_rows;

typedef enum { QUIRE_SILU = 0, QUIRE_GELU_TANH = 1 } quire_activation;

typedef struct quire_pool quire_pool;
typedef struct quire_program quire_program;

/* Errors: 0 is success. */
enum { QUIRE_BAD_ARGUMENT = -1, QUIRE_NO_MEMORY = -2 };

/* ---- the library ---- */

/* Name of the instruction-set level this object was built for: "v2", "v3", "v4" or "v4n". */
QUIRE_API const char *quire_level(void);
/* 1 if this processor has every instruction the object was built with. Safe to call on any x86-64. */
QUIRE_API int quire_runs_here(void);
/* Output features side by side in a packed weight; a tile of it is [K, quire_tile_width()]. */
QUIRE_API int64_t quire_tile_width(void);

/* ---- pool ---- */

/* Starts num_threads - 1 threads; the caller of quire_run is the last one. NULL without memory or threads. */
QUIRE_API quire_pool *quire_pool_create(int64_t num_threads);
QUIRE_API void quire_pool_destroy(quire_pool *pool);

/* ---- programs ---- */

QUIRE_API quire_program *quire_program_create(void);
QUIRE_API void quire_program_destroy(quire_program *program);
QUIRE_API int64_t quire_program_length(const quire_program *program);
/* Append all operators of another program. They are shared: either may be destroyed first. */
QUIRE_API int quire_append_program(quire_program *program, const quire_program *other);
/* Run all operators in order, with counts[QUIRE_NUM_COUNTS]. One run at a time on a pool. */
QUIRE_API int quire_run(quire_pool *pool, const quire_program *program, const int64_t *counts);
/* The same, and add each operator's wall time in nanoseconds to times[quire_program_length]. */
QUIRE_API int quire_run_timed(quire_pool *pool, const quire_program *program, const int64_t *counts, int64_t *times);
/* The operator's name, for profiles. */
QUIRE_API const char *quire_operator_name(const quire_program *program, int64_t index);

/* ---- memory ---- */

/* Zeroed memory on huge pages where the system gives them, aligned to 64 bytes at least; NULL if there is none. */
QUIRE_API void *quire_allocate(int64_t num_bytes);
QUIRE_API void quire_release(void *memory, int64_t num_bytes);

/* ---- packed weights: plain numbers ---- */

/* Bytes of a packed [num_out, num_in] matrix of dtype. num_in of bfloat16 must be even. */
QUIRE_API int64_t quire_packed_bytes(int64_t num_out, int64_t num_in, int dtype);
/* Pack rows first_row .. first_row + num_rows of a matrix of num_out rows into packed memory. weight: [num_rows, num_in]
 * with stride. Rows beyond num_out in the last tile must have been zeroed by the allocation. */
QUIRE_API int quire_pack(quire_pool *pool, const void *weight, int64_t stride, int64_t first_row, int64_t num_rows,
                         int64_t num_in, int dtype, void *packed);

/* ---- operators: each appends one to the program ---- */

/* What becomes of a product's rows, [rows, num_out] sums in float32. */
typedef enum {
  QUIRE_STORE = 0,   /* y = sum + bias + residual, rounded once to y's dtype */
  QUIRE_LIKELIEST = 1  /* the greatest of each row: ids int32 [rows], -1 where a row has NaN, +inf, or nothing finite */
} quire_output_kind;

typedef struct quire_output {
  void *y;              /* STORE: [rows, num_out] of dtype */
  int64_t y_stride;
  const void *bias;     /* [num_out] of the product's dtype, or NULL */
  const void *residual; /* [rows, num_out] of the product's dtype, or NULL; may be y */
  int64_t residual_stride;
  int32_t *ids;         /* LIKELIEST: [rows] */
  void *workspace;      /* LIKELIEST: 8 bytes for each row and tile of columns; else NULL */
  float softcap;        /* c: the sum becomes c tanh(sum / c); 0: none */
  int32_t kind;
  int32_t dtype;        /* of y */
} quire_output;

/* x W^T, with output as it says: x [rows, num_in] of dtype, packed [num_out, num_in] of dtype. Summed in float32 in the
 * order of num_in. */
QUIRE_API int quire_linear(quire_program *program, int rows, const void *x, int64_t x_stride, const void *packed,
                           int64_t num_out, int64_t num_in, int dtype, const quire_output *output);

/* y[i] = table[ids[i]] * scale: ids int64 [rows] in 0 .. num_out; table is a packed [num_out, num_in] of dtype. The
 * product is rounded to dtype. */
QUIRE_API int quire_embed(quire_program *program, int rows, const int64_t *ids, const void *packed, int64_t num_out,
                          int64_t num_in, int dtype, float scale, void *y, int64_t y_stride);

/* y = x / rms(x) * weight (+ residual): rows of size; weight float32 [size]; residual of dtype or NULL, may be y. */
QUIRE_API int quire_rms_norm(quire_program *program, int rows, const void *x, int64_t x_stride, int64_t size,
                             const float *weight, float eps, const void *residual, int64_t residual_stride, int dtype,
                             void *y, int64_t y_stride);

/* y[i] = x[index[i]]: index int64 [rows]. */
QUIRE_API int quire_take_rows(quire_program *program, int rows, const void *x, int64_t x_stride, const int64_t *index,
                              int64_t size, int dtype, void *y, int64_t y_stride);

/* y = activation(gate) * up for x = [gate | up] [rows, 2 size], y [rows, size]. */
QUIRE_API int quire_gated(quire_program *program, int rows, const void *x, int64_t x_stride, int64_t size,
                          int activation, int dtype, void *y, int64_t y_stride);

/* ---- weights in blocks (GGUF's formats) ---- */

typedef enum {
  QUIRE_Q4_0 = 0, QUIRE_Q4_1, QUIRE_Q5_0, QUIRE_Q5_1, QUIRE_Q8_0, QUIRE_Q2_K, QUIRE_Q3_K, QUIRE_Q4_K, QUIRE_Q5_K, QUIRE_Q6_K,
  QUIRE_NUM_BLOCK_FORMATS
} quire_block_format;

/* As quire_packed_bytes and quire_pack, for rows of blocks as a GGUF file holds them: rows [num_rows] at row_bytes from
 * each other. num_in must be a multiple of the format's block. Exact: packed weights are the same numbers. */
QUIRE_API int64_t quire_packed_blocks_bytes(int64_t num_out, int64_t num_in, int format);
QUIRE_API int quire_pack_blocks(quire_pool *pool, const void *rows, int64_t row_bytes, int64_t first_row,
                                int64_t num_rows, int64_t num_in, int format, void *packed);

/* Bytes of workspace that a product of up to max_rows rows needs; products that run one after another may share it. */
QUIRE_API int64_t quire_blocks_workspace_bytes(int64_t max_rows, int64_t num_in);

/* As quire_linear; x [rows, num_in] of dtype (also that of bias and residual). Each row of x is rounded in groups of 32
 * to 8 bits by the group's largest magnitude; but its largest, or its two largest, stand alone, and are not rounded,
 * where the square of that magnitude falls by more than 3/5 for each, in squares of the mean over the row's groups.
 * Products of groups are exact, and summed in float32 in the order of num_in; then those of the numbers that stand alone.
 * A row with NaN or infinity becomes NaN. workspace: aligned to 16. */
QUIRE_API int quire_linear_blocks(quire_program *program, int rows, const void *x, int64_t x_stride, const void *packed,
                                  int64_t num_out, int64_t num_in, int format, int dtype, void *workspace,
                                  const quire_output *output);

/* As quire_embed, y of dtype; rows are expanded in float32 and rounded once. */
QUIRE_API int quire_embed_blocks(quire_program *program, int rows, const int64_t *ids, const void *packed,
                                 int64_t num_out, int64_t num_in, int format, int dtype, float scale, void *y,
                                 int64_t y_stride);

/* ---- attention ----
 *
 * KV lies in pages of block tokens, a layer's keys in one array and its values in another:
 *   bfloat16: keys [num_blocks, kv_heads, size / 2, block, 2], values [num_blocks, kv_heads, block / 2, size, 2]
 *   float32:  keys [num_blocks, kv_heads, size, block],        values [num_blocks, kv_heads, block, size]
 *   int8:     as bfloat16, and behind each head's numbers of a page the scales of its tokens, float32 [block]
 * so that a page of either is a tile of a matrix product. A slot is page * block + offset. block is a multiple of 16,
 * size (the head's) of 16. Pages are of the model's dtype or of int8: page_dtype says which.
 *
 * int8: each token's key and value of each head is x = number * scale, where scale is max|x| / 127 (1e-30 / 127 at
 * least), and numbers are x / scale to the nearest, ties to even. A value is rounded to dtype before; a key too, and
 * then clipped to 1e30 and mixed: see mix.h.
 */

/* cos and sin [rows, size / 2] float32 of positions[i] * inv_freq[j], times factor. positions int64 [rows]. */
QUIRE_API int quire_angles(quire_program *program, int rows, const int64_t *positions, const float *inv_freq,
                           int64_t half_size, float factor, float *cos, float *sin);

/* For each row of qkv [rows, (heads + 2 kv_heads) size]: norm each head of q and k (where q_norm, k_norm float32 [size]
 * are given), turn it by the row's angles (feature i with i + size / 2), write q to q_out [rows, heads size], and k and
 * v to their slot (int64 [rows]). NaN is stored as 0, infinity as the largest half-precision number. */
QUIRE_API int quire_store_heads(quire_program *program, int rows, const void *qkv, int64_t qkv_stride, int64_t heads,
                                int64_t kv_heads, int64_t size, const float *q_norm, const float *k_norm, float eps,
                                const float *cos, const float *sin, const int64_t *slots, void *keys, void *values,
                                int64_t block, int dtype, void *q_out, int64_t q_stride, int page_dtype);

/* Causal attention of each sequence's newest tokens to all its tokens. q [queries, heads size]; rows of sequence i are
 * query_starts[i] .. query_starts[i + 1], its last tokens, maybe none; tables int32 [sequences, table_stride];
 * context_lens int32. Position p sees max(0, p - window + 1) .. p; window 0: all. Scores: scale, then softcap (0: none).
 * The number of sequences is counts[QUIRE_SEQUENCES]. With pages of int8, a row's queries, mixed, and its weights are
 * rounded to 16 bits by their greatest magnitude (weights in each 128 positions), and products are exact. */
QUIRE_API int quire_attention(quire_program *program, const void *q, int64_t q_stride, const void *keys,
                              const void *values, const int32_t *tables, int64_t table_stride,
                              const int32_t *query_starts, const int32_t *context_lens, int64_t heads,
                              int64_t kv_heads, int64_t size, int64_t block, float scale, int64_t window,
                              float softcap, int dtype, void *y, int64_t y_stride, int page_dtype);

/* ---- the ends of a decode step: n = counts[QUIRE_SEQUENCES] sequences compute a token each ---- */

typedef struct quire_decode {
  const int64_t *slots;     /* [n]: where each sequence is in tokens and tables */
  const int64_t *positions; /* [n]: of the token that it computes */
  int32_t *tokens;          /* [slots, token_stride], by position */
  int64_t token_stride;
  const int32_t *tables;    /* [slots, table_stride]: its pages, of block tokens each */
  int64_t table_stride;
  int64_t block;
  /* What the step's operators read: */
  int64_t *ids;             /* [n]: the tokens, 0 for one below it */
  int64_t *kv_slots;        /* [n]: where their keys and values go */
  int32_t *step_tables;     /* [n, table_stride]: as far as they are read */
  int32_t *context_lens;    /* [n] */
  int32_t *query_starts;    /* [n + 1], and the same: */
  int32_t *asked_starts;
  int64_t *asked;           /* [n], and the same: every row of the step */
  int64_t *rows;
} quire_decode;

/* Write all that the step's operators read. */
QUIRE_API int quire_begin_decode(quire_program *program, const quire_decode *decode);
/* Note chosen [n] as the tokens behind these; of a slot that is full, nowhere. */
QUIRE_API int quire_end_decode(quire_program *program, const quire_decode *decode, const int32_t *chosen);

/* How the rows of a decode step want their tokens drawn: as quire_draws says, but by slot. */
typedef struct quire_slot_draws {
  const int64_t *slots;     /* [n], as positions: those of quire_decode */
  const int64_t *positions;
  const float *temperature; /* by slot, as what follows */
  const float *log_min_p;
  const int64_t *top_k;
  const double *top_p;
  const uint64_t *seed;     /* the uniform number is a pure function of it and of the drawn token's position */
  const uint8_t *is_guided; /* 1: a guide may forbid tokens, and is not asked before */
} quire_slot_draws;

/* In the place of a token. */
enum { QUIRE_UNSURE = -2 };

/* Draw a token from each row of logits [n, size], as quire_draw_tokens does: ids [n]. A guided row that is not greedy tries
 * a token, drawn by its temperature alone: it gets it if it would be among what is kept, should it be allowed, whatever
 * others are forbidden; else QUIRE_UNSURE. */
QUIRE_API int quire_draw_slots(quire_program *program, const float *logits, int64_t stride, int64_t size,
                               const quire_slot_draws *draws, int32_t *ids);

/* ---- from logits to tokens: called on a pool, outside of any program ---- */

/* What each row of logits wants of a draw: arrays of a number a row. */
typedef struct quire_draws {
  const float *temperature; /* 0: the likeliest token, the lowest id among equals; the rest is not looked at */
  const float *log_min_p;   /* tokens whose probability is less than this factor (its logarithm) of the best's are out */
  const int64_t *top_k;     /* from 1; size and above: off */
  const double *top_p;      /* in (0, 1] */
  const double *uniforms;   /* in [0, 1), of 53 bits */
  const int32_t *free;      /* NULL, or a token that is taken if it is among what is kept; -1: none */
} quire_draws;

/* One token for each of the rows index[i] (or i, if index is NULL) of logits float32, of which none is changed; -1 where a
 * row holds NaN or +inf, or only -inf. size is at most 2^20. Cutting is by min_p, top_k, top_p, in this order: what is
 * kept is the smallest beginning of the ranking, the lowest id first among equals, that holds top_p of what the top_k best
 * have together. Drawn is the first token at which the mass exceeds the uniform number's part: in the order of ids, or if
 * top_k or top_p is on, of the ranking. */
QUIRE_API int quire_draw_tokens(quire_pool *pool, const float *logits, int64_t stride, const int64_t *index,
                                int64_t rows, int64_t size, const quire_draws *draws, int32_t *ids);

/* The same for guided slots, of tokens that masks [rows, mask_stride] int32 allow: bit t % 32 of word t / 32 is token t's.
 * The others' logits become -infinity. What a slot tries is its free token; else a second number of its seed draws.
 * draws->slots and positions are of these rows. */
QUIRE_API int quire_redraw_slots(quire_pool *pool, float *logits, int64_t stride, const int64_t *index, int64_t rows,
                                 int64_t size, const quire_slot_draws *draws, const int32_t *masks, int64_t mask_stride,
                                 int32_t *ids);

/* Log probabilities of rows index[i] (or i, if index is NULL): ids and values [rows, given + k]: of tokens [rows, given],
 * then of the k likeliest in the order of their ranking; ranks [rows, given]: 1 + the number of tokens likelier than the
 * given one. Values are rounded to float32 before they are compared. NaN and rank 1 where a row is not sound. */
QUIRE_API int quire_score_tokens(quire_pool *pool, const float *logits, int64_t stride, const int64_t *index,
                                 int64_t rows, int64_t size, const int32_t *tokens, int64_t given, int64_t k,
                                 int32_t *ids, float *values, int64_t *ranks);

/* Set to -infinity, in rows rows[i] of logits, each named once, the tokens whose bit is 0 in masks [count, mask_stride]
 * int32: bit t % 32 of word t / 32 is token t's. is_sound [count]: 1 where the row held no NaN, no +inf, and not only
 * -inf before. */
QUIRE_API int quire_keep_allowed(quire_pool *pool, float *logits, int64_t stride, const int64_t *rows, int64_t count,
                                 int64_t size, const int32_t *masks, int64_t mask_stride, uint8_t *is_sound);

#ifdef __cplusplus
}
#endif
#endif
